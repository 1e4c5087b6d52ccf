"""Pooling: each window of an image becomes one number for each channel."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from handgrad.core.operations.base import (
    Example,
    Golden,
    Numbers,
    Operation,
    Shape,
    ShapeError,
    Stateless,
    require,
    require_floating,
)


def max_pool(inputs: Array, *, window: int, stride: int) -> Array:
    """Gives the largest number of each window and channel.

    With N(r, t) the positions of the window of the output's row r and column t:

        y_rtc = max over (u, v) in N(r, t) of x_uvc
        dE/dx_uvc = sum of g_rtc over the windows (r, t) whose largest number is x_uvc

    Where several numbers of a window are the largest, the first of them, row by row, is taken for it.

    Args:
        inputs: x, `[B, R, S, C]`, floating.
        window: K, rows and columns of a window.
        stride: s, from one window to the next.

    Returns:
        y, `[B, (R - K) // s + 1, (S - K) // s + 1, C]`: rows and columns at the end that fill no window are left out.

    Raises:
        TypeError: The rank or dtype does not fit.

    References:
        Ranzato, Huang, Boureau, LeCun, "Unsupervised learning of invariant feature hierarchies with applications to
        object recognition", CVPR 2007, section 2.
    """
    return max_pool_fwd(inputs, window=window, stride=stride)[0]


def max_pool_fwd(inputs: Array, *, window: int, stride: int) -> tuple[Array, tuple[Shape, Array]]:
    """Forward pass of `max_pool`. Residuals: the shape of x, and where in its window each largest number stands."""
    _check("max_pool", inputs, window)
    parts = _parts(inputs, window, stride)
    outputs = next(parts)
    # Where, and not what: a compiler that computes x twice, once rounded otherwise, finds no x that equals y.
    position = jnp.zeros(outputs.shape, jnp.int32)
    for number, part in enumerate(parts, start=1):
        # A number takes the place of an earlier one only if it is larger.
        is_larger = part > outputs
        position = jnp.where(is_larger, number, position)
        outputs = jnp.where(is_larger, part, outputs)
    return outputs, (inputs.shape, position)


def max_pool_bwd(residuals: tuple[Shape, Array], g: Array, *, window: int, stride: int) -> tuple[Array]:
    """Backward pass of `max_pool`: `(dE/dx,)`."""
    shape, position = residuals
    pieces = [jnp.where(position == number, g, 0) for number in range(window**2)]
    return (_put_back(pieces, shape, window, stride),)


def average_pool(inputs: Array, *, window: int, stride: int) -> Array:
    """Gives the mean of each window and channel.

    With N(r, t) the K^2 positions of the window of the output's row r and column t:

        y_rtc = (1 / K^2) sum over (u, v) in N(r, t) of x_uvc
        dE/dx_uvc = (1 / K^2) sum of g_rtc over the windows (r, t) that hold (u, v)

    Args:
        inputs: x, `[B, R, S, C]`, floating.
        window: K, rows and columns of a window.
        stride: s, from one window to the next.

    Returns:
        y, of the shape that `max_pool` gives.

    Raises:
        TypeError: The rank or dtype does not fit.

    References:
        LeCun and others (1998), section II.B, without its coefficient and bias.
    """
    return average_pool_fwd(inputs, window=window, stride=stride)[0]


def average_pool_fwd(inputs: Array, *, window: int, stride: int) -> tuple[Array, Shape]:
    """Forward pass of `average_pool`. Residuals: the shape of x."""
    _check("average_pool", inputs, window)
    total = sum(_parts(inputs, window, stride), start=jnp.zeros((), inputs.dtype))
    return total / window**2, inputs.shape


def average_pool_bwd(residuals: Shape, g: Array, *, window: int, stride: int) -> tuple[Array]:
    """Backward pass of `average_pool`: `(dE/dx,)`."""
    if stride == window:
        # Each place is in one window at most.
        everywhere = jnp.repeat(jnp.repeat(g / window**2, window, axis=1), window, axis=2)
        unreached = [(0, size - reached) for size, reached in zip(residuals, everywhere.shape, strict=True)]
        return (jnp.pad(everywhere, unreached),)
    return (_put_back([g / window**2] * window**2, residuals, window, stride),)


def _check(name: str, inputs: Array, window: int) -> None:
    require(
        inputs.ndim == 4 and min(inputs.shape[1:3]) >= window,
        f"{name} takes inputs [B, R, S, C] with R and S {window} or more; got {inputs.shape}",
    )
    require_floating(name, inputs)


def _offsets(window: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(window) for j in range(window))


def _parts(inputs: Array, window: int, stride: int) -> Iterator[Array]:
    """Gives, for each position in a window, the numbers there in all windows: arrays of the output's shape."""
    rows, columns = ((size - window) // stride * stride + 1 for size in inputs.shape[1:3])
    for i, j in _offsets(window):
        yield inputs[:, i : i + rows : stride, j : j + columns : stride]


def _put_back(pieces: list[Array], shape: Shape, window: int, stride: int) -> Array:
    """Adds up what belongs to each position in a window, where `_parts` took it from."""
    total = jnp.zeros(shape, pieces[0].dtype)
    for (i, j), piece in zip(_offsets(window), pieces, strict=True):
        (rows, columns) = (stride * (size - 1) + 1 for size in piece.shape[1:3])
        around = [(0, 0, 0), (i, shape[1] - i - rows, stride - 1), (j, shape[2] - j - columns, stride - 1), (0, 0, 0)]
        total = total + lax.pad(piece, jnp.zeros((), piece.dtype), around)
    return total


def _examples(generator: np.random.Generator) -> list[Example]:
    return [
        Example((generator.normal(size=shape),), {"window": window, "stride": stride})
        for shape, window, stride in (
            *(((2, 4, 6, 3), 2, 2), ((1, 5, 5, 2), 3, 2), ((2, 5, 4, 1), 2, 1)),
            *(((1, 7, 8, 2), 2, 3), ((3, 4, 4, 2), 4, 4)),
        )
    ]


# Windows without overlap, of two channels; with overlap; with rows and columns left out at the end; with places between
# them that are in no window.
_WINDOWS: tuple[tuple[Numbers, dict[str, int]], ...] = (
    (
        [[[[0, -3], [-2, -2], [-4, -5], [1, -2]], [[-3, 0], [-1, 2], [-1, 2], [-1, -3]]]],
        {"window": 2, "stride": 2},
    ),
    ([[[[-3], [2], [-1]], [[-4], [1], [1]], [[-5], [-4], [-2]]]], {"window": 2, "stride": 1}),
    (
        [
            [
                [[-7], [-8], [2], [-2], [-1], [0]],
                [[1], [-9], [-2], [-7], [-3], [4]],
                [[-1], [-8], [-1], [-8], [2], [5]],
                [[5], [0], [4], [-4], [-7], [-2]],
            ]
        ],
        {"window": 3, "stride": 2},
    ),
    (
        [
            [
                [[-3], [0], [5], [-5], [-3]],
                [[-7], [-4], [2], [-6], [-1]],
                [[-3], [-2], [5], [3], [3]],
                [[-1], [5], [5], [-7], [-6]],
            ]
        ],
        {"window": 2, "stride": 3},
    ),
)
_SOURCE = "PyTorch 2.13.0, torch.nn.functional.{}(x, window, stride), float64, channels moved to the end"


def _golden(function: str, *outputs: Numbers) -> tuple[Golden, ...]:
    return tuple(
        Golden(_SOURCE.format(function), (inputs,), output, settings)
        for (inputs, settings), output in zip(_WINDOWS, outputs, strict=True)
    )


_MAX_GOLDEN = _golden(
    "max_pool2d",
    [[[[0, 2], [1, 2]]]],
    [[[[2], [2]], [[1], [1]]]],
    [[[[2], [2]]]],
    [[[[0], [-1]]]],
)
_AVERAGE_GOLDEN = _golden(
    "avg_pool2d",
    [[[[-1.5, -0.75], [-1.25, -2]]]],
    [[[[-1], [0.75]], [[-3], [-1]]]],
    [[[[-3.66666666666667], [-2.22222222222222]]]],
    [[[[-3.5], [-3.75]]]],
)


@dataclass(frozen=True)
class _Pool(Stateless):
    """A layer that pools images `[rows, columns, channels]`.

    Attributes:
        window: Rows and columns of a window. None: the whole image, which must be square.
        stride: From one window to the next. None: the window, so that windows do not overlap.
    """

    window: int | None = None
    stride: int | None = None

    passes: ClassVar[bool] = True

    def check(self) -> None:
        """Raises ValueError where a setting is out of its range."""
        for name, value in (("window", self.window), ("stride", self.stride)):
            if value is not None and not 1 <= value <= 64:
                raise ValueError(f"{name}: from 1 to 64; got {value}")

    def output_shape(self, shape: Shape) -> Shape:
        """Gives `(rows, columns, channels)` after it."""
        if len(shape) != 3:
            raise ShapeError("needs (rows, columns, channels), an image")
        if self.window is None and shape[0] != shape[1]:
            raise ShapeError("needs as many rows as columns, for a window of the whole image")
        window = self.window or shape[0]
        if min(shape[:2]) < window:
            raise ShapeError(f"needs {window} rows and columns or more, for a window of {window}")
        rows, columns = ((size - window) // (self.stride or window) + 1 for size in shape[:2])
        return rows, columns, shape[2]

    def fwd(self, params: Any, statistics: Any, inputs: Array, key: Array | None) -> tuple[Array, Any, Any]:
        """Computes the forward pass of its operation."""
        del params, key
        outputs, residuals = self.operation.fwd(inputs, **self._settings_for(inputs.shape[1]))
        return outputs, (residuals, inputs.shape[1]), statistics

    def bwd(self, residuals: Any, g: Array) -> tuple[Any, Array]:
        """Computes the backward pass of its operation."""
        own, rows = residuals
        (inputs_grad,) = self.operation.bwd(own, g, **self._settings_for(rows))
        assert inputs_grad is not None
        return {}, inputs_grad

    def flops(self, shape: Shape) -> int:
        """Gives 1 for each number of each window."""
        return int(np.prod(self.output_shape(shape))) * (self.window or shape[0]) ** 2

    def _settings_for(self, rows: int) -> dict[str, int]:
        window = self.window or rows
        return {"window": window, "stride": self.stride or window}


@dataclass(frozen=True)
class MaxPool(_Pool):
    """A layer that takes the largest number of each window; see `_Pool` for its settings."""

    kind: ClassVar[str] = "max_pool"
    operation: ClassVar[Operation] = Operation("max_pool", max_pool, max_pool_fwd, max_pool_bwd, _examples, _MAX_GOLDEN)


@dataclass(frozen=True)
class AveragePool(_Pool):
    """A layer that takes the mean of each window; see `_Pool` for its settings."""

    kind: ClassVar[str] = "average_pool"
    operation: ClassVar[Operation] = Operation(
        "average_pool", average_pool, average_pool_fwd, average_pool_bwd, _examples, _AVERAGE_GOLDEN
    )
