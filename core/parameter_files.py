"""Params as named arrays in the report's layout, and the files that hold them: .npz and .safetensors.

The layout: layer k, counted from 1 among those that have arrays, has `W_k` and so on. An affine layer's `W_k` has the
shape (outputs, inputs) and its `b_k` (outputs, 1), so that the layer maps a column x to W_k x + b_k. What a layer keeps
besides its params, such as `mean_k`, stands with them.

A file says as JSON which network it holds, which signature its params have, and how many epochs they were trained: in
the arrays `network`, `signature` and `epochs` of an .npz file, in the metadata of a .safetensors file. One that says
nothing, such as the report's own, is taken for affine layers with sigmoids between them.
"""

import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax import Array
from numpy.typing import NDArray
from safetensors import SafetensorError

from handgrad.core import npz
from handgrad.core.errors import InvalidInputError
from handgrad.core.file_kinds import kind_of
from handgrad.core.network import MAX_PARAMETERS, Network, fully_connected, make_network
from handgrad.core.network_spec import layers_from_spec
from handgrad.core.operations.base import Params
from handgrad.core.optimizers import OptState

MAX_FILE_BYTES: Final = 8 * MAX_PARAMETERS + 2**20
"""The most a parameter file may hold, decompressed: float64 for the largest network, and its headers."""

NETWORK: Final = "network"
SIGNATURE: Final = "signature"
EPOCHS: Final = "epochs"
TOLD: Final[tuple[str, ...]] = (NETWORK, SIGNATURE, EPOCHS)
"""What a file calls that which it says of its arrays."""

MAX_DIGITS: Final = 9

_STEPS: Final = "steps"

Arrays = Mapping[str, NDArray[np.float32]]


def to_named_arrays(network: Network, params: Params, statistics: Params) -> dict[str, NDArray[np.float32]]:
    """Gives params and statistics as arrays of the layout, copied from the device: W_1, b_1, W_2, b_2, ..."""
    # Copied: a view of the device's buffer would change under its reader when the training loop reuses it.
    return {
        name: np.array(layer[array])[:, None] if is_column else np.array(layer[array])
        for name, (leaf, array, is_column) in _names(network).items()
        if array in (layer := {**params[leaf], **statistics[leaf]})
    }


def from_named_arrays(network: Network, arrays: Arrays) -> tuple[Params, Params]:
    """Gives arrays that `to_named_arrays` gave, or `check_named_arrays`, as params and statistics on the device."""
    found: tuple[dict[str, Array], ...] = tuple({} for _ in network.leaves)
    for name, (leaf, array, is_column) in _names(network).items():
        if name in arrays:
            found[leaf][array] = jnp.array(arrays[name][:, 0] if is_column else arrays[name])
    kept = [leaf.statistics(shape).keys() for leaf, shape in zip(network.leaves, network.leaf_shapes, strict=True)]
    params = tuple({a: x for a, x in layer.items() if a not in names} for layer, names in zip(found, kept, strict=True))
    return params, tuple({a: layer[a] for a in names if a in layer} for layer, names in zip(found, kept, strict=True))


def opt_state_to_named_arrays(network: Network, opt_state: OptState) -> dict[str, NDArray[Any]]:
    """Gives an optimizer's state as arrays: `0.W_1`, `0.b_1`, ... for its first pytree, and so on, and `steps`."""
    nothing: Params = tuple({} for _ in network.leaves)
    arrays: dict[str, NDArray[Any]] = {
        f"{slot}.{name}": array
        for slot, tree in enumerate(opt_state.slots)
        for name, array in to_named_arrays(network, tree, nothing).items()
    }
    return arrays if opt_state.steps is None else arrays | {_STEPS: np.array(opt_state.steps)}


def opt_state_from_named_arrays(network: Network, arrays: Mapping[str, NDArray[Any]]) -> OptState:
    """Gives arrays that `opt_state_to_named_arrays` gave as an optimizer's state on the device."""
    slots = sorted({int(name.partition(".")[0]) for name in arrays if name != _STEPS})
    parts = ({name.partition(".")[2]: arrays[name] for name in arrays if name.startswith(f"{k}.")} for k in slots)
    steps = jnp.array(arrays[_STEPS]) if _STEPS in arrays else None
    return OptState(tuple(from_named_arrays(network, part)[0] for part in parts), steps)


