"""`python -m handgrad.server`: the server as a program. `handgrad serve` is the same."""

import argparse
import logging
import sys
from pathlib import Path

from handgrad.core.errors import InvalidInputError
from handgrad.server.app import run


def main() -> int:
    """Runs the server; gives the exit status."""
    parser = argparse.ArgumentParser(prog="handgrad serve", description="Serves handgrad.v1.TrainingService over gRPC.")
    parser.add_argument("--address", default="127.0.0.1:50051", metavar="HOST:PORT", help="where to listen")
    parser.add_argument("--data-dir", default="handgrad-data", type=Path, help="where checkpoints are kept")
    parser.add_argument("--insecure", action="store_true", help="allow an address that other machines reach")
    parser.add_argument("--private", action="store_true", help="stop when standard input ends; log warnings only")
    options = parser.parse_args()
    logging.basicConfig(
        level=logging.WARNING if options.private else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    # Which backends jax tried and did not find is not this server's news.
    logging.getLogger("jax").setLevel(logging.WARNING)
    try:
        run(options.address, options.data_dir, insecure=options.insecure, private=options.private)
    except (InvalidInputError, OSError) as error:
        print(f"handgrad serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
