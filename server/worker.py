"""The one thread that owns the device: it runs the jobs in order, and small calls between a job's chunks."""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from handgrad.core import network, training
from handgrad.core.optimizers import SGD
from handgrad.core.parameter_files import from_named_arrays, to_named_arrays
from handgrad.server.datasets import Datasets
from handgrad.server.errors import ExhaustedError, StoppingError
from handgrad.server.jobs import Epoch, Job, JobRequest, Jobs, JobState, Progress
from handgrad.server.models import Models

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
        """Puts a job in the queue, and makes its model if it does not exist.

        Args:
            request: What to run. An empty model stands for a new one with a name of the server's.

        Raises:
            PreconditionError: The model exists with another network.
            ExhaustedError: MAX_QUEUED_JOBS wait already.
            StoppingError: The server is stopping.
        """
        with self._lock:
            if self._stopping:
                raise StoppingError("the server is stopping")
            if len(self._queue) >= MAX_QUEUED_JOBS:
                raise ExhaustedError(f"{MAX_QUEUED_JOBS} jobs are waiting already; try again when some have ended")
            model = self._models.reserve(request.model, request.network)
            job = self._jobs.add(replace(request, model=model))
            self._queue.append(job)
            self._wake.notify()
            return job

    def cancel(self, job: Job, reason: str) -> None:
        """Ends a job that waits, at once; makes one that runs end at its next pause; leaves one that has ended."""
        with self._lock:
            job.stop = reason
            if job in self._queue:
                self._queue.remove(job)
                self._end(job, JobState.CANCELLED, reason)

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
        # Those that wait now, not those that come meanwhile: a crowd of callers slows training, but cannot stop it.
        for _ in range(self._calls.qsize()):
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
        self._end(job, state, error)

    def _end(self, job: Job, state: JobState, error: str) -> None:
        job.update(status=replace(job.status, state=state, error=error, end_time=time.time()))
        log.info("%s %s after %d iterations. %s", job.name, state.value, job.iteration, error)

    def _train(self, job: Job) -> tuple[JobState, str]:
        """Runs a job to its end; gives the state it ends in, and why."""
        if reason := self._reason_to_stop(job):
            return JobState.CANCELLED, reason
        request, config = job.request, job.request.config
        job.update(status=replace(job.status, state=JobState.RUNNING, start_time=time.time()))
        log.info("%s runs: %s, %s, %s", job.name, request.model, request.dataset, config)
        init_key, permutation_key = training.keys_of_run(config.seed)
        newest = self._models.newest(request.model)
        if newest is None:
            params = network.init(request.network, init_key)
            self._publish(job, params)
        else:
            params = from_named_arrays(newest.network, newest.arrays)
        images, labels = self._datasets.on_device(request.dataset, "train")
        state = training.TrainState(params, SGD.init(params))
        epoch_began, iterations_before = time.perf_counter(), 0
        for chunk in training.train(request.network, SGD, config, state, images, labels, permutation_key):
            seconds = time.perf_counter() - epoch_began
            finite = np.isfinite(chunk.losses)
            if not finite.all():
                first = int(np.argmin(finite))
                job.update(losses=chunk.losses[: first + 1])
                return self._diverged(job, f"the loss of iteration {job.iteration} is {chunk.losses[first]}")
            loss = float(chunk.losses[-1])
            rate = (chunk.iteration - iterations_before) / seconds
            job.update(losses=chunk.losses, progress=Progress(chunk.epoch, chunk.iteration, loss, rate))
            every = config.publish_every_iterations
            mean_loss = chunk.epoch_mean_loss
            if (mean_loss is not None or (every and chunk.iteration % every == 0)) and not self._publish(
                job, chunk.state.params, chunk.iteration, loss
            ):
                return self._diverged(job, f"iteration {chunk.iteration} made params that are not finite")
            if mean_loss is not None:
                job.update(epoch=Epoch(chunk.epoch, mean_loss, seconds))
                epoch_began, iterations_before = time.perf_counter(), chunk.iteration
            self._run_calls()
            if chunk.iteration < request.iterations and (reason := self._reason_to_stop(job)):
                return JobState.CANCELLED, reason
        return JobState.SUCCEEDED, ""

    def _publish(self, job: Job, params: network.Params, iteration: int = 0, loss: float | None = None) -> bool:
        """Publishes params, unless they are not finite; says which."""
        arrays = to_named_arrays(params)
        if not all(np.isfinite(array).all() for array in arrays.values()):
            return False
        request = job.request
        version = self._models.publish(
            request.model, arrays, request.config.pixels, job=job.name, iteration=iteration, loss=loss
        )
        job.update(status=replace(job.status, version=version))
        return True

    def _diverged(self, job: Job, what: str) -> tuple[JobState, str]:
        version = job.status.version or self._models.newest(job.request.model)
        kept = f"; version {version.number} holds the last finite params published" if version else ""
        return JobState.FAILED, f"the training diverged: {what}{kept}; a smaller learning_rate may help"

    def _reason_to_stop(self, job: Job) -> str:
        return "the server is stopping" if self._stopping else job.stop
