"""Sweeps: many jobs in one call, each on a model of its own; the best becomes a version of the sweep's model."""

import json
import math
import sqlite3
import time
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from statistics import fmean
from typing import Any, Final

from handgrad.core import training
from handgrad.core.config import TrainConfig
from handgrad.core.errors import InvalidInputError
from handgrad.core.network import Network
from handgrad.core.operations.dropout import Dropout
from handgrad.core.signature import Transform
from handgrad.server.errors import NotFoundError, PreconditionError, ServiceError
from handgrad.server.jobs import (
    Caller,
    Epoch,
    Job,
    JobRequest,
    Jobs,
    JobState,
    end,
    forget_old,
    insert,
    job_of,
    repeated,
)
from handgrad.server.models import Models, data_of
from handgrad.server.storage import Storage

MAX_MEMBERS: Final = 1024
MAX_EPOCHS: Final = 100_000
MAX_FACTOR: Final = 1024


@dataclass(frozen=True)
class Halving:
    """When members are stopped: after `first_epochs`, and at each `factor` times as many; one in `factor` goes on."""

    first_epochs: int
    factor: int

    def check(self, epochs: int) -> None:
        """Raises InvalidInputError where a number is out of its range, or stops no member of so many epochs."""
        if not 1 <= self.first_epochs <= MAX_EPOCHS:
            raise InvalidInputError("halving.first_epochs", f"from 1 to {MAX_EPOCHS}; got {self.first_epochs}")
        if not 2 <= self.factor <= MAX_FACTOR:
            raise InvalidInputError("halving.factor", f"from 2 to {MAX_FACTOR}; got {self.factor}")
        if not self.pauses(epochs):
            raise InvalidInputError(
                "halving.first_epochs",
                f"less than the members' epochs, {epochs}, so that some can be stopped; got {self.first_epochs}",
            )

    def pauses(self, epochs: int) -> list[int]:
        """Gives the numbers of epochs after which members are stopped, of jobs with so many."""
        pauses = []
        at = self.first_epochs
        while at < epochs:
            pauses.append(at)
            at *= self.factor
        return pauses


class Measure(Enum):
    """What members are ranked by: the name of what an epoch has of it."""

    MEAN_LOSS = "mean_loss"
    VALIDATION_LOSS = "validation_loss"
    VALIDATION_ACCURACY = "validation_accuracy"

    def badness(self, measured: float) -> float:
        """Returns a number that is the smaller, the better what was measured; NaN is the worst."""
        if math.isnan(measured):
            return math.inf
        return -measured if self is Measure.VALIDATION_ACCURACY else measured


def measure_of(members: Sequence[JobRequest], asked: Measure | None) -> Measure:
    """Returns what compares members, which is what was asked for, if anything was.

    Losses of another name are other numbers. While training, a loss is also one of other targets with another
    label_smoothing, of other images with another augmentation, and of a network that other means keep from fitting them
    with another weight_decay or dropout: the validation images see nothing of these.

    Raises:
        InvalidInputError: It compares unlike things, or needs validation images.
    """
    kept = sorted({member.config.validation_images for member in members})
    if len(kept) > 1:
        raise InvalidInputError(
            "validation_images",
            f"one number for all members, which are ranked by the same images; got {kept[0]} and {kept[-1]}",
        )
    loss = _differing(members, ("loss",))
    measure = asked
    if measure is None and kept != [0]:
        measure = Measure.VALIDATION_ACCURACY if loss else Measure.VALIDATION_LOSS
    elif measure is None:
        measure = Measure.MEAN_LOSS
    if measure is not Measure.MEAN_LOSS and kept == [0]:
        raise InvalidInputError("measure", f"{measure.value} needs validation_images")
    differing = {
        Measure.MEAN_LOSS: loss + _differing(members, _OF_TRAINING) + _differing_dropout(members),
        Measure.VALIDATION_LOSS: loss,
        Measure.VALIDATION_ACCURACY: [],
    }[measure]
    if differing:
        better = Measure.VALIDATION_ACCURACY if loss else Measure.VALIDATION_LOSS
        needed = ", which needs validation_images" if kept == [0] else ""
        raise InvalidInputError(
            "measure" if asked else "validation_images",
            f"{measure.value} does not compare members that differ in {', '.join(differing)}; "
            f"rank them by {better.value}{needed}",
        )
    return measure


