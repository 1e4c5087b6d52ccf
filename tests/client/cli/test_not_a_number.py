"""Losses that are no numbers: JSON has none of them, and a command that meets one must not fall over it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import handgrad
from handgrad.v1 import job_pb2


def no_constant(name: str) -> None:
    pytest.fail(f"{name} is not JSON")


def events(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=no_constant) for line in stdout.splitlines()]


def test_an_evaluation_whose_loss_is_none(command: Any, hg: handgrad.Client, tiny_folder: Path) -> None:
    # Finite params, whose logits overflow.
    hg.upload_params({"W_1": np.full((3, 12), 3e38), "b_1": np.ones((3, 1))}, "huge")
    done = command("evaluate", "huge", "--data", tiny_folder, "--json")
    assert done.returncode == 0, done.stderr
    note, event = events(done.stdout)
    assert note["event"] == "note"
    assert event["loss"] is None
    assert event["images"] == 20
    text = command("evaluate", "huge", "--data", tiny_folder)
    assert text.returncode == 0, text.stderr


def test_the_losses_of_a_run_that_diverged(command: Any, hg: handgrad.Client, tiny: str, tmp_path: Path) -> None:
    job = hg.train(dataset=tiny, hidden=[], batch_size=10, learning_rate=1e38)
    with pytest.raises(handgrad.JobFailedError):
        job.wait()
    assert job.info.state == job_pb2.JOB_STATE_FAILED
    done = command("loss", job.name, "--iterations", "--json", "--plot", "loss.png")
    assert done.returncode == 0, done.stderr
    losses = [event["loss"] for event in events(done.stdout) if event["event"] == "iteration"]
    assert len(losses) == job.info.iteration
    assert losses[-1] is None
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_ends_with_params_too_large_to_evaluate(command: Any, tiny_folder: Path) -> None:
    # One iteration with a huge step: its loss, of before the step, is finite, and so are the params after it.
    settings = ["--hidden", "none", "--batch-size", 65, "--epochs", 1, "--learning-rate", "1e36"]
    done = command("train", "--data", tiny_folder, *settings, "--json")
    assert done.returncode == 0, done.stderr
    assert [event["event"] for event in events(done.stdout)] == ["job", "epoch", "evaluation", "done"]
