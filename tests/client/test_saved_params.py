"""Params.save: both kinds of files hold the same bits, whole or not at all."""

import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import safetensors.numpy

import handgrad
from handgrad.v1 import params_pb2

ARRAYS: dict[str, Any] = {
    # Numbers that a detour by way of text would change.
    "W_1": np.array([[1 / 3, np.float32(1e-45), -0.0], [3.4028235e38, 1e-38, 7]], np.float32),
    "b_1": np.array([[0.1], [-0.2]], np.float32),
}
PARAMS = handgrad.Params(params_pb2.ParamsVersion(model="mine", version=1), ARRAYS)


def load(file: Path) -> dict[str, Any]:
    """Gives the arrays of a file, without what it says of them."""
    if file.suffix == ".safetensors":
        return safetensors.numpy.load_file(file)
    with np.load(file, allow_pickle=False) as arrays:
        return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}


@pytest.fixture(params=["params.npz", "params.safetensors"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def test_a_file_holds_the_same_bits(file: Path) -> None:
    PARAMS.save(str(file))
    found = load(file)
    assert list(found) == list(ARRAYS)
    for name, array in found.items():
        assert (array.dtype, array.shape, array.tobytes()) == (np.float32, ARRAYS[name].shape, ARRAYS[name].tobytes())


def test_what_arrived_from_a_server_comes_back_to_it(hg: handgrad.Client, file: Path) -> None:
    uploaded = hg.upload_params(ARRAYS, "mine").params_version
    hg.get_params("mine").save(file)
    assert hg.upload_params(file, "mine").params_version.params_sha256 == uploaded.params_sha256


def test_a_file_is_replaced(file: Path) -> None:
    file.write_bytes(b"old")
    PARAMS.save(file)
    assert set(load(file)) == set(ARRAYS)
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_what_fails_midway_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch, file: Path, function: str) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError("the disk is full")

    file.write_bytes(b"old")
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="the disk is full"):
        PARAMS.save(file)
    assert file.read_bytes() == b"old"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o007])
def test_permissions_are_those_of_any_new_file(file: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        PARAMS.save(file)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("name", ["params.txt", "params", "params.NPZ", ".npz", "params.npz.gz"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(handgrad.InvalidArgumentError, match=r"ends in \.npz or \.safetensors") as raised:
        PARAMS.save(tmp_path / name)
    assert raised.value.field == name
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        PARAMS.save(tmp_path / "nowhere/params.npz")
