"""Jobs: what was asked, how far it is, its history, and what came of it; all of it in the database."""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from handgrad.core.config import TrainConfig
from handgrad.core.network import Network
from handgrad.core.notes import stuck_note
from handgrad.core.signature import Signature, from_json, to_json
from handgrad.server.errors import AlreadyExistsError, ExhaustedError, NotFoundError
from handgrad.server.models import Models, Version
from handgrad.server.storage import Storage, network_from_json, network_to_json

JOBS_KEPT: Final = 10_000
"""Jobs that have ended and are kept. Older ones are forgotten with their history and losses."""

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
    """The sum of an epoch: its number, its mean loss, the seconds it took, and how the validation images did then."""

    epoch: int
    mean_loss: float
    seconds: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None


@dataclass(frozen=True)
class Progress:
    """How far a job is: epoch, iterations done, the newest loss, iterations a second since the epoch began."""

    epoch: int
    iteration: int
    loss: float
    iterations_per_second: float


@dataclass(frozen=True)
class JobRequest:
    """What was asked, with every default filled in.

    Attributes:
        model: Name of the model; empty until the server has named it.
        dataset: Name of the data set.
        network: The network.
        config: The settings.
        train_images: Images of the training split.
        signature: What the model takes, and what its outputs mean, once the job has trained it.
        continue_optimizer: Whether the state of the same optimizer is taken up, where the newest version has it.
        notes: What whoever asked should know, a sentence each.
    """

    model: str
    dataset: str
    network: Network
    config: TrainConfig
    train_images: int
    signature: Signature
    continue_optimizer: bool = True
    notes: tuple[str, ...] = ()

    @property
    def iterations_per_epoch(self) -> int:
        """Mini-batches of an epoch."""
        return self.config.iterations_per_epoch(self.train_images)

    @property
    def iterations(self) -> int:
        """Mini-batches of the whole job."""
        return self.config.epochs * self.iterations_per_epoch


@dataclass(frozen=True)
class Caller:
    """Who asks for a job, and how.

    Attributes:
        client: Jobs of several clients take turns.
        request_id: Unique among the client's requests; empty for none.
        fingerprint: Of what was asked, to tell a repeated request from another with the same id.
        cancel_on_disconnect: Whether the job ends with the call that asked for it.
    """

    client: str
    request_id: str = ""
    fingerprint: str = ""
    cancel_on_disconnect: bool = False


@dataclass(frozen=True)
class Snapshot:
    """A running job as it can be taken up again.

    Attributes:
        params: The object that holds the params.
        optimizer: The object that holds the optimizer's state, or None where it has none.
        key: The words of the key of the permutations: the random state, with the position.
        iteration: Iterations done: the position, with the losses.
        epoch_seconds: What the unfinished epoch took so far.
    """

    params: str
    optimizer: str | None
    key: bytes
    iteration: int
    epoch_seconds: float


@dataclass(frozen=True)
class Job:
    """A job at one moment.

    Attributes:
        number: 1, 2, 3, ... in the order of submission.
        name: Its name.
        request: What was asked.
        client: Who asked.
        request_id: As in Caller.
        cancel_on_disconnect: As in Caller.
        state: Where it stands.
        error: Why it failed or was cancelled.
        stop: Why it is to stop; empty while it is not.
        iteration: Iterations done.
        version: Number of the newest version it published; 0 for none.
        params_sha256: Of that version.
        sequence: Number of its newest event.
        resumes: How often it was taken up again.
        continued: Whether it took up an optimizer's state when it began.
        create_time: Seconds since 1970.
        start_time: When it began to run.
        end_time: When it ended.
        snapshot: Where it can be taken up; None before the first snapshot and after its end.
        best_epoch: Epoch with the smallest validation loss; 0 for none.
        best_loss: That loss.
        best_version: Version that was published then; 0 for none.
        stopped_early: Whether its patience was over.
        sweep: Number of the sweep that it is a member of; None for none.
        epochs_before: Epochs that its model was trained when it began.
        notes: What whoever asked should know: those of the request, and what came to light since.
    """

    number: int
    name: str
    request: JobRequest
    client: str
    request_id: str
    cancel_on_disconnect: bool
    state: JobState
    error: str
    stop: str
    iteration: int
    version: int
    params_sha256: str
    sequence: int
    resumes: int
    continued: bool
    create_time: float
    start_time: float | None
    end_time: float | None
    snapshot: Snapshot | None
    best_epoch: int
    best_loss: float | None
    best_version: int
    stopped_early: bool
    sweep: int | None
    epochs_before: int
    notes: tuple[str, ...]


