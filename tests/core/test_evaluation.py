"""Evaluation, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from handgrad.core import evaluation
from handgrad.core.network import fully_connected, init
from handgrad.core.operations.base import Params

NETWORK = fully_connected(6, (4,), 3)
NOTHING: Params = ({}, {}, {})
GENERATOR = np.random.default_rng(8)
IMAGES = GENERATOR.integers(0, 256, (50, 6), np.uint8)
LABELS = GENERATOR.integers(0, 3, 50).astype(np.uint8)


def test_it_is_what_numpy_computes() -> None:
    params = init(NETWORK, jax.random.key(1))
    hidden, _, last = jax.tree.map(np.array, params)
    H = 1 / (1 + np.exp(-(IMAGES / 255 @ hidden["W"].T + hidden["b"])))
    logits = H @ last["W"].T + last["b"]
    y = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (LABELS, y.argmax(axis=1)), 1)

    found = evaluation.evaluate(NETWORK, params, NOTHING, jnp.asarray(IMAGES), jnp.asarray(LABELS), "unit")
    assert found.loss == pytest.approx(-np.log(y[np.arange(50), LABELS]).mean(), rel=1e-5)
    np.testing.assert_array_equal(found.confusion, confusion)
    assert found.accuracy == np.trace(confusion) / 50


def test_the_parts_it_is_cut_into_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    params = init(NETWORK, jax.random.key(2))

    def evaluate() -> evaluation.Evaluation:
        return evaluation.evaluate(NETWORK, params, NOTHING, jnp.asarray(IMAGES), jnp.asarray(LABELS), "identity")

    whole = evaluate()
    # 17 numbers an image: parts of 7 images, the last of 1.
    monkeypatch.setattr(evaluation, "ACTIVATIONS_PER_CALL", 7 * 17)
    parts = evaluate()
    np.testing.assert_array_equal(parts.confusion, whole.confusion)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.confusion.sum() == 50


def test_float_images_are_taken_too() -> None:
    params = init(NETWORK, jax.random.key(3))
    labels = jnp.asarray(LABELS)
    as_bytes = evaluation.evaluate(NETWORK, params, NOTHING, jnp.asarray(IMAGES), labels, "identity")
    as_floats = evaluation.evaluate(NETWORK, params, NOTHING, jnp.asarray(IMAGES, jnp.float32), labels, "identity")
    assert as_bytes.loss == as_floats.loss
