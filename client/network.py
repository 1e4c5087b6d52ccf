"""Networks as a caller holds them: layers as plain data, TOML files, and short names for people."""

import json
import math
import operator
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import MessageToJson

from handgrad.client.errors import InvalidArgumentError
from handgrad.v1 import network_pb2

LayerSpec = Mapping[str, Any]
"""A layer as plain data: `{"kind": "affine", "outputs": 100}`."""

_MAX_WHOLE: Final = 2**53
_BRANCHES: Final = ("layers", "shortcut")


def network_to_proto(
    layers: Sequence[LayerSpec], input_shape: Sequence[int] = (), field: str = "network"
) -> network_pb2.NetworkSpec:
    """Makes the contract's message of layers; the server is the one who checks them.

    Raises:
        InvalidArgumentError: Something in it is no layer, or no value that a message holds.
    """
    try:
        return network_pb2.NetworkSpec(
            input_shape=input_shape, layers=[_layer(layer, f"{field}.layers[{i}]") for i, layer in enumerate(layers)]
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgumentError(f"{field}.input_shape: {error}", f"{field}.input_shape") from error


def _layer(layer: Any, field: str) -> network_pb2.Layer:
    if not isinstance(layer, Mapping) or not isinstance(layer.get("kind"), str):
        raise InvalidArgumentError(f"{field}: a layer is a table with a kind; got {layer!r:.100}", field)
    inside = {
        name: [_layer(each, f"{field}.{name}[{i}]") for i, each in enumerate(layer[name])]
        for name in _BRANCHES
        if isinstance(layer.get(name), list | tuple)
    }
    message = network_pb2.Layer(kind=layer["kind"], layers=inside.get("layers"), shortcut=inside.get("shortcut"))
    for name, value in layer.items():
        if name != "kind" and name not in inside:
            try:
                message.settings.update({name: value})
            except (TypeError, ValueError) as error:
                raise InvalidArgumentError(f"{field}.{name}: {error}", f"{field}.{name}") from error
    return message


def fully_connected(hidden: Sequence[int]) -> list[LayerSpec]:
    """Gives the layers of a network of sigmoids: an affine layer and a sigmoid for each width, and an affine layer."""
    try:
        pairs = [({"kind": "affine", "outputs": _whole(width)}, {"kind": "sigmoid"}) for width in hidden]
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"hidden: widths; got {hidden!r:.100}", "hidden") from error
    return [*(layer for pair in pairs for layer in pair), {"kind": "affine"}]


def _whole(width: int) -> int:
    """Gives a whole number that the contract's settings, which are floats, can hold."""
    whole = operator.index(width)
    if abs(whole) >= _MAX_WHOLE:
        raise ValueError(width)
    return whole


def read_network(file: str | os.PathLike[str]) -> network_pb2.NetworkSpec:
    """Reads a network's TOML file: `input`, the shape of an example, if it is not the data set's, and `[[layers]]`.

    Raises:
        InvalidArgumentError: It is not TOML, or has something else in it.
        OSError: It cannot be read.
    """
    path = Path(file)
    try:
        told = tomllib.loads(path.read_bytes().decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"{path.name}: not TOML: {error}", path.name) from error
    if unknown := sorted(told.keys() - {"input", "layers"}):
        raise InvalidArgumentError(f"{path.name}: {unknown[0]} is unknown; a network has input and layers", path.name)
    layers, shape = told.get("layers"), told.get("input", [])
    if not isinstance(layers, list) or not isinstance(shape, list):
        raise InvalidArgumentError(f"{path.name}: a network has [[layers]], and input as a list", path.name)
    return network_to_proto(layers, shape, path.name)


def title(network: network_pb2.NetworkSpec) -> str:
    """Gives a short name: `784-100-10`; `c6` stands for 6 channels of a convolution, `r` for a residual layer."""
    parts = ["x".join(map(str, network.input_shape))]
    for layer in network.layers:
        if layer.kind == "affine":
            parts.append(f"{layer.settings['outputs']:.0f}" if "outputs" in layer.settings else "?")
        elif layer.kind == "convolution":
            parts.append(f"c{layer.settings['channels']:.0f}")
        elif layer.kind == "residual":
            parts.append("r")
    return "-".join(parts)


def inputs_of(network: network_pb2.NetworkSpec) -> int:
    """Gives the numbers of one example."""
    return math.prod(network.input_shape)


def told_in_file(network: network_pb2.NetworkSpec) -> str:
    """Returns what a parameter file says of its network."""
    return json.dumps(json.loads(MessageToJson(network)), sort_keys=True)
