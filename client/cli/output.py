"""What a command says: to people, and with --json to programs."""

import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console


class Output:
    """Where a command's words go: people's text to stdout, or, with --json, to stderr, and JSON Lines to stdout."""

    def __init__(self, *, json_lines: bool) -> None:
        """Chooses the streams."""
        self.json_lines = json_lines
        self.stream = sys.stderr if json_lines else sys.stdout

    def say(self, text: str) -> None:
        """Tells a person something."""
        click.echo(text, file=self.stream)

    def emit(self, event: str, **values: Any) -> None:
        """Tells a program something, if one listens. A number that JSON does not have, NaN or infinity, is null."""
        if self.json_lines:
            told = {name: None if _is_no_number(value) else value for name, value in values.items()}
            click.echo(json.dumps({"event": event, **told}, allow_nan=False))

    def note(self, text: str) -> None:
        """Tells a person, on stderr, and a program what was assumed or looks wrong."""
        click.echo(f"note: {text}", err=True)
        self.emit("note", text=text)

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Shows rows under headers: as a table with lines on a terminal, with spaces between the columns in a pipe."""
        if self.json_lines:
            return
        if self.is_terminal():
            from rich.table import Table  # noqa: PLC0415 - as below

            table = Table(*headers, header_style="bold", box=None, pad_edge=False)
            for row in rows:
                table.add_row(*row)
            self.console().print(table)
            return
        widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
        for row in (headers, *rows):
            self.say("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())

    def say_at_once(self, text: str) -> None:
        """Tells a person at a terminal what takes a moment; a pipe, which nobody watches, is not told."""
        if self.is_terminal():
            self.say(text)

    def is_terminal(self) -> bool:
        """Says whether a person's terminal shows what is said."""
        return self.stream.isatty()

    def console(self) -> "Console":
        """Gives the terminal that `say` writes to."""
        from rich.console import Console  # noqa: PLC0415 - it takes a while to import, and a pipe needs none

        return Console(file=self.stream, highlight=False)


def _is_no_number(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
