"""A server of one's own: it works, it ends when its client does, however that ends, and it says why it ended."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest

import handgrad
from handgrad.client.private_server import PrivateServer

SETTINGS: dict[str, Any] = {"hidden": [4], "batch_size": 10, "learning_rate": 0.1, "transform": "unit"}


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError:
        return False
    return True


def wait_until_nobody_listens(address: str) -> None:
    for _ in range(600):
        if not listens(address):
            return
        time.sleep(0.05)
    pytest.fail("the server did not end within 30 s")


def test_it_lives_as_long_as_its_client(tiny_folder: Path) -> None:
    with handgrad.connect() as hg:
        server = hg._server
        assert server is not None
        folder = Path(server._folder.name)
        assert hg.address.startswith("127.0.0.1:")
        dataset = hg.upload_dataset(tiny_folder).dataset
        job = hg.train(dataset=dataset, epochs=2, **SETTINGS)
        assert job.wait().version == 3
        hg.save_params(job.model, "kept")
        assert (folder / "handgrad.sqlite3").exists()
        # One that trains is told to stop, too.
        hg.train(dataset=dataset, epochs=100_000, **SETTINGS)
    assert server._process.returncode == 0
    assert not folder.exists()
    assert not listens(hg.address)


def test_one_that_is_killed_is_told_to_those_who_wait(tiny_folder: Path) -> None:
    with handgrad.connect() as hg:
        server = hg._server
        assert server is not None
        job = hg.train(dataset=hg.upload_dataset(tiny_folder).dataset, epochs=100_000, **SETTINGS)
        next(job.events())
        os.kill(server._process.pid, signal.SIGKILL)
        for call in (job.wait, job.losses, job.cancel):
            with pytest.raises(handgrad.UnavailableError, match="the private server ended with status -9"):
                call()
    assert not Path(server._folder.name).exists()


def test_it_ends_when_its_client_is_killed(tmp_path: Path) -> None:
    script = "import handgrad, sys; hg = handgrad.connect(); print(hg.address, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        # The folder that nobody is left to remove goes with the test's.
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdout
        address = client.stdout.readline().strip()
        assert listens(address)
        client.kill()
    wait_until_nobody_listens(address)


def test_an_interrupt_while_it_starts_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Process(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            started.append(self)
            # Long before a server that has yet to import jax can be listening.
            signal.setitimer(signal.ITIMER_REAL, 0.1)

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            PrivateServer()
        (process,) = started
        assert process.poll() is not None
        assert list(tmp_path.iterdir()) == []
    finally:
        signal.signal(signal.SIGALRM, before)
        for process in started:
            process.kill()
            process.wait()


def test_without_jax_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jax" else find_spec(name))
    with pytest.raises(handgrad.UnavailableError, match=r"pip install 'handgrad\[server\]'"):
        handgrad.connect()


def test_one_that_does_not_start_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str]
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    monkeypatch.setenv("PATH", environment["PATH"])
    with pytest.raises(handgrad.UnavailableError, match=r"did not start \(exit status 3\): out of luck"):
        PrivateServer()


def test_without_a_folder_that_can_be_written_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(handgrad.UnavailableError, match=r"no folder for its data: .*nowhere.* written in \$TMPDIR"):
        PrivateServer()


def test_what_is_wrong_with_the_connection_leaves_no_server_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(handgrad.InvalidArgumentError, match="a certificate and its key"):
        handgrad.connect(certificate=tmp_path / "certificate")
    assert list(tmp_path.iterdir()) == []
