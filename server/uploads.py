"""Uploads of data sets: files that come in chunks, in calls of any number, across crashes of either side."""

import hashlib
import json
import logging
import os
import shutil
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from handgrad.core.datasets import CLASS_NAMES, FORMATS, NPZ, parse_files, parse_npz, role_of
from handgrad.core.errors import InvalidInputError
from handgrad.server.datasets import Datasets
from handgrad.server.disk import disk_errors, sync_folder, write_all
from handgrad.server.errors import ExhaustedError, NotFoundError, PreconditionError
from handgrad.server.storage import Storage

log = logging.getLogger(__name__)

CHUNK_BYTES: Final = 2**20
SECONDS_KEPT: Final = 7 * 24 * 3600
"""How long an upload that nobody ends is kept."""

MAX_UPLOADS: Final = 64
_SHA256_DIGITS: Final = 64


@dataclass(frozen=True)
class File:
    """A file of an upload: what it is called, its length, its SHA-256."""

    name: str
    size_bytes: int
    sha256: str

    @property
    def role(self) -> str:
        """Which part of a data set it is, as `role_of` says."""
        return role_of(self.name)


@dataclass(frozen=True)
class Upload:
    """An upload: its name, the data set's name (empty for one made from its SHA-256), and its files."""

    name: str
    dataset: str
    files: tuple[File, ...]

    @property
    def files_sha256(self) -> str:
        """Hash of all files and of which part of the data set each is, in any order."""
        parts = sorted(f"{file.role} {file.sha256}\n" for file in self.files)
        return hashlib.sha256("".join(parts).encode()).hexdigest()


