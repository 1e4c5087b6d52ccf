"""Streams: an accepted job needs none, one caller cannot take all, and one that its caller ends is free at once."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import handgrad
from handgrad.server.app import Server
from handgrad.server.auth import add_token
from handgrad.v1 import job_pb2
from handgrad.v1 import training_service_pb2 as pb

ARRAYS: dict[str, Any] = {"W_1": np.ones((3, 12)), "b_1": np.ones((3, 1))}
SHORT: dict[str, Any] = {"dataset": "tiny", "hidden": [4], "batch_size": 10, "epochs": 3}
LONG: dict[str, Any] = SHORT | {"epochs": 100_000}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with three streams, of which a caller may have two."""
    folder = tmp_path_factory.mktemp("streams")
    server = Server("127.0.0.1:0", folder / "data", max_streams=3, max_streams_per_caller=2)
    np.savez(
        folder / "tiny.npz",
        x_train=np.zeros((65, 3, 4), np.uint8),
        y_train=np.arange(65, dtype=np.uint8) % 3,
        x_test=np.zeros((20, 3, 4), np.uint8),
        y_test=np.arange(20, dtype=np.uint8) % 3,
    )
    with handgrad.connect(server.address) as client:
        client.upload_dataset(folder / "tiny.npz", "tiny")
        client.upload_params(ARRAYS, "mine")
    yield server
    server.stop()


@pytest.fixture
def hg(running: Server) -> Iterator[handgrad.Client]:
    """A client of it; its jobs are cancelled after the test."""
    with handgrad.connect(running.address) as client:
        yield client
        for job in client.list_jobs(states=["running", "queued"]):
            client.cancel_job(job.job)


def opened(client: handgrad.Client) -> Iterator[Any]:
    """Opens a stream, and returns what keeps it open."""
    stream = client.watch_params("mine")
    assert next(stream).version.version == 1
    return stream


