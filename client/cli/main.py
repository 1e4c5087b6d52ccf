"""`handgrad`: the commands together, and what each exit status means."""

import io
import sys
from contextlib import suppress

import click

from handgrad import __version__
from handgrad.client.cli import streams
from handgrad.client.cli.completion import completion
from handgrad.client.cli.evaluate import evaluate
from handgrad.client.cli.jobs import cancel, jobs, watch
from handgrad.client.cli.kept import checkpoints, datasets, models, upload
from handgrad.client.cli.loss import loss
from handgrad.client.cli.networks import describe, verify
from handgrad.client.cli.params import load, params, save
from handgrad.client.cli.predict import predict
from handgrad.client.cli.serve import serve
from handgrad.client.cli.sweep import sweep, sweeps
from handgrad.client.cli.train import train
from handgrad.client.errors import HandgradError, InvalidArgumentError
from handgrad.client.text import printable

DONE = 0
FAILED = 1
BAD_USAGE = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="handgrad %(version)s")
def cli() -> None:
    """Train small neural networks with gradients derived by hand.

    Exit status: 0 done, 1 it failed, 2 bad usage.
    """


COMMANDS = (
    *(train, jobs, watch, cancel, loss),
    *(sweep, sweeps),
    *(params, save, load, models, checkpoints),
    *(predict, evaluate),
    *(datasets, upload),
    *(describe, verify),
    *(serve, completion),
)

for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Runs a command, and exits with its status."""
    streams.prepare()
    try:
        sys.exit(_status())
    finally:
        streams.finish()


def _status() -> int:
    try:
        # A command that found something wrong gives its exit status; the others give nothing. Where the reader of what
        # is said goes away, as `head` does, click itself exits with 1.
        return int(cli.main(standalone_mode=False) or DONE)
    except click.ClickException as error:
        told = io.StringIO()
        error.show(told)
        return _end(told.getvalue().rstrip("\n"), BAD_USAGE)
    except InvalidArgumentError as error:
        return _end(f"handgrad: {error}", BAD_USAGE)
    except HandgradError as error:
        return _end(f"handgrad: {error}", FAILED)
    except OSError as error:
        named = error.filename and error.strerror
        return _end(f"handgrad: {error.filename}: {error.strerror}" if named else f"handgrad: {error}", FAILED)
    except (click.Abort, KeyboardInterrupt):
        return _end("handgrad: stopped", FAILED)


def _end(problem: str, status: int) -> int:
    """Says what is wrong, if somebody listens; returns the exit status."""
    with suppress(OSError):
        # Named, for click would write UTF-8 to a terminal that takes ASCII.
        click.echo(printable(problem, keep="\n\t"), file=sys.stderr)
    return status
