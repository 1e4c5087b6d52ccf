"""The program in examples/node: another language, the contract alone."""

import shutil
import subprocess
from pathlib import Path

import pytest

import handgrad
from handgrad.server.app import Server

ROOT = Path(__file__).resolve().parent.parent.parent
NODE, NPM = shutil.which("node"), shutil.which("npm")


@pytest.mark.skipif(not (NODE and NPM), reason="examples/node is left out: Node and npm are not installed")
def test_the_node_example_trains_watches_and_fetches(server: Server, hg: handgrad.Client, tmp_path: Path) -> None:
    assert NODE
    assert NPM
    example = tmp_path / "examples/node"
    shutil.copytree(ROOT / "examples/node", example, ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / "proto").symlink_to(ROOT / "proto")
    npm = [NPM, "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
    subprocess.run(npm, cwd=example, check=True, timeout=300, capture_output=True)
    done = subprocess.run(
        [NODE, "train.js", server.address, "2"], cwd=example, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "job-1 trains model-1"
    assert [line.split(":")[0] for line in lines[1:3]] == ["epoch 1", "epoch 2"]
    assert lines[3] == "job-1 ended after 1200 iterations"
    params = hg.get_params("model-1")
    assert lines[4].startswith("W_1 100x784: 78400 numbers, norm ")
    assert lines[-2] == f"version 3, SHA-256 {params.version.params_sha256}"
    assert lines[-1] == "nothing newer"
