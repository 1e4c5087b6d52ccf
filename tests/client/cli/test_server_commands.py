"""The commands about what a server trains and keeps."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import handgrad

Command = Callable[..., subprocess.CompletedProcess[str]]
SETTINGS: dict[str, Any] = {"hidden": [4], "batch_size": 10, "learning_rate": 0.1}


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_jobs_are_listed_for_people_and_programs(hg: handgrad.Client, tiny: str, command: Command) -> None:
    hg.train(dataset=tiny, epochs=1, client="somebody", **SETTINGS).wait()
    running = hg.train(dataset=tiny, epochs=100_000, model="long", **SETTINGS)
    next(running.events())
    done = command("jobs")
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["job", "state", "iterations", "model", "data", "set", "client", "created", "error"]
    assert rows[0].startswith("job-2  running ")
    assert rows[1].startswith("job-1  succeeded  7 / 7 ")
    told = lines(command("jobs", "--json"))
    assert [(each["job"], each["state"]) for each in told] == [("job-2", "running"), ("job-1", "succeeded")]
    assert [each["job"] for each in lines(command("jobs", "--json", "--state", "succeeded"))] == ["job-1"]
    assert [each["job"] for each in lines(command("jobs", "--json", "--client", "somebody"))] == ["job-1"]
    assert [each["job"] for each in lines(command("jobs", "--json", "--limit", "1"))] == ["job-2"]
    assert command("cancel", "job-2").stdout in ("job-2 stops at its next pause\n", "job-2 cancelled\n")
    with pytest.raises(handgrad.JobCancelledError):
        running.wait()
    (cancelled,) = lines(command("cancel", "job-2", "--json"))
    assert (cancelled["job"], cancelled["state"]) == ("job-2", "cancelled")
    failed = command("watch", "job-2")
    assert failed.returncode == 1
    assert failed.stderr == "handgrad: job-2 was cancelled: cancelled by CancelJob\n"


def test_a_detached_job_is_watched_from_its_first_epoch(tiny: str, tiny_folder: Path, command: Command) -> None:
    assert tiny
    options = ("--batch-size", 10, "--hidden", 4, "--epochs", 3, "--momentum", 0.5, "--data", tiny_folder)
    done = command("train", "--detach", "--model", "mine", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "job-1 is in the queue; `handgrad watch job-1` shows it"
    told = lines(command("watch", "job-1", "--json"))
    assert [each["event"] for each in told] == ["epoch", "epoch", "epoch", "done"]
    assert (told[-1]["model"], told[-1]["version"]) == ("mine", 4)
    # Once more, though it has ended.
    again = command("watch", "job-1").stdout.splitlines()
    assert [line.split("  ")[0] for line in again[:3]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert again[-1] == "job-1 succeeded: model mine version 4"


def test_detach_needs_a_server_and_nothing_to_wait_for(command: Command) -> None:
    for options, told in ((("--save", "a.npz"), "does not wait"), (("--server", ""), "needs a server")):
        done = command("train", "--detach", *options)
        assert done.returncode == 2
        assert told in done.stderr


def test_what_is_kept_is_listed_and_deleted(hg: handgrad.Client, tiny: str, command: Command) -> None:
    job = hg.train(dataset=tiny, epochs=1, model="mine", momentum=0.5, **SETTINGS)
    job.wait()
    saved = hg.save_params("mine", "one")
    (model,) = lines(command("models", "--json"))
    assert (model["model"], model["network"], model["versions"], model["job"]) == ("mine", "12-4-3", [1, 2], "")
    assert model["loss"] == pytest.approx(float(job.losses()[-1]))
    (checkpoint,) = lines(command("checkpoints", "--json"))
    assert checkpoint["params_sha256"] == saved.params_sha256
    assert checkpoint["optimizer_state"] is True
    assert [each["dataset"] for each in lines(command("datasets", "--json"))] == ["mnist", "tiny"]
    assert command("models").stdout.splitlines()[1].split()[:3] == ["mine", "12-4-3", "2"]
    assert "mine version 2" in command("checkpoints").stdout
    assert command("datasets").stdout.splitlines()[1].split()[:4] == ["mnist", "60,000", "10,000", "28x28"]
    assert command("load", "one", "--model", "again", "--with-optimizer-state").returncode == 0
    assert hg.get_params("again").version.optimizer_state
    for plural, name in (("models", "mine"), ("checkpoints", "one"), ("datasets", "tiny")):
        done = command(plural, "--delete", name)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f"{name} is deleted\n")
        assert command(plural, "--delete", name).returncode == 1


def test_an_upload_tells_what_it_made(tmp_path: Path, tiny_folder: Path, command: Command) -> None:
    done = command("upload", tiny_folder, "--name", "mine")
    assert done.stdout == "data set mine: 65 training and 20 test images of 3x4 bytes from 0 to 255, 3 classes\n"
    (dataset,) = lines(command("upload", tiny_folder, "--name", "mine", "--json"))
    assert dataset["image_shape"] == [3, 4]
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 nonsense")
    bad = command("upload", tmp_path / "bad.npz")
    assert bad.returncode == 2
    assert bad.stderr.startswith("handgrad: bad.npz: ")
    assert command("upload", tmp_path / "nothing").returncode == 1


def test_images_of_files_and_of_the_test_split_are_classified(
    hg: handgrad.Client, mnist: Any, tmp_path: Path, command: Command
) -> None:
    job = hg.train(epochs=1)
    job.wait()
    digit = mnist.test.images[3].reshape(28, 28)
    Image.fromarray(digit).save(tmp_path / "digit.png")
    Image.fromarray(255 - digit).convert("RGB").save(tmp_path / "inverse.bmp")
    expected = hg.predict(job.model, mnist.test.images[3:4])
    told = lines(command("predict", job.model, "digit.png", "--index", 3, "--index", 9_999, "--json"))
    assert [each["image"] for each in told] == ["digit.png", "test image 3", "test image 9999"]
    for each in told[:2]:
        assert each["label"] == expected.labels[0]
        np.testing.assert_allclose(each["probabilities"], expected.probabilities[0], rtol=1e-5)
    (inverse,) = lines(command("predict", job.model, "inverse.bmp", "--invert", "--json"))
    np.testing.assert_allclose(inverse["probabilities"], expected.probabilities[0], rtol=1e-5)
    assert command("predict", job.model, "--index", 3).stdout.startswith(f"test image 3: {expected.labels[0]}   ")
    (tmp_path / "noise.png").write_text("noise")
    for arguments, status, problem in (
        (("noise.png",), 2, "noise.png: it is no picture that can be read"),
        (("nothing.png",), 1, "nothing.png"),
        (("--index", 10_000), 2, "from 0 to 9999, the test images of data set mnist; got 10000"),
        ((), 2, "name an image"),
    ):
        done = command("predict", job.model, *arguments)
        assert done.returncode == status
        assert problem in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(command: Command, shell: str) -> None:
    assert "_HANDGRAD_COMPLETE" in command("completion", shell).stdout
