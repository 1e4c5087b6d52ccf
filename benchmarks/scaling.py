"""How cost grows: time an iteration, and memory, against width, depth, batch, data, and the size of a sweep.

Each point is a process of its own, so that its peak of memory is its own; the bare loop runs until it has taken
`--seconds`. Writes scaling.md and scaling.png.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, results

LEAST = 0.3
"""Seconds of each network of a sweep, so that what it costs once is little."""

POINTS: dict[str, list[int]] = {
    "width": [32, 64, 128, 256, 512, 1024, 2048, 4096],
    "depth": [1, 2, 4, 8, 16],
    "batch": [1, 4, 16, 64, 256, 1024, 4096],
    "data": [6_000, 60_000, 600_000],
    "sweep": [1, 2, 4, 16, 64, 256],
}
UNIT = {
    "width": "numbers of the hidden layer",
    "depth": "hidden layers of 100",
    "batch": "images of a mini-batch",
    "data": "images of the training split",
    "sweep": "networks",
}


def point(axis: str, value: int, seconds: float) -> dict[str, float]:
    """Gives milliseconds an iteration, of all networks of a sweep together, and megabytes, in this process."""
    import jax.numpy as jnp  # noqa: PLC0415 - in the child alone

    from handgrad.core import datasets, network, randomness, training  # noqa: PLC0415
    from handgrad.core.config import preset  # noqa: PLC0415

    hidden = (value,) if axis == "width" else (100,) * (value if axis == "depth" else 1)
    batch = value if axis == "batch" else 100
    data = datasets.mnist()
    times = max(1, value // 60_000) if axis == "data" else 1
    size = value if axis == "data" else 60_000
    images = jnp.asarray(np.tile(data.train.images, (times, 1))[:size])
    labels = jnp.asarray(np.tile(data.train.labels, times)[:size])
    config = replace(preset("report").config, batch_size=batch, epochs=100_000, learning_rate=0.001)
    net = network.fully_connected(784, hidden, 10)
    recipe = training.recipe_of(net, "identity", config)
    networks = value if axis == "sweep" else 1

    def train(seed: int, until: float) -> tuple[int, float]:
        init_key, key = randomness.keys_of_run(seed)
        state = training.initial_state(recipe, network.init(net, init_key))
        began, first, chunk = 0.0, 0, None
        for chunk in training.train(recipe, config, state, images, labels, key):
            if not began:
                # What is compiled is compiled by now.
                began, first = time.perf_counter(), chunk.iteration
            elif time.perf_counter() - began >= until:
                break
        assert chunk is not None
        return chunk.iteration - first, time.perf_counter() - began

    train(0, seconds / 4)
    if networks == 1:
        iterations, took = train(0, seconds)
        each = took / iterations
    else:
        lanes = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(lanes) as pool:
            began = time.perf_counter()
            done = list(pool.map(lambda seed: train(seed, max(LEAST, seconds * lanes / networks)), range(networks)))
            took = time.perf_counter() - began
        each = took / sum(iterations for iterations, _ in done) * networks
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"milliseconds": each * 1e3, "megabytes": peak / 1e6}


BENDS = """
Width: twice as many numbers take {width_first} times as long from 32 to 64, where what is no product (the gather of
the images, the loop) still counts, and {width_last} times from 2,048 to 4,096, as the products do. Memory grows by
{megabytes:.0f} MB from 32 to 4,096: params, gradients and activations.

Depth: a layer of 100 more adds three products of 2 MFLOP to the first layer's two of 16: a fifth in FLOP, more in time,
since small products reach less of the processor's rate. 16 layers take {depth_last} times as long as 8: the first layer
hardly counts any more.

Batch: one image is a product of a matrix with a vector, for which XLA has a loop of its own; 4 take {batch_first} times
as long, for from there on it calls a library, which first copies W into the order that it wants. That costs the same
for 4 images as for 64: 16 take {batch_next} times as long as 4, and only above grows time as the images do: 4,096 take
{batch_last} times as long as 1,024.

Data: an iteration gathers 100 images wherever they lie: from 600,000 it takes {data_last} times as long as from 60,000.
Memory grows by their bytes.

Networks: two at once take {sweep_first} times as long as one, since one alone leaves much of the second core idle; from
then on time grows as the networks do: 256 take {sweep_last} times as long as 64. Memory does not grow, since the images
are everybody's.
"""
RATIOS = {
    "width_first": ("width", 64, 32),
    "width_last": ("width", 4096, 2048),
    "depth_last": ("depth", 16, 8),
    "batch_first": ("batch", 4, 1),
    "batch_next": ("batch", 16, 4),
    "batch_last": ("batch", 4096, 1024),
    "data_last": ("data", 600_000, 60_000),
    "sweep_first": ("sweep", 2, 1),
    "sweep_last": ("sweep", 256, 64),
}


def bends(found: dict[str, dict[int, dict[str, float]]]) -> str:
    """Explains each bend, with how much is measured of it."""
    numbers: dict[str, Any] = {
        name: f"{found[axis][value]['milliseconds'] / found[axis][base]['milliseconds']:.1f}"
        for name, (axis, value, base) in RATIOS.items()
    }
    megabytes = found["width"][4096]["megabytes"] - found["width"][32]["megabytes"]
    told = BENDS.format(**numbers, megabytes=megabytes).strip().split("\n\n")
    return "".join(textwrap.fill(each, 120, initial_indent="- ", subsequent_indent="  ") + "\n" for each in told)


def draw(found: dict[str, dict[int, dict[str, float]]], file: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(12, 6.4), dpi=120, layout="constrained")
    for place, (axis, points) in enumerate(found.items()):
        axes = figure.add_subplot(2, 3, place + 1)
        x = list(points)
        axes.loglog(
            x, [each["milliseconds"] for each in points.values()], "o-", color="tab:blue", label="ms an iteration"
        )
        axes.loglog(x, [each["megabytes"] for each in points.values()], "s--", color="0.5", label="MB, peak")
        axes.set_xlabel(f"{axis}: {UNIT[axis]}")
        axes.grid(visible=True, which="both", color="0.92")
        axes.legend(fontsize=8)
    figure.suptitle("How the cost of the report's run grows")
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="that each point is timed for")
    parser.add_argument("--point", nargs=2, metavar=("AXIS", "VALUE"), help="one point, in this process, as JSON")
    options = parser.parse_args()
    if options.point:
        print(json.dumps(point(options.point[0], int(options.point[1]), options.seconds)))
        return
    found: dict[str, dict[int, dict[str, float]]] = {}
    for axis, values in POINTS.items():
        for value in values:
            command: list[Any] = [
                sys.executable,
                __file__,
                "--seconds",
                str(options.seconds),
                "--point",
                axis,
                str(value),
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.setdefault(axis, {})[value] = json.loads(done.stdout)
            print(axis, value, found[axis][value], flush=True)
    lines = ["# How cost grows", "", ", ".join(f"{name} {value}" for name, value in machine().items())]
    for axis, points in found.items():
        lines += ["", f"| {axis}: {UNIT[axis]} | ms an iteration | MB, peak |", "|---|---|---|"]
        lines += [
            f"| {value:,} | {each['milliseconds']:.3f} | {each['megabytes']:.0f} |" for value, each in points.items()
        ]
    results().joinpath("scaling.md").write_text("\n".join([*lines, "", bends(found)]))
    draw(found, results() / "scaling.png")


if __name__ == "__main__":
    main()
