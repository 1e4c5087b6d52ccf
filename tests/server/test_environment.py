"""Where a server finds itself: no home, file systems without locks, ports that are taken at the last moment."""

import errno
import fcntl
import logging
import os
import pwd
import socket
from pathlib import Path
from typing import NoReturn

import pytest

import handgrad
from handgrad.core.errors import InvalidInputError
from handgrad.server import app, logs
from handgrad.server.app import Server


def nobody(_: int) -> NoReturn:
    raise KeyError("no such user")


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert app._user_cache() == Path("/somewhere/handgrad")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert app._user_cache() is None
    monkeypatch.setenv("HOME", "/home/me")
    assert app._user_cache() == Path("/home/me/.cache/handgrad")


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EWOULDBLOCK, "is in use by another handgrad server"),
        (errno.EAGAIN, "is in use by another handgrad server"),
        (errno.EACCES, "is in use by another handgrad server"),
        (errno.ENOLCK, "cannot be locked: No locks available; choose a folder of a local disk"),
        (errno.EOPNOTSUPP, "cannot be locked: Operation not supported"),
        (errno.EIO, "cannot be locked: Input/output error"),
    ],
)
def test_a_folder_that_cannot_be_locked_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, told: str
) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(InvalidInputError) as raised:
        Server("127.0.0.1:0", tmp_path)
    assert raised.value.field == "data_dir"
    assert told in raised.value.problem


def test_a_port_that_is_taken_at_the_last_moment_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(app, "_check_free", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InvalidInputError, match=f"cannot listen on {address}") as raised:
            Server(address, tmp_path)
    assert raised.value.field == "address"
    # Nothing of the failed start is left.
    Server("127.0.0.1:0", tmp_path).stop()


@pytest.mark.parametrize("setting", ["address", "metrics_address"])
@pytest.mark.parametrize("host", ["a" * 64 + ".invalid", "a..b"])
def test_a_name_that_cannot_be_looked_up_is_told(tmp_path: Path, setting: str, host: str) -> None:
    chosen = {"address": "127.0.0.1:0"} | {setting: f"{host}:0"}
    with pytest.raises(InvalidInputError, match=f"cannot listen on {host}:0") as raised:
        Server(chosen.pop("address"), tmp_path, insecure=True, **chosen)
    assert raised.value.field == setting


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::1]:0", "[::]:0", "localhost:0"])
def test_a_server_is_reached_where_it_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bind: str) -> None:
    # 0.0.0.0 and [::] are this machine to those who call: no proxy leads there.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = Server(bind, tmp_path, insecure=True)
    try:
        with handgrad.connect(server.address) as hg:
            assert [dataset.dataset for dataset in hg.list_datasets()] == ["mnist"]
    finally:
        server.stop()


def test_the_log_escapes_what_callers_send() -> None:
    record = logging.LogRecord("handgrad", logging.INFO, "", 0, "%s: bad", ("a\n12:00 fine\x1b[2J\u202e.npz",), None)
    record.request_id = "-"
    line = logs.Text().format(record)
    assert line.endswith(r"a\n12:00 fine\x1b[2J\u202e.npz: bad")
    error = ValueError("of \x1b[31ma caller")
    record.exc_info = (type(error), error, error.__traceback__)
    first, *traceback = logs.Text().format(record).split("\n")
    assert first == line
    assert traceback[-1] == r"ValueError: of \x1b[31ma caller"
