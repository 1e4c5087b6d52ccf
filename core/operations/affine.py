"""The affine map Y = X W^T + b."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from handgrad.core.initializers import Draw, check_initializer
from handgrad.core.operations.base import (
    Example,
    Golden,
    Layer,
    LayerParams,
    Operation,
    Shape,
    ShapeError,
    require,
    require_floating,
)


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
    require(
        inputs.ndim == 2 and W.ndim == 2 and b.ndim == 1 and inputs.shape[1] == W.shape[1] and W.shape[0] == b.shape[0],
        f"affine takes inputs [B, D], W [H, D] and b [H]; got {inputs.shape}, {W.shape}, {b.shape}",
    )
    require_floating("affine", inputs, W, b)
    return _rows_by_rows(inputs, W) + b, (inputs, W)


def affine_bwd(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array, Array]:
    """Backward pass of `affine`: `(dE/dX [B, D], dE/dW [H, D], dE/db [H])` from g `[B, H]`."""
    inputs, W = residuals
    return g @ W, g.T @ inputs, jnp.sum(g, axis=0)


def _rows_by_rows(a: Array, b: Array) -> Array:
    # a b^T, as one product over both last axes: no transpose of b is ever stored.
    return lax.dot_general(a, b, (((1,), (1,)), ((), ())))


def _examples(generator: np.random.Generator) -> list[Example]:
    shapes = ((5, 4, 3), (1, 2, 6))
    return [
        Example((generator.normal(size=(B, D)), generator.normal(size=(H, D)), generator.normal(size=H)))
        for B, D, H in shapes
    ]


_GOLDEN = (
    Golden(
        "by hand: (1 - 2 + 10, -1 + 8 - 3 - 20), (4 + 10, 12 + 6 - 20)",
        ([[1, 2, -1], [0, 3, 2]], [[1, 0, 2], [-1, 4, 3]], [10, -20]),
        [[9, -16], [14, -2]],
    ),
)

AFFINE = Operation("affine", affine, affine_fwd, affine_bwd, _examples, _GOLDEN)

MAX_WIDTH = 65_536


@dataclass(frozen=True)
class Affine(Layer):
    """A layer Y = X W^T + b of vectors.

    Attributes:
        outputs: Numbers of an example after it. None: the classes of the data set.
        initializer: How W is drawn: a name of INITIALIZERS. Only `report` draws b too, which otherwise begins as zeros.
    """

    outputs: int | None = None
    initializer: str = "report"

    kind: ClassVar[str] = "affine"
    columns: ClassVar[frozenset[str]] = frozenset({"b"})

    def check(self) -> None:
        """Raises ValueError where a setting is out of its range."""
        if self.outputs is not None and not 1 <= self.outputs <= MAX_WIDTH:
            raise ValueError(f"outputs: a width is from 1 to {MAX_WIDTH}; got {self.outputs}")
        check_initializer(self.initializer)

    def output_shape(self, shape: Shape) -> Shape:
        """Gives `(outputs,)`."""
        if len(shape) != 1:
            raise ShapeError("needs (inputs,), a vector: a flatten layer before it makes one")
        assert self.outputs is not None
        return (self.outputs,)

    def init(self, draw: Draw, shape: Shape) -> LayerParams:
        """Draws W, `[outputs, inputs]`, and b, `[outputs]`."""
        assert self.outputs is not None
        fans = shape[0], self.outputs
        W = draw(self.initializer, (self.outputs, shape[0]), *fans)
        return {"W": W, "b": draw("report" if self.initializer == "report" else "zeros", (self.outputs,), *fans)}

    def fwd(
        self, params: LayerParams, statistics: LayerParams, inputs: Array, key: Array | None
    ) -> tuple[Array, Any, LayerParams]:
        """Maps `[B, inputs]` to `[B, outputs]`."""
        del key
        outputs, residuals = affine_fwd(inputs, params["W"], params["b"])
        return outputs, residuals, statistics

    def bwd(self, residuals: Any, g: Array) -> tuple[LayerParams, Array]:
        """Gives the gradients of W and b, and of the inputs."""
        inputs_grad, W_grad, b_grad = affine_bwd(residuals, g)
        return {"W": W_grad, "b": b_grad}, inputs_grad

    def flops(self, shape: Shape) -> int:
        """Gives 2 for each weight, the addition of b included."""
        assert self.outputs is not None
        return 2 * shape[0] * self.outputs
