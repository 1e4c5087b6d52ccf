from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.test_util import check_grads, check_vjp

from handgrad.core.operations import (
    affine,
    affine_bwd,
    affine_fwd,
    log_softmax,
    sigmoid,
    sigmoid_bwd,
    sigmoid_fwd,
    softmax_cross_entropy,
    softmax_cross_entropy_bwd,
    softmax_cross_entropy_fwd,
)

Operation = Callable[..., Array]
MAX = float(np.finfo(np.float32).max)

AFFINE: tuple[Operation, Any, Any] = (affine, affine_fwd, affine_bwd)
SIGMOID: tuple[Operation, Any, Any] = (sigmoid, sigmoid_fwd, sigmoid_bwd)
CROSS_ENTROPY: tuple[Operation, Any, Any] = (
    softmax_cross_entropy,
    softmax_cross_entropy_fwd,
    softmax_cross_entropy_bwd,
)

CASES = [
    pytest.param(AFFINE, ((5, 3), (4, 3), (4,)), id="affine"),
    pytest.param(AFFINE, ((1, 3), (4, 3), (4,)), id="affine of one example"),
    pytest.param(AFFINE, ((5, 1), (1, 1), (1,)), id="affine of one number"),
    pytest.param(SIGMOID, ((5, 3),), id="sigmoid"),
    pytest.param(SIGMOID, ((2, 3, 4),), id="sigmoid of rank 3"),
    pytest.param(SIGMOID, ((),), id="sigmoid of a scalar"),
    pytest.param(CROSS_ENTROPY, ((5, 3),), id="cross-entropy"),
    pytest.param(CROSS_ENTROPY, ((1, 3),), id="cross-entropy of one example"),
    pytest.param(CROSS_ENTROPY, ((5, 1),), id="cross-entropy of one class"),
]
"""An operation, and the shapes of its differentiable arguments."""


def draw(shapes: tuple[tuple[int, ...], ...], dtype: type, *, scale: float = 1) -> list[Array]:
    generator = np.random.default_rng(0)
    return [jnp.asarray((scale * generator.normal(size=shape)).astype(dtype)) for shape in shapes]


def labels_for(triple: tuple[Operation, Any, Any], arguments: list[Array]) -> list[Array]:
    """Gives the argument that is not differentiable, where there is one."""
    if triple is not CROSS_ENTROPY:
        return []
    size, classes = arguments[0].shape
    return [jnp.arange(size, dtype=jnp.int32) % classes]


def assert_bwd_is_vjp(
    triple: tuple[Operation, Any, Any], shapes: tuple[tuple[int, ...], ...], dtype: type, rtol: float, scale: float
) -> None:
    op, op_fwd, op_bwd = triple
    arguments = draw(shapes, dtype, scale=scale)
    labels = labels_for(triple, arguments)
    expected_output, vjp = jax.vjp(lambda *xs: op(*xs, *labels), *arguments)
    output, residuals = op_fwd(*arguments, *labels)
    g = jnp.asarray(np.random.default_rng(1).normal(size=output.shape).astype(dtype))
    cotangents = op_bwd(residuals, g)
    np.testing.assert_array_equal(output, expected_output)
    assert len(cotangents) == len(arguments) + len(labels)
    assert cotangents[len(arguments) :] == (None,) * len(labels)
    for cotangent, expected in zip(cotangents, vjp(g), strict=False):
        assert (cotangent.shape, cotangent.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(cotangent, expected, rtol=rtol, atol=rtol * float(jnp.max(jnp.abs(expected))))


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize(("triple", "shapes"), CASES)
@pytest.mark.usefixtures("float64")
def test_bwd_agrees_with_autodiff_in_float64(triple: Any, shapes: Any, scale: float) -> None:
    assert_bwd_is_vjp(triple, shapes, np.float64, 1e-12, scale)


@pytest.mark.parametrize(("triple", "shapes"), CASES)
@pytest.mark.usefixtures("with_and_without_jit")
def test_bwd_agrees_with_autodiff_in_float32(triple: Any, shapes: Any) -> None:
    assert_bwd_is_vjp(triple, shapes, np.float32, 2e-6, scale=1)


@pytest.mark.parametrize(("triple", "shapes"), CASES)
@pytest.mark.usefixtures("float64")
def test_custom_vjp_agrees_with_finite_differences(triple: Any, shapes: Any) -> None:
    op, op_fwd, op_bwd = triple
    with_our_gradient = jax.custom_vjp(op)
    with_our_gradient.defvjp(op_fwd, op_bwd)
    arguments = draw(shapes, np.float64)
    labels = labels_for(triple, arguments)

    def function(*xs: Array) -> Array:
        return with_our_gradient(*xs, *labels)

    check_vjp(function, partial(jax.vjp, function), arguments, atol=1e-7, rtol=1e-7)
    check_grads(function, arguments, order=1, modes=["rev"], atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize(("triple", "shapes"), CASES)
def test_fwd_and_bwd_are_the_same_compiled_and_mapped(triple: Any, shapes: Any) -> None:
    op, op_fwd, op_bwd = triple
    arguments = draw(shapes, np.float32)
    arguments += labels_for(triple, arguments)

    def run(*xs: Array) -> Any:
        output, residuals = op_fwd(*xs)
        return output, op_bwd(residuals, jnp.ones_like(output))

    plain = run(*arguments)
    np.testing.assert_array_equal(plain[0], op(*arguments))
    stacked = [jnp.stack([x, x]) for x in arguments]
    mapped = jax.tree.map(lambda x: x[1], jax.vmap(run)(*stacked))
    for other in (jax.jit(run)(*arguments), mapped):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), other, plain)


