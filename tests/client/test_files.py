"""Files that are written whole or not at all, wherever they go."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click
import numpy as np
import pytest

import handgrad
from handgrad.client.cli.options import parameter_file
from handgrad.client.files import check_place, whole_file
from handgrad.client.plot import plot_losses
from handgrad.v1 import params_pb2

PARAMS = handgrad.Params(params_pb2.ParamsVersion(model="mine", version=1), {"b_1": np.ones((2, 1), np.float32)})


def plot(file: Path) -> None:
    plot_losses(file, np.ones(3), iterations_per_epoch=3)


SAVES: dict[str, Callable[[Path], None]] = {
    ".npz": PARAMS.save,
    ".safetensors": PARAMS.save,
    ".svg": plot,
    ".png": plot,
}


@pytest.mark.parametrize("ending", SAVES)
@pytest.mark.parametrize("length", [1, 250])
def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path, ending: str, length: int) -> None:
    file = tmp_path / ("x" * (length - len(ending) if length > len(ending) else 1) + ending)
    SAVES[ending](file)
    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_size > 0


@pytest.mark.parametrize("ending", SAVES)
def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path, ending: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / f"elsewhere/a{ending}", tmp_path / f"b{ending}"
    link.symlink_to(target)
    for _ in range(2):
        # First it leads nowhere, then to a file.
        SAVES[ending](link)
        assert link.is_symlink()
        assert target.is_file()
        assert not target.is_symlink()
        assert sorted(each.name for each in tmp_path.iterdir()) == [link.name, "elsewhere"]


@pytest.mark.parametrize("ending", SAVES)
@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_a_device_and_a_pipe_are_refused_and_stay(tmp_path: Path, ending: str, kind: str) -> None:
    file = tmp_path / f"a{ending}"
    if kind == "device":
        file.symlink_to("/dev/null")
    else:
        os.mkfifo(file)
    for use in (check_place, SAVES[ending]):
        with pytest.raises(handgrad.InvalidArgumentError, match="is a device or a pipe; name a file"):
            use(file)
    assert list(tmp_path.iterdir()) == [file]
    assert not stat.S_ISREG(file.stat().st_mode)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EACCES, errno.EBUSY, errno.EPERM])
def test_a_rename_that_fails_names_the_file_and_leaves_the_old_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    def fail(source: object, target: object) -> NoReturn:
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    file = tmp_path / "a.npz"
    file.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        PARAMS.save(file)
    assert (raised.value.errno, raised.value.filename, raised.value.filename2) == (number, str(file), None)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_it_is_closed_before_it_takes_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    replace = os.replace
    closed: list[bool] = []

    def renamed(source: str, target: str) -> None:
        closed.append(opened.closed)
        replace(source, target)

    monkeypatch.setattr(os, "replace", renamed)
    with whole_file(tmp_path / "a") as opened:
        opened.write(b"new")
    assert closed == [True]
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.parametrize("function", ["fchmod", "umask"])
def test_it_needs_no_call_that_some_systems_lack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, function: str
) -> None:
    monkeypatch.delattr(os, function)
    PARAMS.save(tmp_path / "a.npz")
    assert [each.name for each in tmp_path.iterdir()] == ["a.npz"]


def test_what_is_half_written_is_removed(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_file(tmp_path / "a") as opened:
            opened.write(b"half")
            raise KeyboardInterrupt

    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"old"]


def test_where_it_cannot_be_written_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(file: Path, told: str) -> None:
        with pytest.raises(click.BadParameter) as raised:
            parameter_file.convert(str(file), None, None)
        assert told in raised.value.message

    assert parameter_file.convert(str(tmp_path / "a.npz"), None, None) == tmp_path / "a.npz"
    refused(tmp_path / "no/a.npz", f"there is no folder {tmp_path / 'no'}")
    (tmp_path / "b.npz").mkdir()
    refused(tmp_path / "b.npz", "b.npz is a folder")
    refused(tmp_path / ("x" * 300 + ".npz"), "File name too long")
    os.mkfifo(tmp_path / "pipe.npz")
    refused(tmp_path / "pipe.npz", "is a device or a pipe")
    (tmp_path / "away.npz").symlink_to(tmp_path / "no/a.npz")
    refused(tmp_path / "away.npz", f"there is no folder {tmp_path / 'no'}")
    # Root may write wherever it likes.
    monkeypatch.setattr(os, "access", lambda path, mode: (Path(path), mode) != (tmp_path, os.W_OK | os.X_OK))
    refused(tmp_path / "a.npz", f"the folder {tmp_path} cannot be written to")
