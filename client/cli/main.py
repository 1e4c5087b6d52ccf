"""`handgrad`: the commands together, and what each exit status means."""

import sys

import click

from handgrad import __version__
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
    try:
        # A command that found something wrong gives its exit status; the others give nothing.
        sys.exit(cli.main(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(BAD_USAGE)
    except InvalidArgumentError as error:
        _complain(error)
        sys.exit(BAD_USAGE)
    except (HandgradError, OSError) as error:
        _complain(error)
        sys.exit(FAILED)
    except (click.Abort, KeyboardInterrupt):
        _complain("stopped")
        sys.exit(FAILED)


def _complain(problem: object) -> None:
    click.echo(f"handgrad: {problem}", err=True)
