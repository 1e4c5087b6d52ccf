"""Networks: an architecture as data, and pure functions from its params to logits, loss and gradients."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from handgrad.core import operations
from handgrad.core.errors import InvalidInputError

LayerParams: TypeAlias = dict[str, Array]
Params: TypeAlias = tuple[LayerParams, ...]
"""One dictionary a layer: `{"W": [outputs, inputs], "b": [outputs]}` for an affine one, empty where none is learned."""

MAX_WIDTH = 65_536
MAX_OUTPUTS = 256
"""A label is a byte."""

MAX_LAYERS = 64
MAX_PARAMETERS = 100_000_000


@dataclass(frozen=True)
class Affine:
    """A layer Y = X W^T + b."""

    inputs: int
    outputs: int

    def init(self, key: Array) -> LayerParams:
        """Draws W and b from N(0, 1 / inputs), as the report does."""
        W_key, b_key = jax.random.split(key)
        deviation = self.inputs**-0.5
        return {
            "W": deviation * jax.random.normal(W_key, (self.outputs, self.inputs), jnp.float32),
            "b": deviation * jax.random.normal(b_key, (self.outputs,), jnp.float32),
        }

    def fwd(self, params: LayerParams, inputs: Array) -> tuple[Array, Any]:
        """Maps `[B, inputs]` to `[B, outputs]` and residuals."""
        return operations.affine_fwd(inputs, params["W"], params["b"])

    def bwd(self, residuals: Any, g: Array) -> tuple[LayerParams, Array]:
        """Gives the gradients of the params and of the inputs."""
        inputs_grad, W_grad, b_grad = operations.affine_bwd(residuals, g)
        return {"W": W_grad, "b": b_grad}, inputs_grad


@dataclass(frozen=True)
class Sigmoid:
    """A layer that applies the sigmoid to each element."""

    def init(self, key: Array) -> LayerParams:
        """Draws nothing: the layer learns nothing."""
        del key
        return {}

    def fwd(self, params: LayerParams, inputs: Array) -> tuple[Array, Any]:
        """Maps any shape to the same shape and residuals."""
        del params
        return operations.sigmoid_fwd(inputs)

    def bwd(self, residuals: Any, g: Array) -> tuple[LayerParams, Array]:
        """Gives no gradients of params, and that of the inputs."""
        return {}, operations.sigmoid_bwd(residuals, g)[0]


Layer: TypeAlias = Affine | Sigmoid


@dataclass(frozen=True)
class Network:
    """An architecture: its layers, first to last. Hashable, so that a compiled function can be kept for it."""

    layers: tuple[Layer, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers an example has before the first affine layer and after each, such as (784, 100, 10)."""
        affine = [layer for layer in self.layers if isinstance(layer, Affine)]
        return (affine[0].inputs, *(layer.outputs for layer in affine))

    @property
    def inputs(self) -> int:
        """Numbers of one example."""
        return self.widths[0]

    @property
    def hidden(self) -> tuple[int, ...]:
        """Width of each hidden layer."""
        return self.widths[1:-1]

    @property
    def outputs(self) -> int:
        """Number of classes."""
        return self.widths[-1]

    @property
    def parameters(self) -> int:
        """Numbers in all arrays of its params."""
        return sum((inputs + 1) * outputs for inputs, outputs in pairwise(self.widths))


def fully_connected(inputs: int, hidden: tuple[int, ...], outputs: int) -> Network:
    """Gives the network of an affine layer and a sigmoid for each hidden width, then an affine layer to the logits.

    Args:
        inputs: Numbers of one example, 1 or more.
        hidden: Width of each hidden layer, each 1 to MAX_WIDTH. Empty for softmax regression.
        outputs: Number of classes, 1 to MAX_OUTPUTS.

    Raises:
        InvalidInputError: A width is out of range, or the network has too many layers or parameters; the field is
            `network.inputs`, `network.hidden[i]`, `network.hidden` or `network.outputs`.
    """
    for field, width, most in (
        ("network.inputs", inputs, 2**24),
        *((f"network.hidden[{i}]", width, MAX_WIDTH) for i, width in enumerate(hidden)),
        ("network.outputs", outputs, MAX_OUTPUTS),
    ):
        if not 1 <= width <= most:
            raise InvalidInputError(field, f"a width is from 1 to {most}; got {width}")
    if len(hidden) >= MAX_LAYERS:
        raise InvalidInputError("network.hidden", f"at most {MAX_LAYERS - 1} hidden layers; got {len(hidden)}")
    widths = (inputs, *hidden, outputs)
    layers: list[Layer] = []
    for a, b in pairwise(widths):
        layers += [Affine(a, b), Sigmoid()]
    network = Network(tuple(layers[:-1]))
    if network.parameters > MAX_PARAMETERS:
        raise InvalidInputError(
            "network.hidden",
            f"at most {MAX_PARAMETERS} parameters in all; {'-'.join(map(str, widths))} has {network.parameters}",
        )
    return network


def init(network: Network, key: Array) -> Params:
    """Draws initial params, float32, from N(0, 1 / inputs) of each affine layer.

    Args:
        network: The architecture.
        key: A jax random key. The same key gives the same params.
    """
    keys = jax.random.split(key, len(network.layers))
    return tuple(layer.init(layer_key) for layer, layer_key in zip(network.layers, keys, strict=True))


def forward(network: Network, params: Params, inputs: Array) -> Array:
    """Gives the logits `[B, C]` of inputs `[B, D]`, in the params' dtype."""
    return _forward_with_residuals(network, params, inputs)[0]


def loss_and_grads(network: Network, params: Params, inputs: Array, labels: Array) -> tuple[Array, Params]:
    """Gives the mean cross-entropy of a batch and its gradient by every array of the params.

    The chain rule, from the last layer to the first: each layer's backward pass takes dE/d(its output) and gives
    dE/d(its params) and dE/d(its input), which is dE/d(output) of the layer before.

    Args:
        network: The architecture.
        params: Its params.
        inputs: `[B, D]`, of the params' dtype.
        labels: `[B]`, integers from 0 to C - 1.

    Returns:
        The loss, a scalar, and the gradients, shaped like the params.
    """
    logits, residuals = _forward_with_residuals(network, params, inputs)
    loss, loss_residuals = operations.softmax_cross_entropy_fwd(logits, labels)
    g, _ = operations.softmax_cross_entropy_bwd(loss_residuals, jnp.ones_like(loss))
    grads: list[LayerParams] = []
    for layer, residual in zip(reversed(network.layers), reversed(residuals), strict=True):
        layer_grads, g = layer.bwd(residual, g)
        grads.append(layer_grads)
    return loss, tuple(reversed(grads))


def _forward_with_residuals(network: Network, params: Params, inputs: Array) -> tuple[Array, list[Any]]:
    outputs, residuals = inputs, []
    for layer, layer_params in zip(network.layers, params, strict=True):
        outputs, residual = layer.fwd(layer_params, outputs)
        residuals.append(residual)
    return outputs, residuals
