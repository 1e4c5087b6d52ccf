"""The one thread that owns the device: it runs the jobs in order, and small calls between a job's chunks."""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from handgrad.core import network, training
from handgrad.core.optimizers import SGD
from handgrad.core.parameter_files import from_named_arrays, to_named_arrays
from handgrad.server.datasets import Datasets
from handgrad.server.errors import ExhaustedError, StoppingError
from handgrad.server.jobs import Epoch, Job, JobRequest, Jobs, JobState, Progress
from handgrad.server.models import Models, Version

log = logging.getLogger(__name__)

MAX_QUEUED_JOBS = 256

T = TypeVar("T")


class Worker:
    """Runs jobs and calls on a thread of its own.

    `submit` and `call` may be called by any thread. A call waits for at most one chunk of the running job, which takes
    a few hundredths of a second.
    """

    def __init__(self, jobs: Jobs, models: Models, datasets: Datasets) -> None:
        self._jobs = jobs
        self._models = models
        self._datasets = datasets
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._queue: deque[Job] = deque()
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Cancels every job that has not ended, and waits until the thread has."""
        with self._lock:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def submit(self, request: JobRequest) -> Job:
        """Puts a job in the queue.

        Raises:
            ExhaustedError: MAX_QUEUED_JOBS wait already.
            StoppingError: The server is stopping.
        """
        with self._lock:
            if self._stopping:
                raise StoppingError("the server is stopping")
            if len(self._queue) >= MAX_QUEUED_JOBS:
                raise ExhaustedError(f"{MAX_QUEUED_JOBS} jobs are waiting already; try again when some have ended")
            job = self._jobs.add(request)
            self._queue.append(job)
            self._wake.notify()
            return job

    def call(self, function: Callable[[], T]) -> T:
        """Runs a function on the device's thread, and gives what it returns or raises."""
        future: Future[T] = Future()
        with self._lock:
            if self._stopping:
                raise StoppingError("the server is stopping")
            self._calls.put((function, future))
            self._wake.notify()
        return future.result()

    def _run(self) -> None:
        while True:
            with self._lock:
                while not (self._queue or self._stopping or not self._calls.empty()):
                    self._wake.wait()
                job = self._queue.popleft() if self._queue else None
                stopping = self._stopping
            self._run_calls()
            if job is not None:
                self._run_job(job)
            elif stopping:
                return

    def _run_calls(self) -> None:
        while not self._calls.empty():
            function, future = self._calls.get()
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)

    def _run_job(self, job: Job) -> None:
        try:
            state, error = self._train(job)
        except Exception:
            log.exception("%s failed", job.name)
            state, error = JobState.FAILED, "the server has a fault; its log tells more"
        job.update(status=replace(job.status, state=state, error=error, end_time=time.time()))
        log.info("%s %s after %d iterations %s", job.name, state.value, job.iteration, error)

    def _train(self, job: Job) -> tuple[JobState, str]:
        """Runs a job to its end; gives the state it ends in, and why."""
        if reason := self._reason_to_stop(job):
            return JobState.CANCELLED, reason
        job.update(status=replace(job.status, state=JobState.RUNNING, start_time=time.time()))
        request, config = job.request, job.request.config
        init_key, permutation_key = training.keys_of_run(config.seed)
        found = self._models.find(request.model)
        newest = found and found[1]
        if newest is None:
            params = network.init(request.network, init_key)
            self._publish(job, params, None)
        else:
            _, params = from_named_arrays(newest.arrays, request.model)
        images, labels = self._datasets.on_device(request.dataset, "train")
        publish_at = config.publish_every_iterations
        clock = _EpochClock(request.iterations_per_epoch)
        for chunk in training.train(
            request.network,
            SGD,
            config,
            training.TrainState(params, SGD.init(params)),
            images,
            labels,
            permutation_key,
        ):
            if not np.isfinite(chunk.losses).all():
                return self._diverged(job, chunk)
            newest_loss = float(chunk.losses[-1])
            ended = chunk.epoch_mean_loss is not None
            seconds, rate = clock.tick(chunk.iteration)
            if ended or (publish_at and chunk.iteration % publish_at == 0):
                if not self._publish(job, chunk.state.params, (chunk.iteration, newest_loss)):
                    ...
    """
    """