# Known numbers


@pytest.mark.usefixtures("with_and_without_jit")
def test_affine_of_known_numbers() -> None:
    inputs, W, b = jnp.array([[1.0, 2.0], [3.0, -1.0]]), jnp.array([[1.0, 0.5], [0.0, -2.0], [4.0, 1.0]]), jnp.ones(3)
    np.testing.assert_array_equal(affine(inputs, W, b), [[3.0, -3.0, 7.0], [3.5, 3.0, 12.0]])
    g = jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]])
    inputs_grad, W_grad, b_grad = affine_bwd((inputs, W), g)
    np.testing.assert_array_equal(inputs_grad, [[9.0, 2.5], [-4.0, -3.0]])
    np.testing.assert_array_equal(W_grad, [[1.0, 2.0], [3.0, -1.0], [-1.0, 5.0]])
    np.testing.assert_array_equal(b_grad, [1.0, 1.0, 1.0])


@pytest.mark.usefixtures("with_and_without_jit")
def test_sigmoid_of_known_numbers() -> None:
    outputs, residuals = sigmoid_fwd(jnp.array([0.0, np.log(3), -np.log(3)], jnp.float32))
    np.testing.assert_allclose(outputs, [0.5, 0.75, 0.25], rtol=1e-6)
    (grad,) = sigmoid_bwd(residuals, jnp.array([1.0, 16.0, -16.0]))
    np.testing.assert_allclose(grad, [0.25, 3.0, -3.0], rtol=1e-6)


@pytest.mark.usefixtures("with_and_without_jit")
def test_cross_entropy_of_known_numbers() -> None:
    logits = jnp.log(jnp.array([[1.0, 3.0], [0.5, 0.5]]))
    loss, residuals = softmax_cross_entropy_fwd(logits, jnp.array([0, 1]))
    np.testing.assert_allclose(loss, (np.log(4) + np.log(2)) / 2, rtol=1e-6)
    grad, labels_grad = softmax_cross_entropy_bwd(residuals, jnp.float32(8))
    np.testing.assert_allclose(grad, [[-3.0, 3.0], [2.0, -2.0]], rtol=1e-6)
    assert labels_grad is None


# The sigmoid's edges


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (0.0, 0.5),
        (-0.0, 0.5),
        (1e-30, 0.5),
        (1e-45, 0.5),
        (1e4, 1.0),
        (-1e4, 0.0),
        (3e38, 1.0),
        (-3e38, 0.0),
        (np.inf, 1.0),
        (-np.inf, 0.0),
    ],
)
@pytest.mark.usefixtures("with_and_without_jit")
def test_sigmoid_at_its_edges(x: float, y: float) -> None:
    outputs, residuals = jax.jit(sigmoid_fwd)(jnp.float32(x))
    assert float(outputs) == y
    (grad,) = sigmoid_bwd(residuals, jnp.float32(1))
    assert float(grad) == y * (1 - y)


def test_sigmoid_of_nan_is_nan() -> None:
    assert np.isnan(sigmoid(jnp.float32(np.nan)))


