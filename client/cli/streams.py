"""The standard streams: whatever is said can be written, and a reader that went away is no error of ours."""

import io
import os
import sys
from pathlib import Path
from typing import Final

_LAST_STANDARD_DESCRIPTOR: Final = 2


def prepare() -> None:
    """Makes the standard streams take any text, also where they are closed or their encoding lacks a character."""
    # A file that is opened takes the place of a standard stream that is closed, and then what is said to it.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD_DESCRIPTOR:
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - the only way
    os.close(descriptor)
    # The bytes of a file's name that are no text come in as Python holds them, and go out as escapes.
    for name, mode, errors in (
        ("stdin", "r", "surrogateescape"),
        ("stdout", "w", "backslashreplace"),
        ("stderr", "w", "backslashreplace"),
    ):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - until the process ends
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def finish() -> None:
    """Drops what could not be written, which Python would try to write again when the process ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            descriptor = os.open(os.devnull, os.O_WRONLY)
            os.dup2(descriptor, stream.fileno())
            os.close(descriptor)