EventBody: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Event:
    """Something in a job's history: its number, its time, its kind (accepted, started, epoch, published, finished)."""

    sequence: int
    time: float
    kind: str
    body: EventBody


class Live:
    """What is known of a running job beyond what is committed: losses and progress. Any thread may read it.

    The thread that trains the job adds, and the journal's thread commits.
    """

    def __init__(self, job: Job) -> None:
        self._lock = threading.Lock()
        self._committed = job.iteration
        self._losses = bytearray()
        self.progress: Progress | None = None
        self.stop = job.stop

    @property
    def iteration(self) -> int:
        """Iterations done."""
        # Not between the two halves of a commit, which would give fewer: the journal's entries count by this.
        with self._lock:
            return self._committed + len(self._losses) // _FLOAT32_BYTES

    def add(self, losses: NDArray[np.float32], progress: Progress | None) -> None:
        """Adds what was trained."""
        with self._lock:
            self._losses += losses.astype("<f4", copy=False).tobytes()
            self.progress = progress or self.progress

    def commit(self, iteration: int) -> None:
        """Forgets the losses that are committed."""
        with self._lock:
            del self._losses[: (iteration - self._committed) * _FLOAT32_BYTES]
            self._committed = iteration

    def uncommitted(self) -> tuple[int, bytes]:
        """Gives the iterations that are committed, and the losses after these."""
        with self._lock:
            return self._committed, bytes(self._losses)


