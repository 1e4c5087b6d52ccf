"""How cost grows: time an iteration, and memory, against width, depth, batch, data, and the size of a sweep.

Each point is a process of its own, so that its peak of memory is its own; the bare loop runs until it has taken
`--seconds`. Writes scaling.md and scaling.png.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, results

LEAST = 0.3
"""Seconds of each network of a sweep, so that what it costs once is little."""

BENDS = """
- Width: below 128, what is not a product (the gather of the images, the sigmoid, the loop) is a third of an iteration;
  above, time grows as the products do. From 2,048 the params and gradients, 6 MB each, leave the cores' caches.
- Depth: the first layer's product with 784 inputs counts for eight of 100 x 100, so that the curve is flat until there
  are about eight; then each layer adds the same.
- Batch: one image is a product of a matrix with a vector, for which XLA has a loop of its own; from 4 it calls the
  library, whose packing of W costs the same for 4 images as for 64. From 256 time grows as the images do.
- Data: an iteration gathers 100 images wherever they lie; memory grows by their bytes.
- Networks: two run at once for 1.4 times the time of one; from then on time grows as the networks do; memory does not,
  since the images are everybody's.
"""
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
    recipe = training.recipe_of(net, config)
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
        lanes = 2
        with ThreadPoolExecutor(lanes) as pool:
            began = time.perf_counter()
            done = list(pool.map(lambda seed: train(seed, max(LEAST, seconds * lanes / networks)), range(networks)))
            took = time.perf_counter() - began
        each = took / sum(iterations for iterations, _ in done) * networks
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"milliseconds": each * 1e3, "megabytes": peak / 1e6}


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
    results().joinpath("scaling.md").write_text("\n".join(lines) + "\n" + BENDS)
    draw(found, results() / "scaling.png")


if __name__ == "__main__":
    main()
