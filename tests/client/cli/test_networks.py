"""`handgrad describe` and `verify`, and what `train`, `save` and `load` tell of networks and certificates."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import handgrad
from handgrad.core.operations import affine

Command = Callable[..., Any]
NETWORK = """
[[layers]]
kind = "affine"
outputs = 5

[[layers]]
kind = "relu"

[[layers]]
kind = "affine"
"""


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    file = tmp_path / "mine.toml"
    file.write_text(NETWORK)
    return file


def events(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


def test_a_network_is_described_for_people_and_programs(command: Command, toml: Path, tiny_folder: Path) -> None:
    done = command("describe", toml, "--data", tiny_folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["1", "affine", "12", "5", "65", "120"]
    assert "12-5-3: 83 parameters" in done.stdout
    found = events(command("describe", toml, "--data", tiny_folder, "--json").stdout)
    assert [event["event"] for event in found] == ["layer"] * 3 + ["network"]
    assert found[-1]["parameters"] == 83


def test_a_file_a_preset_and_a_model_are_verified(command: Command, toml: Path, hg: handgrad.Client, tiny: str) -> None:
    hg.train(network=toml, dataset=tiny, batch_size=10, epochs=1, model="mine").wait()
    for name in (toml, "report", "mine"):
        done = command("verify", name, "--json")
        assert done.returncode == 0, done.stderr
        found = events(done.stdout)
        assert found[-1] == {
            "event": "certificate",
            "passed": True,
            "checks": 4,
            "loss": "softmax_cross_entropy",
            "data": "random",
            "seed": 0,
        }
        assert all(event["passed"] and event["autodiff_max"] < 1e-10 for event in found[:-1])


def test_a_wrong_gradient_is_exit_status_1(command: Command, toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = affine.affine_bwd
    monkeypatch.setattr(affine, "affine_bwd", lambda residuals, g: tuple(-x for x in right(residuals, g)))
    done = command("verify", toml)
    assert done.returncode == 1
    # Those of the first layer pass two wrong signs.
    assert "4 gradients, 2 of them WRONG" in done.stdout
    assert "; loss softmax_cross_entropy, data random, seed 0" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("verify",), "name a NETWORK, or --all-operations"),
        (("verify", "rapport"), "rapport is no model of the server, no .toml file, and no preset"),
        (("describe", "nowhere.toml"), "nowhere.toml"),
    ],
)
def test_what_is_no_network_is_told(command: Command, arguments: tuple[str, ...], told: str) -> None:
    done = command(*arguments)
    assert done.returncode in (1, 2)
    assert told in done.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[layers]\n", "mine.toml: not TOML"),
        ("layer = 1\n", "mine.toml: layer is unknown; a network has input and layers"),
        ("layers = 3\n", "mine.toml: a network has [[layers]]"),
        ("layers = [{outputs = 3}]\n", "mine.toml.layers[0]: a layer is a table with a kind"),
        ('[[layers]]\nkind = "afine"\n', "network.layers[0].kind: one of affine"),
    ],
)
def test_a_wrong_file_is_told(command: Command, tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    done = command("describe", tmp_path / "mine.toml")
    assert done.returncode == 2
    assert told in done.stderr


def test_training_tells_validation_and_its_checkpoint_its_certificate(
    command: Command, toml: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    options = ("--network", toml, "--data", tiny_folder, "--batch-size", 5, "--epochs", 3, "--model", "mine")
    done = command("train", *options, "--validation-images", 20, "--plot", "loss.png", "--optimizer", "adam")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation loss") == 3 + 1
    assert (tmp_path / "loss.png").stat().st_size > 10_000
    job = next(event for event in events(command("jobs", "--json").stdout) if event["event"] == "job")["job"]
    epochs = [event for event in events(command("loss", job, "--json").stdout) if event["event"] == "epoch"]
    assert all({"validation_loss", "validation_accuracy"} <= event.keys() for event in epochs)
    assert "its gradients are certified: 4 arrays" in command("save", "mine", "kept").stdout
    assert "its gradients are certified: 4 arrays" in command("load", "kept").stdout
    assert "certified" in command("checkpoints").stdout