class Uploads:
    """The uploads of a server. Every method may be called by any thread."""

    def __init__(self, storage: Storage, datasets: Datasets, *, max_bytes: int) -> None:
        """Forgets the uploads that nobody has ended for long.

        Args:
            storage: Where they are kept.
            datasets: Where they lead.
            max_bytes: The most that the files of one upload may have together, as they are sent.
        """
        self._storage = storage
        self._datasets = datasets
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._folder = storage.folder / "uploads"
        self._folder.mkdir(exist_ok=True)
        with storage.database.transaction() as writer:
            writer.execute("DELETE FROM uploads WHERE create_time < ?", (time.time() - SECONDS_KEPT,))
        known = {row["name"] for row in storage.database.read("SELECT name FROM uploads")}
        for folder in self._folder.iterdir():
            if folder.name not in known:
                log.warning("removing upload %s, which was never finished", folder.name)
                shutil.rmtree(folder, ignore_errors=True)

    def start(self, dataset: str, files: tuple[File, ...]) -> tuple[str, list[int]] | str:
        """Begins an upload, or takes it up again.

        Returns:
            The upload's name, and the bytes of each file that are there; or the data set's name alone, where the server
            has it already.

        Raises:
            InvalidInputError: The files are not those of a data set.
            AlreadyExistsError: The name holds another data set.
            ExhaustedError: The files are too large, or too many uploads are open.
        """
        _check_files(files)
        size_bytes = sum(file.size_bytes for file in files)
        if size_bytes > self._max_bytes:
            raise ExhaustedError(f"the data set's files have {size_bytes} bytes together; at most {self._max_bytes}")
        told = json.dumps([vars(file) for file in files])
        # The same files get the same name, so that whoever lost its server finds its upload by asking again.
        upload = Upload(hashlib.sha256(f"{dataset}\n{told}".encode()).hexdigest()[:32], dataset, files)
        if known := self._datasets.add_known(dataset, upload.files_sha256):
            return known
        with self._lock:
            folder = self._folder / upload.name
            if not folder.is_dir():
                self._storage.objects.check_room(2 * size_bytes)
                with disk_errors("uploading"):
                    folder.mkdir()
                    sync_folder(self._folder)
            with self._storage.database.transaction() as writer:
                others = writer.execute("SELECT COUNT(*) FROM uploads WHERE name != ?", (upload.name,)).fetchone()[0]
                if others >= MAX_UPLOADS:
                    raise ExhaustedError(f"{MAX_UPLOADS} uploads are open already; finish one")
                writer.execute(
                    "INSERT INTO uploads VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (upload.name, dataset, told, time.time()),
                )
        return upload.name, [self._received(upload, index) for index in range(len(files))]

    def add(self, name: str, index: int, offset: int, chunk: bytes, sha256: str) -> int:
        """Takes bytes of a file; gives how many of it are there then.

        Raises:
            NotFoundError: There is no such upload.
            InvalidInputError: The bytes are damaged, or not those that come next.
        """
        upload = self._get(name)
        if not 0 <= index < len(upload.files):
            raise InvalidInputError("file_index", f"from 0 to {len(upload.files) - 1}; got {index}")
        if not 0 < len(chunk) <= CHUNK_BYTES:
            raise InvalidInputError("chunk", f"1 to {CHUNK_BYTES} bytes; got {len(chunk)}")
        if hashlib.sha256(chunk).hexdigest() != sha256:
            raise InvalidInputError("sha256", "it is not that of the bytes in `chunk`: they were damaged on their way")
        with self._lock:
            received = self._received(upload, index)
            if not 0 <= offset <= received:
                raise InvalidInputError("offset_bytes", f"from 0 to {received}, the bytes that are there; got {offset}")
            if offset + len(chunk) > upload.files[index].size_bytes:
                raise InvalidInputError("chunk", f"it goes past the file's {upload.files[index].size_bytes} bytes")
            new = chunk[received - offset :]
            if new:
                with disk_errors("uploading"):
                    self._append(upload, index, received, new)
            return received + len(new)

    def finish(self, name: str) -> str:
        """Checks and reads the files of an upload, and keeps the data set; gives its name.

        Raises:
            NotFoundError: There is no such upload.
            PreconditionError: Bytes are missing.
            InvalidInputError: A file is malformed, or is not that of its SHA-256.
            AlreadyExistsError: The name holds another data set.
            ExhaustedError: The disk is full.
        """
        upload = self._get(name)
        for index, file in enumerate(upload.files):
            received = self._received(upload, index)
            if received != file.size_bytes:
                raise PreconditionError(f"{file.name} has {received} of its {file.size_bytes} bytes; send the others")
        try:
            contents = [self._content(upload, index) for index in range(len(upload.files))]
            if len(contents) == 1:
                dataset = parse_npz(contents[0], upload.files[0].name)
            else:
                roles = [file.role for file in upload.files]
                dataset = parse_files(dict(zip(roles, contents, strict=True)))
        except InvalidInputError:
            self._forget(upload)
            raise
        kept = self._datasets.add(upload.dataset, dataset, upload.files_sha256)
        self._forget(upload)
        return kept

    def _get(self, name: str) -> Upload:
        rows = self._storage.database.read("SELECT * FROM uploads WHERE name = ?", name)
        if not rows:
            raise NotFoundError(f"there is no upload {name[:80]!r}")
        files: list[dict[str, Any]] = json.loads(rows[0]["files"])
        return Upload(rows[0]["name"], rows[0]["dataset"], tuple(File(**file) for file in files))

    def _received(self, upload: Upload, index: int) -> int:
        try:
            return (self._folder / upload.name / str(index)).stat().st_size
        except FileNotFoundError:
            return 0

    def _append(self, upload: Upload, index: int, received: int, chunk: bytes) -> None:
        path = self._folder / upload.name / str(index)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            write_all(descriptor, chunk)
        except OSError:
            # A part of it may be there: the next try begins where this one did.
            os.ftruncate(descriptor, received)
            raise
        finally:
            os.close(descriptor)

    def _content(self, upload: Upload, index: int) -> bytes:
        with disk_errors("uploading"):
            content = (self._folder / upload.name / str(index)).read_bytes() if upload.files[index].size_bytes else b""
        file = upload.files[index]
        found = hashlib.sha256(content).hexdigest()
        if found != file.sha256:
            raise InvalidInputError(file.name, f"what arrived has SHA-256 {found}, not {file.sha256}; send it again")
        return content

    def _forget(self, upload: Upload) -> None:
        with self._lock:
            with self._storage.database.transaction() as writer:
                writer.execute("DELETE FROM uploads WHERE name = ?", (upload.name,))
            shutil.rmtree(self._folder / upload.name, ignore_errors=True)


def _check_files(files: tuple[File, ...]) -> None:
    roles = [file.role for file in files]
    for index, file in enumerate(files):
        if file.size_bytes < 0:
            raise InvalidInputError(f"files[{index}].size_bytes", f"0 or more; got {file.size_bytes}")
        if len(file.sha256) != _SHA256_DIGITS or not set(file.sha256) <= set("0123456789abcdef"):
            raise InvalidInputError(
                f"files[{index}].sha256", f"{_SHA256_DIGITS} lower-case hexadecimal digits; got {file.sha256[:80]!r}"
            )
    if roles == [NPZ]:
        return
    wanted = max(FORMATS, key=lambda group: sum(role in group for role in roles))
    for index, (file, role) in enumerate(zip(files, roles, strict=True)):
        if role not in (*wanted, CLASS_NAMES) or role in roles[:index]:
            raise InvalidInputError(
                f"files[{index}].file",
                f"one .npz file, or each once of {', '.join(wanted)}, with or without .gz, and {CLASS_NAMES}; got "
                f"{file.name[:80]!r}",
            )
    for name in wanted:
        if name not in roles:
            raise InvalidInputError(
                name, f"the file is missing; {FORMATS[wanted]} are {', '.join(wanted)}, gzipped or not"
            )
