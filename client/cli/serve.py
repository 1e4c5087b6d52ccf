"""`handgrad serve`: the server as a command."""

import os
import sys

import click

from handgrad.client.private_server import check_server_installed


@click.command()
@click.option("--address", default="127.0.0.1:50051", show_default=True, metavar="HOST:PORT", help="Where to listen.")
@click.option(
    "--data-dir", default="handgrad-data", show_default=True, metavar="DIR", help="Where checkpoints are kept."
)
@click.option("--insecure", is_flag=True, help="Allow an address that other machines reach.")
def serve(*, address: str, data_dir: str, insecure: bool) -> None:
    """Serve handgrad.v1.TrainingService over gRPC, until SIGTERM or Ctrl-C."""
    check_server_installed()
    arguments = ["--address", address, "--data-dir", data_dir, *(["--insecure"] if insecure else [])]
    # The server takes this process's place: the client never imports it, and signals reach it directly.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "handgrad.server", *arguments])  # noqa: S606
