"""Files that are written whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from handgrad.client.errors import InvalidArgumentError


def check_place(file: Path) -> None:
    """Raises InvalidArgumentError where a file cannot be written at a place, as far as that can be known before."""
    try:
        place = _place(file)
        folder = place.parent
        if not folder.is_dir():
            problem = f"there is no folder {folder}"
        elif place.is_dir():
            problem = f"{file} is a folder"
        elif place.exists() and not place.is_file():
            problem = f"{file} is a device or a pipe; name a file"
        elif not os.access(folder, os.W_OK | os.X_OK):
            problem = f"the folder {folder} cannot be written to"
        else:
            return
    except OSError as error:
        # A name that is too long, or a folder that cannot be read.
        problem = f"{file}: {error.strerror}"
    raise InvalidArgumentError(problem, str(file))


@contextmanager
def whole_file(file: Path) -> Iterator[IO[bytes]]:
    """Opens a file to be written; it takes its place when the block ends, and never if the block fails.

    Where the place is a symbolic link, the file that it leads to is replaced, and the link stays.

    Raises:
        InvalidArgumentError: The place holds a device or a pipe.
        OSError: It cannot be written.
    """
    place = _place(file)
    if place.exists() and not place.is_file() and not place.is_dir():
        raise InvalidArgumentError(f"{file} is a device or a pipe; name a file", str(file))
    # A short name: a file's own may be as long as names can be. Made by open(), it has the permissions of any new file.
    partial = place.with_name(f".handgrad-{secrets.token_hex(8)}")
    with _told_of(file):
        opened = partial.open("xb")
    try:
        with opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        # Closed before: some systems rename no file that is open.
        with _told_of(file):
            partial.replace(place)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _place(file: Path) -> Path:
    return Path(os.path.realpath(file)) if file.is_symlink() else file


@contextmanager
def _told_of(file: Path) -> Iterator[None]:
    """Has an error name the file that was asked for, not the one beside it."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error
