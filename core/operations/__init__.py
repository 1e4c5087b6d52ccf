"""Operations with their gradients, each derived by hand: one file a kind of operation, gathered in `table`.

An operation is three plain functions, in the convention of `jax.custom_vjp`:

    op(*arrays, **settings) -> output
    op_fwd(*arrays, **settings) -> (output, residuals)     what the backward pass needs is kept in the residuals
    op_bwd(residuals, g, **settings) -> cotangents         one for each array; g = dE/d(output)

E is the scalar that is minimized. Shape letters: B batch, D inputs, H outputs, C classes or channels, R rows, S
columns. An array holds one example a row, so that `X` here is the transpose of the matrix of columns in a textbook's
Y = W X + b; an image is `[R, S, C]`, its channels last. Where a function has no derivative, such as relu at 0, the
docstring says which one-sided derivative is taken, and the forward pass is written so that autodiff takes the same.

Beside its triple, a file has the layer that networks are made of: what it learns, and which shapes it takes.
"""