class Jobs:
    """The jobs of a server. Every method may be called by any thread."""

    def __init__(self, storage: Storage, models: Models, *, max_queued: int) -> None:
        """Takes up what the database holds.

        Args:
            storage: Where they are kept.
            models: Where their models are.
            max_queued: Jobs that may wait.
        """
        self._database = storage.database
        self._models = models
        self._max_queued = max_queued
        self.changed = threading.Condition()
        """Notified of each commit that adds to a job's history."""
        self.turn = 0
        """Counts the notifications."""
        self.live: dict[str, Live] = {}

    def submit(self, request: JobRequest, caller: Caller) -> tuple[Job, bool]:
        """Puts a job in the queue, and makes its model if it does not exist; both are on disk then.

        Returns:
            The job, and whether it is new: False for a request that was made before.

        Raises:
            AlreadyExistsError: The request id was used for another request.
            ExhaustedError: The queue is full.
            PreconditionError: The model has another network.
        """
        model = request.model
        try:
            with self._database.transaction() as writer:
                if known := repeated(writer, "jobs", caller):
                    return job_of(known), False
                self.check_room(writer)
                model = self._models.reserve(writer, model, request.network, request.signature)
                number = insert(writer, request, model, caller)
                job = job_of(writer.execute("SELECT * FROM jobs WHERE number = ?", (number,)).fetchone())
                forget_old(writer)
        except BaseException:
            self._models.forget(model)
            raise
        self.notify()
        return job, True

    def get(self, name: str) -> Job:
        """Gives a job as it was last committed, or raises NotFoundError."""
        rows = self._database.read("SELECT * FROM jobs WHERE name = ?", name)
        if not rows:
            raise NotFoundError(f"there is no job {name!r}")
        return job_of(rows[0])

    def iteration(self, job: Job) -> int:
        """Gives the iterations that a job has done by now, those that are not committed yet included."""
        live = self.live.get(job.name)
        return max(job.iteration, live.iteration) if live else job.iteration

    def page(
        self, size: int, before: int, *, states: Sequence[JobState] = (), model: str = "", client: str = ""
    ) -> list[Job]:
        """Gives jobs, the newest first, at most `size`, with a number below `before`, of any state for none."""
        values: list[Any] = [before]
        where = ["number < ?"]
        if states:
            where.append(f"state IN ({', '.join('?' * len(states))})")
            values += [state.value for state in states]
        for column, wanted in (("model", model), ("client", client)):
            if wanted:
                where.append(f"{column} = ?")
                values.append(wanted)
        query = f"SELECT * FROM jobs WHERE {' AND '.join(where)} ORDER BY number DESC LIMIT ?"  # noqa: S608
        return [job_of(row) for row in self._database.read(query, *values, size)]

    def next(self) -> Job | None:
        """Gives the job to run: one that ran when the server ended, else a queued one; None where none waits.

        Clients take turns: it is the oldest job of the client whose last job began the longest ago.
        """
        rows = self._database.read(
            """SELECT * FROM jobs WHERE state IN ('running', 'queued') ORDER BY
                   state = 'running' DESC,
                   (SELECT COALESCE(MAX(other.start_time), 0) FROM jobs AS other WHERE other.client = jobs.client),
                   number
               LIMIT 1"""
        )
        return job_of(rows[0]) if rows else None

    def counts(self) -> dict[str, int]:
        """Gives the number of jobs in each state."""
        rows = self._database.read("SELECT state, COUNT(*) FROM jobs GROUP BY state")
        return {state.value: 0 for state in JobState} | {row[0]: row[1] for row in rows}

    def on_model(self, model: str) -> Job | None:
        """Gives a job on the model that has not ended, or None."""
        return self._unended("model", model)

    def on_dataset(self, dataset: str) -> Job | None:
        """Gives a job on the data set that has not ended, or None."""
        return self._unended("dataset", dataset)

    def events(self, job: Job, after: int) -> list[Event]:
        """Gives a job's history after an event's number."""
        rows = self._database.read(
            "SELECT * FROM events WHERE job = ? AND sequence > ? ORDER BY sequence LIMIT 1000", job.number, after
        )
        return [Event(row["sequence"], row["time"], row["kind"], json.loads(row["body"])) for row in rows]

    def epochs(self, job: Job) -> list[Epoch]:
        """Gives the epochs that have ended."""
        rows = self._database.read(
            "SELECT body FROM events WHERE job = ? AND kind = 'epoch' ORDER BY sequence", job.number
        )
        return [Epoch(**json.loads(row["body"])) for row in rows]

    def losses(self, job: Job, skip: int, limit: int) -> NDArray[np.float32]:
        """Gives the losses of the iterations after the first `skip`, at most `limit` of them."""
        # First those in memory: what is committed meanwhile is then found in both, not in neither.
        live = self.live.get(job.name)
        committed, tail = live.uncommitted() if live else (2**62, b"")
        rows = self._database.read(
            """SELECT start, data FROM losses
               WHERE job = ? AND start < ? AND start + length(data) / 4 > ? ORDER BY start""",
            job.number,
            min(skip + limit, committed),
            skip,
        )
        begin = rows[0]["start"] if rows else committed
        known = b"".join(row["data"] for row in rows)
        if live:
            known = known[: max(0, committed - begin) * _FLOAT32_BYTES] + tail
        first = (skip - begin) * _FLOAT32_BYTES
        if first < 0:
            return np.empty(0, np.float32)
        return np.frombuffer(known[first : first + limit * _FLOAT32_BYTES], "<f4").astype(np.float32)

    def cancel(self, job: Job, reason: str) -> Job:
        """Ends a job that waits, at once; has one that runs end at its next pause; leaves one that has ended."""
        with self._database.transaction() as writer:
            row = writer.execute("SELECT * FROM jobs WHERE number = ?", (job.number,)).fetchone()
            job = job_of(row)
            if job.state is JobState.QUEUED:
                end(writer, job, JobState.CANCELLED, reason)
            elif job.state is JobState.RUNNING and not job.stop:
                writer.execute("UPDATE jobs SET stop = ? WHERE number = ?", (reason, job.number))
        if live := self.live.get(job.name):
            live.stop = live.stop or reason
        self.notify()
        return self.get(job.name)

    def notify(self) -> None:
        """Wakes those who watch."""
        with self.changed:
            self.turn += 1
            self.changed.notify_all()

    def wait(self, turn: int | None, seconds: float, done: Callable[[], bool]) -> None:
        """Waits until there was a notification since `turn` was read, None for whichever there is; or until `done`.

        Args:
            turn: As it was read.
            seconds: The longest that it waits.
            done: Asked at each notification, and at each time that `changed` wakes it.
        """
        with self.changed:
            self.changed.wait_for(lambda: (turn is not None and self.turn != turn) or done(), seconds)

    def check_room(self, writer: sqlite3.Connection) -> None:
        """Raises ExhaustedError where the queue is full; a sweep counts as one job. A part of a transaction."""
        jobs = writer.execute("SELECT COUNT(*) FROM jobs WHERE state = 'queued' AND sweep IS NULL").fetchone()[0]
        queued = jobs + writer.execute("SELECT COUNT(*) FROM sweeps WHERE state = 'queued'").fetchone()[0]
        if queued >= self._max_queued:
            raise ExhaustedError(f"{queued} jobs are waiting already; try again when some have ended")

    def _unended(self, column: str, name: str) -> Job | None:
        query = f"SELECT * FROM jobs WHERE {column} = ? AND state IN ('queued', 'running') LIMIT 1"  # noqa: S608
        rows = self._database.read(query, name)
        return job_of(rows[0]) if rows else None


