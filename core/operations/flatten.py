"""The flattening of images to vectors."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jax import Array

from handgrad.core.operations.base import Example, Golden, Operation, Shape, Stateless, require_floating


def flatten(inputs: Array) -> Array:
    """Gives the numbers of each example as a vector, row by row, channels last: y_(uS + v)C + c = x_uvc.

    Each number of x is one of y, so dE/dx is g in the shape of x.

    Args:
        inputs: x, `[B, ...]`, floating.

    Returns:
        y, `[B, D]`.
    """
    return flatten_fwd(inputs)[0]


def flatten_fwd(inputs: Array) -> tuple[Array, Shape]:
    """Forward pass of `flatten`. Residuals: the shape of x."""
    require_floating("flatten", inputs)
    return inputs.reshape(inputs.shape[0], -1), inputs.shape


def flatten_bwd(residuals: Shape, g: Array) -> tuple[Array]:
    """Backward pass of `flatten`: `(dE/dx,)`."""
    return (g.reshape(residuals),)


def _examples(generator: np.random.Generator) -> list[Example]:
    return [Example((generator.normal(size=shape),)) for shape in ((2, 3, 4, 2), (1, 5))]


_GOLDEN = (
    Golden(
        "by hand: two images of 2 rows, 3 columns, 2 channels, whose numbers are counted row by row, channels last",
        (
            [
                [[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 10], [11, 12]]],
                [[[-1, -2], [-3, -4], [-5, -6]], [[-7, -8], [-9, -10], [-11, -12]]],
            ],
        ),
        [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [-1, -2, -3, -4, -5, -6, -7, -8, -9, -10, -11, -12]],
    ),
)


@dataclass(frozen=True)
class Flatten(Stateless):
    """A layer that makes a vector of an image."""

    kind: ClassVar[str] = "flatten"
    passes: ClassVar[bool] = True
    operation: ClassVar[Operation] = Operation("flatten", flatten, flatten_fwd, flatten_bwd, _examples, _GOLDEN)

    def output_shape(self, shape: Shape) -> Shape:
        """Gives `(inputs,)`."""
        return (math.prod(shape),)

    def flops(self, shape: Shape) -> int:
        """Gives 0: nothing is computed."""
        del shape
        return 0
