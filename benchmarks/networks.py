"""An epoch of lenet and cnn: hand-written gradients, beside jax.grad in the same loop, and PyTorch's eager mode.

Each is the same network with the same settings on the same images, float32, on all cores. Writes results/networks.md.
An epoch is timed as a part of it: `--iterations` mini-batches of 100 images after a warm-up, scaled to 600.
"""

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from machine import machine

from handgrad.core import datasets, network, training
from handgrad.core.compilation import compiler_options
from handgrad.core.config import preset
from handgrad.core.operations.base import Layer, Params, chain_fwd

RESULTS = Path(__file__).parent / "results"
ITERATIONS_PER_EPOCH = 600
BATCH = 100
AIMS = {"hand-written / jax.grad": 1.0, "hand-written / PyTorch eager": 1.0}


def autodiff_step(recipe: training.Recipe) -> Callable[..., Any]:
    """The iteration of core/training.py, with jax.grad in the place of the hand-written backward passes."""

    def step(state: Any, images: Array, labels: Array, indices: Array, rate: Array, numbers: Any, key: Array) -> Any:
        inputs = training.scale_pixels(images[indices], recipe.pixels)
        images_key, layers_key = jax.random.split(key)
        shaped = inputs.reshape(BATCH, *recipe.network.input_shape)
        inputs = recipe.augmentation(images_key, shaped).reshape(BATCH, -1)

        def objective(params: Params) -> tuple[Array, Params]:
            outputs, _, statistics = chain_fwd(
                recipe.network.layers, params, state.statistics, inputs.reshape(shaped.shape), layers_key
            )
            loss = network.LOSSES[recipe.loss.name].op(outputs, labels[indices], **recipe.loss.settings)
            return loss, statistics

        (loss, statistics), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        params, opt_state = recipe.optimizer.update(
            grads, state.opt_state, state.params, numbers._replace(learning_rate=rate)
        )
        return training.TrainState(params, opt_state, statistics), loss

    # With the same options for XLA as the hand-written one.
    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options())


def core_runs(name: str, data: datasets.Dataset) -> dict[str, Callable[[int], None]]:
    start = preset(name)
    net = network.make_network(start.layers, data.image_shape, data.classes)
    recipe = training.recipe_of(net, start.config)
    images, labels = jnp.asarray(data.train.images), jnp.asarray(data.train.labels)
    numbers = training.hyperparameters_of(start.config)
    order = jnp.asarray(np.random.default_rng(0).permutation(len(images)).astype(np.int32))
    rates = jnp.full(ITERATIONS_PER_EPOCH, 0.001, jnp.float32)
    init_key, key = training.keys_of_run(0)
    states = {who: training.initial_state(recipe, network.init(net, init_key)) for who in ("hand", "jax")}
    losses = [jnp.zeros(ITERATIONS_PER_EPOCH, jnp.float32)]
    last: list[Any] = [None]
    step = autodiff_step(recipe)

    def hand(iterations: int) -> None:
        for i in range(iterations):
            states["hand"], losses[0] = training.compiled()(
                *(states["hand"], losses[0], images, labels, order, rates, numbers, key, i, i + 1),
                recipe=recipe,
                batch_size=BATCH,
            )
        np.asarray(losses[0])

    def autodiff(iterations: int) -> None:
        for i in range(iterations):
            indices = order[i * BATCH : (i + 1) * BATCH]
            states["jax"], last[0] = step(
                states["jax"], images, labels, indices, rates[i], numbers, jax.random.fold_in(key, i)
            )
        np.asarray(last[0])

    return {"hand-written": hand, "jax.grad": autodiff}


