"""What the device's thread, the lanes of a sweep and the journal share."""

import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from handgrad.core.config import preset
from handgrad.core.network import fully_connected
from handgrad.core.signature import Numbers, Signature
from handgrad.server import worker
from handgrad.server.datasets import SPLITS_ON_DEVICE, Datasets
from handgrad.server.jobs import Caller, JobRequest, Jobs, Live
from handgrad.server.metrics import Metrics
from handgrad.server.models import Models
from handgrad.server.storage import Storage
from handgrad.server.sweeps import Group, Measure, SweepRequest, Sweeps
from handgrad.server.worker import Worker

THREADS = 6


@pytest.fixture
def storage(tmp_path: Path) -> Any:
    storage = Storage(tmp_path, 2**30)
    yield storage
    storage.close()


class Slow(OrderedDict[Any, Any]):
    """Lets other threads run between the question whether something is there, and what is done about it."""

    def __contains__(self, key: object) -> bool:
        found = super().__contains__(key)
        time.sleep(0.0003)
        return found


def splits(monkeypatch: pytest.MonkeyPatch, datasets: Datasets, seconds: float) -> list[str]:
    """Has the data sets be loaded in so many seconds each; returns the list of what was loaded."""
    loaded: list[str] = []

    def load(key: str) -> Any:
        loaded.append(key)
        time.sleep(seconds)
        part = SimpleNamespace(images=np.full((2, 3), int(key), np.uint8), labels=np.zeros(2, np.uint8))
        return SimpleNamespace(train=part, test=part)

    monkeypatch.setattr(datasets, "_row", lambda name: {"object": name})
    monkeypatch.setattr(datasets, "_load", load)
    return loaded


def test_lanes_with_more_splits_than_are_kept_get_theirs(monkeypatch: pytest.MonkeyPatch, storage: Storage) -> None:
    datasets = Datasets(storage)
    splits(monkeypatch, datasets, 0)
    datasets._on_device = Slow()

    def lane(number: int) -> None:
        for turn in range(20):
            wanted = (number + turn * (number + 1)) % (SPLITS_ON_DEVICE + 2)
            images, _ = datasets.on_device(str(wanted), "train")
            assert int(images[0, 0]) == wanted

    with ThreadPoolExecutor(THREADS) as lanes:
        for ended in [lanes.submit(lane, number) for number in range(THREADS)]:
            ended.result()
    assert len(datasets._on_device) == SPLITS_ON_DEVICE


def test_a_split_that_several_lanes_begin_with_is_loaded_once(
    monkeypatch: pytest.MonkeyPatch, storage: Storage
) -> None:
    datasets = Datasets(storage)
    loaded = splits(monkeypatch, datasets, 0.05)
    together = threading.Barrier(THREADS)

    def lane() -> Any:
        together.wait()
        return datasets.on_device("1", "train")[0]

    with ThreadPoolExecutor(THREADS) as lanes:
        found = [ended.result() for ended in [lanes.submit(lane) for _ in range(THREADS)]]
    assert loaded == ["1"]
    assert all(each is found[0] for each in found)


CONFIG = replace(preset("report").config, epochs=1, batch_size=6000)
SIGNATURE = Signature((28, 28, 1), Numbers("uint8", 0.0, 255.0), "identity")
REQUEST = JobRequest("", "mnist", fully_connected(784, (), 10), CONFIG, 60_000, SIGNATURE)


@pytest.fixture
def jobs(storage: Storage) -> Jobs:
    return Jobs(storage, Models(storage, keep_versions=2, keep_every=0), max_queued=9)


def test_the_iterations_of_a_job_never_step_back_while_they_are_committed(jobs: Jobs) -> None:
    job, _ = jobs.submit(REQUEST, Caller("somebody"))
    live = Live(job)
    half_done = threading.Event()

    class Losses(bytearray):
        def __delitem__(self, index: Any) -> None:
            super().__delitem__(index)
            half_done.set()
            # The other thread looks now, or waits until the whole is done.
            time.sleep(0.05)

    live._losses = Losses()
    live.add(np.zeros(10, np.float32), None)
    with ThreadPoolExecutor(1) as journal:
        committed = journal.submit(live.commit, 7)
        assert half_done.wait(20)
        assert live.iteration == 10
        committed.result()
    assert live.iteration == 10


def rate(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("handgrad_iterations_per_second")


def test_the_rate_is_the_sum_over_the_jobs_that_run() -> None:
    metrics = Metrics()
    assert rate(metrics) == 0
    metrics.trained("job-1", 10, 100.0, 0.5)
    metrics.trained("job-2", 10, 40.0, 0.25)
    assert rate(metrics) == 140
    metrics.trained("job-1", 10, 60.0, 0.5)
    assert rate(metrics) == 100
    metrics.paused("job-1")
    assert rate(metrics) == 40
    # It ended, and its group with it.
    metrics.paused("job-1")
    assert rate(metrics) == 40
    metrics.paused("job-2")
    assert rate(metrics) == 0
    assert metrics.registry.get_sample_value("handgrad_iterations_total") == 30
    assert metrics.registry.get_sample_value("handgrad_loss") == 0.5


def test_a_member_that_ends_leaves_the_rate_of_the_others(monkeypatch: pytest.MonkeyPatch, storage: Storage) -> None:
    monkeypatch.setattr(worker, "LANES", 2)
    models = Models(storage, keep_versions=2, keep_every=0)
    jobs = Jobs(storage, models, max_queued=9)
    metrics = Metrics()
    seen: list[tuple[str, float | None]] = []

    def paused(job: str) -> None:
        metrics.paused(job)
        seen.append((job, rate(metrics)))

    long_one_trains = threading.Event()
    go_on = threading.Event()

    def trained(job: str, iterations: int, a_second: float, loss: float) -> None:
        metrics.trained(job, iterations, a_second, loss)
        if job == "job-2":
            long_one_trains.set()
            assert go_on.wait(60)
        else:
            assert long_one_trains.wait(60)

    sweeps = Sweeps(storage, jobs, models)
    parts = (storage, jobs, sweeps, models, Datasets(storage))
    running = Worker(*parts, snapshot_seconds=5, trained=trained, paused=paused)
    running.start()
    asked = SweepRequest(
        "", "mnist", (REQUEST, REQUEST), (("seed",), ("seed",)), None, Measure.MEAN_LOSS, mean_of_seeds=False
    )
    sweep = running.submit_sweep(asked, Caller("somebody"))
    with jobs.changed:
        assert jobs.changed.wait_for(lambda: jobs.get("job-1").state.ended, 60)
    assert rate(metrics), "the other one still trains"
    go_on.set()
    with jobs.changed:
        assert jobs.changed.wait_for(lambda: sweeps.get(sweep.name).end_time is not None, 60)
    running.stop()
    assert rate(metrics) == 0
    assert {job for job, _ in seen} == {"job-1", "job-2"}


def test_an_index_error_of_a_job_is_not_taken_for_the_end_of_the_queue(
    monkeypatch: pytest.MonkeyPatch, storage: Storage, jobs: Jobs
) -> None:
    models = Models(storage, keep_versions=2, keep_every=0)
    running = Worker(storage, jobs, Sweeps(storage, jobs, models), models, Datasets(storage), snapshot_seconds=5)

    def fail(*_: object) -> None:
        raise IndexError("a fault of ours")

    monkeypatch.setattr(running, "_run_together", fail)
    with pytest.raises(IndexError, match="a fault of ours"):
        running._run_groups([Group((), 1)], 0)
