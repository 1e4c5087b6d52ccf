"""`python -m handgrad.server`: the server as a program. `handgrad serve` is the same."""

import argparse
import logging
import sys
from dataclasses import fields
from pathlib import Path

from handgrad.core.errors import InvalidInputError
from handgrad.server.app import run
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
}


def main() -> int:
    """Runs the server; gives the exit status."""
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
    parser.add_argument("--insecure", action="store_true", help="allow an address that other machines reach")
    parser.add_argument("--private", action="store_true", help="stop when standard input ends; log warnings only")
    options = vars(parser.parse_args())
    private: bool = options.pop("private")
    logging.basicConfig(
        level=logging.WARNING if private else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    # Which backends jax tried and did not find is not this server's news.
    logging.getLogger("jax").setLevel(logging.WARNING)
    try:
        run(Settings(**options), private=private)
    except InvalidInputError as error:
        print(f"handgrad serve: --{error.field.replace('_', '-')}: {error.problem}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"handgrad serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
