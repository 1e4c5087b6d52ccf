"""The one thread that owns the device: it runs the jobs in turn, and small calls between a job's chunks."""

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from handgrad.core import network, training
from handgrad.core.evaluation import evaluate
from handgrad.core.optimizers import OptState
from handgrad.core.parameter_files import (
    from_named_arrays,
    opt_state_from_named_arrays,
    opt_state_to_named_arrays,
    read_arrays,
    to_named_arrays,
)
from handgrad.server import jobs as history
from handgrad.server.datasets import Datasets
from handgrad.server.errors import ServiceError, StoppingError
from handgrad.server.jobs import Caller, Epoch, Job, JobRequest, Jobs, JobState, Live, Progress
from handgrad.server.journal import Entry, Journal
from handgrad.server.models import Draft, Models, OptimizerState, read_params
from handgrad.server.storage import Storage
from handgrad.server.sweeps import Sweep, SweepRequest, Sweeps

log = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 0.5
SECONDS_BETWEEN_CALLS = 0.02
LANES: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Members of a sweep that run at once: one on each core."""


T = TypeVar("T")


class Worker:
    """Runs jobs and calls on a thread of its own.

    `submit` and `call` may be called by any thread. A call waits for at most one chunk of the running job, which takes
    a few hundredths of a second.
    """

    def __init__(
        self,
        storage: Storage,
        jobs: Jobs,
        sweeps: Sweeps,
        models: Models,
        datasets: Datasets,
        *,
        snapshot_seconds: float,
        storage_failed: Callable[[], None] = lambda: None,
        trained: Callable[[int, float, float], None] = lambda *_: None,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes what it works with.

        Args:
            storage: Where snapshots are.
            jobs: The jobs.
            sweeps: The sweeps, whose members are jobs.
            models: Their models.
            datasets: Their data sets.
            snapshot_seconds: From one snapshot of a running job to the next; publications are snapshots too.
            storage_failed: Called whenever the disk fails.
            trained: Called after each chunk with its iterations, the iterations a second, and the newest loss.
            idle: Called when a job has ended.
        """
        self._storage = storage
        self._jobs = jobs
        self._sweeps = sweeps
        self._models = models
        self._datasets = datasets
        self._snapshot_seconds = snapshot_seconds
        self._trained = trained
        self._idle = idle
        self._journal = Journal(storage, jobs, models, storage_failed)
        self._wake = threading.Condition()
        self._look = True
        self._paused: set[str] = set()
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        """Starts the thread, which first takes up the job that ran when the server last ended."""
        self._journal.start()
        self._thread.start()

    @property
    def stopping(self) -> bool:
        """Whether the server is stopping."""
        return self._stopping

    def stop(self) -> None:
        """Takes a snapshot of the running job, and waits until the thread has ended. The next start takes it up."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._journal.hurry()
        self._jobs.notify()
        self._thread.join()
        self._journal.close()

    def submit(self, request: JobRequest, caller: Caller) -> Job:
        """Puts a job in the queue; see `Jobs.submit`.

        Raises:
            StoppingError: The server is stopping.
        """
        if self._stopping:
            raise StoppingError("the server is stopping")
        job, _ = self._jobs.submit(request, caller)
        self.look()
        return job

    def submit_sweep(self, request: SweepRequest, caller: Caller) -> Sweep:
        """Puts a sweep in the queue; see `Sweeps.submit`.

        Raises:
            StoppingError: The server is stopping.
        """
        if self._stopping:
            raise StoppingError("the server is stopping")
        sweep = self._sweeps.submit(request, caller)
        self.look()
        return sweep

    def look(self) -> None:
        """Looks whether there is something to do, should it be idle."""
        with self._wake:
            self._look = True
            self._wake.notify()

    def call(self, function: Callable[[], T]) -> T:
        """Runs a function on the device's thread, and gives what it returns or raises."""
        future: Future[T] = Future()
        with self._wake:
            if self._stopping:
                raise StoppingError("the server is stopping")
            self._calls.put((function, future))
            self._wake.notify()
        return future.result()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._look or self._stopping or not self._calls.empty()):
                    self._wake.wait()
                stopping, self._look = self._stopping, False
            self._run_calls()
            if stopping:
                return
            try:
                self._run_jobs()
            except ServiceError as error:
                log.error("no job can be taken up: %s", error)  # noqa: TRY400 - the disk's fault, not ours
                with self._wake:
                    self._wake.wait(SECONDS_BETWEEN_TRIES)
                    self._look = True

    def _run_jobs(self) -> None:
        while not self._stopping:
            self._sweeps.finish_those_over()
            job = self._jobs.next()
            if job is None:
                return
            if job.sweep is None:
                self._run_job(job)
            else:
                self._run_sweep(job.sweep)
            # The next job's turn depends on what this one has written.
            self._journal.flush(self._run_calls)
            self._run_calls()

    def _run_calls(self) -> None:
        # Those that wait now, not those that come meanwhile: a crowd of callers slows training, but cannot stop it.
        for _ in range(self._calls.qsize()):
            try:
                function, future = self._calls.get_nowait()
            except queue.Empty:
                # Another thread of a sweep's took it.
                return
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)

    def _run_sweep(self, number: int) -> None:
        """Runs a sweep's members, from one halving to the next; returns when they have ended, or the server stops."""
        with self._storage.database.transaction() as writer:
            writer.execute("UPDATE sweeps SET state = 'running' WHERE number = ?", (number,))
        for epochs in self._sweeps.pauses(number):
            self._run_members(self._sweeps.waiting(number, epochs), epochs)
            self._journal.flush(self._run_calls)
            if self._stopping:
                return
            if epochs:
                self._sweeps.halve(number, epochs)

    def _run_members(self, members: Sequence[Job], epochs: int) -> None:
        """Runs jobs, one on each core at a time, until they end or have done so many epochs; 0 for all.

        Each goes through the same compiled loop as a job alone, to the same bits. Small products leave most of a second
        core idle: so each network took 0.7 times as long as alone on two cores, and 0.8 to 1.2 in one vmapped loop.
        """
        waiting = deque(members)

        def lane() -> None:
            while waiting and not self._stopping:
                with suppress(IndexError):
                    self._run_job(waiting.popleft(), epochs)

        with ThreadPoolExecutor(LANES, thread_name_prefix="lane") as pool:
            lanes = [pool.submit(lane) for _ in range(min(LANES, len(members)))]
            while wait(lanes, SECONDS_BETWEEN_CALLS).not_done:
                self._run_calls()
        for ended in lanes:
            ended.result()

    def _run_job(self, job: Job, epochs: int = 0) -> None:
        """Runs a job until it ends, or has done so many epochs; 0 for all."""
        live = Live(job)
        # Before it runs, so that whoever asks it to stop finds it.
        self._jobs.live[job.name] = live
        optimizer = job.request.config.method
        newest = self._models.newest(job.request.model)
        continued = bool(
            job.request.continue_optimizer and newest and newest.optimizer and newest.optimizer_name == optimizer.name
        )
        with self._storage.database.transaction() as writer:
            begun = history.begin(writer, job.name, continued=continued, paused=job.name in self._paused)
        self._paused.discard(job.name)
        self._jobs.notify()
        if begun is None:
            del self._jobs.live[job.name]
            return
        run = Run(begun, live)
        log.info("%s runs from iteration %d: %s, %s", job.name, begun.iteration, job.request, job.client)
        try:
            end = self._train(run, epochs)
        except ServiceError as error:
            log.exception("%s failed", job.name)
            end = JobState.FAILED, str(error)
        except Exception:
            log.exception("%s failed", job.name)
            end = JobState.FAILED, "the server has a fault; its log tells more"
        self._idle()
        if end is not None:
            best = run.best if end[0] is JobState.SUCCEEDED and begun.request.config.keep_best else None
            entry = run.entry(draft=best, publish=best is not None, end=end)
            self._journal.put(entry, self._run_calls)
            log.info("%s %s after %d iterations. %s", job.name, end[0].value, live.iteration, end[1])

    def _train(self, run: "Run", epochs: int) -> tuple[JobState, str] | None:  # noqa: C901 - what may happen after a chunk, in order
        """Runs a job; gives the state it ends in and why, or None where it is to be taken up again."""
        job, live = run.job, run.live
        request, config = job.request, job.request.config
        state, position, key = self._begin(run)
        if self._is_over(run, position.iteration // request.iterations_per_epoch):
            # It was, and the server ended before that was written.
            position = replace(position, iteration=request.iterations)
        images, labels = self._datasets.on_device(request.dataset, "train")
        snapshot_due = time.monotonic() + self._snapshot_seconds
        per_epoch = request.iterations_per_epoch
        epoch_seconds = job.snapshot.epoch_seconds if job.snapshot else 0.0
        epoch_began = time.perf_counter() - epoch_seconds
        for chunk in training.train(run.recipe, config, state, images, labels, key, position):
            seconds = time.perf_counter() - epoch_began
            rate = (chunk.iteration - (chunk.epoch - 1) * per_epoch) / seconds
            if problem := run.take(chunk, rate):
                return self._diverged(job, problem)
            loss = float(chunk.losses[-1])
            self._trained(len(chunk.losses), rate, loss)
            every = config.publish_every_iterations
            epoch = _epoch_of(run, chunk, seconds, images, labels)
            publish = epoch is not None or bool(every and chunk.iteration % every == 0)
            if epoch:
                epoch_began, seconds = time.perf_counter(), 0.0
            if publish or self._stopping or time.monotonic() >= snapshot_due:
                draft = run.draft(chunk.state, chunk.iteration, loss)
                if not _all_finite(draft):
                    return self._diverged(job, f"iteration {chunk.iteration} made params that are not finite")
                entry = run.entry(draft=draft, publish=publish, key=key, epoch_seconds=seconds, epoch=epoch)
                self._journal.put(entry, self._run_calls)
                if epoch:
                    run.judge(epoch, draft)
                snapshot_due = time.monotonic() + self._snapshot_seconds
            self._run_calls()
            if chunk.iteration < request.iterations:
                if live.stop:
                    return JobState.CANCELLED, live.stop
                if epoch and self._is_over(run, epoch.epoch):
                    return JobState.SUCCEEDED, ""
                if paused := epoch is not None and epoch.epoch == epochs:
                    self._paused.add(job.name)
                if paused or self._stopping:
                    return None
        return JobState.SUCCEEDED, ""

    def _is_over(self, run: "Run", epoch: int) -> bool:
        """Says whether a job's patience is over after an epoch."""
        patience = run.job.request.config.patience
        run.stopped_early = bool(patience and run.best_epoch and epoch - run.best_epoch >= patience)
        return run.stopped_early

    def _begin(self, run: "Run") -> tuple[training.TrainState, training.Position, Array]:
        """Gives where a job begins, or where it is taken up."""
        job = run.job
        request, config = job.request, job.request.config
        init_key, key = training.keys_of_run(config.seed)
        if taken := job.snapshot:
            params, statistics = from_named_arrays(
                request.network, read_params(self._storage, taken.params, request.network).arrays
            )
            opt_state = self._opt_state(request.network, taken.optimizer) if taken.optimizer else OptState()
            if job.best_version:
                best = self._models.draft_of(self._models.get(request.model, job.best_version))
                run.resume_best(best, taken.iteration // request.iterations_per_epoch)
            done = taken.iteration % request.iterations_per_epoch
            losses = self._jobs.losses(job, taken.iteration - done, done)
            key = jax.random.wrap_key_data(jnp.array(np.frombuffer(taken.key, np.uint32)))
            return training.TrainState(params, opt_state, statistics), training.Position(taken.iteration, losses), key
        newest = self._models.newest(request.model)
        if newest is None:
            params = network.init(request.network, init_key)
            statistics = network.initial_statistics(request.network)
        else:
            params, statistics = from_named_arrays(newest.network, self._models.data(newest).arrays)
        if newest and newest.optimizer and job.continued:
            opt_state = self._opt_state(request.network, newest.optimizer)
        else:
            opt_state = run.recipe.optimizer.init(params)
        state = training.TrainState(params, opt_state, statistics)
        if newest is None:
            draft = run.draft(state, 0, None)
            self._journal.put(run.entry(draft=draft, publish=True, key=key), self._run_calls)
        return state, training.FIRST, key

    def _opt_state(self, net: network.Network, name: str) -> OptState:
        return opt_state_from_named_arrays(net, self._arrays(name))

    def _arrays(self, name: str) -> Mapping[str, NDArray[Any]]:
        return read_arrays(self._storage.objects.get(name), name)

    def _diverged(self, job: Job, what: str) -> tuple[JobState, str]:
        self._journal.flush(self._run_calls)
        version = self._models.newest(job.request.model)
        kept = f"; version {version.number} holds the last finite params published" if version else ""
        return JobState.FAILED, f"the training diverged: {what}{kept}; a smaller learning_rate may help"


class Run:
    """A job on the device: what it did since its last entry in the journal."""

    def __init__(self, job: Job, live: Live) -> None:
        self.job = job
        self.live = live
        self.recipe = training.recipe_of(job.request.network, job.request.config)
        self.best_epoch, self._best_loss = job.best_epoch, job.best_loss
        self.best: Draft | None = None
        """The best epoch's params, once another epoch came after it."""
        self._best_draft: Draft | None = None
        self.stopped_early = False
        self._losses: list[NDArray[np.float32]] = []

    def take(self, chunk: training.Chunk, rate: float) -> str:
        """Adds what was trained; gives what is wrong with it, or nothing."""
        finite = np.isfinite(chunk.losses)
        if not finite.all():
            first = int(np.argmin(finite))
            self._add(chunk.losses[: first + 1])
            return f"the loss of iteration {self.live.iteration} is {chunk.losses[first]}"
        self._add(chunk.losses, Progress(chunk.epoch, chunk.iteration, float(chunk.losses[-1]), rate))
        return ""

    def _add(self, losses: NDArray[np.float32], progress: Progress | None = None) -> None:
        self._losses.append(losses)
        self.live.add(losses, progress)

    def resume_best(self, draft: Draft, epochs: int) -> None:
        """Takes up the best epoch's params, where so many epochs have ended."""
        self._best_draft = draft
        self.best = draft if epochs > self.best_epoch else None

    def judge(self, epoch: Epoch, draft: Draft) -> None:
        """Takes an epoch for the best, if its validation loss is the smallest so far."""
        if epoch.validation_loss is None:
            return
        if self._best_loss is None or epoch.validation_loss < self._best_loss:
            self.best_epoch, self._best_loss = epoch.epoch, epoch.validation_loss
            self._best_draft, self.best = draft, None
        elif self._best_draft:
            self.best = self._best_draft

    def draft(self, state: training.TrainState, iteration: int, loss: float | None) -> Draft:
        """Copies a state from the device."""
        request = self.job.request
        network = request.network
        kept = OptimizerState(self.recipe.optimizer.name, opt_state_to_named_arrays(network, state.opt_state))
        arrays = to_named_arrays(network, state.params, state.statistics)
        only_newest = self.job.sweep is not None
        return Draft(request.model, arrays, kept, request.config.pixels, self.job.name, iteration, loss, only_newest)

    def entry(
        self,
        *,
        draft: Draft | None = None,
        publish: bool = False,
        key: Array | None = None,
        epoch_seconds: float = 0.0,
        epoch: Epoch | None = None,
        end: tuple[JobState, str] | None = None,
    ) -> Entry:
        """Gives the entry of what was done since the one before."""
        losses = np.concatenate(self._losses) if self._losses else np.empty(0, np.float32)
        self._losses = []
        words = b"" if key is None else np.asarray(jax.random.key_data(key), np.uint32).tobytes()
        iteration = self.live.iteration
        return Entry(
            self.job, self.live, iteration, losses, draft, publish, words, epoch_seconds, epoch, end, self.stopped_early
        )


def _epoch_of(run: Run, chunk: training.Chunk, seconds: float, images: Array, labels: Array) -> Epoch | None:
    """Gives the epoch that a chunk ends, with how the validation images do then; None where it ends none."""
    if chunk.epoch_mean_loss is None:
        return None
    request, config = run.job.request, run.job.request.config
    epoch = Epoch(chunk.epoch, chunk.epoch_mean_loss, seconds)
    if not config.validation_images:
        return epoch
    kept = training.split_indices(request.train_images, config.validation_images)[1]
    found = evaluate(
        request.network,
        chunk.state.params,
        chunk.state.statistics,
        images[kept],
        labels[kept],
        config.pixels,
        config.objective,
    )
    return replace(epoch, validation_loss=found.loss, validation_accuracy=found.accuracy)


def _all_finite(draft: Draft) -> bool:
    arrays = [*draft.arrays.values(), *(draft.optimizer.arrays.values() if draft.optimizer else ())]
    return all(np.isfinite(array).all() for array in arrays)
