"""Jobs: what was asked, how far it is, and what came of it, safe to read while it runs."""

import threading
import time
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from handgrad.core.config import TrainConfig
from handgrad.core.network import Network
from handgrad.server.errors import NotFoundError
from handgrad.server.models import Version
from handgrad.server.names import next_name

_FLOAT32_BYTES = 4


class JobState(Enum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Epoch:
    """The sum of an epoch: its number, its mean loss, the seconds it took."""

    epoch: int
    mean_loss: float
    seconds: float


@dataclass(frozen=True)
class Progress:
    """How far a job is: epoch, iterations done, the newest loss, iterations a second since the epoch began."""

    epoch: int
    iteration: int
    loss: float
    iterations_per_second: float


@dataclass(frozen=True)
class JobRequest:
    """What was asked, with every default filled in."""

    model: str
    dataset: str
    network: Network
    config: TrainConfig
    train_images: int

    @property
    def iterations_per_epoch(self) -> int:
        """Mini-batches of an epoch."""
        return self.config.iterations_per_epoch(self.train_images)

    @property
    def iterations(self) -> int:
        """Mini-batches of the whole job."""
        return self.config.epochs * self.iterations_per_epoch


@dataclass(frozen=True)
class JobStatus:
    """A job at one moment. Replaced as a whole, never changed, so that a reader sees no half of a change."""

    state: JobState = JobState.QUEUED
    error: str = ""
    version: Version | None = None
    start_time: float | None = None
    end_time: float | None = None


@dataclass(eq=False)
class Job:
    """One run of training on a model. The worker writes it; any thread reads it.

    Attributes:
        name: Its name.
        request: What was asked.
        create_time: Seconds since 1970.
        stop: Set to make the worker end it at its next pause; the text says why.
        changed: Guards everything below, and is notified when it changes.
    """

    name: str
    request: JobRequest
    create_time: float = field(default_factory=time.time)
    stop: str = ""
    changed: threading.Condition = field(default_factory=threading.Condition)
    status: JobStatus = field(default_factory=JobStatus)
    progress: Progress | None = None
    epochs: list[Epoch] = field(default_factory=list)
    _losses: bytearray = field(default_factory=bytearray)

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return len(self._losses) // _FLOAT32_BYTES

    def losses(self, skip: int, limit: int) -> NDArray[np.float32]:
        """Copies the losses of the iterations after the first `skip`, at most `limit` of them."""
        with self.changed:
            wanted = self._losses[skip * _FLOAT32_BYTES : (skip + limit) * _FLOAT32_BYTES]
        return np.frombuffer(wanted, np.float32)

    def update(
        self,
        *,
        losses: NDArray[np.float32] | None = None,
        progress: Progress | None = None,
        epoch: Epoch | None = None,
        status: JobStatus | None = None,
    ) -> None:
        """Records what happened, all of it at once, and wakes those who watch."""
        with self.changed:
            if losses is not None:
                self._losses += losses.tobytes()
            if progress is not None:
                self.progress = progress
            if epoch is not None:
                self.epochs.append(epoch)
            if status is not None:
                self.status = status
            self.changed.notify_all()


class Jobs:
    """The jobs of a server, by name. Every method may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}

    def add(self, request: JobRequest) -> Job:
        """Makes a queued job with a name of the server's."""
        with self._lock:
            job = Job(next_name("job", self._jobs), request)
            self._jobs[job.name] = job
            return job

    def get(self, name: str) -> Job:
        """Gives a job, or raises NotFoundError."""
        with self._lock:
            if name not in self._jobs:
                raise NotFoundError(f"there is no job {name!r}")
            return self._jobs[name]

    def training(self, model: str) -> Job | None:
        """Gives a job on the model that has not ended, or None."""
        with self._lock:
            return next(
                (job for job in self._jobs.values() if job.request.model == model and not job.status.state.ended), None
            )
