"""An epoch of mlp, lenet and cnn: hand-written gradients, beside jax.grad in the same loop, PyTorch, and for mlp numpy
and scikit-learn.

Each is the same network with the same settings on the same images, float32, on all cores; scikit-learn has no dropout,
and so less to do. For convolutions nobody would pick numpy, and scikit-learn has none. An epoch is timed as a part of
it, some mini-batches of 100 images after a warm-up, scaled to 600. Writes networks.md and networks.png.
"""

import argparse
import importlib
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import numpy_mlp
from jax import Array
from machine import machine, results

from handgrad.core import datasets, network, randomness, training
from handgrad.core.compilation import compiler_options
from handgrad.core.config import preset
from handgrad.core.network import Loss, Network
from handgrad.core.operations.base import Layer, Params, chain_fwd

ITERATIONS_PER_EPOCH = 600
BATCH = 100
ITERATIONS = {"mlp": 150, "lenet": 30, "cnn": 15}
"""Timed at once, of each network: a second or so."""

AIM = 1.0
"""Of the ratio to each peer."""

OWN = "hand-written"
Run = Callable[[int], object]


def autodiff(
    net: Network, params: Params, statistics: Params, inputs: Array, labels: Array, key: Array, loss: Loss
) -> tuple[Array, Params, Params]:
    """What `loss_and_grads` computes, by jax.grad of the forward passes."""

    def objective(params: Params) -> tuple[Array, Params]:
        shaped = inputs.reshape(inputs.shape[0], *net.input_shape)
        outputs, _, after = chain_fwd(net.layers, params, statistics, shaped, key)
        return network.LOSSES[loss.name].op(outputs, labels, **loss.settings), after

    (value, after), grads = jax.value_and_grad(objective, has_aux=True)(params)
    return value, grads, after


def autodiff_iterations(*arguments: Any, recipe: training.Recipe, batch_size: int) -> tuple[training.TrainState, Array]:
    """The loop of core/training.py, with jax.grad in the place of the hand-written backward passes; traced once."""
    with mock.patch.object(training, "loss_and_grads", autodiff):
        return training.train_iterations(*arguments, recipe=recipe, batch_size=batch_size)


def core_run(name: str, data: datasets.Dataset, iterate: Callable[..., Any]) -> Run:
    start = preset(name)
    net = network.make_network(start.layers, data.image_shape, data.classes)
    recipe = training.recipe_of(net, start.transform, start.config)
    images, labels = jnp.asarray(data.train.images), jnp.asarray(data.train.labels)
    numbers = training.hyperparameters_of(start.config)
    order = jnp.asarray(np.random.default_rng(0).permutation(len(images)).astype(np.int32))
    rates = jnp.full(ITERATIONS_PER_EPOCH, 0.001, jnp.float32)
    init_key, key = randomness.keys_of_run(0)
    state = training.initial_state(recipe, network.init(net, init_key))
    losses = jnp.zeros(ITERATIONS_PER_EPOCH, jnp.float32)

    def run(iterations: int) -> None:
        nonlocal state, losses
        for first in (0,) if recipe.loops else range(iterations):
            state, losses = iterate(
                *(state, losses, images, labels, order, rates, numbers, key),
                *(first, iterations if recipe.loops else first + 1),
                recipe=recipe,
                batch_size=BATCH,
            )
        np.asarray(losses)

    return run


def torch_layers(torch: Any, layers: Sequence[Layer], shapes: Sequence[tuple[int, ...]]) -> Any:
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


