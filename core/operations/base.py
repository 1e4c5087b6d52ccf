"""What every operation and every layer is: the types that the files beside this one fill in."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from handgrad.core.initializers import Draw

Shape: TypeAlias = tuple[int, ...]
"""Of one example, without the batch: `(784,)`, or `(28, 28, 1)` for rows, columns, channels."""

LayerParams: TypeAlias = dict[str, Array]
Params: TypeAlias = tuple[LayerParams, ...]
"""One dictionary a layer, those inside residual blocks counted where they stand; empty where a layer has no array."""


def require(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as an assertion
    """Raises TypeError with the message unless the condition holds."""
    if not condition:
        raise TypeError(message)


def require_floating(name: str, *arrays: Array) -> None:
    """Raises TypeError unless the arrays have one floating dtype."""
    dtypes = [array.dtype for array in arrays]
    require(
        all(dtype == dtypes[0] for dtype in dtypes) and jnp.issubdtype(dtypes[0], jnp.floating),
        f"{name} takes arrays of one floating dtype; got {', '.join(map(str, dtypes))}",
    )


def sum_to_last(array: Array) -> Array:
    """Adds up over all axes but the last: `[B, ..., C]` to `[C]`.

    Over the batch as a product with ones, for XLA's own reductions to few numbers use one core of a CPU and none of its
    vectors: five times as long for `[100, 28, 28, 24]`.
    """
    ones = jnp.ones(len(array), array.dtype)
    over_batch = jnp.matmul(ones, array.reshape(len(array), -1), precision=lax.Precision.HIGHEST)
    return jnp.sum(over_batch.reshape(-1, array.shape[-1]), axis=0)


@dataclass(frozen=True)
class Example:
    """Arrays to check an operation with, and the settings to check it at.

    Attributes:
        arrays: The operation's arguments, float64 where they are differentiated.
        settings: Its keyword arguments.
    """

    arrays: tuple[np.ndarray[Any, np.dtype[Any]], ...]
    settings: dict[str, Any] = field(default_factory=dict)


Numbers: TypeAlias = Sequence[Any] | float
"""A number, or lists of numbers, as deep as an array has axes."""


@dataclass(frozen=True)
class Golden:
    """An output known from an independent source, as numbers: the gradient check alone would let a wrong formula pass.

    Attributes:
        source: Where the output is from: a function of another library with its version, or the arithmetic by hand.
        arrays: The operation's arguments.
        output: What the operation returns for them, to 1e-12 in float64.
        settings: Its keyword arguments.
    """

    source: str
    arrays: tuple[Numbers, ...]
    output: Numbers
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """An operation: its triple, examples that the gradient check begins with, and golden outputs.

    Attributes:
        name: Its name.
        op: The operation.
        fwd: Its forward pass.
        bwd: Its backward pass.
        examples: `examples(generator) -> [Example, ...]`: random arrays of small shapes, at each setting that takes
            another way through the code.
        golden: Known outputs, at each such setting; `tests/core/test_golden.py` holds the forward pass against them.
        reads: Settings of a run that it reads; of the losses alone.
    """

    name: str
    op: Callable[..., Array]
    fwd: Callable[..., tuple[Array, Any]]
    bwd: Callable[..., tuple[Array | None, ...]]
    examples: Callable[[np.random.Generator], Sequence[Example]]
    golden: tuple[Golden, ...]
    reads: frozenset[str] = frozenset()


class ShapeError(ValueError):
    """A shape that a layer cannot take. Its text says what the layer needs."""


class Layer:
    """A layer of a network. A kind of layer is a frozen dataclass; its fields are its settings.

    A field without a default must be set. A field that is None is filled in when the network is made: `outputs` of the
    last affine layer by the number of classes.
    """

    kind: ClassVar[str]
    """Its name in a network's file and in the contract."""

    columns: ClassVar[frozenset[str]] = frozenset()
    """Its vectors that parameter files hold as columns, `[n, 1]`."""

    passes: ClassVar[bool] = False
    """Whether it only moves, leaves out or pools numbers: they mean after it what they meant before it."""

    output_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    """Where the numbers that it puts out lie, whatever it is given."""

    def check(self) -> None:
        """Raises ValueError, "SETTING: what is allowed", where a setting is out of its range."""

    def output_shape(self, shape: Shape) -> Shape:
        """Gives the shape of an example after the layer, or raises ShapeError."""
        return shape

    def ignores_inputs(self, shape: Shape, batch_size: int) -> bool:
        """Returns whether it puts out the same whatever it is given, while training on mini-batches of that size."""
        del shape, batch_size
        return False

    def init(self, draw: Draw, shape: Shape) -> LayerParams:
        """Draws what it learns, float32, for examples of a shape."""
        del draw, shape
        return {}

    def statistics(self, shape: Shape) -> LayerParams:
        """Gives what it keeps besides, before training: arrays that are not learned by gradients."""
        del shape
        return {}

    def fwd(
        self, params: LayerParams, statistics: LayerParams, inputs: Array, key: Array | None
    ) -> tuple[Array, Any, LayerParams]:
        """Computes the forward pass.

        Args:
            params: What it learns.
            statistics: What it keeps besides.
            inputs: `[B, *shape]`.
            key: Of this mini-batch's randomness while training; None at inference.

        Returns:
            The outputs, the residuals, and the statistics after this mini-batch.
        """
        raise NotImplementedError

    def bwd(self, residuals: Any, g: Array) -> tuple[LayerParams, Array]:
        """Gives the gradients of the params and of the inputs."""
        raise NotImplementedError

    def flops(self, shape: Shape) -> int:
        """Gives the floating-point operations of a forward pass of one example; a multiplication and an addition are 2.

        One for each output where a layer does not say better.
        """
        return int(np.prod(self.output_shape(shape)))

    # A layer that holds other layers has these, and not the ones above.

    @property
    def leaves(self) -> "tuple[Layer, ...]":
        """The layers with arrays of their own in it: itself, but for a block of layers."""
        return (self,)

    def leaf_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Gives the shape of an example before each of its leaves."""
        return (shape,)

    def fwd_leaves(
        self, params: Params, statistics: Params, inputs: Array, key: Array | None
    ) -> tuple[Array, Any, Params]:
        """Computes `fwd` from the params of all its leaves."""
        outputs, residuals, after = self.fwd(params[0], statistics[0], inputs, key)
        return outputs, residuals, (after,)

    def bwd_leaves(self, residuals: Any, g: Array) -> tuple[Params, Array]:
        """Computes `bwd` for all its leaves."""
        grads, inputs_grad = self.bwd(residuals, g)
        return (grads,), inputs_grad


def chain_shape(layers: Sequence[Layer], shape: Shape) -> Shape:
    """Gives the shape of an example after layers, one after the other."""
    for layer in layers:
        shape = layer.output_shape(shape)
    return shape


def chain_leaf_shapes(layers: Sequence[Layer], shape: Shape) -> tuple[Shape, ...]:
    """Gives the shape of an example before each leaf of layers, one after the other."""
    shapes: list[Shape] = []
    for layer in layers:
        shapes += layer.leaf_shapes(shape)
        shape = layer.output_shape(shape)
    return tuple(shapes)


def chain_fwd(
    layers: Sequence[Layer], params: Params, statistics: Params, inputs: Array, key: Array | None
) -> tuple[Array, list[Any], Params]:
    """Runs layers one after the other; each gets a key of its own."""
    outputs, begin = inputs, 0
    residuals: list[Any] = []
    after: Params = ()
    for number, layer in enumerate(layers):
        part = slice(begin, begin := begin + len(layer.leaves))
        layer_key = None if key is None else jax.random.fold_in(key, number)
        outputs, residual, layer_after = layer.fwd_leaves(params[part], statistics[part], outputs, layer_key)
        residuals.append(residual)
        after += layer_after
    return outputs, residuals, after


def chain_bwd(layers: Sequence[Layer], residuals: Sequence[Any], g: Array) -> tuple[Params, Array]:
    """Applies the chain rule from the last layer to the first.

    Each layer's backward pass takes dE/d(its output) and gives dE/d(its params) and dE/d(its input), which is
    dE/d(output) of the layer before.
    """
    grads: list[Params] = []
    for layer, residual in zip(reversed(layers), reversed(residuals), strict=True):
        layer_grads, g = layer.bwd_leaves(residual, g)
        grads.append(layer_grads)
    return tuple(leaf for layer_grads in reversed(grads) for leaf in layer_grads), g


class Stateless(Layer):
    """A layer that learns nothing and has no randomness: an operation on its inputs alone."""

    operation: ClassVar[Operation]

    def fwd(
        self, params: LayerParams, statistics: LayerParams, inputs: Array, key: Array | None
    ) -> tuple[Array, Any, LayerParams]:
        """Computes the forward pass of its operation."""
        del params, key
        outputs, residuals = self.operation.fwd(inputs, **self.settings())
        return outputs, residuals, statistics

    def bwd(self, residuals: Any, g: Array) -> tuple[LayerParams, Array]:
        """Computes the backward pass of its operation."""
        (inputs_grad,) = self.operation.bwd(residuals, g, **self.settings())
        assert inputs_grad is not None
        return {}, inputs_grad

    def settings(self) -> dict[str, Any]:
        """Gives the keyword arguments of its operation."""
        return dict(vars(self))
