"""The threads that use the device: they train the jobs in turn, and run small calls between a job's chunks.

The device's thread runs one job or one sweep at a time. On a CPU it has lanes train a sweep's members, a thread for
each core, and meanwhile runs calls itself. Whatever both use is safe for several threads. Gradients are checked
elsewhere: by the thread of the call that asks (see `certificates`).
"""

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, TypeVar

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from handgrad.core import network, randomness, training
from handgrad.core.optimizers import OptState
from handgrad.core.parameter_files import from_named_arrays, opt_state_from_named_arrays, read_arrays
from handgrad.server import jobs as history
from handgrad.server.datasets import Datasets
from handgrad.server.errors import ServiceError, StoppingError
from handgrad.server.jobs import Caller, Job, JobRequest, Jobs, JobState, Live
from handgrad.server.journal import Entry, Journal
from handgrad.server.models import Models, read_params
from handgrad.server.run import DivergedError, Pause, Run, Start, all_finite, epoch_of, validation_of
from handgrad.server.storage import Storage
from handgrad.server.sweeps import Group, Sweep, SweepRequest, Sweeps

log = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 0.5
SECONDS_BETWEEN_CALLS = 0.02
LANES: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Members of a sweep that run at once: one on each core."""


T = TypeVar("T")


class Worker:
    """Runs jobs and calls on threads of its own.

    What has no underscore may be called by any thread. A call waits for at most one chunk of the running job, which
    takes a few hundredths of a second. What has one is for the device's thread; from `_run_together` on, and
    `_run_calls`, for a sweep's lanes too: each lane has jobs of its own, whose state no other lane touches.
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
        trained: Callable[[str, int, float, float], None] = lambda *_: None,
        paused: Callable[[str], None] = lambda _: None,
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
            trained: Called after each chunk of a job with the job's name, the chunk's iterations, the iterations a
                second, and the newest loss.
            paused: Called with a job's name when it has ended, or waits until it is taken up again.
        """
        self._storage = storage
        self._jobs = jobs
        self._sweeps = sweeps
        self._models = models
        self._datasets = datasets
        self._snapshot_seconds = snapshot_seconds
        self._trained = trained
        self._paused_training = paused
        self._journal = Journal(storage, jobs, models, storage_failed)
        self._wake = threading.Condition()
        self._look = True
        self._paused: set[str] = set()
        """Jobs that wait until their sweep's others are as far. A lane looks for, adds and takes out its own jobs."""
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
        """Runs a function on a thread that uses the device, between two chunks; returns or raises what it does.

        While a sweep's lanes train, several functions may run at once.
        """
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
                self._run_together([job])
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
            self._run_groups(self._sweeps.groups(number, epochs), epochs)
            self._journal.flush(self._run_calls)
            if self._stopping:
                return
            if epochs:
                self._sweeps.halve(number, epochs)

    def _run_groups(self, groups: Sequence[Group], epochs: int) -> None:
        """Runs groups of jobs until all have ended or have done so many epochs, 0 for all: on a CPU one on each core.

        A CPU's group is one job, which goes through the same compiled loop as a job alone, to the same bits. Small
        products leave most of a second core idle: so each network took 0.5 to 0.7 times as long as alone on two cores.
        """
        waiting = deque(groups)

        def lane() -> None:
            while not self._stopping:
                try:
                    group = waiting.popleft()
                except IndexError:
                    return
                self._run_together(group.jobs, group.networks, epochs)

        lanes = LANES if jax.default_backend() == "cpu" else 1
        with ThreadPoolExecutor(lanes, thread_name_prefix="lane") as pool:
            running = [pool.submit(lane) for _ in range(min(lanes, len(groups)))]
            while wait(running, SECONDS_BETWEEN_CALLS).not_done:
                self._run_calls()
        for ended in running:
            ended.result()

    def _run_together(self, jobs: Sequence[Job], networks: int = 1, epochs: int = 0) -> None:
        """Runs jobs in one compiled loop until each has ended, or has done so many epochs; 0 for all.

        Args:
            jobs: The jobs.
            networks: As in Group.
            epochs: Epochs after which they are paused.
        """
        at: dict[int, list[tuple[Run, Start]]] = {}
        entries: list[Entry] = []
        for run in self._begin(jobs):
            with self._failing(run):
                start = self._start(run)
                entries += start.entries
                at.setdefault(start.position.iteration, []).append((run, start))
        self._journal.put(entries, self._run_calls)
        # Their snapshots are written together, but a member may come from a server that trained it alone.
        for _, alike in sorted(at.items()):
            with self._failing(*(run for run, _ in alike)):
                self._train(alike, networks, epochs)
            # Those that wait for others have not ended.
            for run, _ in alike:
                self._paused_training(run.job.name)

    def _begin(self, jobs: Sequence[Job]) -> list[Run]:
        """Records that jobs run; leaves out those that have ended or end here."""
        for job in jobs:
            # Before it runs, so that whoever asks it to stop finds it.
            self._jobs.live[job.name] = Live(job)
        continued = [self._continues(job) for job in jobs]
        newest = [self._models.newest(job.request.model) for job in jobs]
        epochs_before = [version.epochs if version else 0 for version in newest]
        with self._storage.database.transaction() as writer:
            begun = [
                history.begin(
                    *(writer, job.name), continued=goes_on, epochs_before=epochs, paused=job.name in self._paused
                )
                for job, goes_on, epochs in zip(jobs, continued, epochs_before, strict=True)
            ]
        self._paused.difference_update(job.name for job in jobs)
        self._jobs.notify()
        runs: list[Run] = []
        for job, found in zip(jobs, begun, strict=True):
            if found is None:
                del self._jobs.live[job.name]
            else:
                runs.append(Run(found, self._jobs.live[job.name]))
                log.info("%s runs from iteration %d: %s, %s", job.name, found.iteration, job.request, job.client)
        return runs

    def _continues(self, job: Job) -> bool:
        newest = self._models.newest(job.request.model)
        optimizer = job.request.config.method.name
        return bool(
            job.request.continue_optimizer and newest and newest.optimizer and newest.optimizer_name == optimizer
        )

    @contextmanager
    def _failing(self, *runs: Run) -> Iterator[None]:
        """Has those jobs fail that are not over, where what it encloses fails."""
        try:
            yield
        except Exception as error:
            told = str(error) if isinstance(error, ServiceError) else "the server has a fault; its log tells more"
            for run in runs:
                if not run.is_over:
                    if not isinstance(error, DivergedError):
                        log.exception("%s failed", run.job.name)
                    self._end(run, JobState.FAILED, told)

    def _end(self, run: Run, state: JobState, error: str = "") -> None:
        """Ends a job, with its best params where these are to be published."""
        best = run.best if state is JobState.SUCCEEDED and run.job.request.config.keep_best else None
        run.is_over = True
        self._journal.put([run.entry(draft=best, publish=best is not None, end=(state, error))], self._run_calls)
        self._paused_training(run.job.name)
        log.info("%s %s after %d iterations. %s", run.job.name, state.value, run.live.iteration, error)

    def _train(self, alike: Sequence[tuple[Run, Start]], networks: int, epochs: int) -> None:
        """Trains jobs that begin at the same iteration, until each is over."""
        runs = [run for run, _ in alike]
        request, taken = runs[0].job.request, runs[0].job.snapshot
        every = request.config.publish_every_iterations
        images, labels = self._datasets.on_device(request.dataset, "train")
        # Once, for all epochs and all jobs.
        validation = validation_of(request, images, labels)
        snapshot_due = time.monotonic() + self._snapshot_seconds
        epoch_began = time.perf_counter() - (taken.epoch_seconds if taken else 0.0)
        for chunks in _chunks_of(alike, networks, images, labels):
            stopping = self._stopping
            pause = Pause(
                seconds=time.perf_counter() - epoch_began,
                publishes=chunks[0].epoch_mean_loss is not None or bool(every and chunks[0].iteration % every == 0),
                snapshots=stopping or time.monotonic() >= snapshot_due,
            )
            entries: list[Entry] = []
            for (run, start), chunk in zip(alike, chunks, strict=False):
                if not run.is_over:
                    with self._failing(run):
                        entries += self._advance(run, start.key, chunk, pause, validation)
            if chunks[0].epoch_mean_loss is not None:
                epoch_began = time.perf_counter()
            if entries:
                self._journal.put(entries, self._run_calls)
                snapshot_due = time.monotonic() + self._snapshot_seconds
            self._run_calls()
            if chunks[0].iteration < request.iterations:
                for run in (run for run in runs if not run.is_over):
                    self._look_at(run, chunks[0], epochs, stopping=stopping)
            if all(run.is_over for run in runs):
                return
        for run in (run for run in runs if not run.is_over):
            self._end(run, JobState.SUCCEEDED)

    def _advance(
        self, run: Run, key: Array, chunk: training.Chunk, pause: Pause, validation: tuple[Array, Array] | None
    ) -> list[Entry]:
        """Takes what a job did in a chunk; gives what is to be written of it.

        Raises:
            DivergedError: Its loss or its params are not finite.
        """
        request = run.job.request
        done_before = (chunk.epoch - 1) * request.iterations_per_epoch
        rate = (chunk.iteration - done_before) / pause.seconds
        if problem := run.take(chunk, rate):
            raise self._diverged(run.job, problem)
        loss = float(chunk.losses[-1])
        self._trained(run.job.name, len(chunk.losses), rate, loss)
        epoch = epoch_of(run, chunk, pause.seconds, validation)
        if not (pause.publishes or pause.snapshots):
            return []
        draft = run.draft(chunk.state, chunk.iteration, loss)
        if not all_finite(draft):
            raise self._diverged(run.job, f"iteration {chunk.iteration} made params that are not finite")
        seconds = 0.0 if epoch else pause.seconds
        entry = run.entry(draft=draft, publish=pause.publishes, key=key, epoch_seconds=seconds, epoch=epoch)
        if epoch:
            run.judge(epoch, draft)
        return [entry]

    def _look_at(self, run: Run, chunk: training.Chunk, epochs: int, *, stopping: bool) -> None:
        """Ends a job that has more to do, where it is to end here, or lets it be taken up again later."""
        ends_epoch = chunk.epoch_mean_loss is not None
        if run.live.stop:
            self._end(run, JobState.CANCELLED, run.live.stop)
        elif ends_epoch and run.is_patience_over(chunk.epoch):
            self._end(run, JobState.SUCCEEDED)
        elif ends_epoch and chunk.epoch == epochs:
            self._paused.add(run.job.name)
            run.is_over = True
        elif stopping:
            run.is_over = True

    def _start(self, run: Run) -> Start:
        """Gives where a job begins, or where it is taken up."""
        job = run.job
        request, config = job.request, job.request.config
        init_key, key = randomness.keys_of_run(config.seed)
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
            key = randomness.key_of(np.frombuffer(taken.key, np.uint32))
            position = training.Position(taken.iteration, losses)
            if run.is_patience_over(taken.iteration // request.iterations_per_epoch):
                # It was, and the server ended before that was written.
                position = replace(position, iteration=request.iterations)
            return Start(training.TrainState(params, opt_state, statistics), position, key)
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
        first = () if newest else (run.entry(draft=run.draft(state, 0, None), publish=True, key=key),)
        return Start(state, training.FIRST, key, first)

    def _opt_state(self, net: network.Network, name: str) -> OptState:
        return opt_state_from_named_arrays(net, self._arrays(name))

    def _arrays(self, name: str) -> Mapping[str, NDArray[Any]]:
        return read_arrays(self._storage.objects.get(name), name)

    def _diverged(self, job: Job, what: str) -> DivergedError:
        self._journal.flush(self._run_calls)
        version = self._models.newest(job.request.model)
        kept = f"; version {version.number} holds the last finite params published" if version else ""
        return DivergedError(f"the training diverged: {what}{kept}; a smaller learning_rate may help")


def _chunks_of(
    alike: Sequence[tuple[Run, Start]], networks: int, images: Array, labels: Array
) -> Iterator[tuple[training.Chunk, ...]]:
    """Trains jobs among so many networks; the chunks of the jobs come first."""
    # The places of those that have ended are filled: what is computed there is nobody's.
    placed = [*alike, *[alike[0]] * (networks - len(alike))]
    return training.train_together(
        placed[0][0].recipe,
        [run.job.request.config for run, _ in placed],
        [start.state for _, start in placed],
        images,
        labels,
        [start.key for _, start in placed],
        [start.position for _, start in placed],
        placed[0][0].job.epochs_before,
    )
