"""On a GPU: iterations a second of the report's run, beside launch-bound jax.grad and PyTorch, and sweeps by jax.vmap.

PyTorch runs eagerly and with its step captured in a CUDA graph; jax.grad runs one jitted iteration a call. All take
turns. The sweeps train 1, 16, 256 and 1,024 networks of the report's shape in the compiled loop that the service's
sweeps run there, each with its own seed and learning rate. Writes results/gpu.md with the device's name; with
--any-device it runs elsewhere too, as a rehearsal that writes nothing. PyTorch must be its build for CUDA.
"""

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peers
from jax import Array
from machine import machine

from handgrad.core import datasets, network, randomness, training
from handgrad.core.compilation import choose_platform
from handgrad.core.config import preset
from handgrad.core.operations.base import Params

RESULTS = Path(__file__).parent / "results"
SIZES = (1, 16, 256, 1024)
AIMS = {"handgrad": 0.25, "a sweep of 1024": 5.0}
"""Seconds of the report's ten epochs, on an H100."""


def own_run(data: datasets.Dataset, epochs: int) -> Callable[[], None]:
    start = preset("report")
    net = network.make_network(start.layers, data.image_shape, data.classes)
    recipe = training.recipe_of(net, start.config)
    config = replace(start.config, epochs=epochs)
    images, labels = jnp.asarray(data.train.images), jnp.asarray(data.train.labels)

    def run() -> None:
        init_key, key = randomness.keys_of_run(0)
        state = training.initial_state(recipe, network.init(net, init_key))
        for _ in training.train(recipe, config, state, images, labels, key):
            pass

    return run


def launched_run(data: datasets.Dataset, epochs: int) -> Callable[[], None]:
    """jax.grad as a user's first program has it: one jitted step a call."""
    net = network.fully_connected(784, (peers.HIDDEN,), peers.CLASSES)
    images, labels = jnp.asarray(data.train.images), jnp.asarray(data.train.labels)
    key = jax.random.key(0)

    @jax.jit
    def step(params: Params, batch: Array) -> Params:
        def objective(params: Params) -> Array:
            x = images[batch].astype(jnp.float32)
            return network.training_loss(net, params, ({},) * len(net.layers), x, labels[batch], key)

        stepped: Params = jax.tree.map(lambda p, g: p - peers.LEARNING_RATE * g, params, jax.grad(objective)(params))
        return stepped

    def run() -> None:
        params = network.init(net, key)
        generator = np.random.default_rng(0)
        for _ in range(epochs):
            order = jnp.asarray(generator.permutation(len(images)).reshape(-1, peers.BATCH_SIZE).astype(np.int32))
            for batch in order:
                params = step(params, batch)
        np.asarray(params[0]["W"])

    return run


def captured_run(data: datasets.Dataset, epochs: int) -> Callable[[], None]:
    """PyTorch with its step in a CUDA graph."""
    torch: Any = importlib.import_module("torch")
    inputs = torch.from_numpy(data.train.images.copy()).cuda()
    targets = torch.from_numpy(data.train.labels.astype(np.int64)).cuda()
    model = torch.nn.Sequential(
        torch.nn.Linear(784, peers.HIDDEN), torch.nn.Sigmoid(), torch.nn.Linear(peers.HIDDEN, peers.CLASSES)
    ).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=peers.LEARNING_RATE)
    loss_of = torch.nn.CrossEntropyLoss()
    batch = torch.zeros(peers.BATCH_SIZE, dtype=torch.int64, device="cuda")

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        loss_of(model(inputs[batch].float()), targets[batch]).backward()
        optimizer.step()

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def run() -> None:
        for _ in range(epochs):
            order = torch.randperm(len(inputs), device="cuda").view(-1, peers.BATCH_SIZE)
            for indices in order:
                batch.copy_(indices)
                graph.replay()
        torch.cuda.synchronize()

    return run


def sweep_run(data: datasets.Dataset, epochs: int, networks: int) -> Callable[[], None]:
    """The core's loop of many networks: each with its own seed, order of images, and learning rate."""
    start = preset("report")
    net = network.make_network(start.layers, data.image_shape, data.classes)
    recipe = training.recipe_of(net, start.config)
    images, labels = jnp.asarray(data.train.images), jnp.asarray(data.train.labels)
    rates = np.linspace(0.005, 0.02, networks)
    configs = [
        replace(start.config, epochs=epochs, seed=seed, learning_rate=float(rate)) for seed, rate in enumerate(rates)
    ]

    def run() -> None:
        keys = [randomness.keys_of_run(config.seed) for config in configs]
        states = [training.initial_state(recipe, network.init(net, init_key)) for init_key, _ in keys]
        starts = [training.FIRST] * networks
        for chunks in training.train_together(
            recipe, configs, states, images, labels, [key for _, key in keys], starts
        ):
            assert all(np.isfinite(chunk.losses).all() for chunk in chunks)

    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--any-device", action="store_true", help="rehearse without a GPU")
    options = parser.parse_args()
    device = choose_platform("auto" if options.any_device else "gpu")
    data, epochs = datasets.mnist(), options.epochs
    runs = {"handgrad": own_run(data, epochs), "jax.grad, a step a call": launched_run(data, epochs)}
    if device.startswith("gpu"):
        arrays = data.train.images, data.train.labels
        runs["PyTorch eager"] = peers.pytorch_run(*arrays, epochs, compiled=False, device="cuda")
        runs["PyTorch, CUDA graph"] = captured_run(data, epochs)
    sizes = SIZES if device.startswith("gpu") else SIZES[:2]
    runs |= {f"a sweep of {size}": sweep_run(data, epochs, size) for size in sizes}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    lines = [f"# The report's run on {device}, {epochs} epochs, {options.rounds} rounds", ""]
    lines += [", ".join(f"{name} {value}" for name, value in machine().items()), ""]
    lines += ["| | seconds, median | iterations a second | aim | |", "|---|---|---|---|---|"]
    for name, measured in times.items():
        found = statistics.median(measured[1:])
        networks = int(name.removeprefix("a sweep of ")) if name.startswith("a sweep") else 1
        aim = AIMS.get(name)
        wanted = f"at most {aim} s | {'met' if found <= aim else 'missed'}" if aim else "|"
        lines.append(f"| {name} | {found:.3f} | {600 * epochs * networks / found:,.0f} | {wanted} |")
    text = "\n".join(lines)
    print(text)
    if device.startswith("gpu"):
        (RESULTS / "gpu.md").write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
