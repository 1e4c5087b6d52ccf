"""`handgrad sweep` and `sweeps`, and the lists of values that they take."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import handgrad
from handgrad.client.cli.options import Networks, Values

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("kind", "text", "values"),
    [
        (float, "0.1", (0.1,)),
        (float, "0.1,0.3", (0.1, 0.3)),
        (float, "0.001..0.1:log:3", (0.001, 0.01, 0.1)),
        (float, "0..1:linear:5,9", (0.0, 0.25, 0.5, 0.75, 1.0, 9.0)),
        (int, "1..4,10", (1, 2, 3, 4, 10)),
        (int, "1..100:log:3", (1, 10, 100)),
        (str, "adam,sgd", ("adam", "sgd")),
    ],
)
def test_values(kind: type[Any], text: str, values: tuple[Any, ...]) -> None:
    assert Values(kind).convert(text, None, None) == values


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((float, text) for text in ("", "x", "1,,2", "1..2", "1..2:log", "1..2:log:1", "1..2:cubic:3", "0..1:log:3")),
        *((int, text) for text in ("0.5", "4..1", "1..9999", "1..2:log:x")),
    ],
)
def test_values_that_are_none(kind: type[Any], text: str) -> None:
    with pytest.raises(click.BadParameter, match="values with commas between them"):
        Values(kind).convert(text, None, None)


def test_networks() -> None:
    assert Networks().convert("50,300x100,none", None, None) == ((50,), (300, 100), ())
    with pytest.raises(click.BadParameter, match="widths with commas between networks"):
        Networks().convert("50;100", None, None)


ARGUMENTS = ("--batch-size", 10, "--epochs", 2, "--learning-rate", "0.01..0.1:log:3", "--seeds", 2)


def test_a_sweep_is_ranked_drawn_and_saved(command: Command, tiny_folder: Path, tmp_path: Path) -> None:
    done = command("sweep", *ARGUMENTS, "--data", tiny_folder, "--plot", "a.png", "--save", "a.npz", "--show", 4)
    assert done.returncode == 0, done.stderr
    assert "6 networks" in done.stdout
    table = [line.split() for line in done.stdout.splitlines()]
    start = next(i for i, row in enumerate(table) if row and row[0] == "rank")
    assert table[start][:4] == ["rank", "learning", "rate", "seed"]
    assert [row[0] for row in table[start + 1 : start + 5]] == ["1", "2", "3", "4"]
    losses = [float(row[4]) for row in table[start + 1 : start + 5]]
    assert losses == sorted(losses)
    assert "and 2 more; --show 6 shows them all" in done.stdout
    assert "test accuracy" in done.stdout
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.npz").exists()


def test_a_sweep_for_programs(command: Command, tiny_folder: Path, hg: handgrad.Client) -> None:
    done = command("sweep", *ARGUMENTS, "--data", tiny_folder, "--json", "--model", "best", "--halving")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["sweep", *["member"] * 6, "evaluation", "done"]
    members = events[1:7]
    assert [member["rank"] for member in members] == [1, 2, 3, 4, 5, 6]
    assert {member["settings"]["learning_rate"] for member in members} == {"0.01", "0.0316228", "0.1"}
    assert [member["epochs"] for member in members] == [2, 2, 1, 1, 1, 1]
    assert (events[-1]["model"], events[-1]["version"]) == ("best", 1)
    assert hg.get_params("best").version.version == 1


def test_a_sweep_is_ranked_by_what_is_asked_for(command: Command, tiny_folder: Path) -> None:
    asked = ("--validation-images", 20, "--rank-by", "validation-accuracy", "--rank-mean-of-seeds", "--json")
    done = command("sweep", *ARGUMENTS, "--data", tiny_folder, *asked)
    assert done.returncode == 0, done.stderr
    members = [event for event in map(json.loads, done.stdout.splitlines()) if event["event"] == "member"]
    assert {(member["measure"], member["mean_of_seeds"]) for member in members} == {("validation_accuracy", True)}
    measured = [member["measured"] for member in members]
    assert measured == sorted(measured, reverse=True)
    for first, second in zip(members[::2], members[1::2], strict=True):
        assert first["settings"]["learning_rate"] == second["settings"]["learning_rate"]
        mean = (first["validation_accuracy"] + second["validation_accuracy"]) / 2
        assert first["measured"] == second["measured"] == pytest.approx(mean, rel=1e-6)
    shown = command("sweeps", "sweep-1", "--plot", "a.svg").stdout
    assert f"validation accuracy, mean of seeds {measured[0]:.2%}" in shown
    assert "ranked by" in shown


def test_sweeps_are_shown_and_cancelled(command: Command, hg: handgrad.Client, tiny: str, tmp_path: Path) -> None:
    started = hg.train_sweep(handgrad.grid(seed=range(3)), dataset=tiny, config={"batch_size": 10, "epochs": 50_000})
    assert "sweep-1" in command("sweeps").stdout
    shown = command("sweeps", "sweep-1")
    assert "0 of 3 ended" in shown.stdout
    assert command("sweeps", "sweep-1", "--cancel").returncode == 0
    started.wait()
    ended = command("sweeps", "sweep-1", "--plot", "a.svg", "--json")
    assert [json.loads(line)["event"] for line in ended.stdout.splitlines()] == ["member"] * 3 + ["plot"]
    assert "<svg" in (tmp_path / "a.svg").read_text()[:500]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--learning-rate", "x"], "values with commas"),
        (["--seeds", "2", "--seed", "1"], "not both"),
        (["--learning-rate", "-1,0.1"], "members[0].learning_rate"),
        (["--learning-rate", "-1"], "learning_rate: "),
        (["--detach", "--plot", "a.png"], "waits for no file"),
        (["--halving-factor", "1"], "halving.factor"),
        (["--loss", "softmax_cross_entropy,squared_error"], "members that differ in loss"),
        (["--label-smoothing", "0,0.2"], "members that differ in label_smoothing"),
        (["--optimizer", "sgd,adam", "--beta2", "0.9,0.99"], "members[0].beta2"),
        (["--rank-by", "loss"], "'mean-loss', 'validation-loss', 'validation-accuracy'"),
        (["--rank-mean-of-seeds"], "mean_of_seeds"),
    ],
)
def test_bad_usage(command: Command, arguments: list[str], problem: str) -> None:
    done = command("sweep", *arguments)
    assert done.returncode == 2
    assert problem in done.stderr
