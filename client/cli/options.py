"""Options and kinds of values that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from handgrad.client.client import Client, connect
from handgrad.client.errors import InvalidArgumentError
from handgrad.client.params import check_ending
from handgrad.client.plot import check_plot

SERVER_VARIABLE = "HANDGRAD_SERVER"

server = click.option(
    "--server",
    envvar=SERVER_VARIABLE,
    metavar="HOST:PORT",
    help=f"The server to call. Default: ${SERVER_VARIABLE}, otherwise a private one for as long as the command runs.",
)
server_needed = click.option(
    "--server", envvar=SERVER_VARIABLE, metavar="HOST:PORT", help=f"The server to call. Default: ${SERVER_VARIABLE}."
)
as_json = click.option("--json", "json_lines", is_flag=True, help="JSON Lines on stdout, people's text on stderr.")
pixels = click.option(
    "--pixels", type=click.Choice(["raw", "unit"]), help="How pixels become inputs: 0 to 255, or 0 to 1."
)
data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A folder with the four IDX files, gzipped or not. Default: the MNIST that ships with handgrad.",
)
version = click.option("--version", "version", default=0, help="The version of the params. Default: the newest.")


class OutputFile(click.ParamType[Path]):
    """A file that will be written: that it can be is checked before the work, not after it."""

    name = "file"

    def __init__(self, check: Callable[[Path], None]) -> None:
        """Takes what else to check: a function that raises InvalidArgumentError."""
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Gives the path, or fails."""
        path = Path(value)
        try:
            self._check(path)
        except InvalidArgumentError as error:
            self.fail(str(error), param, ctx)
        if not path.parent.is_dir():
            self.fail(f"there is no folder {path.parent}", param, ctx)
        if path.is_dir():
            self.fail(f"{path} is a folder", param, ctx)
        return path


class Widths(click.ParamType[tuple[int, ...]]):
    """Widths of hidden layers: "100", "300,100", or "none"."""

    name = "widths"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Gives the widths, or fails."""
        if isinstance(value, tuple):
            return value
        if value == "none":
            return ()
        try:
            return tuple(int(width) for width in str(value).split(","))
        except ValueError:
            self.fail(
                f"widths are numbers with commas between them, such as 300,100, or none; got {value!r}", param, ctx
            )


parameter_file = OutputFile(check_ending)
plot_file = OutputFile(check_plot)


def connect_to_server(address: str | None) -> Client:
    """Connects to the server that a command was given; a usage error where it was given none."""
    if not address:
        raise click.UsageError(f"name the server: --server HOST:PORT, or the variable {SERVER_VARIABLE}")
    return connect(address)
