"""What tests of several folders share."""

import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.typing import NDArray

import handgrad
from handgrad.core import datasets
from handgrad.server.app import Server

BASH = shutil.which("bash") or "/bin/bash"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--crashes", type=int, default=6, help="how often the crash test kills the server")
    parser.addoption("--crash-seed", type=int, default=0, help="decides at which moments")


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which private servers keep what they compiled: none of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    return folder


Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def float64() -> Iterator[None]:
    """Lets jax compute in float64, for this test alone."""
    with jax.enable_x64(new_val=True):
        yield


@pytest.fixture(scope="session")
def mnist() -> datasets.Dataset:
    return datasets.mnist()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A user's environment: `handgrad` is on the PATH, and none of its variables is set."""
    for name in ("SERVER", "TOKEN", "CA", "CERTIFICATE", "KEY"):
        monkeypatch.delenv(f"HANDGRAD_{name}", raising=False)
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def shell(tmp_path: Path, environment: dict[str, str]) -> Shell:
    """Runs a bash script in an empty folder."""

    def run(script: str, *, stdin: str = "", timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BASH, "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def free_port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server on a free port, with an empty data directory."""
    server = Server("127.0.0.1:0", tmp_path / "data")
    yield server
    server.stop()


@pytest.fixture
def hg(server: Server) -> Iterator[handgrad.Client]:
    """A client of that server."""
    with handgrad.connect(server.address) as client:
        yield client


def idx(array: NDArray[np.uint8]) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """A data set that trains in milliseconds: 65 training and 20 test images of 3x4 pixels, of 3 classes."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for (images, labels), count in zip((datasets.IDX_FILES[:2], datasets.IDX_FILES[2:]), (65, 20), strict=True):
        (folder / images).write_bytes(idx(generator.integers(0, 256, (count, 3, 4), np.uint8)))
        (folder / labels).write_bytes(idx(np.arange(count, dtype=np.uint8) % 3))
    return folder


@pytest.fixture
def tiny(hg: handgrad.Client, tiny_folder: Path) -> str:
    """The name of that data set on the server."""
    return hg.upload_dataset(tiny_folder, "tiny").dataset


Command = Callable[..., subprocess.CompletedProcess[str]]

HANDGRAD = Path(sys.executable).with_name("handgrad")


@pytest.fixture
def command(server: Server, environment: dict[str, str], tmp_path: Path) -> Command:
    """Runs a command of handgrad's against that server, as a program of its own."""

    def run(
        *arguments: object, stdin: str = "", address: str | None = server.address
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [HANDGRAD, *map(str, arguments)],
            cwd=tmp_path,
            env=environment | ({"HANDGRAD_SERVER": address} if address else {}),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