def soon(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def two_are_free(client: handgrad.Client) -> bool:
    try:
        return len([opened(client), opened(client)]) == 2
    except handgrad.ExhaustedError:
        return False


def test_as_many_jobs_as_the_queue_takes_are_started_and_kept(hg: handgrad.Client) -> None:
    jobs = [hg.train(**LONG) for _ in range(100)]
    assert len({job.name for job in jobs}) == 100
    # All streams are there for something else.
    assert soon(lambda: two_are_free(hg))
    for job in reversed(jobs):
        job.cancel()
    with pytest.raises(handgrad.JobCancelledError):
        jobs[-1].wait()


def test_many_sweeps_are_started_and_kept(hg: handgrad.Client) -> None:
    config = {"batch_size": 10, "epochs": 100_000}
    sweeps = [hg.train_sweep([{"seed": 1}, {"seed": 2}], dataset="tiny", config=config) for _ in range(10)]
    assert len({sweep.name for sweep in sweeps}) == 10
    assert {len(sweep.info.members) for sweep in sweeps} == {2}
    for sweep in reversed(sweeps):
        sweep.cancel()
    with pytest.raises(handgrad.SweepError, match="cancelled"):
        sweeps[-1].wait()


def test_the_events_of_a_job_that_was_left_begin_with_the_first(hg: handgrad.Client) -> None:
    job = hg.train(**SHORT)
    assert job.info.state == job_pb2.JOB_STATE_QUEUED
    assert [event.epoch for event in job.events() if isinstance(event, job_pb2.Epoch)] == [1, 2, 3]


def test_one_caller_does_not_take_all(running: Server, hg: handgrad.Client) -> None:
    held = [opened(hg) for _ in range(2)]
    for refused in (lambda: opened(hg), lambda: hg.train(**LONG), lambda: hg.upload_params(ARRAYS)):
        with pytest.raises(handgrad.ExhaustedError, match=r"^2 streams are open already for this caller.*-per-caller"):
            refused()
    with handgrad.connect(running.address) as other:
        held.append(opened(other))
        with pytest.raises(handgrad.ExhaustedError, match=r"^3 streams are open already, as many as all callers"):
            opened(other)
        # The caller's own bound is told first: ending one of its streams is what helps.
        with pytest.raises(handgrad.ExhaustedError, match=r"^2 streams are open already for this caller"):
            opened(hg)
    assert len(held) == 3


def test_those_with_one_token_are_one_caller(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    alice, bob = add_token(file, "alice", "full"), add_token(file, "bob", "read-only")
    server = Server("127.0.0.1:0", tmp_path / "data", tokens=file, max_streams=3, max_streams_per_caller=1)
    try:
        with (
            handgrad.connect(server.address, token=alice) as here,
            handgrad.connect(server.address, token=alice) as there,
            handgrad.connect(server.address, token=bob) as other,
        ):
            here.upload_params(ARRAYS, "mine")
            held = [opened(here)]
            with pytest.raises(handgrad.ExhaustedError, match="1 streams are open already for this caller"):
                opened(there)
            held.append(opened(other))
    finally:
        server.stop()


ENDLESS: dict[str, Callable[[handgrad.Client], Any]] = {
    "WatchParams": lambda hg: hg._stub.WatchParams(pb.WatchParamsRequest(model="mine")),
    "WatchJob": lambda hg: hg._stub.WatchJob(pb.WatchJobRequest(job=hg.train(**LONG).name)),
    "Train": lambda hg: hg._stub.Train(
        pb.TrainRequest(dataset="tiny", config=job_pb2.TrainConfig(batch_size=10, epochs=100_000))
    ),
    "TrainSweep": lambda hg: hg._stub.TrainSweep(
        pb.TrainSweepRequest(
            dataset="tiny", config=job_pb2.TrainConfig(batch_size=10, epochs=100_000), members=[job_pb2.TrainConfig()]
        )
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_stream_that_its_caller_ends_is_free_at_once(
    hg: handgrad.Client, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # What waits, waits for long: it must be woken.
    from handgrad.server import service  # noqa: PLC0415 - patched here alone

    for constant in ("_SECONDS_BETWEEN_LOOKS", "SECONDS_BETWEEN_PROGRESS", "SECONDS_BETWEEN_STANDINGS"):
        monkeypatch.setattr(service, constant, 60.0)
    # One after the other, more than there are threads.
    for _ in range(25):
        call = ENDLESS[name](hg)
        next(call)
        call.cancel()
        assert soon(lambda: two_are_free(hg))
    assert len(hg._stub.ListModels(pb.ListModelsRequest(), timeout=20).models) > 0


def test_a_job_ends_with_its_stream_and_not_with_a_loop_over_its_events(hg: handgrad.Client) -> None:
    job = hg.train(cancel_on_disconnect=True, **LONG)
    for _ in range(3):
        # Each of these is left in the middle.
        next(job.events())
    assert hg.get_job(job.name).state == job_pb2.JOB_STATE_RUNNING
    name = job.name
    del job
    assert soon(lambda: hg.get_job(name).state == job_pb2.JOB_STATE_CANCELLED)
    assert hg.get_job(name).error == "its caller went away"


def test_a_caller_that_went_before_its_job_was_accepted_is_noticed(
    running: Server, hg: handgrad.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = running._worker
    submit = worker.submit
    names: list[str] = []
    is_called = threading.Event()

    def late(*arguments: Any) -> Any:
        job = submit(*arguments)
        names.append(job.name)
        assert is_called.wait(60)
        call.cancel()
        # gRPC has run the callbacks of the call by then, and takes no other.
        assert soon(lambda: two_are_free(hg))
        return job

    monkeypatch.setattr(worker, "submit", late)
    config = job_pb2.TrainConfig(batch_size=10, epochs=100_000)
    call = hg._stub.Train(pb.TrainRequest(dataset="tiny", config=config, cancel_on_disconnect=True))
    is_called.set()
    with pytest.raises(grpc.RpcError):
        list(call)
    assert soon(lambda: bool(names) and hg.get_job(names[0]).state == job_pb2.JOB_STATE_CANCELLED)
