"""Operations with their gradients, each derived by hand.

An operation is three plain functions, in the convention of `jax.custom_vjp`:

    op(*arguments) -> output
    op_fwd(*arguments) -> (output, residuals)     what the backward pass needs is kept in the residuals
    op_bwd(residuals, g) -> cotangents            one for each argument; g = dE/d(output)

E is the scalar that is minimized. Shape letters: B batch, D inputs, H outputs, C classes. An array holds one example
a row, so that `X` here is the transpose of the matrix of columns in a textbook's Y = W X + b.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def _require(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not condition:
        raise TypeError(message)


# Affine


def affine(inputs: Array, W: Array, b: Array) -> Array:
    """Applies an affine map to each row: Y = X W^T + b.

    With g = dE/dY, from dY_ij = sum_k dX_ik W_jk + sum_k X_ik dW_jk + db_j:

        dE/dX = g W        dE/dW = g^T X        dE/db_j = sum_i g_ij

    Args:
        inputs: X, `[B, D]`, floating.
        W: Weights, `[H, D]`, of the same dtype. A row holds the weights of one output.
        b: Biases, `[H]`, of the same dtype.

    Returns:
        Y, `[B, H]`.

    Raises:
        TypeError: The ranks, lengths or dtypes do not fit.

    References:
        Rumelhart, Hinton, Williams, "Learning representations by back-propagating errors", Nature 323 (1986),
        equations 1 and 6: the latter is dE/dW for one example.
    """
    return affine_fwd(inputs, W, b)[0]


def affine_fwd(inputs: Array, W: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    """Forward pass of `affine`. Residuals: `(inputs, W)`."""
    _require(
        inputs.ndim == 2 and W.ndim == 2 and b.ndim == 1 and inputs.shape[1] == W.shape[1] and W.shape[0] == b.shape[0],
        f"affine takes inputs [B, D], W [H, D] and b [H]; got {inputs.shape}, {W.shape}, {b.shape}",
    )
    _require(
        inputs.dtype == W.dtype == b.dtype and jnp.issubdtype(W.dtype, jnp.floating),
        f"affine takes three arrays of one floating dtype; got {inputs.dtype}, {W.dtype}, {b.dtype}",
    )
    return _rows_by_rows(inputs, W) + b, (inputs, W)


def affine_bwd(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array, Array]:
    """Backward pass of `affine`: `(dE/dX [B, D], dE/dW [H, D], dE/db [H])` from g `[B, H]`."""
    inputs, W = residuals
    return g @ W, g.T @ inputs, jnp.sum(g, axis=0)


def _rows_by_rows(a: Array, b: Array) -> Array:
    # a b^T, as one product over both last axes: no transpose of b is ever stored.
    return lax.dot_general(a, b, (((1,), (1,)), ((), ())))


# Activations


def sigmoid(inputs: Array) -> Array:
    """Applies the logistic sigmoid to each element: y = 1 / (1 + exp(-x)).

    From dy/dx = exp(-x) / (1 + exp(-x))^2 and 1 - y = exp(-x) / (1 + exp(-x)):

        dE/dx = g (1 - y) y

    Args:
        inputs: x, any shape, floating.

    Returns:
        y, of the same shape and dtype, in [0, 1]. It is never NaN unless x is, and nothing in it overflows: at both
        ends it rounds to 0 or 1. In float32 its last non-zero value for negative x lies near x = -87.

    Raises:
        TypeError: The dtype is not floating.

    References:
        Rumelhart, Hinton, Williams (1986), equation 2, and equation 5 for the derivative.
    """
    return sigmoid_fwd(inputs)[0]


def sigmoid_fwd(inputs: Array) -> tuple[Array, Array]:
    """Forward pass of `sigmoid`. Residuals: the output y."""
    _require(jnp.issubdtype(inputs.dtype, jnp.floating), f"sigmoid takes a floating dtype; got {inputs.dtype}")
    # exp(-|x|) is at most 1, so it cannot overflow; for x < 0, 1 / (1 + exp(-x)) = exp(x) / (1 + exp(x)).
    decay = jnp.exp(-jnp.abs(inputs))
    outputs = jnp.where(inputs >= 0, 1, decay) / (1 + decay)
    return outputs, outputs


def sigmoid_bwd(residuals: Array, g: Array) -> tuple[Array]:
    """Backward pass of `sigmoid`: `(dE/dx,)` from g of the output's shape."""
    outputs = residuals
    return (g * (1 - outputs) * outputs,)