def _names(network: Network) -> dict[str, tuple[int, str, bool]]:
    """Gives, for each array's name in the layout, its leaf, its name there, and whether files hold it as a column."""
    names: dict[str, tuple[int, str, bool]] = {}
    numbers = iter(range(1, len(network.leaves) + 1))
    for leaf, template in enumerate(network.templates):
        if template:
            k = next(numbers)
            names |= {f"{array}_{k}": (leaf, array, array in network.leaves[leaf].columns) for array in template}
    return names


def check_named_arrays(
    arrays: Mapping[str, NDArray[Any]], source: str, network: Network | None = None
) -> tuple[Network, dict[str, NDArray[np.float32]]]:
    """Finds the network that arrays in the layout belong to, and holds each of them against it.

    Args:
        arrays: `W_1`, `b_1`, `W_2`, `b_2`, ..., float32 or float64, in any order.
        source: What the arrays came from, such as the file's name: the field of an error.
        network: Their network; None for the one of affine layers and sigmoids that fits them.

    Returns:
        The network, and the arrays rounded to float32, in the layout's order.

    Raises:
        InvalidInputError: An array is missing or unknown, or has a wrong shape or dtype, or a NaN or an infinity.
    """
    found = network or _fully_connected(arrays, source)
    wanted = _names(found)
    _check_names(arrays, wanted, source)
    rounded: dict[str, NDArray[np.float32]] = {}
    for name, (leaf, array, is_column) in wanted.items():
        rounded[name] = _float32(arrays[name], name, source)
        shape = found.templates[leaf][array].shape + (1,) * is_column
        if rounded[name].shape != shape:
            raise InvalidInputError(source, f"the array {name} has shape {rounded[name].shape}; expected {shape}")
        if array == "variance" and rounded[name].min() < 0:
            raise InvalidInputError(source, f"the array {name} has {rounded[name].min()}; a variance is 0 or more")
    return found, rounded


def _fully_connected(arrays: Mapping[str, NDArray[Any]], source: str) -> Network:
    """Finds the network of affine layers and sigmoids that arrays belong to."""
    numbers = {name[2:] for name in arrays if re.fullmatch(r"[Wb]_[0-9]+", name)}
    layers = range(1, max(len(numbers), 1) + 1)
    _check_names(arrays, [f"{kind}_{k}" for k in layers for kind in "Wb"], source)
    widths: list[int] = []
    for k in layers:
        W, b = arrays[f"W_{k}"], arrays[f"b_{k}"]
        if W.ndim != 2 or (widths and W.shape[1] != widths[-1]):
            inputs = widths[-1] if widths else "inputs"
            raise InvalidInputError(source, f"the array W_{k} has shape {W.shape}; expected (outputs, {inputs})")
        if b.shape != (W.shape[0], 1):
            raise InvalidInputError(source, f"the array b_{k} has shape {b.shape}; expected ({W.shape[0]}, 1)")
        widths += [W.shape[1], W.shape[0]] if not widths else [W.shape[0]]
    try:
        return fully_connected(widths[0], widths[1:-1], widths[-1])
    except InvalidInputError as error:
        raise InvalidInputError(source, str(error)) from error


def _check_names(arrays: Mapping[str, NDArray[Any]], wanted: Iterable[str], source: str) -> None:
    if missing := [name for name in wanted if name not in arrays]:
        raise InvalidInputError(
            source, f"the array {missing[0]} is missing; it has {', '.join(sorted(arrays)) or 'none'}"
        )
    if unknown := sorted(arrays.keys() - set(wanted)):
        raise InvalidInputError(source, f"the array {unknown[0]} is unknown; its arrays should be {', '.join(wanted)}")


@dataclass(frozen=True)
class ParameterFile:
    """What a parameter file holds.

    Attributes:
        arrays: Its arrays, as they are.
        network: The network that it says it holds; None where it does not say.
        signature: Its signature as JSON, which is yet to be held against the network; None where it does not say.
        epochs: Epochs that its params were trained; 0 where it does not say.
    """

    arrays: dict[str, NDArray[Any]]
    network: Network | None = None
    signature: str | None = None
    epochs: int = 0


