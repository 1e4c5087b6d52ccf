"""`python -m handgrad.server`: the server as a program. `handgrad serve` is the same."""

import argparse
import logging
import sys
from dataclasses import fields
from pathlib import Path

from handgrad.core.compilation import PLATFORMS
from handgrad.core.errors import InvalidInputError
from handgrad.server.app import run
from handgrad.server.auth import add_token
from handgrad.server.logs import set_up
from handgrad.server.settings import Settings

HELP = {
    "address": "where to listen",
    "data_dir": "where everything is kept",
    "snapshot_seconds": "from one snapshot of a running job to the next",
    "keep_versions": "newest versions of a model that are kept",
    "keep_every": "keep also each version whose number is a multiple of this",
    "max_queued_jobs": "jobs that may wait",
    "max_dataset_bytes": "the most that the files of a data set may have",
    "max_disk_bytes": "the most that is kept before more is refused",
    "max_streams": "streams that may be open at once",
    "max_streams_per_caller": "of these, the most of one caller: of a token, or of a connection where there are none",
}
FILES = {
    "tls_certificate": "PEM file of the certificate chain; with its key, the server speaks TLS",
    "tls_key": "PEM file of the certificate's key",
    "tls_client_ca": "PEM file of the authority whose certificates callers must have: mutual TLS",
    "tokens": "file of the tokens that callers must have; `token` adds one",
}


def token(arguments: list[str]) -> int:
    """Makes a token; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="handgrad serve token", description="Makes a token, and adds it to a tokens file; it is shown this once."
    )
    parser.add_argument("name", help="whose it is: jobs of several clients take turns")
    parser.add_argument("--tokens", type=Path, required=True, metavar="FILE", help="made if it is not there")
    parser.add_argument("--read-only", action="store_true", help="for calls without side effects alone")
    options = parser.parse_args(arguments)
    try:
        print(add_token(options.tokens, options.name, "read-only" if options.read_only else "full"))
    except (InvalidInputError, OSError) as error:
        print(f"handgrad serve token: {error}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    """Runs the server; gives the exit status."""
    if sys.argv[1:2] == ["token"]:
        return token(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="handgrad serve",
        description="Serves handgrad.v1.TrainingService over gRPC.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    defaults = {field.name: field.default for field in fields(Settings)}
    for name, text in HELP.items():
        default = defaults[name]
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, default=default, type=Path if isinstance(default, Path) else type(default), help=text)
    for name, text in FILES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="FILE", help=text)
    parser.add_argument("--metrics-address", metavar="HOST:PORT", help="where Prometheus finds metrics, over HTTP")
    parser.add_argument(
        "--platform", choices=PLATFORMS, default="auto", help="where to compute; auto: a GPU if there is one"
    )
    parser.add_argument("--log-format", choices=["text", "json"], default="text", help="how the log is written")
    parser.add_argument("--insecure", action="store_true", help="allow an address that other machines reach")
    parser.add_argument("--private", action="store_true", help="stop when standard input ends; log warnings only")
    parser.add_argument("--parent", type=int, metavar="PID", help="stop when this process, which started it, ends")
    options = vars(parser.parse_args())
    private: bool = options.pop("private")
    parent: int | None = options.pop("parent")
    set_up(options["log_format"], logging.WARNING if private else logging.INFO)
    try:
        run(Settings(**options), private=private, parent=parent)
    except InvalidInputError as error:
        print(f"handgrad serve: --{error.field.replace('_', '-')}: {error.problem}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"handgrad serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
