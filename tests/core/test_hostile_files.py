"""Parameter files that were made to hurt: whatever is in one, only an InvalidInputError comes out."""

import io
import struct
import warnings
import zipfile
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from handgrad.core.errors import InvalidInputError
from handgrad.core.parameter_files import check_named_arrays, read, read_arrays

FLOAT64 = "<f8"


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + data


def described(descr: object, shape: object) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}"


def archive(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as opened:
        warnings.simplefilter("ignore")  # of a name that comes twice
        for name, content in members:
            opened.writestr(name, content)
    return file.getvalue()


MEMBERS: dict[str, bytes] = {
    "two unknown lengths": npy(described(FLOAT64, (-1, -1)), bytes(8)),
    "two negative lengths": npy(described(FLOAT64, (-2, -3)), bytes(48)),
    "a length that is a boolean": npy(described(FLOAT64, (True,)), bytes(8)),
    "a gigantic length beside a 0": npy(described(FLOAT64, (2**70, 0))),
    "a gigantic shape": npy(described(FLOAT64, (2**40, 2**40))),
    "elements of no bytes": npy(described("|S0", (3,))),
    "void elements of no bytes": npy(described("|V0", (3,))),
    "elements that are arrays": npy(described((FLOAT64, (2,)), (1,)), bytes(16)),
    "an empty dtype": npy(described((), (1,))),
    "a dtype that is a dictionary": npy(described({}, (1,))),
    "a header that cannot be hashed": npy("{[]: 1}"),
    "a header that never ends": npy("{'descr': ("),
    "a header of parentheses": npy("(" * 9_000),
    "a header of signs": npy("-" * 9_000 + "1"),
    "a header that is cut": npy(described(FLOAT64, (1,)))[:20],
}


@pytest.mark.parametrize("kind", MEMBERS)
def test_a_hostile_array_is_an_invalid_file(kind: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        read(archive(("W_1.npy", MEMBERS[kind])), "params.npz")
    assert raised.value.field == "params.npz"


def damaged_lzma() -> bytes:
    content = bytearray(archive(("W_1.npy", npy(described(FLOAT64, (100,)), bytes(800))), compression=zipfile.ZIP_LZMA))
    content[60] ^= 0xFF
    content[70] ^= 0xFF
    return bytes(content)


def encrypted() -> bytes:
    content = bytearray(archive(("W_1.npy", npy(described(FLOAT64, (1,)), bytes(8)))))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    return bytes(content)


def misplaced_directory() -> bytes:
    content = bytearray(archive(("W_1.npy", npy(described(FLOAT64, (1,)), bytes(8)))))
    offset = content.rindex(b"PK\x05\x06") + 16
    content[offset : offset + 4] = struct.pack("<I", struct.unpack_from("<I", content, offset)[0] + 76)
    return bytes(content)


W = npy(described(FLOAT64, (1, 1)), bytes(8))
ARCHIVES: dict[str, bytes] = {
    "damaged LZMA": damaged_lzma(),
    "encrypted": encrypted(),
    "a directory in another place": misplaced_directory(),
    "a name that is not UTF-8": archive(("W_\u00e9.npy", W)).replace("\u00e9".encode(), b"\xff\xfe"),
    "one name twice": archive(("W_1.npy", W), ("b_1.npy", W), ("W_1.npy", W)),
    "one name with and without its ending": archive(("W_1", W), ("b_1.npy", W), ("W_1.npy", W)),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_hostile_archive_is_an_invalid_file(kind: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        read(ARCHIVES[kind], "params.npz")
    assert raised.value.field == "params.npz"


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_a_number_that_is_no_array_is_refused_with_its_file(value: float) -> None:
    with pytest.raises(InvalidInputError, match="W_1") as raised:
        check_named_arrays({"W_1": np.array(value), "b_1": np.zeros((1, 1))}, "params.npz")
    assert raised.value.field == "params.npz"


@pytest.mark.parametrize("dtype", [">f4", ">f8"])
def test_big_endian_arrays_are_read_as_what_they_mean(dtype: str) -> None:
    file = io.BytesIO()
    arrays: dict[str, Any] = {"W_1": np.array([[1.5, -2.0]], dtype), "b_1": np.array([[0.25]], dtype)}
    np.savez(file, **arrays)
    _, found = check_named_arrays(read_arrays(file.getvalue(), "params.npz"), "params.npz")
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found["W_1"], [[1.5, -2.0]])


def test_a_safetensors_file_whose_length_spells_pk_is_no_archive() -> None:
    # A header of 19,280 bytes: the file then begins with the two letters that a zip archive begins with.
    arrays = {"W_1": np.ones((2, 2), np.float32), "b_1": np.ones((2, 1), np.float32)}
    spare = 19_280 - int.from_bytes(safetensors.numpy.save(arrays, {"note": ""})[:8], "little")
    content = safetensors.numpy.save(arrays, {"note": "x" * spare})
    assert content.startswith(b"PK")
    np.testing.assert_array_equal(read_arrays(content, "params.safetensors")["W_1"], arrays["W_1"])
