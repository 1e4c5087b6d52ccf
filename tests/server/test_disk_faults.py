"""A disk that fails: whatever write, sync or rename it is, nothing that was answered is lost."""

import errno
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import handgrad
from handgrad.server import disk
from handgrad.server.app import Server
from handgrad.server.database import Database
from handgrad.v1 import job_pb2

SETTINGS: dict[str, Any] = {"hidden": [4], "batch_size": 10, "learning_rate": 0.1, "momentum": 0.5}
FUNCTIONS = ("open", "write", "fsync", "replace")


def arrays(seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {"W_1": generator.normal(size=(3, 12)), "b_1": generator.normal(size=(3, 1))}


class Faults:
    """Stands for `os` in the storage: the calls from `first` to `last`, counted from 1, fail."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.calls = 0
        self.first, self.last = 0, 0

    def __getattr__(self, name: str) -> Any:
        function = getattr(os, name)
        if name not in FUNCTIONS:
            return function

        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.first <= self.calls <= self.last:
                raise OSError(self._number, os.strerror(self._number))
            return function(*arguments)

        return call


@pytest.fixture(params=[errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def faults(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Faults:
    faults = Faults(request.param)
    monkeypatch.setattr(disk, "os", faults)
    return faults


def check(hg: handgrad.Client, answered: dict[str, str]) -> None:
    """Everything that was answered is there, with its hash."""
    for name, sha256 in answered.items():
        loaded = hg.load_params(name).params_version
        assert loaded.params_sha256 == sha256
        hg.get_params(loaded.model)
        hg.delete_model(loaded.model)


def test_each_write_of_an_upload_and_a_save_may_fail(tmp_path: Path, faults: Faults) -> None:
    server = Server("127.0.0.1:0", tmp_path / "data")
    answered: dict[str, str] = {}
    refused: list[str] = []
    with handgrad.connect(server.address) as hg:
        before = faults.calls
        hg.upload_params(arrays(0), "mine")
        answered["zero"] = hg.save_params("mine", "zero").params_sha256
        each = faults.calls - before
        # Opened, written, synced, renamed; the folder opened and synced.
        assert each >= 6
        for number in range(1, each + 1):
            faults.first = faults.last = faults.calls + number
            try:
                hg.upload_params(arrays(number), "mine")
                answered[f"save-{number}"] = hg.save_params("mine", f"save-{number}").params_sha256
            except (handgrad.ExhaustedError, handgrad.UnavailableError) as error:
                refused.append(str(error))
            faults.first = faults.last = 0
            # The same works once the disk does.
            uploaded = hg.upload_params(arrays(number), "mine").params_version
            answered[f"again-{number}"] = hg.save_params("mine", f"again-{number}").params_sha256
            assert uploaded.params_sha256 == answered[f"again-{number}"]
        # Each of them was answered with an error that says why.
        assert len(refused) == each
        assert all("the server's disk" in text for text in refused)
        check(hg, answered)
    server.stop()
    assert not list((tmp_path / "data/objects").glob("partial-*"))
    server = Server("127.0.0.1:0", tmp_path / "data")
    with handgrad.connect(server.address) as hg:
        check(hg, answered)
    server.stop()


def test_a_job_outlasts_a_disk_that_fails_for_a_while(tmp_path: Path, tiny_folder: Path, faults: Faults) -> None:
    server = Server("127.0.0.1:0", tmp_path / "data")
    with handgrad.connect(server.address) as hg:
        hg.upload_dataset(tiny_folder, "tiny")
        expected = hg.train(dataset="tiny", epochs=40, model="undisturbed", **SETTINGS).wait()
        job = hg.train(dataset="tiny", epochs=40, model="disturbed", **SETTINGS)
        events = job.events()
        next(events)
        # Three tries of the journal fail, at whatever it is about.
        faults.first, faults.last = faults.calls + 1, faults.calls + 3
        kinds = [type(event).__name__ for event in events]
        found = job.info
        assert found.state == job_pb2.JOB_STATE_SUCCEEDED
        assert faults.calls > faults.last
        assert found.params_sha256 == expected.params_sha256
        assert found.version == expected.version == 41
        assert kinds.count("Epoch") == 40
        # Progress may have been the event before.
        assert kinds.count("ParamsVersion") in (40, 41)
        assert hg.get_params("disturbed", 41).version.params_sha256 == found.params_sha256
    server.stop()


@pytest.fixture
def failing_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes SQLite fail at statements that begin so, until it is called with nothing."""
    failing = ""

    class Connection:
        def __init__(self, connection: sqlite3.Connection) -> None:
            self._connection = connection

        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            if failing and statement.lstrip().startswith(failing):
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error
            return self._connection.execute(statement, *values)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

    original = Database.__init__

    def opened(self: Database, path: Path) -> None:
        original(self, path)
        self._writer = Connection(self._writer)  # type: ignore[assignment]

    def fail(beginning: str) -> None:
        nonlocal failing
        failing = beginning

    monkeypatch.setattr(Database, "__init__", opened)
    yield fail
    fail("")


@pytest.mark.parametrize("statement", ["BEGIN", "INSERT", "UPDATE", "DELETE", "COMMIT"])
def test_each_statement_of_the_database_may_fail(
    tmp_path: Path, tiny_folder: Path, failing_database: Callable[[str], None], statement: str
) -> None:
    server = Server("127.0.0.1:0", tmp_path / "data", keep_versions=2)
    with handgrad.connect(server.address) as hg:
        hg.reconnect_seconds = 0
        hg.upload_dataset(tiny_folder, "tiny")
        hg.upload_params(arrays(0), "mine")
        saved = hg.save_params("mine", "one")
        failing_database(statement)
        calls: list[Callable[[], object]] = [
            lambda: hg.upload_params(arrays(1), "mine"),
            lambda: hg.upload_params(arrays(1), "new"),
            lambda: hg.train(dataset="tiny", epochs=1, model="trained", **SETTINGS),
            lambda: hg.save_params("mine", "two"),
            lambda: hg.delete_checkpoint("one"),
        ]
        refused: list[str] = []
        for call in calls:
            try:
                call()
            except handgrad.UnavailableError as error:
                refused.append(str(error))
        assert refused
        assert all("the server's disk fails" in text for text in refused)
        # Reading goes on.
        assert hg.get_params("mine").version.params_sha256
        failing_database("")
        assert (
            hg.upload_params(arrays(2), "mine").params_version.params_sha256
            == hg.get_params("mine").version.params_sha256
        )
        hg.upload_params(arrays(3), "new")
        assert hg.train(dataset="tiny", epochs=1, model="trained", **SETTINGS).wait().version >= 2
        if statement not in ("INSERT", "UPDATE"):
            assert hg.load_params("one").params_version.params_sha256 == saved.params_sha256
    server.stop()


def test_a_full_database_is_a_full_disk(tmp_path: Path) -> None:
    server = Server("127.0.0.1:0", tmp_path / "data")
    with handgrad.connect(server.address) as hg:
        saved = hg.save_params(hg.upload_params(arrays(0), "mine").params_version.model, "one")
        writer = server._storage.database._writer
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages}")
        told = ""
        for number in range(200):
            try:
                hg.upload_params(arrays(number), f"model-{number}")
            except handgrad.ExhaustedError as error:
                told = str(error)
                break
        assert told == "the server's disk is full"
        writer.execute("PRAGMA max_page_count = 1000000")
        hg.upload_params(arrays(1), "again")
        assert hg.load_params("one").params_version.params_sha256 == saved.params_sha256
    server.stop()


def test_a_server_stops_also_while_its_disk_fails(tmp_path: Path, tiny_folder: Path, faults: Faults) -> None:
    server = Server("127.0.0.1:0", tmp_path / "data")
    with handgrad.connect(server.address) as hg:
        hg.upload_dataset(tiny_folder, "tiny")
        job = hg.train(dataset="tiny", epochs=100_000, **SETTINGS)
        next(job.events())
        faults.first, faults.last = faults.calls + 1, 10**9
        time.sleep(0.2)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        stopping.join(60)
        assert not stopping.is_alive()
    faults.last = 0
    server = Server("127.0.0.1:0", tmp_path / "data")
    with handgrad.connect(server.address) as hg:
        hg.cancel_job(job.name)
        with pytest.raises(handgrad.JobCancelledError):
            hg.job(job.name).wait()
        version = hg.get_params(job.model)
        data = b"".join(array.tobytes() for array in version.arrays.values())
        assert hashlib.sha256(data).hexdigest() == version.version.params_sha256
    server.stop()
