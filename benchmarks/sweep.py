"""A sweep of 64 networks of the report's shape: the time of a network, beside one alone and beside scikit-learn.

The service trains 64 seeds for `--epochs` epochs in one sweep; alone is the same job by itself, the median of several;
scikit-learn trains as many in a pool of one process a core, each with one thread, its data in the workers already.
All take turns. Writes sweep.md.
"""

import argparse
import importlib
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import peers
from machine import machine, results

import handgrad
from handgrad.core import datasets

MEMBERS = 64
ALONE = 4
AIMS = {"in a sweep / alone": 0.6, "in a sweep / scikit-learn in a pool": 0.25}


ARRAYS: list[Any] = []
"""Of a worker's process: the images and the labels."""


def start_worker() -> None:
    data = datasets.mnist()
    ARRAYS.extend((data.train.images, data.train.labels))


def scikit_learn(epochs: int) -> None:
    with importlib.import_module("threadpoolctl").threadpool_limits(1):
        peers.scikit_learn_run(ARRAYS[0], ARRAYS[1], epochs)()


def pool_of(cores: int) -> ProcessPoolExecutor:
    # Not forked: jax has threads.
    return ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"), start_worker)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--members", type=int, default=MEMBERS)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    times: dict[str, list[float]] = {"alone": [], "in a sweep": [], "scikit-learn in a pool": []}
    with handgrad.connect() as hg, pool_of(cores) as pool:
        config = {"epochs": options.epochs}
        for round_ in range(options.rounds + 1):
            alone: list[float] = []
            for seed in range(ALONE):
                began = time.perf_counter()
                hg.train("report", epochs=options.epochs, seed=seed).wait()
                alone.append(time.perf_counter() - began)
            began = time.perf_counter()
            hg.train_sweep(handgrad.grid(seed=range(options.members)), config=config).wait()
            sweep = (time.perf_counter() - began) / options.members
            few = 2 * cores
            began = time.perf_counter()
            list(pool.map(scikit_learn, [options.epochs] * few))
            pooled = (time.perf_counter() - began) / few
            # The first round compiles, and fills the workers.
            if round_:
                for name, found in (("alone", statistics.median(alone)), ("in a sweep", sweep)):
                    times[name].append(found)
                times["scikit-learn in a pool"].append(pooled)
    lines = [f"# A sweep of {options.members} networks of the report's shape, {options.epochs} epochs each", ""]
    lines += [", ".join(f"{name} {value}" for name, value in machine().items()), ""]
    lines += ["| time a network, median of the rounds | measured | aim | |", "|---|---|---|---|"]
    for name, aim in AIMS.items():
        above, below = name.split(" / ")
        found = statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))
        lines.append(f"| {name} | {found:.3f} | at most {aim} | {'met' if found <= aim else 'missed'} |")
    lines += ["", "| seconds a network | fastest | median | slowest |", "|---|---|---|---|"]
    for name, found in times.items():
        lines.append(f"| {name} | {min(found):.3f} | {statistics.median(found):.3f} | {max(found):.3f} |")
    lines += ["", "scikit-learn's pool is timed with two networks a core, since 64 would take minutes."]
    text = "\n".join(lines)
    print(text)
    results().joinpath("sweep.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
