"""The ends of the ranges: the largest losses, the smallest rates, every bit of a key."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from handgrad.core import datasets
from handgrad.core.config import preset
from handgrad.core.datasets import TRAIN_LABELS, parse_idx
from handgrad.core.errors import InvalidInputError
from handgrad.core.evaluation import evaluate
from handgrad.core.network import fully_connected
from handgrad.core.operations import activations, losses
from handgrad.core.optimizers import SGD, Hyperparameters, OptState
from handgrad.core.randomness import epoch_permutation

MAX = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 100, 127, 600])
def test_the_mean_of_the_largest_losses_is_finite(size: int) -> None:
    logits = jnp.tile(jnp.array([[MAX, -MAX]], jnp.float32), (size, 1))
    assert np.isfinite(losses.softmax_cross_entropy(logits, jnp.ones(size, jnp.int32)))


def test_an_evaluation_of_the_largest_losses_is_finite() -> None:
    params = ({"W": jnp.zeros((2, 3)), "b": jnp.array([3e38, -3e38])},)
    images, labels = jnp.zeros((4, 3), jnp.uint8), jnp.ones(4, jnp.uint8)
    assert np.isfinite(evaluate(fully_connected(3, (), 2), params, ({},), images, labels, "identity").loss)


@pytest.mark.parametrize(("dtype", "classes"), [(jnp.int8, 200), (jnp.uint8, 256), (jnp.uint8, 300), (jnp.int32, 300)])
def test_a_label_is_one_class_however_few_bits_it_has(dtype: Any, classes: int) -> None:
    loss, residuals = losses.softmax_cross_entropy_fwd(jnp.zeros((1, classes)), jnp.array([5], dtype))
    np.testing.assert_allclose(loss, np.log(classes), rtol=1e-6)
    assert np.flatnonzero(residuals[1]).tolist() == [5]


@pytest.mark.parametrize("x", [0.0, -0.0, 1e-30, 1e4, -1e4, MAX, -MAX, np.inf, -np.inf])
def test_the_gradient_of_sigmoid_at_its_edges(x: float) -> None:
    y, residuals = jax.jit(activations.sigmoid_fwd)(jnp.float32(x))
    (gradient,) = activations.sigmoid_bwd(residuals, jnp.float32(1))
    assert float(y) == (0.5 if abs(x) < 1 else float(x > 0))
    assert float(gradient) == (0.25 if abs(x) < 1 else 0)


def test_every_learning_rate_that_is_allowed_moves_a_parameter() -> None:
    # XLA takes numbers below the smallest normal one for 0.
    config, network = preset("report").config, fully_connected(784, (100,), 10)
    for rate in (1e-38, 1.1e-38, 1.2e-38):
        try:
            replace(config, learning_rate=rate).check(network, 60_000)
        except InvalidInputError:
            continue
        (layer,), _ = jax.jit(SGD.update)(
            *(({"W": jnp.ones(1)},), OptState(), ({"W": jnp.zeros(1)},)),
            Hyperparameters(jnp.float32(rate), *[jnp.float32(0)] * 5),
        )
        assert float(layer["W"][0]) < 0, rate


@pytest.mark.parametrize("high", [0, 2**31, 2**32 - 1])
def test_every_bit_of_a_key_counts(high: int) -> None:
    orders = [
        epoch_permutation(jax.random.wrap_key_data(jnp.array([high, low], jnp.uint32)), 1, 100).tolist()
        for low in (0, 1, 2)
    ]
    assert orders[0] != orders[1]
    assert orders[1] != orders[2]


def test_a_plain_file_is_held_to_the_same_size_as_a_gzipped_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MAX_FILE_BYTES", 100)
    content = bytes((0, 0, 8, 1, 0, 0, 0, 200)) + bytes(200)
    with pytest.raises(InvalidInputError, match="more than 100 bytes"):
        parse_idx(content, TRAIN_LABELS, dimensions=1)
