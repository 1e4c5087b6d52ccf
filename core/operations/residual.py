"""The residual connection: what a branch of layers computes is added to what it was given."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jax import Array

from handgrad.core.operations.base import (
    Example,
    Golden,
    Layer,
    Operation,
    Params,
    Shape,
    ShapeError,
    chain_bwd,
    chain_fwd,
    chain_leaf_shapes,
    chain_shape,
    require,
    require_floating,
)


def residual(shortcut: Array, branch: Array) -> Array:
    """Adds a branch to its shortcut: y = a + f, with a the shortcut and f what the branch has made of it.

    From dy = da + df, both are given g as it is: dE/da = g, dE/df = g. As f comes from a, the branch's own backward
    pass then adds its part: in all, dE/dx = g + (df/dx)^T g for a = x, which no depth of branches can make vanish.

    Args:
        shortcut: a, any shape, floating.
        branch: f, of the same shape and dtype.

    Returns:
        y, of the same shape and dtype.

    Raises:
        TypeError: The shapes or dtypes do not fit.

    References:
        He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, equation 1; equation 2 for a
        shortcut with layers of its own.
    """
    return residual_fwd(shortcut, branch)[0]


def residual_fwd(shortcut: Array, branch: Array) -> tuple[Array, None]:
    """Forward pass of `residual`. It needs no residuals."""
    require(shortcut.shape == branch.shape, f"residual takes two of one shape; got {shortcut.shape}, {branch.shape}")
    require_floating("residual", shortcut, branch)
    return shortcut + branch, None


def residual_bwd(residuals: None, g: Array) -> tuple[Array, Array]:
    """Backward pass of `residual`: `(dE/da, dE/df)`."""
    del residuals
    return g, g


def _examples(generator: np.random.Generator) -> list[Example]:
    return [Example((generator.normal(size=shape), generator.normal(size=shape))) for shape in ((3, 4), (1, 2, 3, 2))]


_GOLDEN = (
    Golden("by hand", ([[1, -2, 0.5], [0, 3, 4]], [[10, 20, -0.25], [-1, 0, -4]]), [[11, 18, 0.25], [-1, 3, 0]]),
)

RESIDUAL = Operation("residual", residual, residual_fwd, residual_bwd, _examples, _GOLDEN)


@dataclass(frozen=True)
class Residual(Layer):
    """A block of layers whose outputs are added to its inputs.

    Attributes:
        layers: The branch.
        shortcut: Layers that the inputs pass on the other way, where the branch changes their shape. Empty: none.
    """

    layers: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()

    kind: ClassVar[str] = "residual"

    def output_shape(self, shape: Shape) -> Shape:
        """Gives the shape after the branch, which must be that after the shortcut."""
        branch, shortcut = chain_shape(self.layers, shape), chain_shape(self.shortcut, shape)
        if branch != shortcut:
            raise ShapeError(f"needs a branch and a shortcut that end alike, not in {branch} and {shortcut}")
        return branch

    @property
    def leaves(self) -> tuple[Layer, ...]:
        """Those of the branch, then those of the shortcut."""
        return tuple(leaf for layer in (*self.layers, *self.shortcut) for leaf in layer.leaves)

    def leaf_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Gives the shape of an example before each of its leaves."""
        return chain_leaf_shapes(self.layers, shape) + chain_leaf_shapes(self.shortcut, shape)

    def fwd_leaves(
        self, params: Params, statistics: Params, inputs: Array, key: Array | None
    ) -> tuple[Array, Any, Params]:
        """Runs the branch and the shortcut, and adds them."""
        split = sum(len(layer.leaves) for layer in self.layers)
        branch, branch_residuals, after = chain_fwd(self.layers, params[:split], statistics[:split], inputs, key)
        shortcut, shortcut_residuals, shortcut_after = chain_fwd(
            self.shortcut, params[split:], statistics[split:], inputs, key
        )
        outputs, _ = residual_fwd(shortcut, branch)
        return outputs, (branch_residuals, shortcut_residuals), after + shortcut_after

    def bwd_leaves(self, residuals: Any, g: Array) -> tuple[Params, Array]:
        """Gives the gradients of both ways, and of the inputs, which reach E by both."""
        branch_residuals, shortcut_residuals = residuals
        shortcut_g, branch_g = residual_bwd(None, g)
        branch_grads, branch_inputs = chain_bwd(self.layers, branch_residuals, branch_g)
        shortcut_grads, shortcut_inputs = chain_bwd(self.shortcut, shortcut_residuals, shortcut_g)
        return branch_grads + shortcut_grads, branch_inputs + shortcut_inputs

    def flops(self, shape: Shape) -> int:
        """Gives those of the addition; its layers have their own."""
        return int(np.prod(self.output_shape(shape)))
