"""The SQLite database of a data directory: jobs, their history, losses, and the names of everything that is kept.

Writers take turns on one connection. Readers have another, and see what was last committed (SQLite's WAL mode), so that
no reader waits for a disk.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from handgrad.core.errors import InvalidInputError
from handgrad.server.errors import ExhaustedError, StorageError
from handgrad.server.takeover import write_signatures

VERSION: Final = 4
"""Of the schema. A database of an older one is brought up to it; one of a newer is refused, never guessed at."""

_SCHEMA: Final = """
CREATE TABLE sweeps (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,       -- sweep-NUMBER
    model TEXT NOT NULL,             -- that the best member becomes
    dataset TEXT NOT NULL,
    asked TEXT NOT NULL,             -- JSON: the settings that each member has of its own, the halving, what ranks them
    client TEXT NOT NULL,
    request_id TEXT NOT NULL,
    fingerprint TEXT NOT NULL,       -- as in jobs
    state TEXT NOT NULL,
    error TEXT NOT NULL DEFAULT '',
    halved_epochs INTEGER NOT NULL DEFAULT 0, -- epochs of the newest halving
    version INTEGER NOT NULL DEFAULT 0,
    create_time REAL NOT NULL,
    end_time REAL
);
CREATE UNIQUE INDEX sweeps_by_request_id ON sweeps (client, request_id) WHERE request_id != '';
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,       -- job-NUMBER
    request TEXT NOT NULL,           -- JSON of a JobRequest
    model TEXT NOT NULL,
    dataset TEXT NOT NULL,
    client TEXT NOT NULL,
    request_id TEXT NOT NULL,
    fingerprint TEXT NOT NULL,       -- SHA-256 of what was asked, to tell a repeated request from another
    state TEXT NOT NULL,
    error TEXT NOT NULL DEFAULT '',
    stop TEXT NOT NULL DEFAULT '',   -- why it is to stop; empty while it is not
    create_time REAL NOT NULL,
    start_time REAL,
    end_time REAL,
    sequence INTEGER NOT NULL,       -- of its newest event
    version INTEGER NOT NULL DEFAULT 0,
    params_sha256 TEXT NOT NULL DEFAULT '',
    resumes INTEGER NOT NULL DEFAULT 0,
    continued INTEGER NOT NULL DEFAULT 0,
    iteration INTEGER NOT NULL DEFAULT 0,
    -- The snapshot at `iteration`, from which it is resumed. NULL before the first and after the end.
    snapshot_params TEXT,
    snapshot_optimizer TEXT,
    snapshot_key BLOB,
    snapshot_epoch_seconds REAL,
    best_epoch INTEGER NOT NULL DEFAULT 0,   -- with the smallest validation loss; 0 for none
    best_loss REAL,
    best_version INTEGER NOT NULL DEFAULT 0,
    stopped_early INTEGER NOT NULL DEFAULT 0,
    sweep INTEGER REFERENCES sweeps (number), -- that it is a member of; NULL for none
    epochs_before INTEGER NOT NULL DEFAULT 0, -- epochs that its model was trained when it began
    notes TEXT NOT NULL DEFAULT '[]', -- JSON: what whoever asked should know, a sentence each
    end_notes TEXT NOT NULL DEFAULT '[]' -- JSON: what came to light since
);
CREATE INDEX jobs_by_sweep ON jobs (sweep, number) WHERE sweep IS NOT NULL;
CREATE INDEX jobs_by_state ON jobs (state, number);
CREATE INDEX jobs_by_client ON jobs (client, start_time);
CREATE INDEX jobs_by_model ON jobs (model, state);
CREATE INDEX jobs_by_snapshot ON jobs (snapshot_params) WHERE snapshot_params IS NOT NULL;
CREATE INDEX jobs_by_optimizer ON jobs (snapshot_optimizer) WHERE snapshot_optimizer IS NOT NULL;
CREATE UNIQUE INDEX jobs_by_request_id ON jobs (client, request_id) WHERE request_id != '';
CREATE TABLE events (
    job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
    sequence INTEGER NOT NULL,
    time REAL NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,              -- JSON
    PRIMARY KEY (job, sequence)
) WITHOUT ROWID;
CREATE TABLE losses (
    job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
    start INTEGER NOT NULL,          -- iterations before the first of these
    data BLOB NOT NULL,              -- float32, little-endian
    PRIMARY KEY (job, start)
) WITHOUT ROWID;
CREATE TABLE models (
    name TEXT PRIMARY KEY,
    network TEXT,                    -- JSON; NULL once it is deleted
    newest INTEGER NOT NULL DEFAULT 0,
    signature TEXT                   -- JSON: that of the newest version; NULL once it is deleted
);
CREATE TABLE versions (
    model TEXT NOT NULL REFERENCES models (name),
    number INTEGER NOT NULL,
    params TEXT NOT NULL,            -- the object
    optimizer TEXT,                  -- the object with the optimizer's state; NULL where it has none
    optimizer_name TEXT NOT NULL,
    params_sha256 TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    signature TEXT NOT NULL,         -- JSON
    publish_time REAL NOT NULL,
    job TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    loss REAL,
    epochs INTEGER NOT NULL,         -- that they were trained in all jobs together
    PRIMARY KEY (model, number)
) WITHOUT ROWID;
CREATE INDEX versions_by_params ON versions (params);
CREATE INDEX versions_by_optimizer ON versions (optimizer);
CREATE TABLE checkpoints (
    name TEXT PRIMARY KEY,
    network TEXT NOT NULL,
    -- As in the version that it was saved from:
    model TEXT NOT NULL,
    number INTEGER NOT NULL,
    params TEXT NOT NULL,
    optimizer TEXT,
    optimizer_name TEXT NOT NULL,
    params_sha256 TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    signature TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    loss REAL,
    epochs INTEGER NOT NULL,
    save_time REAL NOT NULL,
    certificate TEXT                 -- JSON; NULL where the network has none
);
CREATE INDEX checkpoints_by_params ON checkpoints (params);
CREATE INDEX checkpoints_by_optimizer ON checkpoints (optimizer);
CREATE TABLE datasets (
    name TEXT PRIMARY KEY,
    object TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    files_sha256 TEXT NOT NULL,      -- of the files it came in
    summary TEXT NOT NULL,           -- JSON: its shape and sizes
    create_time REAL NOT NULL
);
CREATE TABLE uploads (
    name TEXT PRIMARY KEY,
    dataset TEXT NOT NULL,
    files TEXT NOT NULL,             -- JSON: name, size and SHA-256 of each
    create_time REAL NOT NULL
);
CREATE TABLE certificates (
    network TEXT NOT NULL,           -- JSON
    handgrad TEXT NOT NULL,          -- the version whose gradients were judged
    body TEXT NOT NULL,              -- JSON
    PRIMARY KEY (network, handgrad)
) WITHOUT ROWID;
"""

_MIGRATIONS: Final = {
    1: """
