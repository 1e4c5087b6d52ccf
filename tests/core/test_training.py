"""The training loop: what it computes, whatever way it is cut, and that autodiff has no part in it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from numpy.typing import NDArray

from handgrad.core import randomness, training
from handgrad.core.config import PRESETS, TrainConfig, preset
from handgrad.core.datasets import Dataset
from handgrad.core.evaluation import evaluate
from handgrad.core.network import Network, fully_connected, init, make_network
from handgrad.core.operations.activations import ReLU
from handgrad.core.operations.affine import Affine
from handgrad.core.operations.base import Params
from handgrad.core.operations.dropout import Dropout
from handgrad.core.optimizers import OptState
from handgrad.core.signature import Transform, to_inputs

NETWORK = fully_connected(12, (5,), 3)
CONFIG = TrainConfig(batch_size=10, epochs=3, learning_rate=0.1, seed=4)
GENERATOR = np.random.default_rng(2)
IMAGES = GENERATOR.integers(0, 256, (45, 12), np.uint8)
LABELS = GENERATOR.integers(0, 3, 45).astype(np.uint8)


@dataclass
class Run:
    """What a run left."""

    params: Any
    losses: NDArray[np.float32]
    means: list[float]
    iterations: list[int]


def run(config: TrainConfig = CONFIG, network: Network = NETWORK, size: int = 45) -> Run:
    init_key, permutation_key = randomness.keys_of_run(config.seed)
    recipe = training.recipe_of(network, "unit", config)
    state = training.initial_state(recipe, init(network, init_key))
    images, labels = jnp.asarray(IMAGES[:size, : network.inputs]), jnp.asarray(LABELS[:size])
    params: Any = None
    chunks: list[training.Chunk] = []
    for chunk in training.train(recipe, config, state, images, labels, permutation_key):
        params = jax.tree.map(np.array, chunk.state.params)
        chunks.append(chunk)
    losses = np.concatenate([chunk.losses for chunk in chunks])
    means = [chunk.epoch_mean_loss for chunk in chunks if chunk.epoch_mean_loss is not None]
    return Run(params, losses, means, [chunk.iteration for chunk in chunks])


def assert_same_bits(found: Run, expected: Run) -> None:
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    np.testing.assert_array_equal(found.losses, expected.losses)
    assert found.means == expected.means


def by_hand(config: TrainConfig) -> tuple[Any, list[float]]:
    """The same run in float64 numpy, one mini-batch after the other."""
    init_key, permutation_key = randomness.keys_of_run(config.seed)
    hidden, _, last = jax.tree.map(lambda array: np.array(array, np.float64), init(NETWORK, init_key))
    means = []
    for epoch in range(1, config.epochs + 1):
        permutation = randomness.epoch_permutation(permutation_key, epoch, len(IMAGES))
        total = 0.0
        for start in range(0, len(IMAGES), config.batch_size):
            batch = permutation[start : start + config.batch_size]
            X, labels, rows = IMAGES[batch] / 255, LABELS[batch], np.arange(len(batch))
            H = 1 / (1 + np.exp(-(X @ hidden["W"].T + hidden["b"])))
            exponentials = np.exp(H @ last["W"].T + last["b"])
            y = exponentials / exponentials.sum(axis=1, keepdims=True)
            total -= np.log(y[rows, labels]).sum()
            y[rows, labels] -= 1
            g = y / len(batch)
            g_hidden = (g @ last["W"]) * (1 - H) * H
            for layer, inputs, gradient in ((last, H, g), (hidden, X, g_hidden)):
                layer["W"] -= config.learning_rate * gradient.T @ inputs
                layer["b"] -= config.learning_rate * gradient.sum(axis=0)
        means.append(total / len(IMAGES))
    return (hidden, {}, last), means


def test_every_batch_is_trained_the_last_and_smaller_one_too() -> None:
    # 45 images: four mini-batches of 10 and one of 5.
    expected, means = by_hand(CONFIG)
    found = run()
    assert len(found.losses) == 15
    assert found.iterations[-1] == 15
    np.testing.assert_allclose(found.means, means, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found.params, expected)


@pytest.mark.parametrize("batch_size", [1, 44, 45])
def test_any_batch_size_trains_as_by_hand(batch_size: int) -> None:
    config = replace(CONFIG, batch_size=batch_size, epochs=2)
    expected, means = by_hand(config)
    found = run(config)
    np.testing.assert_allclose(found.means, means, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found.params, expected)


def test_the_cuts_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run()
    monkeypatch.setattr(training, "SECONDS_PER_CALL", 0.0)
    one_by_one = run()
    assert one_by_one.iterations == list(range(1, 16))
    assert_same_bits(one_by_one, expected)
    monkeypatch.setattr(training, "SECONDS_PER_CALL", 100.0)
    published = run(replace(CONFIG, publish_every_iterations=2))
    assert {2, 4, 5, 6, 8, 10, 12, 14, 15} <= set(published.iterations)
    assert_same_bits(published, expected)


def test_a_seed_gives_its_bits_and_another_seed_others() -> None:
    assert_same_bits(run(), run())
    assert not np.array_equal(run().losses, run(replace(CONFIG, seed=5)).losses)


def test_the_loop_is_compiled_once_for_each_shape() -> None:
    # A shape that no other test has.
    network = fully_connected(11, (4,), 3)
    before = training.compiled()._cache_size()  # type: ignore[attr-defined]
    run(replace(CONFIG, epochs=5, publish_every_iterations=3), network, size=40)
    assert training.compiled()._cache_size() == before + 1  # type: ignore[attr-defined]
    run(replace(CONFIG, learning_rate=0.2, seed=9), network, size=40)
    assert training.compiled()._cache_size() == before + 1  # type: ignore[attr-defined]
    # Other numbers of images, and a last batch of 5.
    run(CONFIG, network, size=45)
    assert training.compiled()._cache_size() == before + 3  # type: ignore[attr-defined]


def test_training_differentiates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("training asked for automatic differentiation")

    for name in ("grad", "value_and_grad", "vjp", "jvp", "linearize", "jacfwd", "jacrev", "custom_vjp"):
        monkeypatch.setattr(jax, name, refuse)
    # A shape that no other test has, so that it is traced here.
    assert len(run(network=fully_connected(10, (3, 2), 3)).losses) == 15
    for name in PRESETS:
        _train_preset(name)


def _train_preset(name: str) -> None:
    shape = (20, 20, 3) if name == "resnet" else (20, 20)
    images, labels = GENERATOR.integers(0, 256, (6, math.prod(shape)), np.uint8), GENERATOR.integers(0, 3, 6)
    network = make_network(preset(name).layers, shape, 3)
    config = replace(preset(name).config, batch_size=3, epochs=1)
    recipe = training.recipe_of(network, preset(name).transform, config)
    init_key, key = randomness.keys_of_run(0)
    state = training.initial_state(recipe, init(network, init_key))
    before = jax.tree.map(np.array, state.params)
    chunks = training.train(recipe, config, state, jnp.asarray(images), jnp.asarray(labels), key)
    after = [chunk.state.params for chunk in chunks][-1]
    assert any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))


def test_it_trains_the_same_without_compiling() -> None:
    config = replace(CONFIG, epochs=1, batch_size=15)
    expected = run(config)
    with jax.disable_jit():
        found = run(config)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found.params, expected.params)


def test_many_networks_train_at_once() -> None:
    seeds, rates = [1, 2, 3, 4], jnp.array([0.05, 0.1, 0.2, 0.4], jnp.float32)
    images, labels = jnp.asarray(IMAGES), jnp.asarray(LABELS)
    starts = [init(NETWORK, randomness.keys_of_run(seed)[0]) for seed in seeds]
    permutations = jnp.stack(
        [jnp.asarray(randomness.epoch_permutation(randomness.keys_of_run(seed)[1], 1, 45)) for seed in seeds]
    )

    def train(params: Params, losses: Array, permutation: Array, rate: Array) -> tuple[training.TrainState, Array]:
        trained: tuple[training.TrainState, Array] = training.train_iterations(
            training.TrainState(jax.tree.map(jnp.copy, params), OptState(), ({}, {}, {})),
            *(losses, images, labels, permutation, jnp.full(4, rate), training.hyperparameters_of(CONFIG)),
            *(jax.random.key(0), jnp.int32(0), jnp.int32(4)),
            recipe=training.recipe_of(NETWORK, "unit", CONFIG),
            batch_size=10,
        )
        return trained

    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *starts)
    together, losses = jax.vmap(train)(stacked, jnp.zeros((4, 4), jnp.float32), permutations, rates)
    for member in range(4):
        alone, its_losses = train(starts[member], jnp.zeros(4, jnp.float32), permutations[member], rates[member])
        np.testing.assert_allclose(losses[member], its_losses, rtol=1e-5)
        found = jax.tree.map(lambda array, member=member: array[member], together)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, alone)


def together(
    configs: Sequence[TrainConfig],
    network: Network = NETWORK,
    states: Sequence[training.TrainState] = (),
    starts: Sequence[training.Position] = (),
    until: int = 0,
) -> tuple[list[training.TrainState], list[training.Position], list[list[float]]]:
    """Trains networks in one loop, to the end or to the first chunk at so many iterations."""
    keys = [randomness.keys_of_run(config.seed) for config in configs]
    recipe = training.recipe_of(network, "unit", configs[0])
    states = states or [training.initial_state(recipe, init(network, init_key)) for init_key, _ in keys]
    starts = starts or [training.FIRST] * len(configs)
    per_epoch = configs[0].iterations_per_epoch(45)
    losses = [start.epoch_losses for start in starts]
    means: list[list[float]] = [[] for _ in configs]
    found: list[training.TrainState] = []
    iteration = starts[0].iteration
    for chunks in training.train_together(
        recipe, configs, states, jnp.asarray(IMAGES), jnp.asarray(LABELS), [key for _, key in keys], starts
    ):
        assert len(chunks) == len(configs)
        iteration = chunks[0].iteration
        found = [jax.tree.map(jnp.array, chunk.state) for chunk in chunks]
        for member, chunk in enumerate(chunks):
            losses[member] = np.concatenate([losses[member], chunk.losses])
            means[member] += [] if chunk.epoch_mean_loss is None else [chunk.epoch_mean_loss]
        if until and iteration >= until:
            break
    kept = [of_one[len(of_one) - iteration % per_epoch :] for of_one in losses]
    return found, [training.Position(iteration, own) for own in kept], means


DROPPING = make_network((Affine(6), ReLU(), Dropout(0.4), Affine(3)), (12,), 3)
TOGETHER = [
    replace(CONFIG, seed=seed, learning_rate=rate, optimizer="adam", momentum=0.9, beta2=beta2, epsilon=1e-8)
    for seed, rate, beta2 in ((1, 0.01, 0.99), (1, 0.02, 0.9), (2, 0.01, 0.99), (3, 0.03, 0.999), (4, 0.01, 0.5))
]


@pytest.mark.parametrize("network", [NETWORK, DROPPING])
def test_networks_that_train_together_are_those_that_train_alone(network: Network) -> None:
    states, _, means = together(TOGETHER, network)
    for config, state, own_means in zip(TOGETHER, states, means, strict=True):
        alone = run(config, network)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state.params, alone.params)
        np.testing.assert_allclose(own_means, alone.means, rtol=1e-5)


def test_networks_that_train_together_go_on_bit_for_bit_whatever_the_others_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "SECONDS_PER_CALL", 0.0)
    monkeypatch.setattr(training, "SECONDS_PER_NETWORK", 0.0)
    expected, _, means = together(TOGETHER)
    states, starts, before = together(TOGETHER, until=7)
    assert starts[0].iteration == 7
    # The second has ended: its place is filled with another.
    places = [0, 0, 2, 3, 4]
    found, _, after = together(
        *([TOGETHER[place] for place in places], NETWORK),
        *([states[place] for place in places], [starts[place] for place in places]),
    )
    for member in (0, 2, 3, 4):
        jax.tree.map(np.testing.assert_array_equal, found[member], expected[member])
        assert before[member] + after[member] == means[member]


def test_a_cpu_trains_each_network_by_itself_and_other_devices_those_that_are_alike_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[tuple[Network, Transform, TrainConfig]] = [
        (network, "unit", replace(CONFIG, seed=seed, momentum=momentum))
        for seed in range(3)
        for network in (NETWORK, DROPPING)
        for momentum in (0.0, 0.5)
    ]
    assert training.partition(runs) == [[index] for index in (0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11)]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    # Plain SGD and momentum are other loops; five alike are three and two, not four and one.
    assert training.partition(runs) == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    monkeypatch.setattr(training, "_MOST_TOGETHER", 4)
    assert training.partition(runs[:1] * 5) == [[0, 1, 2], [3, 4]]
    monkeypatch.setattr(training, "_BYTES_TOGETHER", 1)
    assert training.partition(runs[:1] * 2) == [[0], [1]]


def test_numbers_are_taken_as_they_are_or_divided() -> None:
    images = jnp.array([[0, 51, 255]], jnp.uint8)
    np.testing.assert_array_equal(to_inputs(images, "identity"), [[0.0, 51.0, 255.0]])
    np.testing.assert_allclose(to_inputs(images, "unit"), [[0.0, 0.2, 1.0]], rtol=1e-6)
    assert to_inputs(images, "identity").dtype == jnp.float32
    with pytest.raises(TypeError, match="unit divides bytes; got float32"):
        to_inputs(images.astype(jnp.float32), "unit")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_reports_table(mnist: Dataset, seed: int) -> None:
    # The row "0 to 255" of the check of the report's results.
    table = [0.9662, 0.4834, 0.3836, 0.3351, 0.3040, 0.2823, 0.2656, 0.2534, 0.2387, 0.2285]
    report = preset("report")
    config = replace(report.config, seed=seed)
    network = make_network(report.layers, mnist.image_shape, mnist.classes)
    init_key, permutation_key = randomness.keys_of_run(seed)
    recipe = training.recipe_of(network, report.transform, config)
    state = training.initial_state(recipe, init(network, init_key))
    images, labels = jnp.asarray(mnist.train.images), jnp.asarray(mnist.train.labels)
    means: list[float] = []
    for chunk in training.train(recipe, config, state, images, labels, permutation_key):
        state = chunk.state
        means += [] if chunk.epoch_mean_loss is None else [chunk.epoch_mean_loss]
    assert means == pytest.approx(table, rel=0.06)
    test_images, test_labels = jnp.asarray(mnist.test.images), jnp.asarray(mnist.test.labels)
    assert evaluate(network, state.params, state.statistics, test_images, test_labels, "identity").accuracy >= 0.93
