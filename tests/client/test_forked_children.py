"""A private server and the forked children of its client, such as a data loader's: they neither keep it nor end it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

# A child that is forked once the server runs inherits the pipe that the server reads.
WORKER = """
import handgrad, multiprocessing, os, sys, time
hg = handgrad.connect()
worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
worker.start()
"""


def run(script: str, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError:
        return False
    return True


def test_the_server_ends_with_its_parent_whoever_holds_its_pipe(tmp_path: Path) -> None:
    told = "print(hg.address, worker.pid, flush=True); time.sleep(600)"
    with run(WORKER + told, tmp_path) as parent:
        assert parent.stdout
        address, worker = parent.stdout.readline().split()
        try:
            assert listens(address)
            parent.kill()
            parent.wait()
            deadline = time.monotonic() + 30
            while listens(address):
                assert time.monotonic() < deadline, "the server outlived its parent"
                time.sleep(0.05)
            # The child still holds the pipe.
            os.kill(int(worker), 0)
        finally:
            os.kill(int(worker), signal.SIGKILL)


CLOSED: dict[str, Any] = {
    # (what the process does, what it prints)
    "a worker that goes on": ("", "0 False"),
    "a worker while it trains": ("hg.train(epochs=1000)", "0 False"),
}


@pytest.mark.parametrize("case", CLOSED)
def test_closing_tells_the_server_to_stop(tmp_path: Path, case: str) -> None:
    doing, printed = CLOSED[case]
    closing = """
server = hg._server
hg.close()
print(server._process.returncode, os.path.exists(server._folder.name))
worker.kill()
"""
    with run(f"{WORKER}\n{doing}\n{closing}", tmp_path) as parent:
        # A server that has to be killed has -9.
        assert parent.communicate(timeout=120)[0].strip() == printed


def test_a_child_that_ends_leaves_its_parents_server(tmp_path: Path) -> None:
    # It leaves the `with`, and ends as a program does.
    script = """
import handgrad, os, sys
with handgrad.connect() as hg:
    child = os.fork()
    if child == 0:
        sys.exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(os.path.exists(hg._server._folder.name), hg._server._process.poll(), list(hg.list_models()))
print(os.path.exists(hg._server._folder.name), hg._server._process.returncode)
"""
    with run(script, tmp_path) as parent:
        assert parent.communicate(timeout=120)[0].splitlines() == ["7", "True None []", "False 0"]
