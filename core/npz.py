"""Numpy's .npz files from anybody: what they promise is held against their bytes, and nothing in them is executed."""

import io
import math
import sys
import zipfile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from handgrad.core.errors import InvalidInputError
from handgrad.core.file_kinds import kind_of, kind_of_archive

_LETTER = np.dtype("u4")
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")


def is_zip(content: bytes) -> bool:
    """Says whether a file's content begins as an .npz does."""
    return content.startswith(_ZIP_MAGIC)


def read(content: bytes, file: str, max_bytes: int) -> dict[str, NDArray[Any]]:
    """Reads the arrays of an .npz file, compressed or not; one with pickled objects is refused.

    Args:
        content: The file's bytes.
        file: Its name, for errors.
        max_bytes: The most that it may hold, decompressed.

    Raises:
        InvalidInputError: The file is damaged, holds more, or holds something else than numbers.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _read_members(archive, file, max_bytes)
    except InvalidInputError:
        raise
    except Exception as error:
        # Of any kind: zipfile and numpy raise a dozen of them at hostile bytes, and none is a fault of ours.
        kind = "" if is_zip(content) else kind_of(content)
        told = f"it is {kind}" if kind else error
        raise InvalidInputError(file, f"the .npz file is damaged or not an .npz file: {told}") from error


def _read_members(archive: zipfile.ZipFile, file: str, max_bytes: int) -> dict[str, NDArray[Any]]:
    if sum(member.file_size for member in archive.infolist()) > max_bytes:
        raise InvalidInputError(file, f"more than {max_bytes} bytes when decompressed")
    names = archive.namelist()
    if names and not any(name.endswith(".npy") for name in names):
        raise InvalidInputError(file, f"not an .npz file, whose members end in .npy: it is {kind_of_archive(names)}")
    arrays: dict[str, NDArray[Any]] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in arrays:
            raise InvalidInputError(file, f"the array {name} is there twice")
        with archive.open(member) as stream:
            arrays[name] = _read_npy(stream, member.file_size, f"the array {name}", file)
    return arrays


def _read_npy(stream: IO[bytes], size: int, array: str, file: str) -> NDArray[Any]:
    """Reads one .npy, holding its header against the bytes there are before anything of its size is allocated."""
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(stream)
    except ValueError as error:
        raise InvalidInputError(file, f"{array} is not in numpy's format: {error}") from error
    if dtype.hasobject:
        raise InvalidInputError(file, f"{array} holds pickled objects, which are not read; expected numbers or texts")
    data_size = math.prod(shape) * dtype.itemsize
    if data_size > size:
        raise InvalidInputError(file, f"{array} is truncated: {size} bytes, its header promises {data_size}")
    data = stream.read(data_size)
    if len(data) != data_size:
        raise InvalidInputError(
            file, f"{array} is truncated: {len(data)} bytes of data, its header promises {data_size}"
        )
    # Python takes a text of other numbers than those of letters for a fault of its own.
    if dtype.kind == "U" and data and np.frombuffer(data, _LETTER.newbyteorder(dtype.byteorder)).max() > sys.maxunicode:
        raise InvalidInputError(file, f"{array} holds texts of what are no letters")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")
