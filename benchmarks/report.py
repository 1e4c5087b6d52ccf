"""The report's ten epochs: through the service, in the bare core loop, and as a plain float32 numpy program.

The three take turns in one run, so that a change in the machine's speed meets all of them; what is compared are the
ratios within each round, and of those the median. Each is warm: data in memory, the loop compiled, and a round before
the first that counts. Then: what `import handgrad` costs over importing numpy and grpc.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy_program
from machine import machine

import handgrad
from handgrad.core import datasets, network, training
from handgrad.core.config import preset

RESULTS = Path(__file__).parent / "results"
AIMS = {
    "bare core loop / numpy": 0.75,
    "service / numpy": 0.75,
    "service / bare core loop": 1.03,
}
IMPORT_AIM_SECONDS = 0.25


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure_training(rounds: int) -> dict[str, list[float]]:
    report = preset("report")
    data = datasets.mnist()
    net = network.make_network(report.layers, data.image_shape, data.classes)
    images, labels = jnp.asarray(data.train.images), jnp.asarray(data.train.labels)

    def numpy_run() -> None:
        list(numpy_program.train(data.train.images, data.train.labels, report.config.epochs, seed=0))

    def core_run() -> None:
        init_key, permutation_key = training.keys_of_run(0)
        recipe = training.recipe_of(net, report.config)
        state = training.initial_state(recipe, network.init(net, init_key))
        for _ in training.train(recipe, report.config, state, images, labels, permutation_key):
            pass

    with handgrad.connect() as hg:

        def service_run() -> None:
            hg.train("report").wait()

        runs = {"numpy": numpy_run, "bare core loop": core_run, "service": service_run}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds + 1):
            for name, run in runs.items():
                times[name].append(seconds(run))
    return {name: measured[1:] for name, measured in times.items()}


def measure_imports(rounds: int) -> dict[str, list[float]]:
    statements = ["import numpy, grpc", "import handgrad"]
    times: dict[str, list[float]] = {statement: [] for statement in statements}
    for _ in range(rounds + 1):
        for statement in statements:
            command = [sys.executable, "-c", statement]
            times[statement].append(seconds(partial(subprocess.run, command, check=True)))
    return {statement: measured[1:] for statement, measured in times.items()}


def ratio(times: dict[str, list[float]], above: str, below: str) -> float:
    return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))


def table(training_times: dict[str, list[float]], import_times: dict[str, list[float]]) -> str:
    lines = ["| ratio, median of the rounds | measured | aim | |", "|---|---|---|---|"]
    for name, aim in AIMS.items():
        found = ratio(training_times, *name.split(" / "))
        lines.append(f"| {name} | {found:.3f} | at most {aim} | {verdict(found, aim)} |")
    extra = statistics.median(
        b - a for a, b in zip(import_times["import numpy, grpc"], import_times["import handgrad"], strict=True)
    )
    lines.append(
        f"| `import handgrad` over `import numpy, grpc` | {extra:.3f} s | at most {IMPORT_AIM_SECONDS} s "
        f"| {verdict(extra, IMPORT_AIM_SECONDS)} |"
    )
    lines += ["", "| seconds | fastest | median | slowest |", "|---|---|---|---|"]
    for name, measured in {**training_times, **import_times}.items():
        lines.append(f"| {name} | {min(measured):.3f} | {statistics.median(measured):.3f} | {max(measured):.3f} |")
    return "\n".join(lines)


def verdict(found: float, aim: float) -> str:
    return "met" if found <= aim else "missed"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the report's run, side by side with numpy.")
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count")
    rounds = parser.parse_args().rounds
    training_times = measure_training(rounds)
    import_times = measure_imports(rounds)
    described = machine()
    text = "\n".join(
        [
            f"# The report's ten epochs, {rounds} rounds",
            "",
            ", ".join(f"{name} {value}" for name, value in described.items()),
            "",
            table(training_times, import_times),
        ]
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "report.md").write_text(text + "\n")
    (RESULTS / "report.json").write_text(
        json.dumps({"machine": described, "training": training_times, "imports": import_times}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
