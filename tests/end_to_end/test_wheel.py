"""The built wheel, installed in an empty environment, away from the checkout."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("HANDGRAD", "PYTHON"))}


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # From a copy: setuptools leaves its build in the sources, and takes what it left there before into the wheel.
    sources = folder / "sources"
    leftovers = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, sources, symlinks=True, ignore=leftovers)
    built = run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, sources, cwd=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = folder.glob("handgrad-*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has the thin client alone."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    _install(folder, str(wheel))
    return folder


def _install(environment: Path, requirement: str) -> None:
    python = environment / "bin/python"
    done = run(
        *(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", requirement),
        cwd=environment,
    )
    assert done.returncode == 0, done.stderr


def test_the_client_needs_no_jax_and_the_server_trains_an_epoch(environment: Path, wheel: Path, tmp_path: Path) -> None:
    code = "import handgrad, importlib.util as u; print(handgrad.__file__, u.find_spec('jax'))"
    done = run(environment / "bin/python", "-W", "error", "-c", code, cwd=tmp_path)
    file, jax = done.stdout.split()
    assert Path(file).is_relative_to(environment)
    assert jax == "None"

    handgrad = environment / "bin/handgrad"
    done = run(handgrad, "train", cwd=tmp_path)
    assert done.returncode == 1
    assert "pip install 'handgrad[server]'" in done.stderr

    _install(environment, f"{wheel}[server]")
    done = run(handgrad, "train", "--epochs", "1", "--json", "--save", "params.npz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["job", "epoch", "save", "evaluation", "done"]
    assert events[3]["accuracy"] > 0.85
    assert (tmp_path / "params.npz").exists()

    done = run(handgrad, "train", "--epochs", "1", "--plot", "loss.png", cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'handgrad[plot]'" in done.stderr
