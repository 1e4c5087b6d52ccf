"""What is said can always be written, and a terminal takes none of it for a command."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handgrad.client.cli import main as commands
from handgrad.client.cli.output import Output
from handgrad.client.text import encodable, printable
from handgrad.client.upload import describe
from handgrad.server.app import Server

LATIN = "daten_\udce4.npz"  # a name of bytes that are not UTF-8, as Python holds it
SETTINGS = ("--hidden", "3", "--batch-size", "10", "--epochs", "1")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, \u00fc\u4e2d\U0001f600", "plain text, \u00fc\u4e2d\U0001f600"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\x7f\x9b31m", r"\x7f\x9b31m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        (LATIN, r"daten_\udce4.npz"),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    assert printable(shown) == shown


def test_what_no_encoding_has_is_a_question_mark() -> None:
    assert encodable(LATIN) == "daten_?.npz"


class Terminal(io.StringIO):
    """A terminal that keeps what it is sent."""

    def isatty(self) -> bool:
        return True


HOSTILE = "[/red] [bold]x[/bold] :smile: \x1b[31m \x07\r\nrow"
SHOWN = r"[/red] [bold]x[/bold] :smile: \x1b[31m \x07\r\nrow"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_cell_of_a_table_is_text(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    output = Output(json_lines=False)
    output.table(["job", "error"], [["job-1", HOSTILE]])
    output.say(f"said {HOSTILE}")
    assert stream.getvalue().count(SHOWN.removesuffix(r"\r\nrow")) == 2
    for command in ("\x1b[31m", "\x07", "\r"):
        assert command not in stream.getvalue()


def test_events_hold_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json_lines=True).emit({"event": "failed", "error": HOSTILE})
    line = capsys.readouterr().out
    assert json.loads(line)["error"] == HOSTILE
    assert line.removesuffix("\n").isprintable()


def status_of(*arguments: str) -> int:
    """Runs a command in this process; returns its exit status."""
    before = sys.argv
    sys.argv = ["handgrad", *arguments]
    try:
        with pytest.raises(SystemExit) as ended:
            commands.main()
    finally:
        sys.argv = before
    assert isinstance(ended.value.code, int)
    return ended.value.code


class Streams:
    """The standard streams of a process with an encoding that has few characters."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._bytes = {"stdout": io.BytesIO(), "stderr": io.BytesIO()}
        for name, content in self._bytes.items():
            monkeypatch.setattr(sys, name, io.TextIOWrapper(content, "ascii", "strict", write_through=True))

    def said(self) -> str:
        return "".join(content.getvalue().decode("ascii") for content in self._bytes.values())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server("127.0.0.1:0", tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a data set and a parameter file whose names are not UTF-8."""
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in (("train", 60), ("test", 20)):
        arrays[f"x_{split}"] = generator.integers(0, 256, (count, 3, 4), np.uint8)
        arrays[f"y_{split}"] = np.arange(count, dtype=np.uint8) % 3
    monkeypatch.chdir(tmp_path)
    with Path(LATIN).open("wb") as file:
        np.savez(file, **arrays)
    with Path(f"p_{LATIN}").open("wb") as file:
        np.savez(file, W_1=np.ones((3, 12)), b_1=np.ones((3, 1)))
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_names_that_are_not_utf_8_are_used_and_said(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    streams = Streams(monkeypatch)
    files = ("--data", LATIN, "--save", f"q_{LATIN}", "--plot", "l_\udce4.svg")
    assert status_of("train", "--server", server.address, *files, *SETTINGS) == 0
    assert r"parameter file: q_daten_\udce4.npz" in streams.said()
    assert r"plot: l_\udce4.svg" in streams.said()
    assert Path(f"q_{LATIN}").exists()
    assert Path("l_\udce4.svg").exists()
    evaluated = ("--params", f"p_{LATIN}", "--data", LATIN, "--json")
    assert status_of("evaluate", "--server", server.address, *evaluated) == 0
    assert status_of("train", "--server", server.address, *files[:4], *SETTINGS, "--json") == 0
    events = [json.loads(line) for line in streams.said().splitlines() if line.startswith("{")]
    assert [event["file"] for event in events if event["event"] == "save"] == ["q_daten_?.npz"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("evaluate", "--params", "no_\udce4.npz"), 1, r"no_\udce4.npz"),
        (("evaluate", "--params", "\u00fc\x1b[2J\n.npz"), 2, r"\xfc\x1b[2J\n.npz: the file is empty"),
        (("train", "--params", "bad_\udce4.npz"), 2, r"bad_\udce4.npz: neither a whole .npz"),
        (("train", "--data", "bad_\udce4.npz"), 2, r"bad_\udce4.npz: "),
        (("train", "--network", "bad_\udce4.toml"), 2, r"bad_\udce4.toml: not TOML"),
        (("train", "--save", "\u00fc_\udce4\x1b.txt"), 2, r"\xfc_\udce4\x1b.txt: a parameter file ends in"),
        (("train", "--model", "\udce4\x1b"), 2, r"model: Unicode text; got '\udce4\x1b'"),
        (("watch", "\u00fc\x1b"), 2, "job: a name has"),
        (("jobs", "--stat\u00fc\x1be"), 2, r"--stat\xfc\x1be"),
        (("j\u00fcbs\x1b\udce4",), 2, r"j\xfcbs\x1b\udce4"),
    ],
)
def test_what_is_wrong_is_said_in_any_encoding(
    monkeypatch: pytest.MonkeyPatch, server: Server, arguments: tuple[str, ...], status: int, told: str
) -> None:
    streams = Streams(monkeypatch)
    Path("\u00fc\x1b[2J\n.npz").write_bytes(b"")
    Path("bad_\udce4.npz").write_bytes(b"hello")
    Path("bad_\udce4.toml").write_bytes(b"\xff")
    assert status_of(arguments[0], "--server", server.address, *arguments[1:]) == status
    assert told.encode().decode("ascii") in streams.said().replace("\\\\", "\\")
    assert "\x1b" not in streams.said()


def test_what_is_sent_of_a_name_is_printable(folder: Path) -> None:
    sent = describe(folder / LATIN)
    assert sent.file == r"daten_\udce4.npz"
    sent.SerializeToString()


@pytest.mark.parametrize("arguments", [("completion", "bash"), ("--help",), ("trein",), ("jobs", "--server", "x")])
@pytest.mark.parametrize("kind", ["pipe", "full disk"])
def test_a_reader_that_went_away_is_not_told_so(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], kind: str
) -> None:
    if kind == "pipe":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open("/dev/full", os.O_WRONLY)
    errors = io.StringIO()
    with io.TextIOWrapper(os.fdopen(writing, "wb")) as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        monkeypatch.setattr(sys, "stderr", errors)
        status = status_of(*arguments)
        monkeypatch.undo()
        if arguments[0] in ("completion", "--help"):
            assert status == 1
            assert errors.getvalue() == ("" if kind == "pipe" else "handgrad: [Errno 28] No space left on device\n")
        else:
            # It had nothing to say there.
            assert status == 2
            assert errors.getvalue().count("\n") >= 1
        if kind == "pipe":
            # Click has seen to it that Python does not write it again as it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), broken.fileno())
        broken.flush()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_no_fault(environment: dict[str, str], closed: str) -> None:
    program = f"import sys; sys.argv = ['handgrad', 'models', '--server', '127.0.0.1:1']; {RUN}"
    script = f'"$0" -c "$1" {closed}; echo $?'
    done = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable, program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "1"
    assert "Traceback" not in done.stdout + done.stderr
    assert ("does not answer" in done.stderr) == ("2>" not in closed)


RUN = "from handgrad.client.cli.main import main; main()"


def test_a_prompt_without_input_stops(monkeypatch: pytest.MonkeyPatch, server: Server, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.chdir(tmp_path)
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    assert status_of("train", "--server", server.address, "--interactive") == 1
    sys.stdin.close()
    assert errors.getvalue() == "handgrad: stopped\n"


def test_a_terminal_without_a_size_is_no_fault(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    assert status_of("datasets", "--server", server.address) == 0
    assert "mnist" in stream.getvalue()
