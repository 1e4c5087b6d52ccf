"""Each gradient three ways: against jax.vjp, against finite differences, and at the edges."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.test_util import check_vjp

from handgrad.core.operations.activations import sigmoid, sigmoid_bwd, sigmoid_fwd
from handgrad.core.operations.affine import affine, affine_bwd, affine_fwd
from handgrad.core.operations.losses import (
    softmax_cross_entropy,
    softmax_cross_entropy_bwd,
    softmax_cross_entropy_fwd,
)
from handgrad.core.operations.softmax import log_softmax

Triple = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]

FLOAT32_MAX = float(np.finfo(np.float32).max)


def normal(seed: int, *shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def with_labels(triple: Triple, labels: Array) -> Triple:
    """Fixes the labels of a loss, which have no gradient, so that it takes floating arguments alone."""
    op, fwd, bwd = triple
    return (lambda x: op(x, labels)), (lambda x: fwd(x, labels)), (lambda r, g: bwd(r, g)[:1])


AFFINE = (affine, affine_fwd, affine_bwd)
SIGMOID = (sigmoid, sigmoid_fwd, sigmoid_bwd)
LOSS = (softmax_cross_entropy, softmax_cross_entropy_fwd, softmax_cross_entropy_bwd)

CASES: dict[str, tuple[Triple, list[tuple[int, ...]]]] = {
    "affine": (AFFINE, [(7, 5), (3, 5), (3,)]),
    "affine of one example": (AFFINE, [(1, 4), (2, 4), (2,)]),
    "affine to one output": (AFFINE, [(6, 4), (1, 4), (1,)]),
    "sigmoid": (SIGMOID, [(5, 4)]),
    "sigmoid of a scalar": (SIGMOID, [()]),
    "loss": (with_labels(LOSS, jnp.array([0, 3, 2, 2])), [(4, 5)]),
    "loss of one example": (with_labels(LOSS, jnp.array([1])), [(1, 3)]),
    "loss of one class": (with_labels(LOSS, jnp.array([0, 0])), [(2, 1)]),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_backward_pass_is_that_of_autodiff(name: str, scale: float) -> None:
    (op, fwd, bwd), shapes = CASES[name]
    arguments = [scale * normal(seed, *shape) for seed, shape in enumerate(shapes)]
    output, vjp = jax.vjp(op, *arguments)
    g = normal(99, *output.shape)
    output_by_hand, residuals = fwd(*arguments)
    np.testing.assert_allclose(output_by_hand, output, rtol=1e-14)
    for found, expected in zip(bwd(residuals, g), vjp(g), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", CASES)
def test_the_backward_pass_is_that_of_finite_differences(name: str) -> None:
    (op, fwd, bwd), shapes = CASES[name]
    arguments = tuple(normal(seed + 10, *shape) for seed, shape in enumerate(shapes))

    def vjp(*arguments: Array) -> tuple[Array, Callable[[Array], Any]]:
        output, residuals = fwd(*arguments)
        return output, lambda g: bwd(residuals, g)

    check: Any = check_vjp
    check(op, vjp, arguments, atol=1e-6, rtol=1e-6, eps=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_triple_can_be_handed_to_custom_vjp_and_compiled(name: str) -> None:
    (op, fwd, bwd), shapes = CASES[name]
    arguments = [normal(seed, *shape).astype(jnp.float32) for seed, shape in enumerate(shapes)]
    by_hand: Any = jax.custom_vjp(op)
    by_hand.defvjp(fwd, bwd)

    def total(function: Callable[..., Array]) -> Callable[..., Array]:
        return lambda *arguments: jnp.sum(function(*arguments) ** 2)

    positions = tuple(range(len(arguments)))
    found = jax.jit(jax.grad(total(by_hand), positions))(*arguments)
    with jax.disable_jit():
        expected = jax.grad(total(op), positions)(*arguments)
    for found_array, expected_array in zip(found, expected, strict=True):
        assert found_array.dtype == jnp.float32
        np.testing.assert_allclose(found_array, expected_array, rtol=2e-5, atol=2e-5)


def test_affine_of_known_numbers() -> None:
    X, W, b = jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0], [5.0, 6.0]]), jnp.array([10.0, 20.0])
    np.testing.assert_array_equal(affine(X, W, b), [[21.0, 37.0]])
    X_grad, W_grad, b_grad = affine_bwd((X, W), jnp.array([[1.0, 2.0]]))
    np.testing.assert_array_equal(X_grad, [[13.0, 16.0]])
    np.testing.assert_array_equal(W_grad, [[1.0, 2.0], [2.0, 4.0]])
    np.testing.assert_array_equal(b_grad, [1.0, 2.0])


def test_sigmoid_of_known_numbers() -> None:
    np.testing.assert_allclose(sigmoid(jnp.array([0.0, np.log(3.0), -np.log(3.0)])), [0.5, 0.75, 0.25], rtol=1e-6)
    (gradient,) = sigmoid_bwd(jnp.array([0.5, 0.25]), jnp.array([2.0, 1.0]))
    np.testing.assert_allclose(gradient, [0.5, 0.1875])


def test_the_loss_of_known_numbers() -> None:
    # Softmax of log(1, 2, 5): 1/8, 2/8, 5/8.
    logits = jnp.log(jnp.array([[1.0, 2.0, 5.0], [1.0, 1.0, 1.0]]))
    loss, residuals = softmax_cross_entropy_fwd(logits, jnp.array([1, 0]))
    np.testing.assert_allclose(loss, (np.log(4.0) + np.log(3.0)) / 2, rtol=1e-6)
    gradient, none = softmax_cross_entropy_bwd(residuals, jnp.float32(2.0))
    np.testing.assert_allclose(gradient, [[1 / 8, 2 / 8 - 1, 5 / 8], [1 / 3 - 1, 1 / 3, 1 / 3]], rtol=1e-5, atol=1e-7)
    assert none is None


def whole_range() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Numbers of every magnitude that float32 has, of both signs, and its ends."""
    magnitudes = np.concatenate([np.logspace(-45, 38, 400), np.linspace(60, 110, 400), [FLOAT32_MAX, np.inf, 0]])
    return np.concatenate([magnitudes, -magnitudes]).astype(np.float32)