_OF_TRAINING: Final = ("label_smoothing", "weight_decay", "flip", "crop", "shift")


def _differing(members: Sequence[JobRequest], settings: Iterable[str]) -> list[str]:
    return [name for name in settings if len({getattr(member.config, name) for member in members}) > 1]


def _differing_dropout(members: Sequence[JobRequest]) -> list[str]:
    rates = {tuple(leaf.rate for leaf in member.network.leaves if isinstance(leaf, Dropout)) for member in members}
    return ["dropout"] if len(rates) > 1 else []


def check_seeds(members: Sequence[JobRequest]) -> None:
    """Raises InvalidInputError where no two members differ in their seed alone."""
    seeds: dict[Hashable, set[int]] = {}
    for member in members:
        seeds.setdefault(_but_for_seed(member), set()).add(member.config.seed)
    if all(len(each) == 1 for each in seeds.values()):
        raise InvalidInputError("mean_of_seeds", "members that differ in their seed alone; got no two such")


def _but_for_seed(request: JobRequest) -> Hashable:
    return replace(request, model="", config=replace(request.config, seed=0))


@dataclass(frozen=True)
class SweepRequest:
    """What was asked, with every default filled in.

    Attributes:
        model: Name of the model that the best becomes; empty for one named as the sweep.
        dataset: Name of the data set.
        members: What each member trains; their models are not named yet.
        own: The names of the settings that each member has of its own.
        halving: How hopeless members are stopped; None for not at all.
        measure: What members are ranked by.
        mean_of_seeds: Whether those that differ in their seed alone are ranked together, by the mean of their measure.
    """

    model: str
    dataset: str
    members: tuple[JobRequest, ...]
    own: tuple[tuple[str, ...], ...]
    halving: Halving | None
    measure: Measure
    mean_of_seeds: bool


@dataclass(frozen=True)
class Member:
    """A member at one moment.

    Attributes:
        job: Its job.
        own: The names of the settings that it has of its own.
        epoch: The newest that ended.
        judged: The epoch that it is ranked by: the best where it keeps that one, otherwise the newest.
        rank: Its place, 1 for the best; 0 for none.
        measured: What it is ranked by: its own measure, or the mean over seeds; None where it has no rank.
    """

    job: Job
    own: tuple[str, ...]
    epoch: Epoch | None
    judged: Epoch | None
    rank: int = 0
    measured: float | None = None


@dataclass(frozen=True)
class Group:
    """Jobs that train together.

    Attributes:
        jobs: Those that go on, one or more.
        networks: How many there were when they began to train together, which decides the last bits of each.
    """

    jobs: tuple[Job, ...]
    networks: int


@dataclass(frozen=True)
class Sweep:
    """A sweep at one moment.

    Attributes:
        number: 1, 2, 3, ... in the order of submission.
        name: Its name.
        model: As in SweepRequest.
        version: That was published of it; 0 for none yet.
        dataset: As in SweepRequest.
        client: Who asked.
        state: Where it stands.
        error: Why it has no best member.
        create_time: Seconds since 1970.
        end_time: When it ended.
        halving: As in SweepRequest.
        halved_epochs: Epochs of the newest halving; 0 for none.
        measure: As in SweepRequest. None in a list of sweeps for one that older versions began.
        mean_of_seeds: As in SweepRequest.
        members: In the order in which they were asked for; empty in a list of sweeps.
    """

    number: int
    name: str
    model: str
    version: int
    dataset: str
    client: str
    state: JobState
    error: str
    create_time: float
    end_time: float | None
    halving: Halving | None
    halved_epochs: int
    measure: Measure | None
    mean_of_seeds: bool
    members: tuple[Member, ...] = ()

    def alike(self, members: Iterable[Member]) -> list[list[Member]]:
        """Returns members by which are ranked together, in the order of the first of each."""
        found: dict[Hashable, list[Member]] = {}
        for member in members:
            key = _but_for_seed(member.job.request) if self.mean_of_seeds else member.job.number
            found.setdefault(key, []).append(member)
        return list(found.values())