def read(content: bytes, file: str) -> ParameterFile:
    """Reads a parameter file; its content tells which of the two formats it has.

    Nothing in the file is executed: an .npz with pickled objects is refused.

    Args:
        content: The file's bytes.
        file: Its name, for errors.

    Raises:
        InvalidInputError: The file is neither format, is damaged, or holds something else than numbers.
    """
    if not content:
        raise InvalidInputError(file, "the file is empty")
    if npz.is_zip(content):
        arrays = npz.read(content, file, MAX_FILE_BYTES)
        told = {name: _text(arrays.pop(name), name, file) for name in TOLD if name in arrays}
        return _file(arrays, told, file)
    try:
        arrays = dict(safetensors.numpy.load(content))
        metadata = _metadata(content)
    except KeyError as error:
        # Its library's, for a dtype that numpy has not.
        raise InvalidInputError(
            file, f"it has arrays of {error.args[0]}; expected F32 or F64: convert them before saving, as .float() does"
        ) from error
    except (SafetensorError, TypeError, ValueError, struct.error) as error:
        kind = kind_of(content)
        found = f"it is {kind}" if kind and not kind.startswith("a .safetensors") else error
        raise InvalidInputError(file, f"neither a whole .npz nor a whole .safetensors file: {found}") from error
    told = {name: str(metadata[name]) for name in TOLD if name in metadata}
    return _file(arrays, told, file)


def read_arrays(content: bytes, file: str) -> dict[str, NDArray[Any]]:
    """Reads the arrays of a parameter file; see `read`."""
    return read(content, file).arrays


def _text(array: NDArray[Any], name: str, file: str) -> str:
    if array.ndim or array.dtype.kind not in "Uiu":
        raise InvalidInputError(file, f"the array {name} is {array.dtype} of shape {array.shape}; expected a text")
    return str(array)


def _file(arrays: dict[str, NDArray[Any]], told: Mapping[str, str], file: str) -> ParameterFile:
    network = _network_told(told[NETWORK], file) if NETWORK in told else None
    epochs = told.get(EPOCHS, "0")
    if not (epochs.isascii() and epochs.isdigit() and len(epochs) <= MAX_DIGITS):
        raise InvalidInputError(file, f"its epochs are {epochs!r:.80}; expected a whole number")
    return ParameterFile(arrays, network, told.get(SIGNATURE), int(epochs))


def _metadata(content: bytes) -> Mapping[str, Any]:
    """Gives what a .safetensors file that was read without an error says of itself; its library shows only arrays."""
    (length,) = struct.unpack("<Q", content[:8])
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return metadata if isinstance(metadata, dict) else {}


def _network_told(text: str, file: str) -> Network:
    try:
        told = json.loads(text)
        shape = tuple(int(length) for length in told["inputShape"])
        network = make_network(layers_from_spec(list(_layers_told(told["layers"]))), shape, 0)
    except InvalidInputError as error:
        raise InvalidInputError(file, str(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidInputError(file, f"its network is not one: {error!r:.200}") from error
    return network


def _layers_told(layers: Any) -> Iterator[dict[str, Any]]:
    """Gives layers as the contract's JSON has them, a kind beside its settings, in the form of `layers_from_spec`."""
    for layer in layers:
        inside = {name: list(_layers_told(layer[name])) for name in ("layers", "shortcut") if name in layer}
        yield {"kind": layer["kind"]} | dict(layer.get("settings", {})) | inside


def to_safetensors(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Encodes arrays as a .safetensors file: the same bytes for the same arrays."""
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _float32(array: NDArray[Any], name: str, source: str) -> NDArray[np.float32]:
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        how = "; .astype('float32') converts it" if array.dtype.kind == "f" else ""
        raise InvalidInputError(source, f"the array {name} is {array.dtype}; expected float32 or float64{how}")
    if array.ndim == 0:
        raise InvalidInputError(source, f"the array {name} has shape (); expected a matrix")
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(rounded).all():
        position = tuple(int(i) for i in np.argwhere(~np.isfinite(rounded))[0])
        raise InvalidInputError(
            source, f"the array {name} has {array[position]} at {position}; expected finite float32"
        )
    return rounded
