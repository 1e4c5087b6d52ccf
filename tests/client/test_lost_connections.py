"""A connection that dies without a word: a router forgot it, a laptop slept. Both ends notice, and go on."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import handgrad
from handgrad.client import channel
from handgrad.server import app
from handgrad.server.app import Server
from handgrad.v1 import job_pb2, params_pb2

ARRAYS: dict[str, Any] = {"W_1": np.ones((3, 12)), "b_1": np.ones((3, 1))}
SETTINGS: dict[str, Any] = {"hidden": [4], "batch_size": 10, "learning_rate": 0.1, "transform": "unit"}


class Relay:
    """Forwards connections to a server, until it falls silent on those that it has: it closes none of them."""

    def __init__(self, to: str) -> None:
        self._to = ("127.0.0.1", int(to.rpartition(":")[2]))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._silent = threading.Event()
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Falls silent on all connections; those that come later are forwarded."""
        self._silent.set()
        self._silent = threading.Event()

    def close(self) -> None:
        """Closes everything."""
        for each in (self._listening, *self._sockets):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listening.accept()
            except OSError:
                return
            there = socket.create_connection(self._to)
            self._sockets += [here, there]
            for pair in ((here, there), (there, here)):
                threading.Thread(target=self._forward, args=(*pair, self._silent), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, silent: threading.Event) -> None:
        try:
            while content := source.recv(65_536):
                if silent.is_set():
                    return
                target.sendall(content)
        except OSError:
            return


@pytest.fixture
def keepalive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has both ends notice a dead connection within a second or two."""
    for side in (channel, app):
        monkeypatch.setattr(side, "KEEPALIVE_SECONDS", 0.5)
        monkeypatch.setattr(side, "KEEPALIVE_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(app, "MIN_SECONDS_BETWEEN_PINGS", 0.1)


@pytest.fixture
def server(keepalive: None, tmp_path: Path) -> Iterator[Server]:
    """A server with two streams."""
    del keepalive
    server = Server("127.0.0.1:0", tmp_path / "data", max_streams=2, max_streams_per_caller=2)
    yield server
    server.stop()


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    relay = Relay(server.address)
    yield relay
    relay.close()


@pytest.fixture
def far(relay: Relay) -> Iterator[handgrad.Client]:
    """A client behind the relay."""
    with handgrad.connect(relay.address) as client:
        yield client


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_a_watcher_sees_the_end_with_no_gap_and_no_repeat(
    hg: handgrad.Client, far: handgrad.Client, relay: Relay, tiny: str
) -> None:
    name = hg.train(dataset=tiny, epochs=100, **SETTINGS).name
    job = far.job(name)
    events = job.events()
    seen: list[Any] = [next(event for event in events if isinstance(event, job_pb2.Epoch))]
    relay.cut()
    seen += events
    assert job.info.state == job_pb2.JOB_STATE_SUCCEEDED
    assert [event.epoch for event in seen if isinstance(event, job_pb2.Epoch)] == list(range(1, 101))
    versions = [event.version for event in seen if isinstance(event, params_pb2.ParamsVersion)]
    assert versions == list(range(2, 102))


def test_a_waiting_job_is_watched_to_its_end_too(
    hg: handgrad.Client, far: handgrad.Client, relay: Relay, tiny: str
) -> None:
    # Nothing is told while it waits: only the question whether the server is there finds the loss.
    running = hg.train(dataset=tiny, epochs=100_000, **SETTINGS)
    waiting = hg.train(dataset=tiny, epochs=2, **SETTINGS)
    with ThreadPoolExecutor() as threads:
        told = threads.submit(lambda: list(far.job(waiting.name).events()))
        # Time to open its stream; where it needs more, it opens it on a connection that is dead already.
        time.sleep(0.3)
        relay.cut()
        running.cancel()
        assert [event.epoch for event in told.result(60) if isinstance(event, job_pb2.Epoch)] == [1, 2]


def test_a_sweep_is_watched_to_its_end(hg: handgrad.Client, far: handgrad.Client, relay: Relay, tiny: str) -> None:
    running = hg.train(dataset=tiny, epochs=100_000, **SETTINGS)
    config = {"batch_size": 10, "epochs": 2}
    sweep = far.train_sweep([{"seed": 1}, {"seed": 2}], dataset=tiny, config=config)
    standings = sweep.standings()
    assert next(standings).state == job_pb2.JOB_STATE_QUEUED
    relay.cut()
    running.cancel()
    assert [info.state for info in standings][-1] == job_pb2.JOB_STATE_SUCCEEDED
    assert sweep.info.version == 1


def test_the_streams_of_those_who_are_gone_are_free_soon(
    hg: handgrad.Client, far: handgrad.Client, relay: Relay
) -> None:
    hg.upload_params(ARRAYS, "mine")
    watchers = [far.watch_params("mine") for _ in range(2)]
    assert [next(watcher).version.version for watcher in watchers] == [1, 1]
    with pytest.raises(handgrad.ExhaustedError, match="2 streams are open already"):
        next(hg.watch_params("mine"))
    relay.cut()
    assert within(20, lambda: opens(hg))
    # And those who are not gone were told.
    for watcher in watchers:
        with pytest.raises(handgrad.UnavailableError, match="does not answer"):
            next(watcher)


def opens(client: handgrad.Client) -> bool:
    try:
        return next(client.watch_params("mine")).version.version == 1
    except handgrad.ExhaustedError:
        return False


def test_a_call_does_not_wait_for_its_deadline(far: handgrad.Client, relay: Relay) -> None:
    assert list(far.list_models()) == []
    relay.cut()
    began = time.monotonic()
    with pytest.raises(handgrad.UnavailableError, match="does not answer"):
        list(far.list_models())
    assert time.monotonic() - began < 60
    # The next one has a new connection.
    assert list(far.list_models()) == []


def test_a_new_client_gets_a_connection_of_its_own(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    # Long, so that the first client does not notice.
    monkeypatch.setattr(channel, "KEEPALIVE_SECONDS", 600.0)
    with handgrad.connect(relay.address) as lost:
        relay.cut()
        with handgrad.connect(relay.address) as found:
            assert list(found.list_models()) == []
        assert lost.address == found.address


def test_the_loss_is_noticed_within_half_a_minute() -> None:
    for side in (channel, app):
        assert side.KEEPALIVE_SECONDS + side.KEEPALIVE_ANSWER_SECONDS <= 30
    # Others ask each 10 s.
    assert app.MIN_SECONDS_BETWEEN_PINGS < 10


def frame(kind: int, flags: int, content: bytes) -> bytes:
    """Returns a frame of HTTP/2 for the connection itself: its length, type, flags, stream 0."""
    return struct.pack(">I", len(content))[1:] + bytes((kind, flags)) + bytes(4) + content


def test_callers_may_ask_often_whether_the_server_is_there(server: Server) -> None:
    settings, ping, go_away, ack = 4, 6, 7, 1
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(settings, 0, b""))
        answers = connection.makefile("rb")
        for number in range(8):
            # Without a call, and no oftener than it allows.
            time.sleep(1.5 * app.MIN_SECONDS_BETWEEN_PINGS)
            connection.sendall(frame(ping, 0, struct.pack(">Q", number)))
            while True:
                head = answers.read(9)
                content = answers.read(int.from_bytes(head[:3], "big"))
                assert head[3] != go_away, content
                if (head[3], head[4]) == (ping, ack):
                    break
            assert content == struct.pack(">Q", number)