# Losses


def log_softmax(logits: Array) -> Array:
    """Gives the logarithm of the softmax of each row: log y_c = z_c - log sum_k exp(z_k).

    The largest logit of the row is taken off first, which leaves the softmax as it is, so no exponential exceeds 1. A
    difference of two logits can still lie below the dtype's range: it is then held at half the lowest finite number, so
    that a mean of such rounds to no infinity.

    Args:
        logits: z, `[B, C]`, floating and finite.

    Returns:
        log y, `[B, C]`, finite and at most 0.
    """
    shifted = logits - jnp.max(logits, axis=1, keepdims=True)
    shifted = jnp.maximum(shifted, np.finfo(logits.dtype).min / 2)
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=1, keepdims=True))


def softmax_cross_entropy(logits: Array, labels: Array) -> Array:
    """Gives the mean cross-entropy of the softmax against integer labels, in nats.

    With z the logits, y = softmax(z), y' the one-hot label:

        E = -(1/B) sum_i sum_c y'_ic log y_ic,    log y_c = z_c - log sum_k exp(z_k)

    Since d(log sum_k exp(z_k)) / dz_c = y_c, and sum_c y'_c = 1:

        dE/dz = (y - y') / B

    Args:
        logits: z, `[B, C]`, floating.
        labels: The class of each row, `[B]`, an integer from 0 to C - 1. Not differentiable: its cotangent is None.

    Returns:
        E, a scalar of the logits' dtype.

    Raises:
        TypeError: The ranks, lengths or dtypes do not fit.

    References:
        Bridle, "Training stochastic model recognition algorithms as networks can lead to maximum mutual information
        estimation of parameters", NIPS 2 (1989), for softmax with this loss and its derivative.
    """
    return softmax_cross_entropy_fwd(logits, labels)[0]


def softmax_cross_entropy_fwd(logits: Array, labels: Array) -> tuple[Array, tuple[Array, Array]]:
    """Forward pass of `softmax_cross_entropy`. Residuals: log y `[B, C]` and whether c is the label `[B, C]`."""
    _require(
        logits.ndim == 2 and labels.shape == logits.shape[:1],
        f"softmax_cross_entropy takes logits [B, C] and labels [B]; got {logits.shape}, {labels.shape}",
    )
    _require(
        jnp.issubdtype(logits.dtype, jnp.floating) and jnp.issubdtype(labels.dtype, jnp.integer),
        f"softmax_cross_entropy takes floating logits and integer labels; got {logits.dtype}, {labels.dtype}",
    )
    log_probabilities = log_softmax(logits)
    is_label = labels[:, None].astype(jnp.int32) == jnp.arange(logits.shape[1], dtype=jnp.int32)
    # Divided before the sum, which therefore stays finite; where, not a product with 0, which would make NaN of inf.
    losses = jnp.where(is_label, log_probabilities, 0) / logits.shape[0]
    return -jnp.sum(losses), (log_probabilities, is_label)


def softmax_cross_entropy_bwd(residuals: tuple[Array, Array], g: Array) -> tuple[Array, None]:
    """Backward pass of `softmax_cross_entropy`: `(dE/dz [B, C], None)` from the scalar g."""
    log_probabilities, is_label = residuals
    return g * (jnp.exp(log_probabilities) - is_label) / is_label.shape[0], None
