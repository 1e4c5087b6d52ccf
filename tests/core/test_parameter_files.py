"""Parameter files: the report's layout, both formats, and every way in which a file can be wrong."""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NoReturn

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from numpy.typing import NDArray

from handgrad.core import parameter_files
from handgrad.core.errors import InvalidInputError
from handgrad.core.network import fully_connected
from handgrad.core.parameter_files import (
    check_named_arrays,
    from_named_arrays,
    read,
    read_arrays,
    to_named_arrays,
)

Arrays = dict[str, NDArray[Any]]


def report_arrays(dtype: Any = np.float64) -> Arrays:
    generator = np.random.default_rng(6)
    shapes = {"W_1": (5, 7), "b_1": (5, 1), "W_2": (3, 5), "b_2": (3, 1)}
    return {name: generator.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def npz(arrays: Arrays, save: Callable[..., None] = np.savez) -> bytes:
    content = io.BytesIO()
    save(content, **arrays)
    return content.getvalue()


def member(arrays: Arrays, name: str, content: bytes) -> bytes:
    """Gives an .npz in which one member has other bytes."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(npz(arrays))) as before, zipfile.ZipFile(changed, "w") as after:
        for each in before.namelist():
            after.writestr(each, content if each == f"{name}.npy" else before.read(each))
    return changed.getvalue()


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", ">f8"])
@pytest.mark.parametrize(
    "encode",
    [
        npz,
        lambda arrays: npz(arrays, np.savez_compressed),
        lambda arrays: npz({name: np.asfortranarray(array) for name, array in arrays.items()}),
        lambda arrays: npz(dict(reversed(arrays.items()))),
    ],
    ids=["npz", "compressed npz", "Fortran's order", "another order"],
)
def test_what_numpy_saves_becomes_params(dtype: str, encode: Callable[[Arrays], bytes]) -> None:
    saved = report_arrays(dtype)
    network, arrays = check_named_arrays(read_arrays(encode(saved), "params.npz"), "params.npz")
    assert network.title == "7-5-3"
    found = to_named_arrays(network, *from_named_arrays(network, arrays))
    assert list(found) == ["W_1", "b_1", "W_2", "b_2"]
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, saved[name].astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_safetensors_saves_becomes_params(dtype: Any) -> None:
    saved = report_arrays(dtype)
    network, arrays = check_named_arrays(read_arrays(safetensors.numpy.save(saved), "p"), "p")
    assert network.title == "7-5-3"
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, saved[name].astype(np.float32))


def test_a_network_without_hidden_layers_has_two_arrays() -> None:
    network, arrays = check_named_arrays({"W_1": np.ones((3, 7)), "b_1": np.ones((3, 1))}, "p")
    assert network.title == "7-3"
    (layer,), _ = from_named_arrays(network, arrays)
    assert layer["b"].shape == (3,)


def test_named_arrays_are_copies() -> None:
    params = ({"W": jnp.ones((2, 3)), "b": jnp.ones(2)},)
    arrays = to_named_arrays(fully_connected(3, (), 2), params, ({},))
    arrays["W_1"][:] = 7
    assert float(params[0]["W"].max()) == 1


class Trap:
    """Unpickling it is a failure."""

    def __reduce__(self) -> tuple[Callable[..., NoReturn], tuple[str]]:
        return pytest.fail, ("a pickled object was unpacked",)


def change(**arrays: Any) -> Arrays:
    return report_arrays() | {name: np.asarray(array) for name, array in arrays.items()}


def without(name: str) -> Arrays:
    return {key: array for key, array in report_arrays().items() if key != name}


NAN = np.where(np.arange(35).reshape(5, 7) == 9, np.nan, 1.0)
WRONG_ARRAYS: dict[str, tuple[Arrays, str]] = {
    "none": ({}, "W_1 is missing"),
    "a missing weight": (without("W_2"), "W_2 is missing"),
    "a missing bias": (without("b_1"), "b_1 is missing"),
    "a whole layer missing": ({"W_2": np.ones((3, 5)), "b_2": np.ones((3, 1))}, "W_1 is missing"),
    "an unknown array": (change(momentum=np.ones(3)), "momentum is unknown"),
    "two unknown arrays": (change(x=np.ones(3), y=np.ones(3)), "x is unknown"),
    "a weight of rank 1": (change(W_1=np.ones(7)), r"W_1 has shape \(7,\)"),
    "a weight of rank 3": (change(W_1=np.ones((5, 7, 1))), r"W_1 has shape \(5, 7, 1\)"),
    "a bias that is no column": (change(b_1=np.ones(5)), r"b_1 has shape \(5,\); expected \(5, 1\)"),
    "a bias that is a row": (change(b_1=np.ones((1, 5))), r"b_1 has shape \(1, 5\); expected \(5, 1\)"),
    "layers that do not follow": (change(W_2=np.ones((3, 6))), r"W_2 has shape \(3, 6\); expected \(outputs, 5\)"),
    "an empty weight": (change(W_1=np.ones((5, 0))), "lengths of 1 or more"),
    "NaN": (change(W_1=NAN), r"W_1 has nan at \(1, 2\)"),
    "infinity": (change(b_2=[[0], [np.inf], [0]]), "b_2 has inf"),
    "more than float32 holds": (change(b_2=[[0], [1e200], [0]]), r"b_2 has 1e\+200 at \(1, 0\)"),
    "integers": (change(W_1=np.ones((5, 7), int)), "W_1 is int64; expected float32 or float64"),
    "float16": (change(W_1=np.ones((5, 7), np.float16)), "W_1 is float16"),
    "complex numbers": (change(W_1=np.ones((5, 7), complex)), "W_1 is complex128"),
    "text": (change(W_1=np.full((5, 7), "x")), "W_1 is <U1"),
}


@pytest.mark.parametrize("kind", WRONG_ARRAYS)
def test_wrong_arrays_are_named(kind: str) -> None:
    arrays, told = WRONG_ARRAYS[kind]
    with pytest.raises(InvalidInputError, match=told) as raised:
        check_named_arrays(read_arrays(npz(arrays), "params.npz"), "params.npz")
    assert raised.value.field == "params.npz"


def header(shape: str) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


WHOLE = npz(report_arrays())
WRONG_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "noise": (bytes(range(256)), "neither a whole .npz nor a whole .safetensors"),
    "text": (b"W_1 = 1, 2, 3\n" * 50, "neither a whole .npz nor a whole .safetensors"),
    "a pickle": (pickle.dumps(report_arrays()), "neither a whole .npz nor a whole .safetensors"),
    "an .npy": (header("(2,)") + b"\0" * 16, "neither a whole .npz nor a whole .safetensors"),
    "a cut .npz": (WHOLE[:-30], "damaged or not an .npz"),
    "a cut .safetensors": (safetensors.numpy.save(report_arrays())[:-8], "neither a whole"),
    "pickled objects": (npz({"W_1": np.array([[Trap()]], object)}), "W_1 holds pickled objects"),
    "a member that is no array": (member(report_arrays(), "W_1", b"hello"), "W_1 is not in numpy's format"),
    "a member that is cut": (member(report_arrays(), "W_1", header("(5, 7)") + b"\0" * 100), "W_1 is truncated"),
    "a member that says it is huge": (member(report_arrays(), "W_1", header("(1000000, 1000000, 9)")), "truncated"),
    "a member of negative shape": (member(report_arrays(), "W_1", header("(-5, 7)")), "W_1"),
    "a changed byte": (WHOLE[:200] + bytes([WHOLE[200] ^ 255]) + WHOLE[201:], "damaged"),
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_a_wrong_file_is_named(kind: str) -> None:
    content, told = WRONG_FILES[kind]
    with pytest.raises(InvalidInputError, match=told) as raised:
        read(content, "params.npz")
    assert raised.value.field == "params.npz"


def test_a_zip_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameter_files, "MAX_FILE_BYTES", 10_000)
    bomb = npz({"W_1": np.zeros((1000, 1000))}, np.savez_compressed)
    with pytest.raises(InvalidInputError, match="more than 10000 bytes when decompressed"):
        read(bomb, "params.npz")


STARTS = [WHOLE, npz(report_arrays(), np.savez_compressed), safetensors.numpy.save(report_arrays(np.float32))]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(STARTS), st.binary(min_size=1, max_size=60), st.floats(0, 1), st.booleans())
def test_no_bytes_do_worse_than_an_error(start: bytes, noise: bytes, where: float, cut: bool) -> None:  # noqa: FBT001
    position = int(where * len(start))
    content = start[:position] + noise + (b"" if cut else start[position + len(noise) :])
    try:
        network, _ = check_named_arrays(read_arrays(content, "file"), "file")
    except InvalidInputError as error:
        assert error.field == "file"  # noqa: PT017 - either outcome is right
    else:
        assert network.inputs
