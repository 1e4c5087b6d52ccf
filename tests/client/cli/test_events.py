"""Events of one kind have the same fields from every command; each command is run in this process, for speed."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import handgrad
from handgrad.client.cli.main import cli
from handgrad.server.app import Server

Event = dict[str, Any]
Run = Callable[..., list[Event]]
DIVERGING = ("--hidden", "none", "--batch-size", 10, "--learning-rate", 1e38)
SETTINGS = ("--hidden", 3, "--batch-size", 10, "--learning-rate", 0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny data set, `tiny.npz`."""
    folder = tmp_path_factory.mktemp("events")
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in (("train", 60), ("test", 20)):
        arrays[f"x_{split}"] = generator.integers(0, 256, (count, 3, 4), np.uint8)
        arrays[f"y_{split}"] = np.arange(count, dtype=np.uint8) % 3
    np.savez(folder / "tiny.npz", **arrays)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server("127.0.0.1:0", tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def hg(server: Server, folder: Path) -> Iterator[handgrad.Client]:
    with handgrad.connect(server.address) as client:
        client.upload_dataset(folder / "tiny.npz", "tiny")
        yield client


@pytest.fixture
def run(server: Server) -> Run:
    def run(*arguments: object, status: int = 0) -> list[Event]:
        done = CliRunner().invoke(cli, [*map(str, arguments), "--server", server.address, "--json"])
        assert done.exit_code == status or (status and done.exception), done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_a_kind_has_the_same_fields_in_every_command(run: Run, hg: handgrad.Client, folder: Path) -> None:
    data = ("--data", folder / "tiny.npz")
    plot, file = ("--plot", folder / "a.svg"), ("--save", folder / "a.npz")
    told: dict[str, list[Event]] = {
        "train": run("train", *data, *SETTINGS, "--epochs", 2, "--model", "mine", *plot, *file),
        "train with validation": run("train", *data, *SETTINGS, "--epochs", 1, "--validation-images", 20),
        "train that fails": run("train", *DIVERGING, *data, status=1),
        "watch": run("watch", "job-1"),
        "watch of one with validation": run("watch", "job-2"),
        "watch of one that failed": run("watch", "job-3", status=1),
        "loss": run("loss", "job-1", "--iterations", "--plot", folder / "b.svg"),
        "loss of one with validation": run("loss", "job-2"),
        "jobs": run("jobs"),
        "sweep": run("sweep", *data, *SETTINGS, "--epochs", 1, "--seeds", 2, *plot, *file),
        "sweep with validation": run("sweep", *data, *SETTINGS, "--epochs", 1, "--validation-images", 20),
        "sweep that fails": run("sweep", *DIVERGING, *data, status=1),
        "sweeps": run("sweeps"),
        "sweeps of one": run("sweeps", "sweep-1", "--plot", folder / "c.svg"),
        "cancel": run("cancel", "job-1"),
        "sweeps cancel": run("sweeps", "sweep-1", "--cancel"),
        "params": run("params", "mine", folder / "b.npz"),
        "evaluate": run("evaluate", "mine", *data),
        "evaluate a file": run("evaluate", "--params", folder / "b.npz", *data),
        "save": run("save", "mine", "kept"),
        "load": run("load", "kept"),
        "checkpoints": run("checkpoints"),
        "models": run("models"),
        "datasets": run("datasets"),
        "upload": run("upload", folder / "tiny.npz"),
        "delete": run("checkpoints", "--delete", "kept"),
        "describe": run("describe", "mine", *data),
    }
    fields: dict[str, dict[frozenset[str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for command, events in told.items():
        assert events, command
        for event in events:
            fields[event["event"]][frozenset(event)].append(command)
    assert {kind: dict(found) for kind, found in fields.items() if len(found) > 1} == {}
    # Those that several commands tell.
    commands = {kind: {name for names in found.values() for name in names} for kind, found in fields.items()}
    assert commands["job"] >= {"train", "jobs"}
    assert commands["epoch"] >= {"train", "train with validation", "watch", "loss", "loss of one with validation"}
    assert commands["done"] >= {"train", "watch", "sweep"}
    assert commands["failed"] >= {"train that fails", "watch of one that failed", "sweep that fails"}
    assert commands["save"] == {"train", "sweep", "params"}
    assert commands["plot"] == {"train", "loss", "sweep", "sweeps of one"}
    assert commands["evaluation"] >= {"train", "sweep", "evaluate", "evaluate a file"}
    assert commands["sweep"] >= {"sweep", "sweeps"}
    assert commands["member"] >= {"sweep", "sweep with validation", "sweeps of one"}
    assert commands["cancel"] == {"cancel", "sweeps cancel"}
    assert commands["checkpoint"] == {"save", "checkpoints"}
    assert commands["dataset"] == {"datasets", "upload"}
    _check_values(told, hg)


def _check_values(told: dict[str, list[Event]], hg: handgrad.Client) -> None:
    trained, watched = told["train"][-1], told["watch"][-1]
    assert trained == watched
    job = hg.get_job("job-1")
    assert trained == {
        "event": "done",
        "job": "job-1",
        "sweep": None,
        "model": "mine",
        "version": 3,
        "params_sha256": job.params_sha256,
    }
    first = told["train"][0]
    (listed,) = (event for event in told["jobs"] if event["job"] == "job-1")
    assert {name: listed[name] for name in ("state", "iteration", "version")} == {
        "state": "succeeded",
        "iteration": 12,
        "version": 3,
    }
    assert first["batch_size"] == listed["batch_size"] == 10
    of_sweep = told["sweep"][-1]
    best = next(event for event in told["sweep"] if event["event"] == "member" and event["rank"] == 1)
    assert (of_sweep["sweep"], of_sweep["job"], of_sweep["version"]) == ("sweep-1", best["job"], 1)
    (kept,) = (event for event in told["sweep"] if event["event"] == "save")
    assert kept["params_sha256"] == of_sweep["params_sha256"] == hg.get_params("sweep-1").version.params_sha256
    assert told["params"][0]["params_sha256"] == trained["params_sha256"]
    epochs = [event for event in told["loss of one with validation"] if event["event"] == "epoch"]
    assert [event["validation_loss"] is None for event in epochs] == [False]
    assert told["cancel"][0] == {"event": "cancel", "job": "job-1", "sweep": None, "state": "succeeded"}
    assert told["sweeps cancel"][0] == {"event": "cancel", "job": None, "sweep": "sweep-1", "state": "succeeded"}
    assert told["train that fails"][-1]["error"] == hg.get_job("job-3").error
    assert told["sweep that fails"][-1]["error"] == "no member trained an epoch"