class Sweeps:
    """The sweeps of a server. Every method may be called by any thread."""

    def __init__(self, storage: Storage, jobs: Jobs, models: Models) -> None:
        """Takes where they are kept, and the jobs and models that their members are."""
        self._storage = storage
        self._database = storage.database
        self._jobs = jobs
        self._models = models

    def submit(self, request: SweepRequest, caller: Caller) -> Sweep:
        """Puts a sweep in the queue, and makes its members' models; all of it is on disk then.

        Raises:
            AlreadyExistsError: The request id was used for another request.
            ExhaustedError: The queue is full.
            PreconditionError: The model has another network than a member.
        """
        held, takes = self._models.network(request.model), self._models.signature(request.model)
        if held and any(member.network != held for member in request.members):
            raise PreconditionError(f"model {request.model} has another network than a member; choose another name")
        if takes and not all(takes.agrees(member.signature) for member in request.members):
            raise PreconditionError(
                f"model {request.model} takes {takes.takes} ({takes.transform}), which is not what the members take; "
                "choose another name"
            )
        asked = {
            "own": request.own,
            "halving": asdict(request.halving) if request.halving else None,
            "measure": request.measure.value,
            "mean_of_seeds": request.mean_of_seeds,
        }
        reserved: list[str] = []
        try:
            with self._database.transaction() as writer:
                if known := repeated(writer, "sweeps", caller):
                    return self._with_members(known)
                self._jobs.check_room(writer)
                number = writer.execute(
                    """INSERT INTO sweeps
                           (name, model, dataset, asked, client, request_id, fingerprint, state, create_time)
                       VALUES ('', '', ?, ?, ?, ?, ?, 'queued', ?)""",
                    (
                        *(request.dataset, json.dumps(asked), caller.client, caller.request_id, caller.fingerprint),
                        time.time(),
                    ),
                ).lastrowid
                name = f"sweep-{number}"
                writer.execute(
                    "UPDATE sweeps SET name = ?, model = ? WHERE number = ?", (name, request.model or name, number)
                )
                for index, member in enumerate(request.members, start=1):
                    reserved.append(self._models.reserve(writer, f"{name}.{index}", member.network, member.signature))
                    insert(writer, member, reserved[-1], Caller(caller.client), number)
                forget_old(writer)
        except BaseException:
            for model in reserved:
                self._models.forget(model)
            raise
        self._jobs.notify()
        return self.get(name)

    def get(self, name: str) -> Sweep:
        """Gives a sweep as it was last committed, its members ranked, or raises NotFoundError."""
        rows = self._database.read("SELECT * FROM sweeps WHERE name = ?", name)
        if not rows:
            raise NotFoundError(f"there is no sweep {name!r}")
        return self._with_members(rows[0])

    def page(self, size: int, before: int) -> list[Sweep]:
        """Gives sweeps without members, the newest first, at most `size`, with a number below `before`."""
        rows = self._database.read("SELECT * FROM sweeps WHERE number < ? ORDER BY number DESC LIMIT ?", before, size)
        return [_sweep_of(row) for row in rows]

    def cancel(self, sweep: Sweep, reason: str) -> None:
        """Ends all members, as `Jobs.cancel` ends one."""
        # The last first: none of those that wait begins meanwhile.
        for member in reversed(sweep.members):
            if not member.job.state.ended:
                self._jobs.cancel(member.job, reason)

    def pauses(self, number: int) -> list[int]:
        """Gives the numbers of epochs at which members wait for the others, from now on; the last, 0, is their end."""
        sweep = self._of(number)
        most = max(member.job.request.config.epochs for member in sweep.members)
        pauses = sweep.halving.pauses(most) if sweep.halving else []
        return [*(epochs for epochs in pauses if epochs > sweep.halved_epochs), 0]

    def groups(self, number: int, epochs: int) -> list[Group]:
        """Gives the members that have not ended, nor done so many epochs yet, 0 for all, by which train together.

        From one halving to the next the groups are the same whenever this is asked, whatever was cancelled or failed
        meanwhile: so a sweep that is taken up again goes on to the same bits.
        """
        sweep = self._of(number)
        trained = [member for member in sweep.members if _has_part(member, sweep.halved_epochs)]
        groups: list[Group] = []
        for indices in training.partition([_loop_of(each.job.request) for each in trained]):
            left = [
                member.job
                for member in (trained[index] for index in indices)
                if not member.job.state.ended and not (epochs and _epochs_done(member) >= epochs)
            ]
            if left:
                groups.append(Group(tuple(left), len(indices)))
        return sorted(groups, key=lambda group: group.jobs[0].number)

    def halve(self, number: int, epochs: int) -> None:
        """Stops those members that are not among the best one in `factor` after so many epochs, all or none.

        Those that are ranked together go on or stop together.
        """
        sweep = self._of(number)
        assert sweep.halving is not None
        hopeful = [member for member in sweep.members if member.rank and member.job.state is not JobState.CANCELLED]
        groups = sweep.alike(sorted(hopeful, key=lambda member: member.rank))
        kept = math.ceil(len(groups) / sweep.halving.factor)
        released: list[str | None] = []
        with self._database.transaction() as writer:
            for member in (member for together in groups[kept:] for member in together):
                if member.job.state is JobState.RUNNING:
                    told = f"stopped by halving: rank {member.rank} of {len(hopeful)} after epoch {epochs}"
                    released += end(writer, member.job, JobState.CANCELLED, told)
                    self._jobs.live.pop(member.job.name, None)
            writer.execute("UPDATE sweeps SET halved_epochs = ? WHERE number = ?", (epochs, number))
        self._jobs.notify()
        self._storage.release(released)

    def finish_those_over(self) -> None:
        """Publishes the best member of each sweep whose members have all ended, and ends the sweep."""
        rows = self._database.read(
            """SELECT * FROM sweeps WHERE end_time IS NULL AND NOT EXISTS (
                   SELECT 1 FROM jobs WHERE sweep = sweeps.number AND state IN ('queued', 'running'))"""
        )
        for row in rows:
            self._finish(self._with_members(row))

    def _finish(self, sweep: Sweep) -> None:
        best = next((member for member in sweep.members if member.rank == 1), None)
        if best is None:
            cancelled = all(member.job.state is JobState.CANCELLED for member in sweep.members)
            state = JobState.CANCELLED if cancelled else JobState.FAILED
            told = "it was cancelled before an epoch ended" if cancelled else "no member trained an epoch"
            with self._database.transaction() as writer:
                _end(writer, sweep, state, told)
            self._jobs.notify()
            return
        draft = replace(self._models.draft_of(self._models.get(best.job.request.model)), model=sweep.model)
        with self._storage.objects.put(*draft.contents()) as names:
            reserved = False
            try:
                with self._database.transaction() as writer:
                    self._models.reserve(writer, sweep.model, best.job.request.network, draft.signature)
                    reserved = True
                    version = self._models.insert(writer, draft, names)
                    _end(writer, sweep, JobState.SUCCEEDED, "", version.number)
            except PreconditionError as error:
                with self._database.transaction() as writer:
                    _end(writer, sweep, JobState.FAILED, f"its best member, {best.job.name}, is not published: {error}")
            except ServiceError:
                if reserved:
                    self._models.forget(sweep.model)
                raise
            else:
                self._models.announce([(version, data_of(draft.arrays))])
        self._jobs.notify()

    def _of(self, number: int) -> Sweep:
        return self._with_members(self._database.read("SELECT * FROM sweeps WHERE number = ?", number)[0])

    def _with_members(self, row: sqlite3.Row) -> Sweep:
        # A body begins with its epoch. It is not JSON to SQLite: a validation loss may be infinite.
        rows = self._database.read(
            """SELECT jobs.*,
                   (SELECT body FROM events WHERE job = jobs.number AND kind = 'epoch'
                    ORDER BY sequence DESC LIMIT 1) AS epoch,
                   CASE WHEN best_epoch AND request LIKE '%"keep_best": true%' THEN
                       (SELECT body FROM events WHERE job = jobs.number AND kind = 'epoch'
                        AND body LIKE '{"epoch": ' || best_epoch || ',%' ORDER BY sequence DESC LIMIT 1) END AS best
               FROM jobs WHERE sweep = ? ORDER BY number""",
            row["number"],
        )
        own = json.loads(row["asked"])["own"]
        members = [
            _member_of(each, names)
            # The newest members are those that are kept longest.
            for each, names in zip(rows, own[len(own) - len(rows) :], strict=True)
        ]
        sweep = _sweep_of(row)
        if sweep.measure is None:
            validated = all(member.job.request.config.validation_images for member in members)
            sweep = replace(sweep, measure=Measure.VALIDATION_LOSS if validated else Measure.MEAN_LOSS)
        return replace(sweep, members=ranked(sweep, members))


