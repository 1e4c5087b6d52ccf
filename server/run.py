"""A job on the device: where it starts, what it did since it was last written down, and what it does at a pause."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from handgrad.core import randomness, training
from handgrad.core.evaluation import evaluate
from handgrad.core.parameter_files import opt_state_to_named_arrays, to_named_arrays
from handgrad.server.errors import ServiceError
from handgrad.server.jobs import Epoch, Job, JobRequest, JobState, Live, Progress
from handgrad.server.journal import Entry
from handgrad.server.models import Draft, OptimizerState


class DivergedError(ServiceError):
    """A job's loss or params are no longer finite."""


class Start(NamedTuple):
    """Where a job begins or is taken up.

    Attributes:
        state: Params, optimizer state and statistics.
        position: How far it is.
        key: Of the epochs' permutations, and of what is random in their iterations.
        entries: What is to be written before it trains.
    """

    state: training.TrainState
    position: training.Position
    key: Array
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Pause:
    """What happens between two chunks, to all jobs that train together.

    Attributes:
        seconds: Since their epoch began.
        publishes: Whether their params are published.
        snapshots: Whether their states are kept even if not.
    """

    seconds: float
    publishes: bool
    snapshots: bool


class Run:
    """A job on the device: what it did since its last entry in the journal."""

    def __init__(self, job: Job, live: Live) -> None:
        self.job = job
        self.live = live
        request = job.request
        self.recipe = training.recipe_of(request.network, request.signature.transform, request.config)
        self.best_epoch, self._best_loss = job.best_epoch, job.best_loss
        self.best: Draft | None = None
        """The best epoch's params, once another epoch came after it."""
        self._best_draft: Draft | None = None
        self.stopped_early = False
        self.is_over = False
        """Whether it does nothing more: it has ended, or is to be taken up again."""
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

    def is_patience_over(self, epoch: int) -> bool:
        """Says whether the job ends after an epoch, since none of the newest had a smaller validation loss."""
        patience = self.job.request.config.patience
        self.stopped_early = bool(patience and self.best_epoch and epoch - self.best_epoch >= patience)
        return self.stopped_early

    def draft(self, state: training.TrainState, iteration: int, loss: float | None) -> Draft:
        """Copies a state from the device."""
        request = self.job.request
        network = request.network
        kept = OptimizerState(self.recipe.optimizer.name, opt_state_to_named_arrays(network, state.opt_state))
        arrays = to_named_arrays(network, state.params, state.statistics)
        epochs = self.job.epochs_before + math.ceil(iteration / request.iterations_per_epoch)
        only_newest = self.job.sweep is not None
        return Draft(
            request.model, arrays, request.signature, kept, self.job.name, iteration, loss, only_newest, epochs
        )

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


def validation_of(request: JobRequest, images: Array, labels: Array) -> tuple[Array, Array] | None:
    """Gives the images that are kept for validation, and their labels; None where none are."""
    if not request.config.validation_images:
        return None
    kept = randomness.split_indices(request.train_images, request.config.validation_images)[1]
    return images[kept], labels[kept]


def epoch_of(run: Run, chunk: training.Chunk, seconds: float, validation: tuple[Array, Array] | None) -> Epoch | None:
    """Gives the epoch that a chunk ends, with how the validation images do then; None where it ends none."""
    if chunk.epoch_mean_loss is None:
        return None
    request = run.job.request
    epoch = Epoch(chunk.epoch, chunk.epoch_mean_loss, seconds)
    if validation is None:
        return epoch
    found = evaluate(
        request.network,
        chunk.state.params,
        chunk.state.statistics,
        *validation,
        request.signature.transform,
        request.config.objective,
    )
    return replace(epoch, validation_loss=found.loss, validation_accuracy=found.accuracy)


def all_finite(draft: Draft) -> bool:
    """Says whether params and optimizer state hold no NaN and no infinity."""
    arrays = [*draft.arrays.values(), *(draft.optimizer.arrays.values() if draft.optimizer else ())]
    return all(np.isfinite(array).all() for array in arrays)
