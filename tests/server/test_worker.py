"""The device's thread: calls between the chunks of a job, and what becomes of everything when it stops."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import pytest

import handgrad
from handgrad.core.config import TrainConfig
from handgrad.core.network import fully_connected
from handgrad.server import worker as worker_module
from handgrad.server.datasets import MNIST, Datasets
from handgrad.server.errors import ExhaustedError, StoppingError
from handgrad.server.jobs import Job, JobRequest, Jobs, JobState
from handgrad.server.models import Models
from handgrad.server.worker import Worker

NETWORK = fully_connected(784, (), 10)
CONFIG = TrainConfig(batch_size=100, epochs=100_000, learning_rate=0.01, pixels="unit")


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(Jobs(), Models(), Datasets())
    worker.start()
    yield worker
    worker.stop()


def submit(worker: Worker) -> Job:
    return worker.submit(JobRequest("", MNIST, NETWORK, CONFIG, 60_000))


def wait_for(job: Job, condition: Callable[[], bool]) -> None:
    with job.changed:
        assert job.changed.wait_for(condition, timeout=60)


def test_a_call_runs_on_the_device_thread_and_gives_its_result(worker: Worker) -> None:
    assert worker.call(lambda: threading.current_thread().name) == "device"


def test_what_a_call_raises_reaches_its_caller_alone(worker: Worker) -> None:
    def fail() -> NoReturn:
        raise ZeroDivisionError("of the caller")

    with pytest.raises(ZeroDivisionError, match="of the caller"):
        worker.call(fail)
    assert worker.call(lambda: 5) == 5


def test_a_call_is_answered_while_a_job_runs(worker: Worker) -> None:
    job = submit(worker)
    wait_for(job, lambda: job.progress is not None)
    assert [worker.call(lambda: job.status.state) for _ in range(3)] == [JobState.RUNNING] * 3
    worker.cancel(job, "enough")
    wait_for(job, lambda: job.status.state.ended)
    assert (job.status.state, job.status.error) == (JobState.CANCELLED, "enough")


def test_stopping_cancels_what_runs_and_what_waits() -> None:
    worker = Worker(Jobs(), Models(), Datasets())
    worker.start()
    jobs = [submit(worker) for _ in range(3)]
    wait_for(jobs[0], lambda: jobs[0].progress is not None)
    worker.stop()
    for job in jobs:
        assert (job.status.state, job.status.error) == (JobState.CANCELLED, "the server is stopping")
        assert job.status.end_time is not None
    assert [job.status.start_time is None for job in jobs] == [False, True, True]
    with pytest.raises(StoppingError):
        submit(worker)
    with pytest.raises(StoppingError):
        worker.call(lambda: 1)


def test_calls_that_wait_when_it_stops_are_answered() -> None:
    worker = Worker(Jobs(), Models(), Datasets())
    worker.start()
    began, go_on = threading.Event(), threading.Event()

    def hold() -> str:
        began.set()
        assert go_on.wait(60)
        return "held"

    with ThreadPoolExecutor(8) as callers:
        held = callers.submit(worker.call, hold)
        assert began.wait(60)
        # Each of them either came before the stop, and is answered, or after it, and is refused.
        waiting = [callers.submit(worker.call, lambda number=number: number) for number in range(5)]
        stopping = callers.submit(worker.stop)
        go_on.set()
        stopping.result(60)
        assert held.result(60) == "held"
        for number, call in enumerate(waiting):
            error = call.exception(60)
            assert isinstance(error, StoppingError) if error else call.result() == number


def test_the_queue_has_an_end(monkeypatch: pytest.MonkeyPatch, worker: Worker) -> None:
    monkeypatch.setattr(worker_module, "MAX_QUEUED_JOBS", 1)
    running = submit(worker)
    wait_for(running, lambda: running.progress is not None)
    waiting = submit(worker)
    with pytest.raises(ExhaustedError, match="1 jobs are waiting already"):
        submit(worker)
    worker.cancel(waiting, "enough")
    assert waiting.status.state is JobState.CANCELLED
    # There is room again.
    assert submit(worker).status.state is JobState.QUEUED


def test_a_job_that_is_refused_makes_no_model(monkeypatch: pytest.MonkeyPatch, hg: handgrad.Client, tiny: str) -> None:
    monkeypatch.setattr(worker_module, "MAX_QUEUED_JOBS", 0)
    with pytest.raises(handgrad.ExhaustedError):
        hg.train(dataset=tiny, model="mine", hidden=[5], batch_size=10, epochs=1)
    monkeypatch.undo()
    with pytest.raises(handgrad.NotFoundError, match="there is no model 'mine'"):
        hg.get_params("mine")
    # The name is free for a model of any network.
    assert hg.train(dataset=tiny, model="mine", hidden=[6], batch_size=10, epochs=1).wait().version == 2