def _member_of(row: sqlite3.Row, own: Sequence[str]) -> Member:
    job, epoch, best = job_of(row), _epoch_of(row["epoch"]), _epoch_of(row["best"])
    return Member(job, tuple(own), epoch, best or epoch)


def _epoch_of(body: str | None) -> Epoch | None:
    return Epoch(**json.loads(body)) if body else None


def ranked(sweep: Sweep, members: Sequence[Member]) -> tuple[Member, ...]:
    """Ranks members that have ended an epoch and did not fail: stopped ones last, by the epochs they did.

    Those that are ranked together get one place after the other, by their own measure; its mean decides between them
    and others. A member that was stopped has no part in the mean where another of them was not. Where one of them
    failed, they stand behind those of which none did: their settings do not work with every seed.
    """
    measure = sweep.measure
    assert measure is not None

    def measured(member: Member) -> float:
        found: float | None = getattr(member.judged, measure.value)
        return math.nan if found is None else found

    def place(member: Member) -> tuple[bool, int, float]:
        stopped = member.job.state is JobState.CANCELLED
        return stopped, -_epochs_done(member) if stopped else 0, measure.badness(measured(member))

    groups: list[tuple[tuple[bool, bool, int, float], float, list[Member]]] = []
    for together in sweep.alike(members):
        going = [member for member in together if member.job.state is not JobState.FAILED]
        found = sorted((member for member in going if member.epoch), key=place)
        if found:
            stopped, epochs, _ = place(found[0])
            mean = fmean(measured(member) for member in found if place(member)[0] == stopped)
            groups.append(((stopped, len(going) < len(together), epochs, measure.badness(mean)), mean, found))
    groups.sort(key=lambda group: group[0])
    order = [(member.job.name, mean) for _, mean, found in groups for member in found]
    ranks = {name: (rank, mean) for rank, (name, mean) in enumerate(order, start=1)}
    return tuple(
        replace(member, rank=ranks[member.job.name][0], measured=ranks[member.job.name][1])
        if member.job.name in ranks
        else member
        for member in members
    )


