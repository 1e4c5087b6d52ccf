"""Writes what running jobs do to disk, on a thread of its own, in order, several pauses to a transaction.

Nobody is told of an epoch, a version or an end before the snapshot that belongs to it is on disk, in the same
transaction. So a crash takes every watcher and the job itself back to the same moment.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from handgrad.server import jobs as journal_of
from handgrad.server.errors import ServiceError
from handgrad.server.jobs import Epoch, Job, Jobs, JobState, Live, Snapshot
from handgrad.server.models import Data, Draft, Models, Version, data_of
from handgrad.server.storage import Storage

log = logging.getLogger(__name__)

MAX_PENDING: Final = 4
"""Entries that may wait for the disk before a thread that trains waits for it; each may then add some."""

SECONDS_BETWEEN_TRIES: Final = 0.5


@dataclass(frozen=True)
class Entry:
    """What a job did since its entry before.

    Attributes:
        job: The job.
        live: Its live part.
        iteration: Iterations done.
        losses: The losses since the entry before, `[iterations]`.
        draft: The params and the optimizer's state at this iteration, for its snapshot; None at its end.
        publish: Whether these are published.
        key: As in Snapshot.
        epoch_seconds: As in Snapshot.
        epoch: The epoch that ended here.
        end: The state that the job ends in, and why.
        stopped_early: Whether it ends since its patience is over.
    """

    job: Job
    live: Live
    iteration: int
    losses: NDArray[np.float32]
    draft: Draft | None = None
    publish: bool = False
    key: bytes = b""
    epoch_seconds: float = 0.0
    epoch: Epoch | None = None
    end: tuple[JobState, str] | None = None
    stopped_early: bool = False


class Journal:
    """Writes entries. `put` and `flush` may be called by every thread that trains; a job's entries come from one."""

    def __init__(self, storage: Storage, jobs: Jobs, models: Models, failed: Callable[[], None]) -> None:
        """Takes what it writes to, and a function to call whenever the disk fails."""
        self._storage = storage
        self._jobs = jobs
        self._models = models
        self._failed = failed
        self._changed = threading.Condition()
        self._pending: deque[Entry] = deque()
        self._hurried = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def hurry(self) -> None:
        """Lets nobody wait any more: the server is stopping, and its disk may fail."""
        self._hurried = True

    def close(self) -> None:
        """Writes what is pending, once more if the disk fails, and ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def put(self, entries: Sequence[Entry], meanwhile: Callable[[], None]) -> None:
        """Adds entries, which are written in one transaction.

        Waits for room where the disk is slow or fails, and calls `meanwhile` as it waits.
        """
        self._wait(MAX_PENDING, meanwhile)
        with self._changed:
            self._pending.extend(entries)
            self._changed.notify_all()

    def flush(self, meanwhile: Callable[[], None]) -> None:
        """Waits until everything is written, that of other threads too."""
        self._wait(1, meanwhile)

    def _wait(self, room: int, meanwhile: Callable[[], None]) -> None:
        while True:
            with self._changed:
                if len(self._pending) < room or self._hurried:
                    return
                self._changed.wait(0.02)
            meanwhile()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._pending or self._closing):
                    self._changed.wait()
                entries, closing = list(self._pending), self._closing
            if not entries:
                return
            try:
                self._write(entries)
            except Exception as error:
                # Whatever it is, what is not written stays pending: the disk may have room again in a moment.
                # A disk that fails is told in a line; a fault of ours with its traceback.
                ours = not isinstance(error, ServiceError)
                log.error("the journal cannot be written: %s", error, exc_info=ours)  # noqa: TRY400
                self._failed()
                if closing:
                    return
                with self._changed:
                    self._changed.wait(SECONDS_BETWEEN_TRIES)
            else:
                with self._changed:
                    for _ in entries:
                        self._pending.popleft()
                    self._changed.notify_all()

    def _write(self, entries: list[Entry]) -> None:
        published: list[tuple[Version, Data]] = []
        released: list[str | None] = []
        with ExitStack() as held:
            named = [
                held.enter_context(self._storage.objects.put(*entry.draft.contents())) if entry.draft else []
                for entry in entries
            ]
            with self._storage.database.transaction() as writer:
                for entry, names in zip(entries, named, strict=True):
                    journal_of.advance(writer, entry.job, entry.iteration, entry.losses)
                    if entry.epoch:
                        journal_of.epoch_ended(writer, entry.job, entry.epoch)
                    if entry.draft:
                        optimizer = names[1] if len(names) > 1 else None
                        taken = Snapshot(names[0], optimizer, entry.key, entry.iteration, entry.epoch_seconds)
                        released += journal_of.take_snapshot(writer, entry.job, taken)
                    if entry.draft and entry.publish:
                        version = self._models.insert(writer, entry.draft, names)
                        journal_of.published(writer, entry.job, version)
                        if entry.epoch and entry.epoch.validation_loss is not None:
                            journal_of.judge_epoch(writer, entry.job, entry.epoch, version.number)
                        published.append((version, data_of(entry.draft.arrays)))
                    if entry.end:
                        released += journal_of.end(writer, entry.job, *entry.end, stopped_early=entry.stopped_early)
            self._models.announce(published)
        for entry in entries:
            entry.live.commit(entry.iteration)
            if entry.end:
                self._jobs.live.pop(entry.job.name, None)
        self._jobs.notify()
        try:
            self._storage.release(released)
        except ServiceError as error:
            # They are removed at the next start.
            log.warning("cannot remove old snapshots: %s", error)
