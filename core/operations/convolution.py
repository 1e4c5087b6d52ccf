"""The two-dimensional convolution, and its backward pass as convolutions."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

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
    sum_to_last,
)

Padding: TypeAlias = int | Literal["same"]
"""Zeros around an image on each side; `same`: (K - 1) / 2 of them, so that a stride of 1 keeps the image's size."""


def convolution(inputs: Array, W: Array, b: Array, *, stride: int = 1, padding: Padding = 0) -> Array:
    """Applies a convolution to each image.

    As everywhere in this field, the kernel is not mirrored. With stride s, padding p, and x taken as 0 outside of the
    image, row r, column t and channel h of the output are

        y_rth = b_h + sum_ijc W_hijc x_(rs + i - p)(ts + j - p)c

    With g = dE/dY, each W_hijc stands in every y_rth beside that one x, so that

        dE/dW_hijc = sum over the batch, r, t of g_rth x_(rs + i - p)(ts + j - p)c
        dE/db_h    = sum over the batch, r, t of g_rth

    the first of which is again a convolution: of the images, each channel c being an example and the batch the
    channels, with g as its kernel, whose elements stand s apart. And x_uvc stands in y_rth for rs + i - p = u and
    ts + j - p = v:

        dE/dx_uvc  = sum over h and all r, t, i, j with rs + i - p = u, ts + j - p = v of W_hijc g_rth

    With s - 1 zeros between the elements of g, this is a convolution with stride 1 of g with the kernel mirrored,
    W_h(K-1-i)(K-1-j)c, whose inputs are h and whose outputs are c, and K - 1 - p zeros around.

    Args:
        inputs: x, `[B, R, S, C]`, floating.
        W: Kernels, `[H, K, K, C]`, of the same dtype. A row holds the weights of one output channel.
        b: Biases, `[H]`, of the same dtype.
        stride: s, 1 or more.
        padding: p.

    Returns:
        y, `[B, (R + 2p - K) // s + 1, (S + 2p - K) // s + 1, H]`.

    Raises:
        TypeError: The ranks, lengths or dtypes do not fit.

    References:
        LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 86 (1998),
        section II; Dumoulin, Visin, "A guide to convolution arithmetic for deep learning" (2016), relationships 6 and
        14, for the shapes.
    """
    return convolution_fwd(inputs, W, b, stride=stride, padding=padding)[0]


def convolution_fwd(
    inputs: Array, W: Array, b: Array, *, stride: int = 1, padding: Padding = 0
) -> tuple[Array, tuple[Array, Array]]:
    """Forward pass of `convolution`. Residuals: `(inputs, W)`."""
    require(
        inputs.ndim == 4
        and W.ndim == 4
        and W.shape[1] == W.shape[2]
        and inputs.shape[3] == W.shape[3]
        and b.shape == W.shape[:1],
        f"convolution takes inputs [B, R, S, C], W [H, K, K, C] and b [H]; got {inputs.shape}, {W.shape}, {b.shape}",
    )
    require_floating("convolution", inputs, W, b)
    p = zeros_around(padding, W.shape[1])
    outputs = lax.conv_general_dilated(
        inputs, W, (stride, stride), [(p, p), (p, p)], dimension_numbers=("NHWC", "OHWI", "NHWC")
    )
    return outputs + b, (inputs, W)


def convolution_bwd(
    residuals: tuple[Array, Array], g: Array, *, stride: int = 1, padding: Padding = 0
) -> tuple[Array, Array, Array]:
    """Backward pass of `convolution`: `(dE/dx, dE/dW, dE/db)` from g of the output's shape."""
    inputs, W = residuals
    K = W.shape[1]
    p = zeros_around(padding, K)
    # Rows and columns at the end that no position of the kernel reaches, where the stride does not divide.
    unreached = [(size + 2 * p - K) % stride for size in inputs.shape[1:3]]
    W_grad = lax.conv_general_dilated(
        inputs,
        g,
        (1, 1),
        [(p, p - rest) for rest in unreached],
        rhs_dilation=(stride, stride),
        dimension_numbers=("CHWN", "IHWO", "CHWN"),
    )
    inputs_grad = lax.conv_general_dilated(
        g,
        W[:, ::-1, ::-1],
        (1, 1),
        [(K - 1 - p, K - 1 - p + rest) for rest in unreached],
        lhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "IHWO", "NHWC"),
    )
    return inputs_grad, W_grad, sum_to_last(g)


