"""The commands, run as a user runs them, against a server that goes on serving."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import handgrad
from handgrad.client.cli.main import COMMANDS
from handgrad.server.app import Server
from handgrad.v1 import job_pb2

COMMAND = str(Path(sys.executable).parent / "handgrad")
TINY = ["--hidden", "4", "--batch-size", "10", "--transform", "unit", "--learning-rate", "0.1"]
LONG = [*TINY, "--epochs", "100000"]

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


@pytest.fixture
def run(command: Run) -> Run:
    return command


@pytest.fixture
def train(run: Run, tiny_folder: Path) -> Run:
    """Runs `handgrad train` on a data set that takes milliseconds."""
    return lambda *arguments, **keywords: run("train", "--data", tiny_folder, *TINY, *arguments, **keywords)


def events(done: Done) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def one_message(done: Done, status: int) -> str:
    """Gives the one line that says what is wrong.

    click's own errors come with a line on the usage, and what was assumed is told before.
    """
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(("Usage:", "Try ", "note: "))]
    (line,) = lines
    return line


def test_plain_lines_in_a_pipe(train: Run) -> None:
    done = train("--epochs", "3", "--model", "digits")
    assert done.returncode == 0
    assert done.stderr == ""
    first, *epochs, trained, accuracy, last = done.stdout.splitlines()
    assert first.startswith("training 12-4-3 on dataset-")
    assert all(re.fullmatch(r"epoch \d/3  mean loss \d\.\d{4}  \d+\.\d\d s  [\d,]+ iterations/s", e) for e in epochs)
    assert len(epochs) == 3
    assert trained.startswith("trained 21 iterations in ")
    assert re.fullmatch(r"test accuracy \d\.\d{4}, cross-entropy \d+\.\d{4} nats \(20 images\)", accuracy)
    assert last == "job-1 trained model digits to version 4"


def test_json_lines_for_programs(train: Run, tmp_path: Path) -> None:
    done = train("--epochs", "2", "--json", "--model", "digits", "--save", "p.npz", "--plot", "loss.svg")
    found = events(done)
    assert [event["event"] for event in found] == ["job", "epoch", "epoch", "plot", "save", "evaluation", "done"]
    assert found[0]["network"] == "12-4-3"
    for number, event in enumerate(found[1:3], start=1):
        assert set(event) == {"event", "epoch", "mean_loss", "seconds", "validation_loss", "validation_accuracy"}
        assert event["validation_loss"] is None
        assert event["epoch"] == number
        assert event["mean_loss"] > 0
        assert event["seconds"] > 0
    done_event = found[-1]
    assert set(done_event) == {"event", "job", "sweep", "model", "version", "params_sha256"}
    assert (done_event["job"], done_event["sweep"]) == ("job-1", None)
    assert (done_event["model"], done_event["version"]) == ("digits", 3)
    assert re.fullmatch("[0-9a-f]{64}", done_event["params_sha256"])
    assert "epoch 2/2" in done.stderr
    assert (tmp_path / "p.npz").exists()
    assert (tmp_path / "loss.svg").exists()


def test_two_bars_on_a_terminal(server: Server, environment: dict[str, str], tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ["train", "--server", server.address, "--data", str(tiny_folder), *TINY, "--epochs", "300"]
    master, slave = pty.openpty()
    with subprocess.Popen(
        [COMMAND, *arguments], cwd=tmp_path, env=environment | {"TERM": "xterm", "COLUMNS": "120"}, stdout=slave
    ) as command:
        os.close(slave)
        text = b""
        while True:
            try:
                text += os.read(master, 65536)
            except OSError:
                # How Linux says that the other side of a terminal is closed.
                break
    os.close(master)
    assert command.returncode == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode())
    assert re.search(r"run +━+ *2100/2100", shown)
    assert re.search(r"epoch 300 ━+ *7/7 +[\d,]+ iterations/s  loss \d\.\d{4}", shown)
    assert "epoch 300/300  mean loss" in shown
    assert "\x1b[?25h" in text.decode(), "the cursor is not shown again"


def test_ctrl_c_cancels_the_job_and_keeps_what_was_trained(
    server: Server, hg: handgrad.Client, environment: dict[str, str], tiny_folder: Path, tmp_path: Path
) -> None:
    arguments = ["--server", server.address, "--data", str(tiny_folder), *LONG, "--save", "p.npz", "--plot", "l.png"]
    with subprocess.Popen(
        [COMMAND, "train", *arguments, "--json"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout
        for line in command.stdout:
            if json.loads(line)["event"] == "epoch":
                break
        command.send_signal(signal.SIGINT)
        rest, errors = command.communicate(timeout=60)
    assert command.returncode == 1
    assert errors.splitlines()[-1].startswith("handgrad: job-1 was cancelled")
    kinds = [json.loads(line)["event"] for line in rest.splitlines()]
    assert [kind for kind in kinds if kind != "epoch"] == ["cancelled", "plot", "save"]
    assert hg.get_loss("job-1").job.state == job_pb2.JOB_STATE_CANCELLED
    with np.load(tmp_path / "p.npz") as arrays:
        assert arrays["W_1"].shape == (4, 12)
    assert (tmp_path / "l.png").exists()


def test_a_failed_run_is_told_and_keeps_what_was_trained(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    done = run(
        *("train", "--data", tiny_folder, "--hidden", "none", "--batch-size", "10", "--learning-rate", "1e38"),
        *("--publish-every", "1", "--save", "p.npz", "--json"),
    )
    assert done.returncode == 1
    assert "handgrad: job-1 failed: the training diverged" in done.stderr
    failed, saved = (
        event for event in map(json.loads, done.stdout.splitlines()) if event["event"] in ("failed", "save")
    )
    assert "diverged" in failed["error"]
    assert saved["file"] == "p.npz"
    with np.load(tmp_path / "p.npz") as arrays:
        assert np.isfinite(arrays["W_1"]).all()


def test_the_questions_of_the_report(train: Run, tmp_path: Path) -> None:
    first = train("--epochs", "1", "--interactive", stdin="no\nyes\nfirst.npz\n")
    assert first.returncode == 0, first.stderr
    assert "use parameter file?" in first.stdout
    assert "save the parameter?" in first.stdout
    # A file that is not there and one that cannot be written are asked for again, and so is neither yes nor no.
    answers = "maybe\nyes\nnothing.npz\nfirst.npz\nyes\nsecond.txt\nmissing/second.npz\nsecond.npz\n"
    second = train("--epochs", "1", "--interactive", "--json", stdin=answers)
    assert events(second)[-1]["version"] == 2
    assert "nothing.npz" in second.stderr
    assert "ends in .npz or .safetensors" in second.stderr
    with np.load(tmp_path / "first.npz") as before, np.load(tmp_path / "second.npz") as after:
        np.testing.assert_allclose(before["W_1"], after["W_1"], atol=0.2)
        assert not np.array_equal(before["W_1"], after["W_1"])
    third = train("--epochs", "1", "--interactive", stdin="no\nno\n")
    assert third.returncode == 0
    fourth = train("--epochs", "1", "--interactive", stdin="")
    assert fourth.returncode == 1
    assert fourth.stderr.splitlines()[-1] == "handgrad: stopped"


def test_the_commands_of_a_shared_server(run: Run, train: Run, tmp_path: Path) -> None:
    trained = events(train("--epochs", "2", "--model", "digits", "--json"))[-1]

    (fetched,) = events(run("params", "digits", "p.npz", "--json"))
    assert fetched["params_sha256"] == trained["params_sha256"]
    assert (
        "digits version 1, after 0 iterations: old.safetensors"
        in run("params", "digits", "old.safetensors", "--version", "1").stdout
    )
    assert (tmp_path / "old.safetensors").exists()

    (saved,) = events(run("save", "digits", "best", "--json"))
    (loaded,) = events(run("load", "best", "--model", "again", "--json"))
    assert saved["params_sha256"] == loaded["params_sha256"] == trained["params_sha256"]
    assert (loaded["model"], loaded["version"]) == ("again", 1)
    assert "saved as checkpoint best" in run("save", "digits", "best").stdout
    assert "checkpoint best is model" in run("load", "best").stdout

    found = events(run("loss", "job-1", "--json", "--iterations", "--skip", "5", "--limit", "4", "--plot", "l.png"))
    assert [event["event"] for event in found] == ["epoch"] * 2 + ["iteration"] * 4 + ["plot"]
    assert [event["iteration"] for event in found[2:6]] == [6, 7, 8, 9]
    lines = run("loss", "job-1", "--iterations", "--limit", "2").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["epoch", "epoch", "1", "2"]
    assert (tmp_path / "l.png").exists()


def test_evaluate_a_model_and_a_file(run: Run, train: Run, tiny_folder: Path) -> None:
    trained = events(train("--epochs", "2", "--model", "digits", "--json", "--save", "p.safetensors"))
    evaluation = next(event for event in trained if event["event"] == "evaluation")
    (model,) = events(run("evaluate", "digits", "--data", tiny_folder, "--json"))
    assert model == evaluation
    (file,) = events(run("evaluate", "--params", "p.safetensors", "--data", tiny_folder, "--json"))
    assert (file["loss"], file["confusion"]) == (model["loss"], model["confusion"])
    text = run("evaluate", "digits", "--data", tiny_folder, "--split", "train", "--version", "1").stdout
    assert "train accuracy" in text
    assert "label, and what it was taken for:" in text
    counts = [int(number) for line in text.splitlines()[-3:] for number in line.split()[1:]]
    assert sum(counts) == 65


def damaged(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    file = folder / name
    file.write_bytes(change(file.read_bytes()))


def saved(arrays: dict[str, Any]) -> Callable[[Path], list[str | Path]]:
    def arguments(folder: Path) -> list[str | Path]:
        np.savez(folder / "params.npz", **arrays)
        return ["train", "--params", folder / "params.npz"]

    return arguments


def written(content: bytes) -> Callable[[Path], list[str | Path]]:
    def arguments(folder: Path) -> list[str | Path]:
        (folder / "params.npz").write_bytes(content)
        return ["train", "--params", folder / "params.npz"]

    return arguments


def with_data(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], list[str | Path]]:
    def arguments(folder: Path) -> list[str | Path]:
        damaged(folder / "tiny", name, change)
        return ["train", "--data", folder / "tiny"]

    return arguments


def with_folder(name: str) -> Callable[[Path], list[str | Path]]:
    def arguments(folder: Path) -> list[str | Path]:
        (folder / "tiny" / name).unlink()
        (folder / "tiny" / name).mkdir()
        return ["train", "--data", folder / "tiny"]

    return arguments


WEIGHTS = {"W_1": np.ones((3, 12)), "b_1": np.ones((3, 1))}
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
BAD_INPUT: dict[str, tuple[Callable[[Path], list[str | Path]], int, str]] = {
    "batch size 0": (lambda _: ["train", "--batch-size", "0"], 2, "batch_size: from 1 to 60000"),
    "a batch size that is no number": (lambda _: ["train", "--batch-size", "many"], 2, "'--batch-size'"),
    "a negative learning rate": (lambda _: ["train", "--learning-rate", "-1"], 2, "learning_rate: from 1.2e-38"),
    "a NaN learning rate": (lambda _: ["train", "--learning-rate", "nan"], 2, "learning_rate: from 1.2e-38"),
    "hidden width 0": (
        lambda _: ["train", "--hidden", "0"],
        2,
        "network.layers[0].outputs: a width is from 1 to 65536",
    ),
    "a billion hidden": (
        lambda _: ["train", "--hidden", "1000000000"],
        2,
        "network.layers[0].outputs: a width is from 1",
    ),
    "hidden widths that are none": (lambda _: ["train", "--hidden", "a,b"], 2, "such as 300,100, or none"),
    "an unknown preset": (lambda _: ["train", "--preset", "rapport"], 2, "preset: one of report"),
    "an unknown transform": (lambda _: ["train", "--transform", "rgb"], 2, "'identity', 'unit'"),
    "an empty IDX file": (with_data(LABELS, lambda _: b""), 2, f"{LABELS}: the file is empty"),
    "a truncated IDX file": (with_data(IMAGES, lambda content: content[:-9]), 2, f"{IMAGES}: the file is truncated"),
    "a wrong image count": (
        with_data(LABELS, lambda content: content[:7] + b"\x40" + content[8:-1]),
        2,
        f"{IMAGES}: 65 images, but {LABELS} has 64 labels",
    ),
    "a folder in an IDX file's place": (with_folder(LABELS), 1, LABELS),
    "a missing folder": (lambda _: ["train", "--data", "nowhere"], 1, "nowhere"),
    "a missing array": (saved({"W_1": np.ones((3, 12))}), 2, "params.npz: the array b_1 is missing"),
    "a wrong shape": (saved(WEIGHTS | {"b_1": np.ones(3)}), 2, "params.npz: the array b_1 has shape (3,)"),
    "NaNs": (saved(WEIGHTS | {"b_1": np.full((3, 1), np.nan)}), 2, "params.npz: the array b_1 has nan at (0, 0)"),
    "pickled objects": (saved(WEIGHTS | {"b_1": np.array([[print]], object)}), 2, "b_1 holds pickled objects"),
    "no npz at all": (written(b"hello"), 2, "params.npz: neither a whole .npz nor a whole .safetensors"),
    "an empty file": (written(b""), 2, "params.npz: the file is empty"),
    "a missing file": (lambda _: ["train", "--params", "nothing.npz"], 1, "nothing.npz"),
    "a network that does not fit the images": (saved(WEIGHTS), 2, "the model takes 12 numbers; got 28x28x1 bytes"),
    "a name with a slash": (lambda _: ["train", "--model", "a/b"], 2, "model: a name has 1 to 63 characters"),
    "a checkpoint with a slash": (lambda _: ["load", "../a"], 2, "checkpoint: a name has 1 to 63 characters"),
    "a name that does not exist": (lambda _: ["load", "nothing"], 1, "there is no checkpoint 'nothing'"),
    "a job that does not exist": (lambda _: ["loss", "job-77"], 1, "there is no job 'job-77'"),
    "a limit below 1": (lambda _: ["loss", "job-1", "--limit", "0"], 2, "1 or more; got 0"),
    "a version that is negative": (lambda _: ["params", "m", "p.npz", "--version", "-1"], 2, "version: 0 for the"),
    "another ending to save": (lambda _: ["train", "--save", "p.txt"], 2, "ends in .npz or .safetensors"),
    "another ending to plot": (lambda _: ["train", "--plot", "p.txt"], 2, "ends in .png or .svg"),
    "a folder that is not there": (lambda _: ["train", "--save", "no/p.npz"], 2, "there is no folder no"),
    "a folder in a file's place": (lambda _: ["params", "m", "folder.npz"], 2, "folder.npz is a folder"),
    "nothing to evaluate": (lambda _: ["evaluate"], 2, "name a MODEL, or a file"),
    "too much to evaluate": (lambda _: ["evaluate", "m", "--params", "p"], 2, "name a MODEL, or a file"),
    "an unknown option": (lambda _: ["train", "--speed", "9"], 2, "--speed"),
    "an unknown command": (lambda _: ["tarin"], 2, "tarin"),
    "a server that is not there": (lambda _: ["loss", "job-1", "--server", "127.0.0.1:1"], 1, "127.0.0.1:1 does not"),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
@pytest.mark.usefixtures("tiny_folder")
def test_bad_input_gets_one_clear_message_and_the_server_goes_on(
    run: Run, hg: handgrad.Client, tmp_path: Path, kind: str
) -> None:
    arguments, status, told = BAD_INPUT[kind]
    (tmp_path / "folder.npz").mkdir()
    message = one_message(run(*arguments(tmp_path)), status)
    assert told in message
    assert hg.upload_params({"W_1": np.ones((1, 1)), "b_1": np.ones((1, 1))}).params_version.version == 1


def test_without_a_server_the_commands_that_need_one_say_so(run: Run) -> None:
    for arguments in (
        ["loss", "job-1"],
        ["params", "m", "p.npz"],
        ["save", "m", "c"],
        ["load", "c"],
        ["evaluate", "m"],
    ):
        message = one_message(run(*arguments, address=None), 2)
        assert "--server HOST:PORT, or the variable HANDGRAD_SERVER" in message


def test_serve_is_the_server_and_says_what_is_wrong(
    server: Server, run: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    assert "Address already in use" in one_message(run("serve", "--address", server.address), 1)
    assert "--insecure" in one_message(run("serve", "--address", "0.0.0.0:0"), 1)
    with subprocess.Popen(
        [COMMAND, "serve", "--address", "127.0.0.1:0", "--data-dir", "served"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as serving:
        assert serving.stdout
        address = serving.stdout.readline().split()[-1]
        with handgrad.connect(address) as hg:
            hg.upload_params({"W_1": np.ones((1, 1)), "b_1": np.ones((1, 1))}, "mine")
            hg.save_params("mine", "one")
        serving.send_signal(signal.SIGINT)
        serving.communicate(timeout=60)
    assert serving.returncode == 0
    assert (tmp_path / "served/handgrad.sqlite3").exists()


def test_help_and_version(run: Run) -> None:
    assert run("--version").stdout == f"handgrad {handgrad.__version__}\n"
    text = run("--help").stdout
    for command in [each.name for each in COMMANDS]:
        assert re.search(rf"^  {command} ", text, re.MULTILINE)
        assert run(command, "--help").returncode == 0


def test_a_reader_that_stops_reading_is_no_error_of_ours(
    server: Server, environment: dict[str, str], tiny_folder: Path, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [COMMAND, "train", "--server", server.address, "--data", str(tiny_folder), *TINY, "--epochs", "2000"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout
        assert command.stderr
        command.stdout.readline()
        time.sleep(0.1)
        command.stdout.close()
        errors = command.stderr.read()
    assert command.returncode == 1
    assert "Traceback" not in errors
