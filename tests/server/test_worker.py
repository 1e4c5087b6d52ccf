"""The device's thread: calls between the chunks of a job, and what becomes of everything when it stops."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from handgrad.core.config import TrainConfig
from handgrad.core.network import fully_connected
from handgrad.core.signature import Numbers, Signature
from handgrad.server.datasets import MNIST, Datasets
from handgrad.server.errors import ExhaustedError, StoppingError
from handgrad.server.jobs import Caller, Job, JobRequest, Jobs, JobState
from handgrad.server.models import Models
from handgrad.server.storage import Storage
from handgrad.server.sweeps import Sweeps
from handgrad.server.worker import Worker

NETWORK = fully_connected(784, (), 10)
SIGNATURE = Signature((28, 28, 1), Numbers("uint8", 0.0, 255.0), "unit")
CONFIG = TrainConfig(batch_size=100, epochs=100_000, learning_rate=0.01)


@dataclass
class Parts:
    """A worker, and what it works with."""

    storage: Storage
    jobs: Jobs
    models: Models
    worker: Worker

    def submit(self, client: str = "somebody") -> Job:
        return self.worker.submit(JobRequest("", MNIST, NETWORK, CONFIG, 60_000, SIGNATURE), Caller(client))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self.jobs.changed:
            while not condition():
                assert self.jobs.changed.wait(60)

    def state(self, job: Job) -> JobState:
        return self.jobs.get(job.name).state

    def wait_until_it_trains(self, job: Job) -> None:
        while (live := self.jobs.live.get(job.name)) is None or live.progress is None:
            time.sleep(0.005)


def start(folder: Path, max_queued: int = 256) -> Parts:
    folder.mkdir(exist_ok=True)
    storage = Storage(folder, 2**30)
    models = Models(storage, keep_versions=32, keep_every=0)
    jobs = Jobs(storage, models, max_queued=max_queued)
    worker = Worker(storage, jobs, Sweeps(storage, jobs, models), models, Datasets(storage), snapshot_seconds=5)
    worker.start()
    return Parts(storage, jobs, models, worker)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    parts = start(tmp_path / "data")
    yield parts
    parts.worker.stop()
    parts.storage.close()


@pytest.fixture
def worker(parts: Parts) -> Worker:
    return parts.worker


def test_a_call_runs_on_the_device_thread_and_gives_its_result(worker: Worker) -> None:
    assert worker.call(lambda: threading.current_thread().name) == "device"


def test_what_a_call_raises_reaches_its_caller_alone(worker: Worker) -> None:
    def fail() -> NoReturn:
        raise ZeroDivisionError("of the caller")

    with pytest.raises(ZeroDivisionError, match="of the caller"):
        worker.call(fail)
    assert worker.call(lambda: 5) == 5


def test_a_call_is_answered_while_a_job_runs(parts: Parts) -> None:
    job = parts.submit()
    parts.wait_until_it_trains(job)
    assert [parts.worker.call(lambda: parts.state(job)) for _ in range(3)] == [JobState.RUNNING] * 3
    parts.jobs.cancel(job, "enough")
    parts.wait_for(lambda: parts.state(job).ended)
    ended = parts.jobs.get(job.name)
    assert (ended.state, ended.error) == (JobState.CANCELLED, "enough")


def test_what_runs_and_what_waits_goes_on_with_the_next_server(tmp_path: Path) -> None:
    parts = start(tmp_path / "data")
    jobs = [parts.submit() for _ in range(3)]
    parts.wait_until_it_trains(jobs[0])
    parts.jobs.cancel(jobs[2], "enough")
    parts.worker.stop()
    with pytest.raises(StoppingError):
        parts.submit()
    with pytest.raises(StoppingError):
        parts.worker.call(lambda: 1)
    done = parts.jobs.get(jobs[0].name).iteration
    assert done > 0
    parts.storage.close()

    parts = start(tmp_path / "data")
    parts.wait_until_it_trains(jobs[0])
    assert [parts.state(job) for job in jobs] == [JobState.RUNNING, JobState.QUEUED, JobState.CANCELLED]
    resumed = parts.jobs.get(jobs[0].name)
    assert (resumed.resumes, resumed.iteration >= done) == (1, True)
    parts.worker.stop()
    parts.storage.close()


def test_clients_take_turns(parts: Parts) -> None:
    first = parts.submit("many")
    parts.wait_until_it_trains(first)
    others = [parts.submit("many"), parts.submit("many"), parts.submit("few"), parts.submit("one")]
    order: list[str] = []
    running = first
    for _ in range(4):
        parts.jobs.cancel(running, "next")
        parts.wait_for(lambda: any(parts.state(job) is JobState.RUNNING for job in others))
        (running,) = (job for job in others if parts.state(job) is JobState.RUNNING)
        order.append(running.client)
        others.remove(running)
        parts.wait_until_it_trains(running)
    assert order == ["few", "one", "many", "many"]


def test_calls_that_wait_when_it_stops_are_answered(tmp_path: Path) -> None:
    worker = start(tmp_path / "data").worker
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


def test_the_queue_has_an_end(tmp_path: Path) -> None:
    parts = start(tmp_path / "data", max_queued=1)
    running = parts.submit()
    parts.wait_until_it_trains(running)
    waiting = parts.submit()
    with pytest.raises(ExhaustedError, match="1 jobs are waiting already"):
        parts.submit()
    assert parts.jobs.cancel(waiting, "enough").state is JobState.CANCELLED
    # There is room again.
    assert parts.submit().state is JobState.QUEUED
    parts.worker.stop()
    parts.storage.close()


def test_a_job_that_is_refused_makes_no_model(tmp_path: Path) -> None:
    parts = start(tmp_path / "data", max_queued=1)
    jobs = [parts.submit()]
    parts.wait_until_it_trains(jobs[0])
    jobs.append(parts.submit())
    before = {model.name for model in parts.models.page(100, "")}
    request = JobRequest("mine", MNIST, NETWORK, CONFIG, 60_000, SIGNATURE)
    with pytest.raises(ExhaustedError):
        parts.worker.submit(request, Caller("somebody"))
    assert {model.name for model in parts.models.page(100, "")} == before
    parts.worker.stop()
    parts.storage.close()
