"""Files that survive a crash: written beside their place, synced, renamed, the folder synced.

An object is a file named by the SHA-256 of its content. Nothing that a caller sends is any part of its path.
"""

import errno
import hashlib
import logging
import os
import secrets
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from handgrad.server.errors import DamagedError, ExhaustedError, StorageError

log = logging.getLogger(__name__)

_PARTIAL = "partial-"
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turns the operating system's errors into ExhaustedError for a full disk and StorageError for any other."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise ExhaustedError(f"{what}: the server's disk is full") from error
        raise StorageError(f"{what}: the server's disk fails: {error.strerror or error}") from error


def write_durably(path: Path, content: bytes) -> None:
    """Puts content at a path, whole or not at all: when this returns it is on disk, whatever happens next."""
    partial = path.with_name(f"{_PARTIAL}{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)  # noqa: PTH105 - beside the other calls of the system
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    sync_folder(path.parent)


def write_all(descriptor: int, content: bytes) -> None:
    """Writes all of it: the system may take less at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_folder(folder: Path) -> None:
    """Makes sure that the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Objects:
    """The objects in a folder that no other server uses. Every method may be called by any thread.

    A new object is nobody's until the database refers to it; while `put` is open it is held, so that it is not taken
    for one that nobody needs.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Makes the folder, and removes what a crash left half-written."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.glob(f"{_PARTIAL}*"):
            log.warning("removing %s, which was never finished", partial.name)
            partial.unlink(missing_ok=True)
        self._sizes = {path.name: path.stat().st_size for path in folder.iterdir()}

    @property
    def size_bytes(self) -> int:
        """Bytes of all objects together."""
        with self._lock:
            return sum(self._sizes.values())

    def check_room(self, size_bytes: int) -> None:
        """Raises ExhaustedError where so many bytes more would exceed what the server may keep."""
        if self.size_bytes + size_bytes > self._max_bytes:
            raise ExhaustedError(
                f"{size_bytes} bytes more would exceed the {self._max_bytes} that this server keeps on disk; "
                "delete models, checkpoints or data sets"
            )

    @contextmanager
    def put(self, *contents: bytes) -> Iterator[list[str]]:
        """Writes objects, gives their names, and holds them until the block ends.

        Raises:
            ExhaustedError: The disk is full.
            StorageError: The disk fails.
        """
        names = [hashlib.sha256(content).hexdigest() for content in contents]
        with self._lock:
            self._held.update(names)
        try:
            for name, content in zip(names, contents, strict=True):
                self._write(name, content)
            yield names
        finally:
            with self._lock:
                self._held.subtract(names)
                self._held += Counter()

    def get(self, name: str) -> bytes:
        """Reads an object, and verifies its hash.

        Raises:
            DamagedError: It is missing, or is not what was written.
            StorageError: The disk fails.
        """
        try:
            with disk_errors("reading"):
                content = (self._folder / name).read_bytes()
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise DamagedError(f"the file {name} is missing from the server's data directory") from error
            raise
        if hashlib.sha256(content).hexdigest() != name:
            raise DamagedError(f"the file {name} in the server's data directory is damaged")
        return content

    def damaged(self, names: Iterable[str]) -> list[str]:
        """Gives those objects that are missing or are not what was written."""
        found: list[str] = []
        for name in names:
            try:
                self.get(name)
            except (DamagedError, StorageError):
                found.append(name)
        return found

    def keep_only(self, needed: Collection[str]) -> None:
        """Deletes every object that is neither needed nor held."""
        with self._lock:
            for name in [name for name in self._sizes if name not in needed and not self._held[name]]:
                self._delete(name)

    def drop(self, names: Collection[str]) -> None:
        """Deletes objects, unless they are held."""
        with self._lock:
            for name in names:
                if name in self._sizes and not self._held[name]:
                    self._delete(name)

    def _delete(self, name: str) -> None:
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError as error:
            # The next start tries again.
            log.warning("cannot delete %s: %s", name, error)
        else:
            del self._sizes[name]

    def _write(self, name: str, content: bytes) -> None:
        path = self._folder / name
        with disk_errors("writing"):
            # Read again before it is relied on: a damaged file is mended by the next save of the same.
            if name in self._sizes and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == name:
                sync_folder(self._folder)
                return
            write_durably(path, content)
        with self._lock:
            self._sizes[name] = len(content)
