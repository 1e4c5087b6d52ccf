"""From nothing to the first epoch's line: `handgrad train`, with nothing kept of what was compiled, and with it.

Each part is timed by itself, in processes that take turns; the two commands by the moment each of their lines comes.
Writes cold_start.md.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine, results

AIM_SECONDS = 3.0
HANDGRAD = Path(sys.executable).with_name("handgrad")
PARTS = {
    "interpreter": "pass",
    "interpreter, client": "import handgrad.client.cli.main",
    "interpreter, jax": "import jax",
    "interpreter, server": "import handgrad.server.app",
    "interpreter, server, MNIST": "from handgrad.core import datasets; import handgrad.server.app; datasets.mnist()",
}


def lines_of(cache: str) -> dict[str, float]:
    """Gives the second at which the first line and that of the first epoch come."""
    began = time.perf_counter()
    command = [str(HANDGRAD), "train", "--epochs", "1"]
    found: dict[str, float] = {}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"XDG_CACHE_HOME": cache}
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            word = line.split()[0]
            if word in ("training", "epoch"):
                found[word] = time.perf_counter() - began
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {}

    def add(name: str, seconds: float) -> None:
        times.setdefault(name, []).append(seconds)

    for _ in range(rounds):
        for name, code in PARTS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            add(name, time.perf_counter() - began)
        with tempfile.TemporaryDirectory() as cache:
            for kept in ("nothing kept", "compiled before"):
                for word, seconds in lines_of(cache).items():
                    line = {"training": "the job is accepted", "epoch": "the first epoch's line"}[word]
                    add(f"{kept}: {line}", seconds)
    found = {name: statistics.median(measured) for name, measured in times.items()}
    first = found["nothing kept: the first epoch's line"]
    lines = [f"# From nothing to the first epoch, {rounds} rounds", ""]
    lines += [", ".join(f"{name} {value}" for name, value in machine().items()), ""]
    verdict = "met" if first <= AIM_SECONDS else "missed"
    lines += [f"The first epoch's line comes after {first:.2f} s, aim {AIM_SECONDS:g} s: {verdict}.", ""]
    lines += ["| | seconds, median | fastest | slowest |", "|---|---|---|---|"]
    for name, measured in times.items():
        lines.append(f"| {name} | {statistics.median(measured):.2f} | {min(measured):.2f} | {max(measured):.2f} |")
    text = "\n".join(lines)
    print(text)
    results().joinpath("cold_start.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
