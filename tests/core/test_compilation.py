"""Where handgrad computes, and what it keeps of what was compiled."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from handgrad.core import compilation
from handgrad.core.errors import InvalidInputError

CHILD = """
import sys, time
from pathlib import Path
from handgrad.core.compilation import choose_platform, keep_compiled
print(choose_platform(sys.argv[1]))
keep_compiled(Path(sys.argv[2]))
import jax
jax.jit(lambda x: x @ x)(jax.numpy.ones((3, 3))).block_until_ready()
"""


def child(platform: str, folder: Path, **environment: str) -> str:
    command = [sys.executable, "-c", CHILD, platform, str(folder)]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=100
    )
    assert not done.stderr
    return done.stdout


def test_what_was_compiled_is_found_by_the_next_process(tmp_path: Path) -> None:
    assert child("cpu", tmp_path) == "cpu, cpu\n"
    kept = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert kept
    child("auto", tmp_path, JAX_PLATFORMS="cpu")
    assert {file.name for file in tmp_path.iterdir()} == set(kept)


def test_the_oldest_of_what_was_compiled_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    for age in range(5):
        file = tmp_path / f"program-{age}"
        file.write_bytes(b"x" * 100)
        os.utime(file, (1_000_000 - age, 1_000_000 - age))
    compilation.keep_compiled(tmp_path, 500)
    assert len(list(tmp_path.iterdir())) == 5
    compilation.keep_compiled(tmp_path, 250)
    assert {file.name for file in tmp_path.iterdir()} == {"program-0", "program-1"}
    # A folder that is not there yet holds nothing.
    compilation.keep_compiled(tmp_path / "new", 250)


def test_the_users_own_folder_is_left_to_jax(tmp_path: Path) -> None:
    child("cpu", tmp_path / "ours", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
    assert not (tmp_path / "ours").exists()


def test_a_platform_that_is_not_there() -> None:
    with pytest.raises(InvalidInputError, match="one of auto, cpu, gpu"):
        compilation.choose_platform("abacus")  # type: ignore[arg-type]
    if jax.default_backend() == "cpu":
        with pytest.raises(InvalidInputError, match="jax finds no GPU here") as caught:
            compilation.choose_platform("gpu")
        assert caught.value.field == "platform"


def test_options_that_xla_does_not_know_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert vars(compilation.compiler_options)["__wrapped__"]() == compilation._OPTIONS
    monkeypatch.setattr(compilation, "_OPTIONS", {"xla_cpu_nonsense": "1"})
    assert vars(compilation.compiler_options)["__wrapped__"]() == {}