def every_magnitude() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Gives 2^20 float32 numbers, spread evenly over the bit patterns of all finite ones, in order."""
    infinity = int(np.float32(np.inf).view(np.uint32))
    positive = np.linspace(0, infinity - 1, 2**19).astype(np.uint32).view(np.float32)
    return np.concatenate([-positive[::-1], positive])


def test_sigmoid_is_right_and_silent_over_the_whole_float32_range() -> None:
    x = every_magnitude()
    with jax.debug_nans(True), jax.debug_infs(True):  # noqa: FBT003 - jax names no argument
        outputs, residuals = jax.jit(sigmoid_fwd)(jnp.asarray(x))
        (grad,) = sigmoid_bwd(residuals, jnp.ones_like(outputs))
    exact = x.astype(np.float64)
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-exact))
    tiny = float(np.finfo(np.float32).tiny)
    np.testing.assert_allclose(outputs, expected, rtol=1e-6, atol=tiny)
    np.testing.assert_allclose(grad, expected * (1 - expected), rtol=1e-5, atol=6e-8)
    assert np.all(np.diff(np.asarray(outputs)) >= -6e-8)


def test_sigmoid_gradient_is_the_autodiff_one_at_zero_and_in_saturation() -> None:
    x = jnp.array([0.0, -0.0, 1e-30, 1e4, -1e4, 3e38, -3e38], jnp.float32)
    outputs, vjp = jax.vjp(sigmoid, x)
    g = jnp.arange(1.0, 8.0)
    np.testing.assert_array_equal(sigmoid_bwd(outputs, g)[0], vjp(g)[0])


def test_sigmoid_on_numpy_inputs_warns_of_nothing() -> None:
    # The report's own sigmoid overflows here; every warning is an error in these tests.
    np.testing.assert_array_equal(sigmoid(jnp.asarray(np.array([-1000.0, -255.0 * 784], np.float32))), [0.0, 0.0])


# The softmax's and the loss's edges

EXTREME_LOGITS = [
    pytest.param([[3e38, -3e38]], id="both ends"),
    pytest.param([[MAX, -MAX]], id="the very ends"),
    pytest.param([[3e38, 3e38]], id="tie at the top"),
    pytest.param([[-3e38, -3e38]], id="tie at the bottom"),
    pytest.param([[0.0, 0.0]], id="tie at 0"),
    pytest.param([[-3e38, 0.0]], id="one at the bottom"),
    pytest.param([[1e4, -1e4]], id="wide"),
    pytest.param([[MAX, -MAX, 0.0, 1e-45, -88.0]], id="mixed"),
    pytest.param([[3e38]], id="one class"),
    pytest.param([[MAX, -MAX], [-MAX, MAX], [0.0, 0.0]], id="three rows"),
]


@pytest.mark.parametrize("logits", EXTREME_LOGITS)
@pytest.mark.usefixtures("with_and_without_jit")
def test_log_softmax_of_extreme_logits_is_finite_and_normal(logits: list[list[float]]) -> None:
    log_probabilities = np.asarray(jax.jit(log_softmax)(jnp.array(logits, jnp.float32)))
    assert np.isfinite(log_probabilities).all()
    assert (log_probabilities <= 0).all()
    np.testing.assert_allclose(np.exp(log_probabilities).sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(log_probabilities.argmax(axis=1), np.argmax(logits, axis=1))


@pytest.mark.parametrize("label", [0, -1])
@pytest.mark.parametrize("logits", EXTREME_LOGITS)
@pytest.mark.usefixtures("with_and_without_jit")
def test_cross_entropy_of_extreme_logits_is_finite(logits: list[list[float]], label: int) -> None:
    array = jnp.array(logits, jnp.float32)
    size, classes = array.shape
    loss, residuals = jax.jit(softmax_cross_entropy_fwd)(array, jnp.full(size, label % classes))
    grad = np.asarray(softmax_cross_entropy_bwd(residuals, jnp.float32(1))[0])
    assert np.isfinite(loss)
    assert loss >= 0
    assert np.isfinite(grad).all()
    np.testing.assert_allclose(grad.sum(axis=1), 0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 100, 127, 600])
def test_mean_of_the_largest_losses_is_finite(size: int) -> None:
    logits = jnp.tile(jnp.array([[MAX, -MAX]], jnp.float32), (size, 1))
    assert np.isfinite(softmax_cross_entropy(logits, jnp.ones(size, jnp.int32)))


@pytest.mark.usefixtures("float64")
def test_log_softmax_is_exact_where_the_naive_formula_overflows() -> None:
    logits = jnp.array([[1000.0, 1001.0, 999.0]])
    z = np.array([0.0, 1.0, -1.0])
    np.testing.assert_allclose(log_softmax(logits)[0], z - np.log(np.exp(z).sum()), rtol=1e-12)
    np.testing.assert_array_equal(log_softmax(logits), log_softmax(logits - 1000))


def test_ties_get_equal_probabilities_and_gradients() -> None:
    loss, residuals = softmax_cross_entropy_fwd(jnp.full((1, 4), 7.0), jnp.array([2]))
    np.testing.assert_allclose(loss, np.log(4), rtol=1e-6)
    grad = softmax_cross_entropy_bwd(residuals, jnp.float32(1))[0]
    np.testing.assert_allclose(grad, [[0.25, 0.25, -0.75, 0.25]], rtol=1e-6)


def test_one_class_has_no_loss_and_no_gradient() -> None:
    loss, residuals = softmax_cross_entropy_fwd(jnp.array([[5.0], [-5.0]]), jnp.array([0, 0]))
    assert float(loss) == 0
    np.testing.assert_array_equal(softmax_cross_entropy_bwd(residuals, jnp.float32(1))[0], jnp.zeros((2, 1)))


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int32, jnp.uint32])
@pytest.mark.parametrize("classes", [10, 127, 300])
def test_every_integer_dtype_of_labels_gives_the_same_loss(dtype: Any, classes: int) -> None:
    # 300 classes are more than 8 bits can count: a label must match one class all the same.
    logits = draw(((4, classes),), np.float32)[0]
    labels = np.array([0, 3, 5, 9])
    expected = -np.mean(np.asarray(log_softmax(logits))[range(4), labels])
    loss, residuals = softmax_cross_entropy_fwd(logits, jnp.asarray(labels, dtype))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    grad = np.asarray(softmax_cross_entropy_bwd(residuals, jnp.float32(1))[0])
    np.testing.assert_allclose(grad.sum(axis=1), 0, atol=1e-6)


# What is refused


def zeros(*shape: int, dtype: Any = jnp.float32) -> Array:
    return jnp.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        (affine, (zeros(3), zeros(4, 3), zeros(4)), r"got \(3,\)"),
        (affine, (zeros(2, 3), zeros(3), zeros(4)), r"\(2, 3\), \(3,\)"),
        (affine, (zeros(2, 3), zeros(4, 3), zeros(4, 1)), r"\(4, 1\)"),
        (affine, (zeros(2, 3), zeros(3, 4), zeros(4)), r"\(3, 4\)"),
        (affine, (zeros(2, 3), zeros(4, 3), zeros(3)), r"\(4, 3\), \(3,\)"),
        (affine, (zeros(2, 3, dtype=jnp.uint8), zeros(4, 3), zeros(4)), "got uint8, float32, float32"),
        (affine, (zeros(2, 3), zeros(4, 3), zeros(4, dtype=jnp.float16)), "got float32, float32, float16"),
        (affine, (zeros(2, 3, dtype=jnp.int32), zeros(4, 3, dtype=jnp.int32), zeros(4, dtype=jnp.int32)), "int32"),
        (sigmoid, (zeros(2, 3, dtype=jnp.int32),), "got int32"),
        (sigmoid, (zeros(2, dtype=bool),), "got bool"),
        (softmax_cross_entropy, (zeros(3), zeros(3, dtype=jnp.int32)), r"got \(3,\), \(3,\)"),
        (softmax_cross_entropy, (zeros(2, 3), zeros(3, dtype=jnp.int32)), r"got \(2, 3\), \(3,\)"),
        (softmax_cross_entropy, (zeros(2, 3), zeros(2, 3, dtype=jnp.int32)), r"got \(2, 3\), \(2, 3\)"),
        (softmax_cross_entropy, (zeros(2, 3), zeros(2)), "got float32, float32"),
        (softmax_cross_entropy, (zeros(2, 3), zeros(2, dtype=bool)), "got float32, bool"),
        (softmax_cross_entropy, (zeros(2, 3, dtype=jnp.int32), zeros(2, dtype=jnp.int32)), "got int32, int32"),
    ],
)
def test_wrong_ranks_lengths_and_dtypes_are_refused(op: Operation, arguments: tuple[Array, ...], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        op(*arguments)
    with pytest.raises(TypeError, match=message):
        jax.jit(op)(*arguments)


def test_float64_does_not_leak_into_other_tests() -> None:
    assert jnp.zeros(1).dtype == jnp.float32
