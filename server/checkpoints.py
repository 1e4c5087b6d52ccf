"""Checkpoints: params saved under a name, in a folder that outlives the server.

A checkpoint is one .safetensors file, written beside its place, synced, and linked into it, so that a name holds a
whole file or none. Its header keeps the SHA-256 of the params, which every load verifies.
"""

import errno
import logging
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from handgrad.core.config import Pixels
from handgrad.core.errors import InvalidInputError
from handgrad.core.network import Network
from handgrad.core.parameter_files import check_named_arrays, read, read_metadata, to_safetensors
from handgrad.server.errors import AlreadyExistsError, DamagedError, ExhaustedError, NotFoundError
from handgrad.server.models import Arrays, Version, joined, sha256

log = logging.getLogger(__name__)

_PARTIAL = ".partial-"
# The last that a Timestamp holds, in seconds since 1970: the end of the year 9999.
_LAST_TIMESTAMP = 253_402_300_799
_PIXELS: dict[str, Pixels | None] = {"": None, "raw": "raw", "unit": "unit"}
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Checkpoint:
    """Params saved under a name. Nothing in it changes.

    Attributes:
        name: The name.
        network: Their architecture.
        arrays: In the report's layout and order.
        pixels: As in the version that was saved.
        sha256: As in the version that was saved.
        save_time: Seconds since 1970.
    """

    name: str
    network: Network
    arrays: Arrays
    pixels: Pixels | None
    sha256: str
    save_time: float


class Checkpoints:
    """The checkpoints in a folder that no other server uses. Every method may be called by any thread."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder if it is not there, and removes what a crash left half-written."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.glob(f"{_PARTIAL}*"):
            log.warning("removing %s, which was never finished", partial.name)
            partial.unlink(missing_ok=True)

    def save(self, name: str, version: Version) -> Checkpoint:
        """Saves a version; when this returns, it is on disk. Saving the same params again changes nothing.

        Raises:
            AlreadyExistsError: The name holds other params.
            ExhaustedError: The disk is full.
            DamagedError: The name holds a file that cannot be read.
        """
        save_time = time.time()
        metadata = {"sha256": version.sha256, "pixels": version.pixels or "", "save_time": repr(save_time)}
        try:
            created = self._write(name, to_safetensors(version.arrays, metadata))
            # Also where the file was there: the one who wrote it may have been killed before it synced the folder.
            self._sync_folder()
        except OSError as error:
            if error.errno in _FULL_DISK:
                raise ExhaustedError(f"checkpoint {name} was not saved: the server's disk is full") from error
            raise
        if created:
            log.info("checkpoint %s saved from %s version %d", name, version.model, version.number)
            return Checkpoint(name, version.network, version.arrays, version.pixels, version.sha256, save_time)
        found = self.load(name)
        if found.sha256 != version.sha256 or found.network != version.network:
            raise AlreadyExistsError(
                f"checkpoint {name} holds other params, and is never overwritten; choose another name"
            )
        return found

    def load(self, name: str) -> Checkpoint:
        """Reads a checkpoint, and verifies its hash.

        Raises:
            NotFoundError: There is none of that name.
            DamagedError: Its file is not what was saved.
        """
        try:
            content = self._path(name).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"there is no checkpoint {name!r}") from None
        try:
            network, arrays = check_named_arrays(read(content, name), name)
            metadata = read_metadata(self._path(name))
            expected, pixels, save_time = _parse_metadata(metadata)
        except (InvalidInputError, KeyError, ValueError) as error:
            raise DamagedError(f"checkpoint {name} is damaged: {error}") from error
        found = sha256(joined(arrays))
        if found != expected:
            raise DamagedError(f"checkpoint {name} is damaged: its params have SHA-256 {found}, saved was {expected}")
        return Checkpoint(name, network, arrays, pixels, found, save_time)

    def _write(self, name: str, content: bytes) -> bool:
        """Writes a file whole, or not at all; says whether it was written or the name was taken."""
        descriptor, partial = tempfile.mkstemp(prefix=_PARTIAL, dir=self._folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # A link, unlike a rename, fails where the name is taken: of two that save at once, one wins.
            os.link(partial, self._path(name))
        except FileExistsError:
            return False
        finally:
            Path(partial).unlink(missing_ok=True)
        return True

    def _sync_folder(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"


def _parse_metadata(metadata: Mapping[str, str]) -> tuple[str, Pixels | None, float]:
    """Gives hash, pixels and time of saving; a KeyError or ValueError where they are not such."""
    save_time = float(metadata["save_time"])
    if not 0 <= save_time <= _LAST_TIMESTAMP:
        raise ValueError(f"it was saved at {save_time}")
    return metadata["sha256"], _PIXELS[metadata["pixels"]], save_time