def repeated(writer: sqlite3.Connection, table: Literal["jobs", "sweeps"], caller: Caller) -> sqlite3.Row | None:
    """Gives the row that an earlier request with the caller's id made, or None; a part of a transaction.

    Raises:
        AlreadyExistsError: That request asked for something else.
    """
    if not caller.request_id:
        return None
    query = f"SELECT * FROM {table} WHERE client = ? AND request_id = ?"  # noqa: S608
    row: sqlite3.Row | None = writer.execute(query, (caller.client, caller.request_id)).fetchone()
    if row and row["fingerprint"] != caller.fingerprint:
        raise AlreadyExistsError(f"request_id {caller.request_id!r} was used for another request, {row['name']}")
    return row


def record(writer: sqlite3.Connection, job: Job, kind: str, body: EventBody, **columns: Any) -> None:
    """Adds to a job's history, and sets columns of the job; a part of a transaction."""
    assignments = "".join(f", {column} = :{column}" for column in columns)
    values = columns | {"number": job.number}
    writer.execute(f"UPDATE jobs SET sequence = sequence + 1{assignments} WHERE number = :number", values)  # noqa: S608
    writer.execute(
        "INSERT INTO events SELECT number, sequence, ?, ?, ? FROM jobs WHERE number = ?",
        (time.time(), kind, json.dumps(body), job.number),
    )


def begin(
    writer: sqlite3.Connection, name: str, *, continued: bool, epochs_before: int, paused: bool = False
) -> Job | None:
    """Records that a job runs, from its start or from its snapshot; a part of a transaction.

    Args:
        writer: The transaction's connection.
        name: The job's name.
        continued: Whether it takes up an optimizer's state.
        epochs_before: Epochs that its model was trained before it.
        paused: Whether this server has paused it, so that it is not taken up after the end of one.

    Returns:
        The job as it is then; None where it ended meanwhile, or ends here because somebody has asked for that.
    """
    query = "SELECT * FROM jobs WHERE name = ?"
    job = job_of(writer.execute(query, (name,)).fetchone())
    if job.state.ended:
        return None
    if job.stop:
        end(writer, job, JobState.CANCELLED, job.stop)
        return None
    if job.state is JobState.QUEUED:
        now = time.time()
        began = {"state": "running", "start_time": now, "continued": continued, "epochs_before": epochs_before}
        record(writer, job, "started", {}, **began)
    elif job.cancel_on_disconnect:
        end(writer, job, JobState.CANCELLED, "the call that it was to end with ended when the server did")
        return None
    elif not paused:
        writer.execute("UPDATE jobs SET resumes = resumes + 1 WHERE number = ?", (job.number,))
    return job_of(writer.execute(query, (name,)).fetchone())