def zeros_around(padding: Padding, kernel: int) -> int:
    """Gives the zeros on each side of an image."""
    return (kernel - 1) // 2 if padding == "same" else padding


def _examples(generator: np.random.Generator) -> list[Example]:
    examples = []
    for B, R, S, C, H, K, stride, padding in (
        *((2, 5, 6, 3, 4, 3, 1, 0), (1, 4, 4, 1, 2, 3, 1, "same"), (3, 7, 6, 2, 3, 3, 2, 1), (2, 8, 7, 2, 2, 3, 3, 0)),
        *((2, 5, 5, 2, 3, 1, 2, 0), (1, 6, 5, 2, 1, 2, 2, 1), (2, 3, 3, 2, 2, 5, 1, 4), (2, 6, 6, 1, 2, 5, 2, "same")),
    ):
        arrays = (generator.normal(size=(B, R, S, C)), generator.normal(size=(H, K, K, C)), generator.normal(size=H))
        examples.append(Example(arrays, {"stride": stride, "padding": padding}))
    return examples


_SOURCE = "PyTorch 2.13.0, torch.nn.functional.conv2d(x, W, b, stride, padding), float64, channels moved to the end"
_GOLDEN = (
    Golden(
        "by hand: y_00 = 2 x 1 + 3 x 0 - 2 x 0 - 3 x 1 - 3 = -4, and so on: the kernel is not mirrored",
        (
            [[[[2], [3], [-3], [3]], [[0], [1], [2], [-1]], [[4], [-3], [-1], [0]]]],
            [[[[1], [0]], [[-2], [-3]]]],
            [-3],
        ),
        [[[[-4], [-8], [-7]], [[-2], [7], [1]]]],
    ),
    Golden(
        _SOURCE,
        (
            [
                [[[-3, -2], [4, -2], [2, 3]], [[-2, -1], [0, -1], [4, -2]]],
                [[[4, 3], [3, -3], [0, 2]], [[0, 2], [2, 2], [-3, 4]]],
            ],
            [[[[1, 4], [-1, -1]], [[4, -2], [-3, -1]]], [[[2, -3], [3, -1]], [[-2, 1], [4, 4]]]],
            [3, -1],
        ),
        [[[[14, -21], [14, 9]], [[6, -6], [-3, 16]]], [[[-12, 27], [19, -2]], [[1, -3], [12, -16]]]],
        {"stride": 2, "padding": 1},
    ),
    Golden(
        _SOURCE,
        (
            [[[[-3], [3], [2], [3]], [[-3], [-3], [1], [-1]], [[0], [4], [-2], [1]]]],
            [
                [[[-1], [-1], [3]], [[-2], [-1], [-3]], [[-2], [-1], [2]]],
                [[[1], [0], [-2]], [[3], [3], [-2]], [[-3], [-1], [-2]]],
            ],
            [3, 1],
        ),
        [
            [
                [[-6, -5], [11, 7], [-11, 20], [-5, 14]],
                [[35, -16], [7, -26], [11, -18], [0, 8]],
                [[-15, -1], [14, 12], [-7, 4], [6, -1]],
            ]
        ],
        {"padding": "same"},
    ),
    Golden(
        _SOURCE,
        (
            [
                [
                    [[1], [-1], [1], [4], [-2]],
                    [[3], [-3], [-1], [4], [3]],
                    [[-3], [3], [3], [0], [-1]],
                    [[4], [4], [2], [0], [-2]],
                ]
            ],
            [[[[4], [-1], [1]], [[2], [-2], [-1]], [[2], [-2], [2]]]],
            [4],
        ),
        [[[[-9], [0], [18]], [[1], [1], [23]]]],
        {"stride": 2, "padding": "same"},
    ),
    # A stride that leaves out a row and two columns at the end.
    Golden(
        _SOURCE,
        (
            [
                [
                    [[2], [2], [0], [4]],
                    [[-2], [-1], [2], [2]],
                    [[-3], [-2], [2], [3]],
                    [[2], [4], [0], [-1]],
                    [[3], [-3], [-2], [-2]],
                ]
            ],
            [[[[0], [-2]], [[3], [3]]]],
            [0],
        ),
        [[[[-13]], [[-8]]]],
        {"stride": 3},
    ),
    # A kernel of one place: an affine map of the channels.
    Golden(
        _SOURCE,
        (
            [[[[-3, 2, -3], [1, -2, 4], [2, 4, 1]], [[2, 0, 3], [-3, -2, -1], [2, 0, 3]]]],
            [[[[4, 0, 0]]], [[[1, 2, 0]]]],
            [1, 4],
        ),
        [[[[-11, 5], [5, 1], [9, 14]], [[9, 6], [-11, -3], [9, 6]]]],
    ),
)

