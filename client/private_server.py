"""A server of one's own: a process on a loopback port that lives as long as its client."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Final

from handgrad.client.errors import UnavailableError

STOP_SECONDS: Final = 10.0
_LISTENING = "listening on "


def check_server_installed() -> None:
    """Raises UnavailableError where this installation has the client only."""
    if importlib.util.find_spec("jax") is None:
        raise UnavailableError(
            "the server is not installed here: pip install 'handgrad[server]', or name the address of one that runs"
        )


def server_environment() -> dict[str, str]:
    """Gives the environment of a server's process: this one's, and large pages of memory where Linux has them.

    An iteration of a convolutional network takes tens of MB from malloc and gives them back, and each new small page is
    a fault: without them `cnn` took 1.2 times as long.
    """
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} | os.environ


class _Folder:
    """A temporary folder that goes away with the process that made it, and not with a forked child of its.

    tempfile's own is also removed when such a child ends, under the server's feet.
    """

    def __init__(self) -> None:
        self.name = tempfile.mkdtemp(prefix="handgrad-")
        self.cleanup = weakref.finalize(self, _remove, self.name, os.getpid())


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


class PrivateServer:
    """Starts a server, and stops it when it is closed. It also stops if this process ends in any other way."""

    def __init__(self) -> None:
        check_server_installed()
        self._owner = os.getpid()
        try:
            self._folder = _Folder()
        except OSError as error:
            raise UnavailableError(
                f"the private server has no folder for its data: {error}; name one that can be written in $TMPDIR"
            ) from error
        self._log = Path(self._folder.name) / "server.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    # -P: a file of the caller's that is named like a module must not be taken for it.
                    *(sys.executable, "-P", "-m", "handgrad.server"),
                    *("--address", "127.0.0.1:0", "--data-dir", self._folder.name, "--private"),
                    *("--parent", str(self._owner)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=server_environment(),
                # Ctrl-C in a terminal reaches every process of its session, but how to stop is the client's to say.
                start_new_session=True,
            )
        assert self._process.stdout is not None
        try:
            line = self._process.stdout.readline().decode()
        except BaseException:
            # A Ctrl-C, most likely.
            self._process.kill()
            self._process.wait()
            self._release()
            raise
        if not line.startswith(_LISTENING):
            status = self._process.wait()
            log_text = self._log.read_text(errors="replace").strip()
            self._release()
            raise UnavailableError(f"the private server did not start (exit status {status}): {log_text[-2000:]}")
        self.address = line.removeprefix(_LISTENING).strip()

    def fault(self) -> str:
        """Tells how the server ended, if it ended by itself; otherwise nothing."""
        try:
            # A call can learn of the server's end a moment before its parent does.
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return ""
        log_text = self._log.read_text(errors="replace").strip()
        return f"the private server ended with status {status}. {log_text[-2000:]}".strip()

    def close(self) -> None:
        """Stops the server, and removes its folder; nothing of that in a forked child, whose server it is not."""
        if os.getpid() != self._owner:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._release()

    def _release(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._folder.cleanup()