def end(
    writer: sqlite3.Connection, job: Job, state: JobState, error: str, *, stopped_early: bool = False
) -> list[str | None]:
    """Records that a job ended; a part of a transaction. Gives the objects of its snapshot, which it needs no more."""
    before = _snapshot_objects(writer, job)
    record(
        writer,
        job,
        "finished",
        {},
        state=state.value,
        end_notes=json.dumps(_notes_at_end(writer, job, state)),
        error=error,
        end_time=time.time(),
        stopped_early=stopped_early,
        snapshot_params=None,
        snapshot_optimizer=None,
        snapshot_key=None,
        snapshot_epoch_seconds=None,
    )
    return before


def _notes_at_end(writer: sqlite3.Connection, job: Job, state: JobState) -> list[str]:
    """Returns what came to light of a job that did all it was asked for: that it learned nothing, say."""
    if state is not JobState.SUCCEEDED:
        return []
    rows = writer.execute("SELECT body FROM events WHERE job = ? AND kind = 'epoch' ORDER BY sequence", (job.number,))
    means = [Epoch(**json.loads(row["body"])).mean_loss for row in rows]
    note = stuck_note(job.request.config.loss, job.request.network.outputs, means)
    return [note] if note else []


def advance(writer: sqlite3.Connection, job: Job, iteration: int, losses: NDArray[np.float32]) -> None:
    """Records losses up to an iteration; a part of a transaction."""
    if len(losses):
        writer.execute(
            "INSERT INTO losses VALUES (?, ?, ?)",
            (job.number, iteration - len(losses), losses.astype("<f4", copy=False).tobytes()),
        )
    writer.execute("UPDATE jobs SET iteration = ? WHERE number = ?", (iteration, job.number))


def epoch_ended(writer: sqlite3.Connection, job: Job, epoch: Epoch) -> None:
    """Records that an epoch ended; a part of a transaction."""
    record(writer, job, "epoch", asdict(epoch))


def judge_epoch(writer: sqlite3.Connection, job: Job, epoch: Epoch, version: int) -> None:
    """Records an epoch and the version published at its end as the best, if it is; a part of a transaction."""
    writer.execute(
        """UPDATE jobs SET best_epoch = ?, best_loss = ?, best_version = ?
           WHERE number = ? AND (best_loss IS NULL OR best_loss > ?)""",
        (epoch.epoch, epoch.validation_loss, version, job.number, epoch.validation_loss),
    )


def take_snapshot(writer: sqlite3.Connection, job: Job, taken: Snapshot) -> list[str | None]:
    """Records where a job can be taken up; a part of a transaction, with the losses up to there.

    Returns:
        The objects of the snapshot before, which it needs no more.
    """
    before = _snapshot_objects(writer, job)
    writer.execute(
        """UPDATE jobs SET snapshot_params = ?, snapshot_optimizer = ?, snapshot_key = ?, snapshot_epoch_seconds = ?
           WHERE number = ?""",
        (taken.params, taken.optimizer, taken.key, taken.epoch_seconds, job.number),
    )
    return before


def published(writer: sqlite3.Connection, job: Job, version: Version) -> None:
    """Records that a job published a version; a part of a transaction."""
    body = {
        "version": version.number,
        "params_sha256": version.sha256,
        "publish_time": version.publish_time,
        "iteration": version.iteration,
        "loss": version.loss,
        "size_bytes": version.size_bytes,
        "optimizer_state": version.optimizer is not None,
    }
    record(writer, job, "published", body, version=version.number, params_sha256=version.sha256)