def torch_run(name: str, data: datasets.Dataset, *, compiled: bool) -> Run:
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
    shape = (1, *data.image_shape) if len(net.input_shape) == 3 else net.input_shape
    images = torch.from_numpy(data.train.images.reshape(-1, *shape).copy())
    labels = torch.from_numpy(data.train.labels.astype(np.int64))
    order = torch.randperm(len(images))
    rows, columns = data.image_shape[:2]

    def step(inputs: Any, targets: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss

    do = torch.compile(step) if compiled else step

    def run(iterations: int) -> None:
        loss: Any = None
        for i in range(iterations):
            indices = order[i * BATCH : (i + 1) * BATCH]
            inputs = images[indices].float() / 255
            if config.shift:
                padded = torch.nn.functional.pad(inputs, [config.shift] * 4)
                corners = torch.randint(0, 2 * config.shift + 1, (BATCH, 2))
                r = corners[:, :1] + torch.arange(rows)
                c = corners[:, 1:] + torch.arange(columns)
                inputs = padded[torch.arange(BATCH)[:, None, None], 0, r[:, :, None], c[:, None, :]][:, None]
            loss = do(inputs, labels[indices])
        loss.item()

    return run


def scikit_learn_mlp(data: datasets.Dataset) -> Run:
    classifier: Any = importlib.import_module("sklearn.neural_network").MLPClassifier
    inputs = data.train.images.astype(np.float32) / np.float32(255)
    labels = data.train.labels
    model = classifier(numpy_mlp.WIDTHS[1:-1], solver="adam", batch_size=BATCH, learning_rate_init=0.002, alpha=0.01)

    def run(iterations: int) -> None:
        images = iterations * BATCH
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # One pass over these images.
            model.partial_fit(inputs[:images], labels[:images], classes=np.arange(data.classes))

    return run


def runs_of(name: str, data: datasets.Dataset) -> dict[str, Run]:
    # With the same options for XLA, and the state given away, as the hand-written one.
    differentiated = jax.jit(
        autodiff_iterations,
        static_argnames=("recipe", "batch_size"),
        donate_argnums=(0, 1),
        compiler_options=compiler_options(),
    )
    runs: dict[str, Run] = {
        OWN: core_run(name, data, training.compiled()),
        "jax.grad": core_run(name, data, differentiated),
        "PyTorch eager": torch_run(name, data, compiled=False),
        "PyTorch compiled": torch_run(name, data, compiled=True),
    }
    if name == "mlp":
        runs["numpy"] = numpy_mlp.trainer(data.train.images, data.train.labels)
        runs["scikit-learn"] = scikit_learn_mlp(data)
    return runs


def measure(name: str, data: datasets.Dataset, rounds: int) -> dict[str, list[float]]:
    """Gives the seconds of an epoch in each round."""
    runs, iterations = runs_of(name, data), ITERATIONS[name]
    for run in runs.values():
        run(3)
    times: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(rounds):
        for who, run in runs.items():
            began = time.perf_counter()
            run(iterations)
            times[who].append((time.perf_counter() - began) / iterations * ITERATIONS_PER_EPOCH)
    return times


def ratio_to(peer: str, times: dict[str, list[float]]) -> float:
    return statistics.median(a / b for a, b in zip(times[OWN], times[peer], strict=True))


def draw(found: dict[str, dict[str, list[float]]], file: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(9, 2.9), dpi=150, layout="constrained")
    for place, (name, times) in enumerate(found.items()):
        axes = figure.add_subplot(1, len(found), place + 1)
        whos = sorted(times, key=lambda who: -statistics.median(times[who]))
        medians = [statistics.median(times[who]) for who in whos]
        spread = [
            [median - min(times[who]) for who, median in zip(whos, medians, strict=True)],
            [max(times[who]) - median for who, median in zip(whos, medians, strict=True)],
        ]
        colors = ["tab:blue" if who == OWN else "0.75" for who in whos]
        axes.barh(whos, medians, color=colors, xerr=spread, error_kw={"linewidth": 1})
        axes.set_title(name)
        axes.set_xlabel("seconds an epoch")
        axes.tick_params(labelsize=8)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", choices=ITERATIONS, default=list(ITERATIONS))
    arguments = parser.parse_args()
    data = datasets.mnist()
    found = {name: measure(name, data, arguments.rounds) for name in arguments.networks}
    lines = [f"# An epoch of {', '.join(found)}, {arguments.rounds} rounds", ""]
    lines += ["| network | ratio, median of the rounds | measured | aim |", "|---|---|---|---|"]
    for name, times in found.items():
        for peer in (who for who in times if who != OWN):
            ratio = ratio_to(peer, times)
            verdict = "met" if ratio <= AIM else "missed"
            lines.append(f"| `{name}` | {OWN} / {peer} | {ratio:.2f} | at most {AIM:.0f}: {verdict} |")
    lines += ["", "| seconds an epoch | fastest | median | slowest |", "|---|---|---|---|"]
    for name, times in found.items():
        for who, taken in times.items():
            lines.append(f"| `{name}`, {who} | {min(taken):.2f} | {statistics.median(taken):.2f} | {max(taken):.2f} |")
    where = ", ".join(f"{key} {value}" for key, value in machine().items())
    lines += ["", f"Measured on: {where}, PyTorch {importlib.import_module('torch').__version__}."]
    results().joinpath("networks.md").write_text("\n".join(lines) + "\n")
    draw(found, results() / "networks.png")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
