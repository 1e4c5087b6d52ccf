"""On a GPU: iterations a second of the report's run, beside launch-bound jax.grad and PyTorch, and sweeps by jax.vmap.

PyTorch runs eagerly and with its step captured in a CUDA graph; jax.grad runs one jitted iteration a call; and the
core's loop is compiled in several ways, unrolled and with XLA's command buffers, to choose from. All take turns. The
sweeps train 1, 16, 256 and 1,024 networks of the report's shape in the compiled loop that the service's sweeps run
there, each with its own seed and learning rate. Writes gpu.md with the device's name; with --any-device it runs
elsewhere too, as a rehearsal that writes nothing. PyTorch must be its build for CUDA.
"""

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peers
from jax import Array
from machine import machine, results

from handgrad.core import datasets, network, randomness, training
from handgrad.core.compilation import choose_platform
from handgrad.core.config import preset
from handgrad.core.operations.base import Params

SIZES = (1, 16, 256, 1024)
AIMS = {"handgrad": 0.25, "a sweep of 1024": 5.0}
"""Seconds of the report's ten epochs, on an H100."""


def own_run(data: datasets.Dataset, epochs: int) -> Callable[[], None]:
    start = preset("report")
    net = network.make_network(start.layers, data.image_shape, data.classes)
    recipe = training.recipe_of(net, start.transform, start.config)
    config = replace(start.config, epochs=epochs)
    images, labels = jnp.asarray(data.train.images), jnp.asarray(data.train.labels)

    def run() -> None:
        init_key, key = randomness.keys_of_run(0)
        state = training.initial_state(recipe, network.init(net, init_key))
        for _ in training.train(recipe, config, state, images, labels, key):
            pass

    return run


def variant_run(
    data: datasets.Dataset, epochs: int, *, unrolled: int, options: dict[str, str | bool | int]
) -> Callable[[], None]:
    """The core's loop compiled in another way, an epoch a call: to see what it should be compiled like on this GPU.

    Args:
        data: The images.
        epochs: Passes over them.
        unrolled: Iterations of the training in one of the loop.
        options: XLA's.
    """
    start = preset("report")
    net = network.make_network(start.layers, data.image_shape, data.classes)
    recipe = replace(training.recipe_of(net, start.transform, start.config), loops=False)
    images, labels = jnp.asarray(data.train.images), jnp.asarray(data.train.labels)
    per_epoch = len(images) // start.config.batch_size
    rates = jnp.full(per_epoch, start.config.learning_rate, jnp.float32)
    numbers = training.hyperparameters_of(start.config)

    def epoch(state: training.TrainState, losses: Array, permutation: Array, key: Array) -> Any:
        def several(block: Array, carry: tuple[training.TrainState, Array]) -> tuple[training.TrainState, Array]:
            for i in range(unrolled):
                first = block * unrolled + i
                carry = training.train_iterations(
                    *(*carry, images, labels, permutation, rates, numbers, key, first, first + 1),
                    recipe=recipe,
                    batch_size=start.config.batch_size,
                )
            return carry

        return jax.lax.fori_loop(0, per_epoch // unrolled, several, (state, losses))

    compiled = jax.jit(epoch, donate_argnums=(0, 1), compiler_options=options)

    def run() -> None:
        init_key, key = randomness.keys_of_run(0)
        state = training.initial_state(recipe, network.init(net, init_key))
        losses = jnp.zeros(per_epoch, jnp.float32)
        for number in range(1, epochs + 1):
            permutation = jnp.asarray(randomness.epoch_permutation(key, number, len(images)))
            state, losses = compiled(state, losses, permutation, key)
        assert np.isfinite(np.asarray(losses)).all()

    return run


VARIANTS: dict[str, tuple[int, dict[str, str | bool | int]]] = {
    "a loop": (1, {}),
    "10 iterations unrolled": (10, {}),
    "50 iterations unrolled": (50, {}),
}
GPU_VARIANTS: dict[str, tuple[int, dict[str, str | bool | int]]] = {
    "without command buffers": (1, {"xla_gpu_enable_command_buffer": ""}),
    "loops in command buffers": (1, {"xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,WHILE"}),
    "50 unrolled, all in command buffers": (50, {"xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,WHILE"}),
}


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
    recipe = training.recipe_of(net, start.transform, start.config)
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
    variants = VARIANTS | (GPU_VARIANTS if device.startswith("gpu") else {})
    for name, (unrolled, compiled_with) in variants.items():
        runs[f"an epoch a call, {name}"] = variant_run(data, epochs, unrolled=unrolled, options=compiled_with)
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
        results("gpu").joinpath("gpu.md").write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
