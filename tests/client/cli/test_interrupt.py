"""Ctrl-C in a terminal, which reaches the command and everything that it started."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import handgrad
from handgrad.client.cli.main import cli
from handgrad.client.cli.output import Output
from handgrad.server.app import Server

COMMAND = Path(sys.executable).with_name("handgrad")
LONG = ["--hidden", "4", "--batch-size", "10", "--epochs", "100000"]


@contextmanager
def training(folder: Path, environment: dict[str, str], *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    """Runs `handgrad train` with a private server, in a session of its own as in a terminal."""
    with subprocess.Popen(
        [COMMAND, "train", *map(str, arguments)],
        cwd=folder,
        env=environment | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as command:
        try:
            yield command
        finally:
            if command.poll() is None:
                os.killpg(command.pid, signal.SIGKILL)


def test_what_was_trained_on_a_private_server_is_kept(
    tiny_folder: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    files = ["--save", "p.npz", "--plot", "loss.svg"]
    with training(tmp_path, environment, "--data", tiny_folder, *LONG, *files) as command:
        assert command.stdout
        while not command.stdout.readline().startswith("epoch"):
            assert command.poll() is None
        os.killpg(command.pid, signal.SIGINT)
        rest, errors = command.communicate(timeout=60)
    assert command.returncode == 1
    assert errors.splitlines()[-1].startswith("handgrad: job-1 was cancelled")
    assert "Traceback" not in errors
    assert rest.splitlines()[-2:] == ["plot: loss.svg", "parameter file: p.npz"]
    with np.load(tmp_path / "p.npz") as arrays:
        assert arrays["W_1"].shape == (4, 12)
    assert (tmp_path / "loss.svg").exists()
    # The private server took its folder with it.
    assert not list(tmp_path.glob("handgrad-*"))


def test_it_may_come_while_something_is_shown(
    monkeypatch: pytest.MonkeyPatch, server: Server, tiny_folder: Path, tmp_path: Path
) -> None:
    say = Output.say

    def interrupted(output: Output, text: str) -> None:
        say(output, text)
        if text.startswith("epoch "):
            signal.raise_signal(signal.SIGINT)
            monkeypatch.undo()

    monkeypatch.setattr(Output, "say", interrupted)
    file = tmp_path / "p.npz"
    with pytest.raises(handgrad.JobCancelledError):
        cli.main(
            ["train", "--server", server.address, "--data", str(tiny_folder), *LONG, "--save", str(file)],
            standalone_mode=False,
        )
    assert file.exists()


def test_before_anything_was_trained_it_stops(tmp_path: Path, environment: dict[str, str]) -> None:
    with training(tmp_path, environment, "--interactive") as command:
        assert command.stdout
        # The first question comes when the server runs.
        command.stdout.read(len("use parameter file?"))
        os.killpg(command.pid, signal.SIGINT)
        _, errors = command.communicate(timeout=60)
    assert command.returncode == 1
    assert errors.splitlines()[-1] == "handgrad: stopped"
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("handgrad-*"))