def _snapshot_objects(writer: sqlite3.Connection, job: Job) -> list[str | None]:
    query = "SELECT snapshot_params, snapshot_optimizer FROM jobs WHERE number = ?"
    return list(writer.execute(query, (job.number,)).fetchone())


def insert(
    writer: sqlite3.Connection, request: JobRequest, model: str, caller: Caller, sweep: int | None = None
) -> int:
    """Puts a job on a model in the queue; a part of a transaction. Gives its number."""
    asked = {
        "network": json.loads(network_to_json(request.network)),
        "config": asdict(request.config),
        "train_images": request.train_images,
        "signature": json.loads(to_json(request.signature)),
        "continue_optimizer": request.continue_optimizer,
        "cancel_on_disconnect": caller.cancel_on_disconnect,
    }
    now = time.time()
    number = writer.execute(
        """INSERT INTO jobs
               (name, request, model, dataset, client, request_id, fingerprint, state, create_time, sequence, sweep,
                notes)
           VALUES ('', ?, ?, ?, ?, ?, ?, 'queued', ?, 1, ?, ?)""",
        (
            *(json.dumps(asked), model, request.dataset, caller.client, caller.request_id, caller.fingerprint),
            *(now, sweep, json.dumps(request.notes)),
        ),
    ).lastrowid
    assert number is not None
    writer.execute("UPDATE jobs SET name = ? WHERE number = ?", (f"job-{number}", number))
    writer.execute("INSERT INTO events VALUES (?, 1, ?, 'accepted', '{}')", (number, now))
    return number


def forget_old(writer: sqlite3.Connection) -> None:
    """Forgets the oldest jobs beyond JOBS_KEPT, and sweeps without any; a part of a transaction."""
    writer.execute(
        """DELETE FROM jobs WHERE state NOT IN ('queued', 'running') AND number <= (
               SELECT number FROM jobs WHERE state NOT IN ('queued', 'running')
               ORDER BY number DESC LIMIT 1 OFFSET ?)""",
        (JOBS_KEPT,),
    )
    writer.execute(
        "DELETE FROM sweeps WHERE end_time IS NOT NULL AND NOT EXISTS (SELECT 1 FROM jobs WHERE sweep = sweeps.number)"
    )


def job_of(row: sqlite3.Row) -> Job:
    """Gives the job of a row of the table."""
    asked = json.loads(row["request"])
    network, notes = network_from_json(json.dumps(asked["network"])), tuple(json.loads(row["notes"]))
    snapshot = None
    if row["snapshot_params"] is not None:
        snapshot = Snapshot(
            row["snapshot_params"],
            row["snapshot_optimizer"],
            row["snapshot_key"],
            row["iteration"],
            row["snapshot_epoch_seconds"],
        )
    return Job(
        number=row["number"],
        name=row["name"],
        request=JobRequest(
            model=row["model"],
            dataset=row["dataset"],
            network=network,
            config=TrainConfig(**asked["config"]),
            train_images=asked["train_images"],
            signature=from_json(json.dumps(asked["signature"]), network, "signature"),
            continue_optimizer=asked["continue_optimizer"],
            notes=notes,
        ),
        client=row["client"],
        request_id=row["request_id"],
        cancel_on_disconnect=asked["cancel_on_disconnect"],
        state=JobState(row["state"]),
        error=row["error"],
        stop=row["stop"],
        iteration=row["iteration"],
        version=row["version"],
        params_sha256=row["params_sha256"],
        sequence=row["sequence"],
        resumes=row["resumes"],
        continued=bool(row["continued"]),
        create_time=row["create_time"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        snapshot=snapshot,
        best_epoch=row["best_epoch"],
        best_loss=row["best_loss"],
        best_version=row["best_version"],
        stopped_early=bool(row["stopped_early"]),
        sweep=row["sweep"],
        epochs_before=row["epochs_before"],
        notes=(*notes, *json.loads(row["end_notes"])),
    )
