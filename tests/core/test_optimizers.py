"""Optimizers and schedules, against computations by hand in float64."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from handgrad.core import training
from handgrad.core.config import TrainConfig, overridden, preset
from handgrad.core.network import fully_connected, init
from handgrad.core.operations.base import Params
from handgrad.core.optimizers import OPTIMIZERS, Hyperparameters, clipped, orthogonalized
from handgrad.core.schedules import SCHEDULES, learning_rates
from handgrad.core.training import with_decay

Vector = NDArray[np.float64]
ETA, MU, RHO, EPSILON, DECAY = 0.1, 0.8, 0.7, 1e-3, 0.05
STEPS = 5


def gradient(theta: Vector, step: int) -> Vector:
    return np.sin(3 * theta) + 0.1 * step


def sgd(theta: Vector) -> Vector:
    for step in range(STEPS):
        theta = theta - ETA * gradient(theta, step)
    return theta


def momentum(theta: Vector) -> Vector:
    v = np.zeros_like(theta)
    for step in range(STEPS):
        v = MU * v - ETA * gradient(theta, step)
        theta = theta + v
    return theta


def nesterov(theta: Vector) -> Vector:
    # As Sutskever and others write it, the gradient standing ahead at theta + mu v; compared at that point.
    base, v = theta, np.zeros_like(theta)
    for step in range(STEPS):
        v = MU * v - ETA * gradient(base + MU * v, step)
        base = base + v
    return base + MU * v


def adagrad(theta: Vector) -> Vector:
    past: list[Vector] = []
    for step in range(STEPS):
        past.append(gradient(theta, step))
        theta = theta - ETA * past[-1] / (np.sqrt(sum(g**2 for g in past)) + EPSILON)
    return theta


def rmsprop(theta: Vector) -> Vector:
    past: list[Vector] = []
    for step in range(STEPS):
        past.append(gradient(theta, step))
        mean = sum((1 - RHO) * RHO ** (step - i) * g**2 for i, g in enumerate(past))
        theta = theta - ETA * past[-1] / (np.sqrt(mean) + EPSILON)
    return theta


def adadelta(theta: Vector) -> Vector:
    squares, steps = np.zeros_like(theta), np.zeros_like(theta)
    for step in range(STEPS):
        g = gradient(theta, step)
        squares = RHO * squares + (1 - RHO) * g**2
        x = -np.sqrt((steps + EPSILON) / (squares + EPSILON)) * g
        steps = RHO * steps + (1 - RHO) * x**2
        theta = theta + ETA * x
    return theta


def adam(theta: Vector, decay: float = 0.0) -> Vector:
    past: list[Vector] = []
    for step in range(STEPS):
        past.append(gradient(theta, step))
        t = len(past)
        m = sum((1 - MU) * MU ** (t - 1 - i) * g for i, g in enumerate(past)) / (1 - MU**t)
        v = sum((1 - RHO) * RHO ** (t - 1 - i) * g**2 for i, g in enumerate(past)) / (1 - RHO**t)
        theta = theta - ETA * m / (np.sqrt(v) + EPSILON) - ETA * decay * theta
    return theta


def adamw(theta: Vector) -> Vector:
    return adam(theta, DECAY)


def muon(theta: Vector) -> Vector:
    m = np.zeros_like(theta)
    for step in range(STEPS):
        g = gradient(theta, step)
        m = MU * m + g
        X = g + MU * m
        X = X / (np.sqrt((X**2).sum()) + 1e-7)
        for _ in range(5):
            A = X @ X.T
            X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
        theta = theta - ETA * (0.2 * math.sqrt(max(theta.shape)) * X + DECAY * theta)
    return theta


BY_HAND: dict[str, Callable[[Vector], Vector]] = {
    function.__name__: function for function in (sgd, momentum, nesterov, adagrad, rmsprop, adadelta, adam, adamw, muon)
}


def run(name: str, params: Params) -> Params:
    optimizer = OPTIMIZERS[name]
    state = optimizer.init(params)
    numbers = Hyperparameters(*(jnp.float64(x) for x in (ETA, MU, RHO, EPSILON, DECAY, 0)))
    for step in range(STEPS):
        grads: Params = tuple(
            {array: jnp.asarray(gradient(np.asarray(theta), step)) for array, theta in layer.items()}
            for layer in params
        )
        params, state = optimizer.update(grads, state, params, numbers)
    return params


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_by_hand(name: str) -> None:
    assert BY_HAND.keys() == OPTIMIZERS.keys()
    generator = np.random.default_rng(5)
    W, b = generator.normal(size=(2, 3)), generator.normal(size=4)
    found = run(name, ({"W": jnp.asarray(W), "b": jnp.asarray(b)}, {}))
    np.testing.assert_allclose(found[0]["W"], BY_HAND[name](W), rtol=1e-10)
    # What is no weight does not decay, and Muon leaves it to Adam.
    others = {"adamw": adam, "muon": adam}
    np.testing.assert_allclose(found[0]["b"], others.get(name, BY_HAND[name])(b), rtol=1e-10)
    assert found[1] == {}


def test_orthogonalization_brings_singular_values_near_one() -> None:
    matrix = np.random.default_rng(1).normal(size=(6, 9))
    for X in (matrix, matrix.T):
        values = np.linalg.svd(np.asarray(orthogonalized(jnp.asarray(X, jnp.float32))), compute_uv=False)
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_gradients_over_the_norm_are_scaled_to_it_and_others_left() -> None:
    grads: Params = ({"W": jnp.array([[3.0, 0.0]])}, {"b": jnp.array([4.0])})
    short = clipped(grads, jnp.float32(1))
    np.testing.assert_allclose(short[0]["W"], [[0.6, 0]], rtol=1e-6)
    np.testing.assert_allclose(short[1]["b"], [0.8], rtol=1e-6)
    np.testing.assert_array_equal(clipped(grads, jnp.float32(5.5))[0]["W"], grads[0]["W"])
    zero: Params = ({"W": jnp.zeros((1, 2))},)
    np.testing.assert_array_equal(clipped(zero, jnp.float32(1))[0]["W"], [[0, 0]])


def test_weight_decay_concerns_weights_alone() -> None:
    layer = {"W": jnp.array([[2.0]]), "b": jnp.array([5.0]), "gamma": jnp.array([5.0])}
    grads = {name: jnp.zeros_like(array) for name, array in layer.items()}
    (found,) = with_decay((grads,), (layer,), jnp.float32(0.1))
    assert {name: float(array.sum()) for name, array in found.items()} == {"W": pytest.approx(0.2), "b": 0, "gamma": 0}


def rates(schedule: str, **settings: Any) -> list[float]:
    # Four epochs of two iterations.
    asked = {"per_epoch": 2, "epochs": 4, "factor": 0.25, "every": 1.0, "warmup": 0.0} | settings
    found: list[float] = learning_rates(2.0, schedule, 0, 8, **asked).tolist()
    return found


def test_schedules_by_hand() -> None:
    assert rates("constant") == [2.0] * 8
    assert rates("step") == [2, 2, 0.5, 0.5, 0.125, 0.125, 0.03125, 0.03125]
    assert rates("exponential") == pytest.approx([2 * 0.25 ** (i / 2) for i in range(8)])
    expected = [2 * (0.25 + 0.75 * (1 + math.cos(math.pi * i / 8)) / 2) for i in range(8)]
    assert rates("cosine") == pytest.approx(expected)
    warm = rates("cosine", warmup=1.0, factor=0.0)
    assert warm[:2] == [1.0, 2.0]
    assert warm[2:] == pytest.approx([1 + math.cos(math.pi * i / 6) for i in range(6)])


def test_a_schedule_goes_on_where_it_was() -> None:
    settings: dict[str, Any] = {"per_epoch": 5, "epochs": 3, "factor": 0.1, "every": 2.0, "warmup": 0.5}
    whole = learning_rates(1.0, "cosine", 0, 15, **settings)
    parts = [learning_rates(1.0, "cosine", begin, 5, **settings) for begin in (0, 5, 10)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


NETWORK = fully_connected(3, (), 2)


def trained(config: TrainConfig) -> NDArray[np.float32]:
    """Gives the params after two iterations of training, op by op."""
    recipe = replace(training.recipe_of(NETWORK, config), loops=False)
    state = training.initial_state(recipe, init(NETWORK, jax.random.key(0)))
    losses, rates = jnp.zeros(2), jnp.full(2, 0.1)
    images = jnp.asarray([[1.0, 2.0, -1.0], [0.5, -3.0, 1.0]])
    for i in range(2):
        state, losses = training.train_iterations(
            *(state, losses, images, jnp.asarray([0, 1]), jnp.arange(2), rates),
            *(training.hyperparameters_of(config), jax.random.key(1), jnp.int32(i), jnp.int32(i + 1)),
            recipe=recipe,
            batch_size=1,
        )
    return np.concatenate([np.ravel(array) for layer in state.params for array in layer.values()])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_reads_what_it_says_and_no_more(name: str) -> None:
    config = overridden(preset("report").config, {"optimizer": name})
    expected = trained(config)
    others: dict[str, Any] = {"momentum": 0.5, "beta2": 0.5, "epsilon": 0.5, "weight_decay": 0.5, "clip_norm": 0.5}
    read = {field for field, value in others.items() if (trained(replace(config, **{field: value})) != expected).any()}
    assert read == OPTIMIZERS[name].reads | {"weight_decay", "clip_norm"}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_reads_what_it_says_and_no_more(name: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "schedule_factor": {"factor": 0.5},
        "schedule_epochs": {"every": 2.0},
        "warmup_epochs": {"warmup": 1.5},
    }
    read = {field for field, change in changes.items() if rates(name, **change) != rates(name)}
    assert read == SCHEDULES[name].reads | {"warmup_epochs"}
