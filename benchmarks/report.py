"""The report's ten epochs: through the service, in the bare core loop, and by what its users would otherwise pick.

All take turns in one run, so that a change in the machine's speed meets all of them; what is compared are the ratios
within each round, and of those the median. Each is warm: data in memory, what is compiled compiled, and a round before
the first that counts. The floor is what the matrix products alone cost: benchmarks/floor.py. Then: the memory of the
service and of the bare loop, and what `import handgrad` costs over importing numpy and grpc.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import floor
import jax.numpy as jnp
import peers
from machine import machine, results

import handgrad
from handgrad.core import datasets, network, randomness, training
from handgrad.core.config import preset

AIMS = {
    "service / floor": 1.5,
    "service / numpy": 0.5,
    "service / PyTorch eager": 0.25,
    "service / PyTorch compiled": None,
    "service / scikit-learn": None,
    "service / jax.grad": None,
    "service / bare loop": 1.02,
}
IMPORT_AIM_SECONDS = 0.25
EPOCHS = 10
ITERATIONS = 600 * EPOCHS


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def bare_loop(data: datasets.Dataset) -> Callable[[], None]:
    report = preset("report")
    net = network.make_network(report.layers, data.image_shape, data.classes)
    images, labels = jnp.asarray(data.train.images), jnp.asarray(data.train.labels)

    def run() -> None:
        init_key, permutation_key = randomness.keys_of_run(0)
        recipe = training.recipe_of(net, report.transform, report.config)
        state = training.initial_state(recipe, network.init(net, init_key))
        for _ in training.train(recipe, report.config, state, images, labels, permutation_key):
            pass

    return run


def measure_training(rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Gives the seconds of each run, and the rates of the products."""
    data = datasets.mnist()
    arrays = data.train.images, data.train.labels
    products = floor.candidates()
    rates: dict[str, list[float]] = {name: [] for name in products}
    with handgrad.connect() as hg:
        runs: dict[str, Callable[[], Any]] = {
            "service": lambda: hg.train("report").wait(),
            "bare loop": bare_loop(data),
            "jax.grad": peers.jax_grad_run(*arrays, EPOCHS),
            "numpy": peers.numpy_run(*arrays, EPOCHS),
            "scikit-learn": peers.scikit_learn_run(*arrays, EPOCHS),
            "PyTorch eager": peers.pytorch_run(*arrays, EPOCHS, compiled=False),
            "PyTorch compiled": peers.pytorch_run(*arrays, EPOCHS, compiled=True),
        }
        times: dict[str, list[float]] = {name: [] for name in (*runs, "floor")}
        for _ in range(rounds + 1):
            for name, run in runs.items():
                times[name].append(seconds(run))
            now = {name: max(rate() for _ in range(3)) for name, rate in products.items()}
            for name, rate in now.items():
                rates[name].append(rate)
            times["floor"].append(floor.FLOPS * ITERATIONS / max(now.values()))
    fastest = {name: statistics.median(found[1:]) for name, found in rates.items()}
    return {name: measured[1:] for name, measured in times.items()}, fastest


def peak_of_service(answer: Any) -> None:
    with handgrad.connect() as hg:
        hg.train("report").wait()
        server: Any = vars(hg)["_server"]
        status = Path(f"/proc/{vars(server)['_process'].pid}/status").read_text()
    answer.put(int(status.partition("VmHWM:")[2].split()[0]) * 1024)


def peak_of_loop(answer: Any) -> None:
    bare_loop(datasets.mnist())()
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def measure_memory() -> dict[str, int]:
    """Gives the most bytes that the server and a process with the bare loop alone were resident in."""
    found: dict[str, int] = {}
    context = multiprocessing.get_context("spawn")
    for name, target in (("service", peak_of_service), ("bare loop", peak_of_loop)):
        answer = context.Queue()
        process = context.Process(target=target, args=(answer,))
        process.start()
        found[name] = answer.get(timeout=120)
        process.join()
    return found


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


def table(times: dict[str, list[float]], imports: dict[str, list[float]], memory: dict[str, int]) -> str:
    lines = ["| ratio, median of the rounds | measured | aim | |", "|---|---|---|---|"]
    for name, aim in AIMS.items():
        found = ratio(times, *name.split(" / "))
        wanted = f"at most {aim} | {verdict(found, aim)}" if aim else "|"
        lines.append(f"| {name} | {found:.3f} | {wanted} |")
    extra = statistics.median(
        b - a for a, b in zip(imports["import numpy, grpc"], imports["import handgrad"], strict=True)
    )
    lines.append(
        f"| `import handgrad` over `import numpy, grpc` | {extra:.3f} s | at most {IMPORT_AIM_SECONDS} s "
        f"| {verdict(extra, IMPORT_AIM_SECONDS)} |"
    )
    lines += ["", "| seconds | fastest | median | slowest |", "|---|---|---|---|"]
    for name, measured in sorted({**times, **imports}.items(), key=lambda item: statistics.median(item[1])):
        lines.append(f"| {name} | {min(measured):.3f} | {statistics.median(measured):.3f} | {max(measured):.3f} |")
    lines += ["", "| most memory, resident | MB |", "|---|---|"]
    lines += [f"| {name} | {size / 1e6:.0f} |" for name, size in memory.items()]
    return "\n".join(lines)


def verdict(found: float, aim: float) -> str:
    return "met" if found <= aim else "missed"


def draw(times: dict[str, list[float]], file: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    ordered = sorted(times.items(), key=lambda item: -statistics.median(item[1]))
    names = [name for name, _ in ordered]
    medians = [statistics.median(found) for _, found in ordered]
    spread = [[m - min(f) for m, (_, f) in zip(medians, ordered, strict=True)],
              [max(f) - m for m, (_, f) in zip(medians, ordered, strict=True)]]  # fmt: skip
    figure = Figure(figsize=(8, 3.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    own = {"service": "tab:blue", "bare loop": "tab:blue", "floor": "0.35"}
    axes.barh(names, medians, color=[own.get(name, "0.75") for name in names], xerr=spread, error_kw={"linewidth": 1})
    for place, median in enumerate(medians):
        axes.text(median, place + 0.42, f" {median:.2f} s", va="top", ha="left", fontsize=8)
    axes.set_title("The report's ten epochs on MNIST")
    axes.set_xlabel("seconds: median, fastest and slowest of the rounds")
    axes.margins(x=0.08)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the report's run, side by side with its peers.")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count")
    rounds = parser.parse_args().rounds
    memory = measure_memory()
    times, rates = measure_training(rounds)
    imports = measure_imports(rounds)
    described = machine()
    fastest = max(rates, key=rates.__getitem__)
    products = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.items())
    told = ", ".join(f"{name} {value}" for name, value in described.items())
    floor_told = (
        f"Products of the report's two large shapes, GFLOP/s: {products}. The floor is {floor.FLOPS:,} FLOP an "
        f"iteration at the rate of the fastest of each round, mostly {fastest}."
    )
    title = f"# The report's ten epochs, {rounds} rounds"
    text = "\n".join([title, "", told, "", table(times, imports, memory), "", floor_told])
    print(text)
    results().joinpath("report.md").write_text(text + "\n")
    results().joinpath("report.json").write_text(
        json.dumps(
            {"machine": described, "seconds": times, "imports": imports, "memory": memory, "rates": rates}, indent=1
        )
        + "\n"
    )
    draw(times, results() / "report.png")


if __name__ == "__main__":
    main()
