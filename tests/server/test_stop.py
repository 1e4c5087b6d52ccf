"""What becomes of those who call while the server stops, and of what a caller leaves behind."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import handgrad
from handgrad.core.evaluation import evaluate
from handgrad.server import app, service
from handgrad.server.app import Server
from handgrad.server.settings import Settings
from handgrad.v1 import training_service_pb2 as pb

ARRAYS: dict[str, Any] = {"W_1": np.ones((3, 12)), "b_1": np.ones((3, 1))}
MAX_STREAMS = Settings().max_streams
MAX_STREAMS_PER_CALLER = Settings().max_streams_per_caller
LONG: dict[str, Any] = {"hidden": [4], "batch_size": 10, "epochs": 100_000}


@pytest.fixture
def stopping(tmp_path: Path) -> Server:
    """A server that the test stops."""
    return Server("127.0.0.1:0", tmp_path / "data")


def test_calls_in_flight_are_answered_or_told(
    monkeypatch: pytest.MonkeyPatch, stopping: Server, tiny_folder: Path
) -> None:
    monkeypatch.setattr(app, "GRACE_SECONDS", 1.0)
    evaluating, go_on, uploading = threading.Event(), threading.Event(), threading.Event()

    def slow(*arguments: Any) -> object:
        evaluating.set()
        assert go_on.wait(60)
        return evaluate(*arguments)

    def endless() -> Iterator[pb.UploadParamsRequest]:
        yield pb.UploadParamsRequest(chunk=b"a piece")
        uploading.set()
        go_on.wait(60)
        # Longer than the grace: the server must not wait for whoever never comes to an end.
        time.sleep(0.1)
        while not ended.wait(0.1):
            yield pb.UploadParamsRequest()

    ended = threading.Event()
    monkeypatch.setattr(service, "evaluate", slow)
    with handgrad.connect(stopping.address) as hg, ThreadPoolExecutor() as callers:
        hg.upload_dataset(tiny_folder, "tiny")
        hg.upload_params(ARRAYS, "mine")
        evaluation = callers.submit(hg.evaluate, "mine", dataset="tiny")
        assert evaluating.wait(60)
        job = hg.train(dataset="tiny", **LONG)
        upload = callers.submit(hg._call, hg._stub.UploadParams, endless())
        assert uploading.wait(60)
        stop = callers.submit(stopping.stop)
        go_on.set()
        assert evaluation.result(60).images == 20
        hg.reconnect_seconds = 0
        with pytest.raises(handgrad.UnavailableError):
            job.wait()
        with pytest.raises(handgrad.HandgradError):
            upload.result(60)
        ended.set()
        stop.result(60)


def test_after_it_stopped_nothing_is_answered(stopping: Server, tiny_folder: Path) -> None:
    with handgrad.connect(stopping.address) as hg:
        hg.upload_params(ARRAYS, "mine")
        stopping.stop()
        hg.reconnect_seconds = 0
        for call in (
            lambda: hg.train(model="mine"),
            lambda: hg.cancel_job("job-1"),
            lambda: hg.get_loss("job-1"),
            lambda: hg.get_params("mine"),
            lambda: hg.save_params("mine", "one"),
            lambda: hg.load_params("one"),
            lambda: hg.upload_params(ARRAYS),
            lambda: hg.upload_dataset(tiny_folder),
            lambda: hg.evaluate("mine"),
            lambda: handgrad.connect(stopping.address),
        ):
            with pytest.raises(handgrad.UnavailableError, match=f"the server at {stopping.address} does not answer"):
                call()


def test_the_place_of_a_stopped_server_can_be_taken(stopping: Server, tmp_path: Path) -> None:
    stopping.stop()
    again = Server(stopping.address, tmp_path / "data")
    assert again.address == stopping.address
    again.stop()


def test_streams_of_callers_that_went_away_are_given_back(hg: handgrad.Client, tiny: str) -> None:
    jobs = [hg.train(dataset=tiny, **LONG).name for _ in range(2)]
    with handgrad.connect(hg.address) as first, handgrad.connect(hg.address) as second:
        others = [first] * MAX_STREAMS_PER_CALLER + [second] * (MAX_STREAMS - MAX_STREAMS_PER_CALLER)
        held = [other.watch_job(jobs[1]) for other in others]
        assert {next(stream).accepted.job for stream in held} == {jobs[1]}
        with pytest.raises(handgrad.ExhaustedError, match="streams are open"):
            hg.train(dataset=tiny, **LONG)
    # The jobs go on without their watchers.
    assert not any(hg.get_loss(name, limit=1).job.HasField("end_time") for name in jobs)
    for _ in range(300):
        try:
            jobs.append(hg.train(dataset=tiny, **LONG).name)
            break
        except handgrad.ExhaustedError:
            time.sleep(0.1)
    assert len(jobs) == 3
    for name in reversed(jobs):
        hg.cancel_job(name)
