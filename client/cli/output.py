"""What a command says: to people, and with --json to programs."""

import json
import math
import sys
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

    def is_terminal(self) -> bool:
        """Says whether a person's terminal shows what is said."""
        return self.stream.isatty()

    def console(self) -> "Console":
        """Gives the terminal that `say` writes to."""
        from rich.console import Console  # noqa: PLC0415 - it takes a while to import, and a pipe needs none

        return Console(file=self.stream, highlight=False)


def _is_no_number(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
