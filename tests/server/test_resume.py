"""A job goes on after its server stopped, bit for bit; and a snapshot that lacks anything would show."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest

from handgrad.server.app import Server
from handgrad.v1 import job_pb2
from handgrad.v1 import training_service_pb2 as pb
from handgrad.v1.training_service_pb2_grpc import TrainingServiceStub

CONFIG = job_pb2.TrainConfig(batch_size=128, epochs=3, learning_rate=0.005, momentum=0.9)
REQUEST = pb.TrainRequest(config=CONFIG, model="mine", request_id="one")


@contextmanager
def serving(data_dir: Path) -> Iterator[TrainingServiceStub]:
    server = Server("127.0.0.1:0", data_dir, snapshot_seconds=0)
    try:
        with grpc.insecure_channel(server.address) as channel:
            yield TrainingServiceStub(channel)
    finally:
        server.stop()


def finish(stub: TrainingServiceStub) -> job_pb2.Job:
    job = [response.event for response in stub.WatchJob(pb.WatchJobRequest(job="job-1"))][-1].finished
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    return job


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The SHA-256 that a run without a stop ends with."""
    with serving(tmp_path_factory.mktemp("undisturbed")) as stub:
        next(iter(stub.Train(REQUEST)))
        return finish(stub).params_sha256


def interrupted(data_dir: Path) -> None:
    """Leaves a job in the middle of its second epoch."""
    with serving(data_dir) as stub:
        next(iter(stub.Train(REQUEST)))
        while stub.GetJob(pb.GetJobRequest(job="job-1")).job.iteration < 500:
            time.sleep(0.002)
    with closing(sqlite3.connect(data_dir / "handgrad.sqlite3")) as database:
        state, iteration, optimizer = database.execute(
            "SELECT state, iteration, snapshot_optimizer FROM jobs"
        ).fetchone()
    assert (state, optimizer is not None) == ("running", True)
    assert 469 < iteration < 1407
    assert iteration % 469


def test_a_job_goes_on_after_a_stop_bit_for_bit(tmp_path: Path, undisturbed: str) -> None:
    interrupted(tmp_path)
    with serving(tmp_path) as stub:
        job = finish(stub)
    assert job.params_sha256 == undisturbed
    assert job.resumes == 1


def set_columns(data_dir: Path, assignments: str) -> None:
    with closing(sqlite3.connect(data_dir / "handgrad.sqlite3")) as database, database:
        database.execute(f"UPDATE jobs SET {assignments}")  # noqa: S608 - the tests' own


def without_optimizer_state(data_dir: Path) -> None:
    set_columns(data_dir, "snapshot_optimizer = (SELECT optimizer FROM versions WHERE model = 'mine' AND number = 1)")


def with_another_random_state(data_dir: Path) -> None:
    set_columns(data_dir, "snapshot_key = x'0100000002000000'")


def without_position_in_the_epoch(data_dir: Path) -> None:
    set_columns(data_dir, "iteration = 469")
    with closing(sqlite3.connect(data_dir / "handgrad.sqlite3")) as database, database:
        database.execute("DELETE FROM losses WHERE start + length(data) / 4 > 469")


@pytest.mark.parametrize("mutate", [without_optimizer_state, with_another_random_state, without_position_in_the_epoch])
def test_a_snapshot_that_lacks_something_is_caught(
    tmp_path: Path, undisturbed: str, mutate: Callable[[Path], None]
) -> None:
    interrupted(tmp_path)
    mutate(tmp_path)
    with serving(tmp_path) as stub:
        assert finish(stub).params_sha256 != undisturbed


def test_a_job_that_was_to_end_with_its_call_is_not_taken_up(tmp_path: Path) -> None:
    asked = pb.TrainRequest(cancel_on_disconnect=True)
    asked.MergeFrom(REQUEST)
    asked.config.epochs = 100_000
    with serving(tmp_path) as stub:
        responses = stub.Train(asked)
        while not next(responses).event.HasField("progress"):
            pass
    with serving(tmp_path) as stub:
        job = [response.event for response in stub.WatchJob(pb.WatchJobRequest(job="job-1"))][-1].finished
    assert job.state == job_pb2.JOB_STATE_CANCELLED