def test_sigmoid_is_stable_over_the_whole_range() -> None:
    x = np.sort(whole_range())
    y, residuals = sigmoid_fwd(jnp.asarray(x))
    outputs = np.asarray(y)
    assert np.isfinite(outputs).all()
    assert (np.diff(outputs) >= 0).all()
    assert outputs[0] == 0
    assert outputs[-1] == 1
    expected = 1 / (1 + np.exp(-np.clip(x.astype(np.float64), -700, 700)))
    # Below the smallest normal number the processor may round to 0.
    np.testing.assert_allclose(outputs, expected, rtol=2e-6, atol=2e-38)
    (gradient,) = sigmoid_bwd(residuals, jnp.ones_like(y))
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient) >= 0).all()


@pytest.mark.parametrize("low", [-FLOAT32_MAX, -1e30, -1e4, -100.0, 0.0])
@pytest.mark.parametrize("high", [0.0, 1e-30, 100.0, 1e4, 1e30, FLOAT32_MAX])
def test_log_softmax_and_loss_are_finite_at_extreme_logits(low: float, high: float) -> None:
    logits = jnp.array([[low, high, 0.0], [high, high, high], [low, low, low]], jnp.float32)
    log_probabilities = np.asarray(log_softmax(logits))
    assert np.isfinite(log_probabilities).all()
    assert (log_probabilities <= 0).all()
    np.testing.assert_allclose(np.exp(log_probabilities).sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(log_probabilities[1:], -np.log(3.0), rtol=1e-6)
    for label in range(3):
        loss, residuals = softmax_cross_entropy_fwd(logits, jnp.array([label, 0, 0]))
        gradient, _ = softmax_cross_entropy_bwd(residuals, jnp.float32(1.0))
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()
        np.testing.assert_allclose(np.asarray(gradient).sum(axis=1), 0, atol=1e-6)


def test_the_loss_of_a_certain_and_right_answer_is_zero() -> None:
    loss, residuals = softmax_cross_entropy_fwd(jnp.array([[1e30, -1e30]]), jnp.array([0]))
    gradient, _ = softmax_cross_entropy_bwd(residuals, jnp.float32(1.0))
    assert loss == 0
    np.testing.assert_array_equal(gradient, [[0.0, 0.0]])


F32, F16, INT = jnp.float32, jnp.float16, jnp.int32


@pytest.mark.parametrize(
    ("function", "shapes", "dtypes", "told"),
    [
        (affine, [(2, 3), (4, 5), (4,)], [F32, F32, F32], r"\(4, 5\)"),
        (affine, [(2, 3), (4, 3), (3,)], [F32, F32, F32], r"\(3,\)"),
        (affine, [(3,), (4, 3), (4,)], [F32, F32, F32], r"\(3,\)"),
        (affine, [(2, 3), (4, 3), (4, 1)], [F32, F32, F32], r"\(4, 1\)"),
        (affine, [(2, 3), (4, 3), (4,)], [INT, INT, INT], "int32"),
        (affine, [(2, 3), (4, 3), (4,)], [F32, F16, F32], "float16"),
        (sigmoid, [(2,)], [INT], "int32"),
        (softmax_cross_entropy, [(2, 3), (3,)], [F32, INT], r"\(3,\)"),
        (softmax_cross_entropy, [(3,), (3,)], [F32, INT], r"\(3,\)"),
        (softmax_cross_entropy, [(2, 3), (2,)], [INT, INT], "int32"),
        (softmax_cross_entropy, [(2, 3), (2,)], [F32, F32], "float32"),
    ],
)
def test_what_does_not_fit_is_told_with_what_came(
    function: Callable[..., Array], shapes: list[tuple[int, ...]], dtypes: list[Any], told: str
) -> None:
    arguments = [jnp.zeros(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    with pytest.raises(TypeError, match=told):
        function(*arguments)
