"""Params as named arrays in the report's layout, and the files that hold them: .npz and .safetensors.

The layout: layer k, counted from 1, has `W_k` of shape (outputs, inputs) and `b_k` of shape (outputs, 1), so that the
layer maps a column x to W_k x + b_k.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from handgrad.core import npz
from handgrad.core.errors import InvalidInputError
from handgrad.core.network import MAX_PARAMETERS, Affine, Network, Params, fully_connected
from handgrad.core.optimizers import OptState

MAX_FILE_BYTES = 8 * MAX_PARAMETERS + 2**20
"""The most a parameter file may hold, decompressed: float64 for the largest network, and its headers."""


def to_named_arrays(params: Params) -> dict[str, NDArray[np.float32]]:
    """Gives params as arrays of the report's layout, copied from the device, in the order W_1, b_1, W_2, b_2, ..."""
    arrays: dict[str, NDArray[np.float32]] = {}
    for k, layer in enumerate((layer for layer in params if layer), start=1):
        # Copied: a view of the device's buffer would change under its reader when the training loop reuses it.
        arrays[f"W_{k}"] = np.array(layer["W"])
        arrays[f"b_{k}"] = np.array(layer["b"])[:, None]
    return arrays


def from_named_arrays(network: Network, arrays: Mapping[str, NDArray[np.float32]]) -> Params:
    """Gives arrays that `check_named_arrays` gave as params on the device."""
    layers = iter(
        [{"W": jnp.array(arrays[f"W_{k}"]), "b": jnp.array(arrays[f"b_{k}"][:, 0])} for k in _numbers(arrays)]
    )
    return tuple(next(layers) if isinstance(layer, Affine) else {} for layer in network.layers)


def opt_state_to_named_arrays(opt_state: OptState) -> dict[str, NDArray[np.float32]]:
    """Gives an optimizer's state as arrays: `0.W_1`, `0.b_1`, ... for its first pytree, and so on."""
    return {
        f"{slot}.{name}": array for slot, tree in enumerate(opt_state) for name, array in to_named_arrays(tree).items()
    }


def opt_state_from_named_arrays(network: Network, arrays: Mapping[str, NDArray[np.float32]]) -> OptState:
    """Gives arrays that `opt_state_to_named_arrays` gave as an optimizer's state on the device."""
    slots = sorted({int(name.partition(".")[0]) for name in arrays})
    parts = ({name.partition(".")[2]: arrays[name] for name in arrays if name.startswith(f"{k}.")} for k in slots)
    return tuple(from_named_arrays(network, part) for part in parts)


def check_named_arrays(
    arrays: Mapping[str, NDArray[Any]], source: str
) -> tuple[Network, dict[str, NDArray[np.float32]]]:
    """Finds the network that arrays in the report's layout belong to.

    Args:
        arrays: `W_1`, `b_1`, `W_2`, `b_2`, ..., float32 or float64, in any order.
        source: What the arrays came from, such as the file's name: the field of an error.

    Returns:
        The network, and the arrays rounded to float32, in the order W_1, b_1, W_2, b_2, ...

    Raises:
        InvalidInputError: An array is missing or unknown, or has a wrong shape or dtype, or a NaN or an infinity.
    """
    wanted = [f"{kind}_{k}" for k in _numbers(arrays) for kind in "Wb"]
    if missing := [name for name in wanted if name not in arrays]:
        raise InvalidInputError(
            source, f"the array {missing[0]} is missing; it has {', '.join(sorted(arrays)) or 'none'}"
        )
    if unknown := sorted(arrays.keys() - set(wanted)):
        raise InvalidInputError(source, f"the array {unknown[0]} is unknown; its arrays should be {', '.join(wanted)}")
    rounded = {name: _float32(arrays[name], name, source) for name in wanted}
    widths: list[int] = []
    for k in _numbers(arrays):
        W, b = rounded[f"W_{k}"], rounded[f"b_{k}"]
        if W.ndim != 2 or (widths and W.shape[1] != widths[-1]):
            inputs = widths[-1] if widths else "inputs"
            raise InvalidInputError(source, f"the array W_{k} has shape {W.shape}; expected (outputs, {inputs})")
        if b.shape != (W.shape[0], 1):
            raise InvalidInputError(source, f"the array b_{k} has shape {b.shape}; expected ({W.shape[0]}, 1)")
        widths += [W.shape[1], W.shape[0]] if not widths else [W.shape[0]]
    try:
        return fully_connected(widths[0], tuple(widths[1:-1]), widths[-1]), rounded
    except InvalidInputError as error:
        raise InvalidInputError(source, str(error)) from error


def read(content: bytes, file: str) -> dict[str, NDArray[Any]]:
    """Reads the arrays of a parameter file; its content tells which of the two formats it has.

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
        return npz.read(content, file, MAX_FILE_BYTES)
    try:
        return dict(safetensors.numpy.load(content))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(file, f"neither a whole .npz nor a whole .safetensors file: {error}") from error


def to_safetensors(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Encodes arrays as a .safetensors file: the same bytes for the same arrays."""
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _numbers(arrays: Iterable[str]) -> range:
    """Gives the numbers that the layers should have: 1, 2, 3, ..., as many as the arrays' names tell apart."""
    found = {name[2:] for name in arrays if re.fullmatch(r"[Wb]_[0-9]+", name)}
    return range(1, max(len(found), 1) + 1)


def _float32(array: NDArray[Any], name: str, source: str) -> NDArray[np.float32]:
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise InvalidInputError(source, f"the array {name} is {array.dtype}; expected float32 or float64")
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
