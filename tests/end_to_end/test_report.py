"""The report's run, as a person types it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TABLE = [0.9662, 0.4834, 0.3836, 0.3351, 0.3040, 0.2823, 0.2656, 0.2534, 0.2387, 0.2285]
"""Mean loss of each epoch on raw pixels, from the report's check."""

NAMES = ["W_1", "b_1", "W_2", "b_2"]


def events(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


def sha256(path: Path) -> str:
    with np.load(path) as arrays:
        assert sorted(arrays) == sorted([*NAMES, "network", "signature", "epochs"])
        return hashlib.sha256(b"".join(arrays[name].tobytes() for name in NAMES)).hexdigest()


def test_the_reports_run_lands_on_its_table_and_repeats_bit_for_bit(shell: Any, tmp_path: Path) -> None:
    runs = []
    # Each run has a private server of its own.
    for number in (1, 2):
        done = shell(f"handgrad train --preset report --json --plot loss.png --save params-{number}.npz")
        assert done.returncode == 0, done.stderr
        runs.append(events(done.stdout))
    epochs = [event for event in runs[0] if event["event"] == "epoch"]
    assert [event["epoch"] for event in epochs] == list(range(1, 11))
    assert [event["mean_loss"] for event in epochs] == pytest.approx(TABLE, rel=0.06)
    (evaluation,) = (event for event in runs[0] if event["event"] == "evaluation")
    assert evaluation["accuracy"] >= 0.93
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    ends = [run[-1] for run in runs]
    assert [end["event"] for end in ends] == ["done", "done"]
    assert ends[0]["params_sha256"] == ends[1]["params_sha256"] == sha256(tmp_path / "params-1.npz")
    assert sha256(tmp_path / "params-2.npz") == ends[0]["params_sha256"]


def test_a_float64_file_of_the_reports_program_goes_on_training(shell: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    shapes = {"W_1": (100, 784), "b_1": (100, 1), "W_2": (10, 100), "b_2": (10, 1)}
    # As the report's program makes and saves them: float64, a bias as a column.
    arrays: Any = {name: generator.normal(0, shape[1] ** -0.5, shape) for name, shape in shapes.items()}
    np.savez(tmp_path / "report.npz", **arrays)
    script = (
        "handgrad train --params report.npz --epochs 1 --json --save once.npz && "
        "handgrad train --params once.npz --epochs 1 --seed 1 --json --save twice.safetensors"
    )
    done = shell(script)
    assert done.returncode == 0, done.stderr
    first, second = (event for event in events(done.stdout) if event["event"] == "epoch")
    assert second["mean_loss"] < 0.6 < first["mean_loss"] < 1.2
    ends = [event for event in events(done.stdout) if event["event"] == "done"]
    assert sha256(tmp_path / "once.npz") == ends[0]["params_sha256"]
    assert (tmp_path / "twice.safetensors").exists()


def test_other_pixels_land_on_their_row_of_the_table(shell: Any) -> None:
    done = shell("handgrad train --transform unit --epochs 2 --json")
    assert done.returncode == 0, done.stderr
    losses = [event["mean_loss"] for event in events(done.stdout) if event["event"] == "epoch"]
    assert losses == pytest.approx([2.0944, 1.6452], rel=0.06)
