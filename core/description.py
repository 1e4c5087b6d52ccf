"""Networks described layer by layer."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from handgrad.core.network import Network
from handgrad.core.operations.base import Layer, Shape
from handgrad.core.operations.residual import Residual


@dataclass(frozen=True)
class Row:
    """A layer as it stands in a network.

    Attributes:
        position: `1`, `2`, ...; `3.1` is the first in the third, a block, `3.shortcut.1` the first of its shortcut.
        layer: The layer.
        input_shape: Shape of an example before it.
        output_shape: Shape of an example after it.
        parameters: Numbers that it learns; those of a block stand with its layers.
        flops: Floating-point operations of its forward pass of one example.
    """

    position: str
    layer: Layer
    input_shape: Shape
    output_shape: Shape
    parameters: int
    flops: int


def describe(network: Network) -> list[Row]:
    """Gives a row for each layer, those inside a block after it."""
    counts = iter([sum(math.prod(array.shape) for array in layer.values()) for layer in network.learned])
    return list(_rows(network.layers, network.input_shape, "", counts))


def _rows(layers: Sequence[Layer], shape: Shape, prefix: str, counts: Iterator[int]) -> Iterator[Row]:
    for number, layer in enumerate(layers, start=1):
        after, position = layer.output_shape(shape), f"{prefix}{number}"
        if isinstance(layer, Residual):
            yield Row(position, layer, shape, after, 0, layer.flops(shape))
            yield from _rows(layer.layers, shape, f"{position}.", counts)
            yield from _rows(layer.shortcut, shape, f"{position}.shortcut.", counts)
        else:
            yield Row(position, layer, shape, after, next(counts), layer.flops(shape))
        shape = after


def difference(held: Network, asked: Network) -> str:
    """Returns what tells two networks apart, in a few words."""
    if held.title != asked.title:
        return f"{held.title}, not {asked.title}"
    pairs = enumerate(zip(held.layers, asked.layers, strict=False), start=1)
    return next((f"whose layer {number} is {a}, not {b}" for number, (a, b) in pairs if a != b), held.title)


def endings(network: Network) -> list[Row]:
    """Returns the layers whose numbers are the network's outputs.

    That is the last one, or in a block the last of each way. Those that only move, leave out or pool numbers are passed
    over.
    """
    rows = {row.position: row for row in describe(network)}
    return [rows[position] for position in _last(network.layers, "")]


def _last(layers: Sequence[Layer], prefix: str) -> Iterator[str]:
    for number, layer in reversed(list(enumerate(layers, start=1))):
        if isinstance(layer, Residual):
            yield from _last(layer.layers, f"{prefix}{number}.")
            yield from _last(layer.shortcut, f"{prefix}{number}.shortcut.")
            return
        if not layer.passes:
            yield f"{prefix}{number}"
            return
