"""Params as a caller holds them: numpy arrays in the report's layout, and the files they are written to."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from handgrad.client import network, signature
from handgrad.client.errors import DamagedError, InvalidArgumentError
from handgrad.client.files import whole_file
from handgrad.v1 import params_pb2, tensor_pb2

ENDINGS: Final = (".npz", ".safetensors")

_DTYPES: Final[dict[int, np.dtype[Any]]] = {
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
    tensor_pb2.DATA_TYPE_UINT8: np.dtype(np.uint8),
}


@dataclass(frozen=True)
class Params:
    """One version of a model's params.

    Attributes:
        version: What the server knows of it: its number, SHA-256, network, job, iteration, loss.
        arrays: `W_1` of shape (outputs, inputs), `b_1` of shape (outputs, 1), `W_2`, ...; read-only. The contract's
            Tensor has the names and shapes of other layers' arrays.
    """

    version: params_pb2.ParamsVersion
    arrays: Mapping[str, NDArray[Any]]

    def save(self, file: str | os.PathLike[str]) -> None:
        """Writes the arrays to a file, as .npz or .safetensors by its ending, whole or not at all.

        Raises:
            InvalidArgumentError: It has another ending, or is a device or a pipe.
            OSError: It cannot be written.
        """
        path = Path(file)
        check_ending(path)
        with whole_file(path) as opened:
            _write(opened, path.suffix, self.arrays, _told(self.version))


def check_ending(path: Path) -> None:
    """Raises InvalidArgumentError where a file's ending is not that of a parameter file."""
    if path.suffix not in ENDINGS:
        raise InvalidArgumentError(f"{path.name}: a parameter file ends in {' or '.join(ENDINGS)}", path.name)


def arrays_from_proto(tensors: Iterable[tensor_pb2.Tensor], data: bytes) -> dict[str, NDArray[Any]]:
    """Gives tensors as arrays whose elements lie in `data`, one after the other."""
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    for tensor in tensors:
        dtype = _DTYPES.get(tensor.data_type)
        if dtype is None:
            raise DamagedError(f"the tensor {tensor.name} has the unknown type {tensor.data_type}")
        count = int(np.prod(tensor.shape))
        if offset + count * dtype.itemsize > len(data):
            raise DamagedError(f"the params are truncated: {len(data)} bytes")
        arrays[tensor.name] = np.frombuffer(data, dtype, count, offset).reshape(tensor.shape)
        offset += count * dtype.itemsize
    return arrays


def array_of(tensor: tensor_pb2.Tensor) -> NDArray[Any]:
    """Returns a tensor as an array, read-only."""
    return arrays_from_proto([tensor], tensor.data)[tensor.name]


def verify(version: params_pb2.ParamsVersion, data: bytes) -> None:
    """Raises DamagedError where data is not that of the version."""
    found = hashlib.sha256(data).hexdigest()
    if found != version.params_sha256:
        raise DamagedError(
            f"the params of {version.model} version {version.version} have SHA-256 {found}, not {version.params_sha256}"
        )


def write_npz(file: IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes arrays as numpy's own savez does; an InvalidArgumentError where one has a name that savez cannot take."""
    # Without the type, for savez's own keywords are not told from the arrays' names in its signature.
    savez: Any = np.savez
    try:
        savez(file, **arrays)
    except TypeError as error:
        raise InvalidArgumentError(f"arrays: {error}", "arrays") from error


def _told(version: params_pb2.ParamsVersion) -> dict[str, str]:
    """Returns what a file says of its arrays: their network, their signature, and the epochs that they were trained."""
    told = {"network": network.told_in_file(version.network), "epochs": str(version.epochs)}
    return told | ({"signature": signature.told_in_file(version.signature)} if version.HasField("signature") else {})


def _write(file: IO[bytes], ending: str, arrays: Mapping[str, NDArray[Any]], told: dict[str, str]) -> None:
    if ending == ".npz":
        write_npz(file, {**arrays, **{name: np.array(text) for name, text in told.items()}})
    else:
        plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        file.write(safetensors.numpy.save(plain, told))
