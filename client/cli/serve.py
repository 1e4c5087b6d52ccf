"""`handgrad serve`: the server as a command."""

import os
import sys

import click

from handgrad.client.private_server import check_server_installed, server_environment


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def serve(*, flags: tuple[str, ...]) -> None:
    """Serve handgrad.v1.TrainingService over gRPC, until SIGTERM or Ctrl-C; `serve --help` lists its options."""
    check_server_installed()
    # The server takes this process's place: the client never imports it, and signals reach it directly.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "handgrad.server", *flags], server_environment())  # noqa: S606
