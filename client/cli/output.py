"""What a command says: to people, and with --json to programs."""

import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from handgrad.client.cli import events
from handgrad.client.cli.events import Event
from handgrad.client.text import printable

if TYPE_CHECKING:
    from rich.console import Console


class Output:
    """Where a command's words go: people's text to stdout, or, with --json, to stderr, and JSON Lines to stdout."""

    def __init__(self, *, json_lines: bool) -> None:
        """Chooses the streams."""
        self.json_lines = json_lines
        self.stream = sys.stderr if json_lines else sys.stdout

    def say(self, text: str) -> None:
        """Tells a person something; what a terminal would take for a command is escaped."""
        click.echo(printable(text, keep="\n\t"), file=self.stream)

    def emit(self, event: Event) -> None:
        """Tells a program something, if one listens. A number that JSON does not have, NaN or infinity, is null."""
        if self.json_lines:
            told = {name: None if _is_no_number(value) else value for name, value in event.items()}
            click.echo(json.dumps(told, allow_nan=False))

    def note(self, text: str) -> None:
        """Tells a person, on stderr, and a program what was assumed or looks wrong."""
        click.echo(f"note: {printable(text)}", file=sys.stderr)
        self.emit(events.note(text))

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Shows rows under headers: as a table with lines on a terminal, with spaces between the columns in a pipe."""
        if self.json_lines:
            return
        # A line end in a cell would begin a row.
        rows = [[printable(cell) for cell in row] for row in rows]
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
        """Returns the terminal that `say` writes to. It takes text for text: no [markup] and no :emoji: in it."""
        from rich.console import Console  # noqa: PLC0415 - it takes a while to import, and a pipe needs none

        return Console(file=self.stream, highlight=False, markup=False, emoji=False)


def _is_no_number(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