def torch_layers(torch: Any, layers: tuple[Layer, ...], shapes: tuple[tuple[int, ...], ...]) -> Any:
    """The same layers in PyTorch, as its users write them."""
    nn = torch.nn
    made: list[Any] = []
    for layer, shape in zip(layers, shapes, strict=True):
        told = vars(layer)
        if layer.kind == "convolution":
            padding = (told["kernel"] - 1) // 2 if told["padding"] == "same" else told["padding"]
            made.append(
                nn.Conv2d(shape[2], told["channels"], told["kernel"], told["stride"], padding, bias=told["bias"])
            )
        elif layer.kind == "affine":
            made.append(nn.Linear(shape[0], told["outputs"]))
        else:
            made.append(
                {
                    "batch_norm": lambda shape=shape: nn.BatchNorm2d(shape[-1]),
                    "relu": nn.ReLU,
                    "max_pool": lambda told=told: nn.MaxPool2d(told["window"], told["stride"]),
                    "average_pool": lambda: nn.AdaptiveAvgPool2d(1),
                    "flatten": nn.Flatten,
                    "dropout": lambda told=told: nn.Dropout(told["rate"]),
                }[layer.kind]()
            )
    return nn.Sequential(*made)


def torch_run(name: str, data: datasets.Dataset) -> Callable[[int], None]:
    torch = importlib.import_module("torch")
    start = preset(name)
    config = start.config
    net = network.make_network(start.layers, data.image_shape, data.classes)
    torch.manual_seed(0)
    model = torch_layers(torch, net.leaves, net.leaf_shapes)
    model.train()
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimizer = kinds[config.optimizer](model.parameters(), lr=0.001, weight_decay=config.weight_decay)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    images = torch.from_numpy(data.train.images.reshape(-1, 1, *data.image_shape).copy())
    labels = torch.from_numpy(data.train.labels.astype(np.int64))
    order = torch.randperm(len(images))
    rows, columns = data.image_shape[:2]

    def run(iterations: int) -> None:
        for i in range(iterations):
            indices = order[i * BATCH : (i + 1) * BATCH]
            inputs = images[indices].float() / 255
            padded = torch.nn.functional.pad(inputs, [config.shift] * 4)
            corners = torch.randint(0, 2 * config.shift + 1, (BATCH, 2))
            r = corners[:, :1] + torch.arange(rows)
            c = corners[:, 1:] + torch.arange(columns)
            inputs = padded[torch.arange(BATCH)[:, None, None], 0, r[:, :, None], c[:, None, :]][:, None]
            optimizer.zero_grad()
            loss_of(model(inputs), labels[indices]).backward()
            optimizer.step()

    return run


def measure(name: str, data: datasets.Dataset, rounds: int, iterations: int) -> dict[str, list[float]]:
    runs = core_runs(name, data) | {"PyTorch eager": torch_run(name, data)}
    for run in runs.values():
        run(3)
    times: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(rounds):
        for who, run in runs.items():
            began = time.perf_counter()
            run(iterations)
            times[who].append((time.perf_counter() - began) / iterations * ITERATIONS_PER_EPOCH)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=30)
    arguments = parser.parse_args()
    data = datasets.mnist()
    lines = [
        "# An epoch of lenet and cnn",
        "",
        "| network | ratio, median of the rounds | measured | aim |",
        "|---|---|---|---|",
    ]
    seconds: list[str] = []
    for name in ("lenet", "cnn"):
        times = measure(name, data, arguments.rounds, arguments.iterations)
        for ratio, aim in AIMS.items():
            above, below = ratio.split(" / ")
            found = statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))
            verdict = "met" if found <= aim else "missed"
            lines.append(f"| `{name}` | {ratio} | {found:.2f} | at most {aim:.0f}: {verdict} |")
        own = ", ".join(f"{who} {statistics.median(taken):.1f} s" for who, taken in times.items())
        seconds.append(f"- `{name}`, seconds an epoch, medians: {own}.")
    where = ", ".join(f"{key} {value}" for key, value in machine().items())
    lines += ["", *seconds, "", f"Measured on: {where}, PyTorch {importlib.import_module('torch').__version__}."]
    RESULTS.joinpath("networks.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