ALTER TABLE jobs ADD COLUMN best_epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN best_loss REAL;
ALTER TABLE jobs ADD COLUMN best_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN stopped_early INTEGER NOT NULL DEFAULT 0;
ALTER TABLE checkpoints ADD COLUMN certificate TEXT;
CREATE TABLE certificates (
    network TEXT NOT NULL, handgrad TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (network, handgrad)
) WITHOUT ROWID;
""",
    2: """
CREATE TABLE sweeps (
    number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, model TEXT NOT NULL, dataset TEXT NOT NULL,
    asked TEXT NOT NULL, client TEXT NOT NULL, request_id TEXT NOT NULL, fingerprint TEXT NOT NULL, state TEXT NOT NULL,
    error TEXT NOT NULL DEFAULT '', halved_epochs INTEGER NOT NULL DEFAULT 0, version INTEGER NOT NULL DEFAULT 0,
    create_time REAL NOT NULL, end_time REAL
);
CREATE UNIQUE INDEX sweeps_by_request_id ON sweeps (client, request_id) WHERE request_id != '';
ALTER TABLE jobs ADD COLUMN sweep INTEGER REFERENCES sweeps (number);
CREATE INDEX jobs_by_sweep ON jobs (sweep, number) WHERE sweep IS NOT NULL;
""",
    # The columns `pixels` of versions and checkpoints stay behind, and nothing reads them.
    3: """
ALTER TABLE jobs ADD COLUMN epochs_before INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN notes TEXT NOT NULL DEFAULT '[]';
ALTER TABLE jobs ADD COLUMN end_notes TEXT NOT NULL DEFAULT '[]';
ALTER TABLE models ADD COLUMN signature TEXT;
ALTER TABLE versions ADD COLUMN signature TEXT NOT NULL DEFAULT '';
ALTER TABLE versions ADD COLUMN epochs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE checkpoints ADD COLUMN signature TEXT NOT NULL DEFAULT '';
ALTER TABLE checkpoints ADD COLUMN epochs INTEGER NOT NULL DEFAULT 0;
""",
}
"""What brings a database from a version to the next."""

_TAKEOVERS: Final = {3: write_signatures}
"""What is done after the statements of a version, where they do not say it all."""


class Database:
    """A database. Every method may be called by any thread."""

    def __init__(self, path: Path) -> None:
        """Opens it, or makes it.

        Raises:
            InvalidInputError: It is damaged, or of another version of handgrad; its field is `data_dir`.
        """
        self._write_lock = threading.RLock()
        self._read_lock = threading.Lock()
        try:
            self._writer, self._reader = _connect(path), _connect(path)
            with self.transaction() as writer:
                found = writer.execute("PRAGMA user_version").fetchone()[0]
                if found > VERSION:
                    raise InvalidInputError("data_dir", f"{path} is of schema {found}; this handgrad has {VERSION}")
                if found == 0:
                    _run_script(writer, _SCHEMA)
                for old in range(found or VERSION, VERSION):
                    _run_script(writer, _MIGRATIONS[old])
                    if old in _TAKEOVERS:
                        _TAKEOVERS[old](writer)
                writer.execute(f"PRAGMA user_version = {VERSION}")
            damage = self._writer.execute("PRAGMA quick_check").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise InvalidInputError("data_dir", f"{path} cannot be used: {error}") from error
        if damage != "ok":
            raise InvalidInputError("data_dir", f"{path} is damaged: {damage}")

    def close(self) -> None:
        """Closes it."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Gives the connection for writing. What is done with it is on disk when the block ends, or not done at all.

        Raises:
            ExhaustedError: The disk is full.
            StorageError: The disk fails.
        """
        with self._write_lock:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except sqlite3.OperationalError as error:
                raise _translated(error) from error
            finally:
                # SQLite itself rolls back after some errors.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    def read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Gives the rows of a query, as they were last committed."""
        with self._read_lock, closing(self._reader.cursor()) as cursor:
            try:
                return cursor.execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                raise _translated(error) from error


def _run_script(writer: sqlite3.Connection, script: str) -> None:
    for statement in script.split(";\n"):
        writer.execute(statement)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL syncs the log at each commit: what was answered outlives also a loss of power.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _translated(error: sqlite3.OperationalError) -> Exception:
    if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
        return ExhaustedError("the server's disk is full")
    return StorageError(f"the server's disk fails: {error}")