CONVOLUTION = Operation("convolution", convolution, convolution_fwd, convolution_bwd, _examples, _GOLDEN)

MAX_CHANNELS = 4096
MAX_KERNEL = 64


@dataclass(frozen=True)
class Convolution(Layer):
    """A layer of kernels that slide over images `[rows, columns, channels]`.

    Attributes:
        channels: Channels of an image after it.
        kernel: Rows and columns of a kernel.
        stride: From one position of a kernel to the next.
        padding: Zeros around an image, or `same`.
        bias: Whether each channel has a bias; a batch normalization behind it would take it away again.
        initializer: How W is drawn: a name of INITIALIZERS. The biases begin as zeros.
    """

    channels: int
    kernel: int
    stride: int = 1
    padding: Padding = 0
    bias: bool = True
    initializer: str = "he_normal"

    kind: ClassVar[str] = "convolution"

    def check(self) -> None:
        """Raises ValueError where a setting is out of its range."""
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ValueError(f"channels: from 1 to {MAX_CHANNELS}; got {self.channels}")
        if not 1 <= self.kernel <= MAX_KERNEL:
            raise ValueError(f"kernel: from 1 to {MAX_KERNEL}; got {self.kernel}")
        if not 1 <= self.stride <= MAX_KERNEL:
            raise ValueError(f"stride: from 1 to {MAX_KERNEL}; got {self.stride}")
        if self.padding == "same":
            if self.kernel % 2 == 0:
                raise ValueError(f"padding: same needs a kernel of an odd size; got {self.kernel}")
        elif not 0 <= self.padding < self.kernel:
            raise ValueError(f"padding: same, or from 0 to less than the kernel; got {self.padding}")
        check_initializer(self.initializer)

    def output_shape(self, shape: Shape) -> Shape:
        """Gives `(rows, columns, channels)` after it."""
        if len(shape) != 3:
            raise ShapeError("needs (rows, columns, channels), an image")
        p = zeros_around(self.padding, self.kernel)
        if min(shape[:2]) + 2 * p < self.kernel:
            raise ShapeError(f"needs {self.kernel - 2 * p} rows and columns or more, for a kernel of {self.kernel}")
        rows, columns = ((size + 2 * p - self.kernel) // self.stride + 1 for size in shape[:2])
        return rows, columns, self.channels

    def init(self, draw: Draw, shape: Shape) -> LayerParams:
        """Draws W, `[channels, kernel, kernel, channels before]`; b, `[channels]`, is zeros."""
        fans = self.kernel**2 * shape[2], self.kernel**2 * self.channels
        W = draw(self.initializer, (self.channels, self.kernel, self.kernel, shape[2]), *fans)
        return {"W": W} | ({"b": draw("zeros", (self.channels,), *fans)} if self.bias else {})

    def fwd(
        self, params: LayerParams, statistics: LayerParams, inputs: Array, key: Array | None
    ) -> tuple[Array, Any, LayerParams]:
        """Maps `[B, rows, columns, channels before]` to the output's shape."""
        del key
        b = params["b"] if self.bias else jnp.zeros(self.channels, inputs.dtype)
        outputs, residuals = convolution_fwd(inputs, params["W"], b, stride=self.stride, padding=self.padding)
        return outputs, residuals, statistics

    def bwd(self, residuals: Any, g: Array) -> tuple[LayerParams, Array]:
        """Gives the gradients of W and b, and of the inputs."""
        inputs_grad, W_grad, b_grad = convolution_bwd(residuals, g, stride=self.stride, padding=self.padding)
        return {"W": W_grad} | ({"b": b_grad} if self.bias else {}), inputs_grad

    def flops(self, shape: Shape) -> int:
        """Gives 2 for each weight and position."""
        rows, columns, channels = self.output_shape(shape)
        return 2 * rows * columns * channels * self.kernel**2 * shape[2]
