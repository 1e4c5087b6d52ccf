"""Networks: an architecture as data, and pure functions from its params to logits, loss and gradients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax import Array

from handgrad.core.errors import InvalidInputError
from handgrad.core.initializers import Draw, draw_from, draw_shapes
from handgrad.core.operations.activations import Sigmoid
from handgrad.core.operations.affine import Affine
from handgrad.core.operations.base import Layer, Params, Shape, ShapeError, chain_bwd, chain_fwd, chain_leaf_shapes
from handgrad.core.operations.convolution import Convolution
from handgrad.core.operations.losses import SOFTMAX_CROSS_ENTROPY, SQUARED_ERROR
from handgrad.core.operations.residual import Residual
from handgrad.core.randomness import generator_of

MAX_INPUTS: Final = 2**24
MAX_OUTPUTS: Final = 256
"""A label is a byte."""

MAX_LAYERS: Final = 256
MAX_PARAMETERS: Final = 100_000_000

LOSSES: Final = {operation.name: operation for operation in (SOFTMAX_CROSS_ENTROPY, SQUARED_ERROR)}


@dataclass(frozen=True)
class Loss:
    """What is minimized: a name of LOSSES, and for the softmax cross-entropy the smoothing of its targets."""

    name: str = SOFTMAX_CROSS_ENTROPY.name
    smoothing: float = 0.0

    @property
    def settings(self) -> dict[str, float]:
        """The keyword arguments of its operation."""
        return {"smoothing": self.smoothing} if "label_smoothing" in LOSSES[self.name].reads else {}

    @property
    def title(self) -> str:
        """Its name, with the smoothing where there is one: `softmax_cross_entropy, label_smoothing 0.1`."""
        smoothing = self.settings.get("smoothing", 0.0)
        return f"{self.name}, label_smoothing {smoothing:g}" if smoothing else self.name


CROSS_ENTROPY: Final = Loss()


@dataclass(frozen=True)
class Network:
    """An architecture. Hashable, so that a compiled function can be kept for it.

    Attributes:
        input_shape: Shape of an example: `(inputs,)`, or `(rows, columns, channels)`.
        layers: Its layers, first to last, every setting filled in.
    """

    input_shape: Shape
    layers: tuple[Layer, ...]

    @property
    def inputs(self) -> int:
        """Numbers of one example."""
        return math.prod(self.input_shape)

    @cached_property
    def outputs(self) -> int:
        """Number of classes."""
        shape = self.input_shape
        for layer in self.layers:
            shape = layer.output_shape(shape)
        return shape[0]

    @cached_property
    def title(self) -> str:
        """A short name: `784-100-10` for affine layers; `c6` stands for 6 channels, `r` for a residual block."""
        known = {Affine: "", Convolution: "c", Residual: "r"}
        parts = [f"{known[type(layer)]}{_width(layer)}" for layer in self.layers if type(layer) in known]
        return "-".join(["x".join(map(str, self.input_shape)), *parts])

    @property
    def is_fully_connected(self) -> bool:
        """Whether it has affine layers with sigmoids between them, and nothing else: the report's kind."""
        kinds = [type(layer) for layer in self.layers]
        return kinds == [Affine, *[Sigmoid, Affine] * (len(kinds) // 2)]

    @cached_property
    def leaves(self) -> tuple[Layer, ...]:
        """The layers, those inside residual blocks in the place of the blocks: one for each part of its params."""
        return tuple(leaf for layer in self.layers for leaf in layer.leaves)

    @cached_property
    def leaf_shapes(self) -> tuple[Shape, ...]:
        """Shape of an example before each leaf."""
        return chain_leaf_shapes(self.layers, self.input_shape)

    @cached_property
    def activations(self) -> int:
        """Numbers of an example before the first layer and after each."""
        after = (leaf.output_shape(shape) for leaf, shape in zip(self.leaves, self.leaf_shapes, strict=True))
        return self.inputs + sum(math.prod(shape) for shape in after)

    @cached_property
    def parameters(self) -> int:
        """Numbers in all arrays of its params."""
        return sum(array.size for layer in self.learned for array in layer.values())

    @property
    def learned(self) -> tuple[dict[str, jax.ShapeDtypeStruct], ...]:
        """Shape of each array of its params."""
        shapes: tuple[dict[str, jax.ShapeDtypeStruct], ...] = self._shapes[0]
        return shapes

    @cached_property
    def templates(self) -> tuple[dict[str, jax.ShapeDtypeStruct], ...]:
        """Shape of each array of each leaf, those of its statistics after those of its params."""
        return tuple({**params, **statistics} for params, statistics in zip(*self._shapes, strict=True))

    @cached_property
    def _shapes(self) -> tuple[Any, Any]:
        shapes: tuple[Any, Any] = jax.eval_shape(lambda: (_drawn(self, draw_shapes), initial_statistics(self)))
        return shapes


def make_network(layers: Sequence[Layer], input_shape: Shape, classes: int) -> Network:
    """Makes a network of layers: fills in what they leave open, and checks each of them, and that each fits the next.

    An image of two dimensions gets a channel; a network that begins with an affine layer takes images as vectors.

    Args:
        layers: The layers.
        input_shape: Shape of an image.
        classes: Number of classes: what an affine layer without `outputs` gives.

    Raises:
        InvalidInputError: A setting is out of its range, a layer cannot take the shape that it gets, or the network is
            too large or ends in no vector of MAX_OUTPUTS or fewer. Its field is `network.layers[i]` or a setting of it.
    """
    if not 1 <= math.prod(input_shape) <= MAX_INPUTS or min(input_shape, default=1) < 1:
        raise InvalidInputError(
            "network.input_shape", f"lengths of 1 or more, {MAX_INPUTS} numbers at most; got {list(input_shape)}"
        )
    shape = (*input_shape, 1) if len(input_shape) == 2 else tuple(input_shape)
    if layers and isinstance(layers[0], Affine):
        shape = (math.prod(shape),)
    filled, after = _checked(layers, shape, classes, "network.layers")
    if not filled:
        raise InvalidInputError("network.layers", "1 layer or more; got none")
    network = Network(shape, filled)
    last = f"network.layers[{len(filled) - 1}]"
    if len(after) != 1 or after[0] > MAX_OUTPUTS:
        raise InvalidInputError(
            f"{last}.outputs" if len(after) == 1 else last,
            f"a network ends in a vector of one number for each class, at most {MAX_OUTPUTS}; got {after}",
        )
    if len(network.leaves) > MAX_LAYERS:
        raise InvalidInputError("network.layers", f"at most {MAX_LAYERS} layers; got {len(network.leaves)}")
    # Blocks have no params of their own, and may be empty: their number alone would have no bound.
    if (blocks := _blocks(network.layers)) > MAX_LAYERS:
        raise InvalidInputError("network.layers", f"at most {MAX_LAYERS} residual blocks; got {blocks}")
    if network.parameters > MAX_PARAMETERS:
        raise InvalidInputError(
            "network.layers", f"at most {MAX_PARAMETERS} parameters in all; got {network.parameters}"
        )
    return network


def _blocks(layers: Sequence[Layer]) -> int:
    return sum(1 + _blocks(each.layers) + _blocks(each.shortcut) for each in layers if isinstance(each, Residual))


def _checked(layers: Sequence[Layer], shape: Shape, classes: int, field: str) -> tuple[tuple[Layer, ...], Shape]:
    filled: list[Layer] = []
    for number, given in enumerate(layers):
        layer, where = given, f"{field}[{number}]"
        if isinstance(layer, Affine) and layer.outputs is None:
            layer = replace(layer, outputs=classes)
        if isinstance(layer, Residual):
            branch, _ = _checked(layer.layers, shape, classes, f"{where}.layers")
            shortcut, _ = _checked(layer.shortcut, shape, classes, f"{where}.shortcut")
            layer = Residual(branch, shortcut)
        try:
            layer.check()
        except ValueError as error:
            setting, _, problem = str(error).partition(": ")
            raise InvalidInputError(f"{where}.{setting}", problem) from error
        try:
            after = layer.output_shape(shape)
        except ShapeError as error:
            raise InvalidInputError(where, f"layer {number + 1}, {layer.kind}, {error}; got {shape}") from error
        if math.prod(after) > MAX_INPUTS:
            raise InvalidInputError(where, f"at most {MAX_INPUTS} numbers of an example after a layer; got {after}")
        filled.append(layer)
        shape = after
    return tuple(filled), shape


def fully_connected(inputs: int, hidden: Sequence[int], outputs: int) -> Network:
    """Gives the network of an affine layer and a sigmoid for each hidden width, then an affine layer to the logits.

    Raises:
        InvalidInputError: As for `make_network`.
    """
    layers = [layer for width in hidden for layer in (Affine(width), Sigmoid())]
    return make_network([*layers, Affine(outputs)], (inputs,), outputs)


def init(network: Network, key: Array) -> Params:
    """Draws initial params, float32, as each layer's initializer says.

    Args:
        network: The architecture.
        key: A jax random key. The same key gives the same params.
    """
    return _drawn(network, draw_from(generator_of(key, 0)))


def _drawn(network: Network, draw: Draw) -> Params:
    return tuple(leaf.init(draw, shape) for leaf, shape in zip(network.leaves, network.leaf_shapes, strict=True))


def initial_statistics(network: Network) -> Params:
    """Gives what layers keep besides their params, before training; shaped like the params, mostly empty."""
    return tuple(leaf.statistics(shape) for leaf, shape in zip(network.leaves, network.leaf_shapes, strict=True))


def forward(network: Network, params: Params, statistics: Params, inputs: Array) -> Array:
    """Gives the logits `[B, C]` of inputs `[B, D]` at inference, in the params' dtype."""
    return chain_fwd(network.layers, params, statistics, _shaped(network, inputs), None)[0]


def training_loss(
    network: Network,
    params: Params,
    statistics: Params,
    inputs: Array,
    labels: Array,
    key: Array,
    loss: Loss = CROSS_ENTROPY,
) -> Array:
    """Gives the loss that `loss_and_grads` differentiates: the forward passes of training alone."""
    outputs, _, _ = chain_fwd(network.layers, params, statistics, _shaped(network, inputs), key)
    return LOSSES[loss.name].op(outputs, labels, **loss.settings)


def loss_and_grads(
    network: Network,
    params: Params,
    statistics: Params,
    inputs: Array,
    labels: Array,
    key: Array,
    loss: Loss = CROSS_ENTROPY,
) -> tuple[Array, Params, Params]:
    """Gives the loss of a mini-batch and its gradient by every array of the params: forward, then the chain rule.

    Args:
        network: The architecture.
        params: Its params.
        statistics: What its layers keep besides.
        inputs: `[B, D]`, of the params' dtype.
        labels: `[B]`, integers from 0 to C - 1.
        key: Of the mini-batch's randomness, which dropout takes.
        loss: What is minimized.

    Returns:
        The loss, a scalar; the gradients, shaped like the params; the statistics after this mini-batch.
    """
    outputs, residuals, after = chain_fwd(network.layers, params, statistics, _shaped(network, inputs), key)
    operation = LOSSES[loss.name]
    value, loss_residuals = operation.fwd(outputs, labels, **loss.settings)
    g = operation.bwd(loss_residuals, jnp.ones_like(value), **loss.settings)[0]
    assert g is not None
    grads, _ = chain_bwd(network.layers, residuals, g)
    return value, grads, after


def _width(layer: Layer) -> str:
    return str(getattr(layer, "outputs", getattr(layer, "channels", "")))


def _shaped(network: Network, inputs: Array) -> Array:
    return inputs.reshape(inputs.shape[0], *network.input_shape)
