"""What tests of several folders share."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest

from handgrad.core import datasets

BASH = shutil.which("bash") or "/bin/bash"

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
    monkeypatch.delenv("HANDGRAD_SERVER", raising=False)
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