def _loop_of(request: JobRequest) -> tuple[Network, Transform, TrainConfig]:
    return request.network, request.signature.transform, request.config


def _has_part(member: Member, halved_epochs: int) -> bool:
    """Says whether a member trained on after the newest halving: it is not one of those that had ended by then."""
    job, done = member.job, _epochs_done(member)
    stopped = halved_epochs and done == halved_epochs and job.state is JobState.CANCELLED and not job.stop
    return not job.state.ended or (done >= halved_epochs and not stopped)


def _epochs_done(member: Member) -> int:
    return member.epoch.epoch if member.epoch else 0


def _end(writer: sqlite3.Connection, sweep: Sweep, state: JobState, error: str, version: int = 0) -> None:
    writer.execute(
        "UPDATE sweeps SET state = ?, error = ?, version = ?, end_time = ? WHERE number = ?",
        (state.value, error, version, time.time(), sweep.number),
    )


def _sweep_of(row: sqlite3.Row) -> Sweep:
    asked: dict[str, Any] = json.loads(row["asked"])
    return Sweep(
        number=row["number"],
        name=row["name"],
        model=row["model"],
        version=row["version"],
        dataset=row["dataset"],
        client=row["client"],
        state=JobState(row["state"]),
        error=row["error"],
        create_time=row["create_time"],
        end_time=row["end_time"],
        halving=Halving(**asked["halving"]) if asked["halving"] else None,
        halved_epochs=row["halved_epochs"],
        measure=Measure(asked["measure"]) if "measure" in asked else None,
        mean_of_seeds=asked.get("mean_of_seeds", False),
    )
