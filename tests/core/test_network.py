"""Networks: their bounds, their initial params, and their gradients as a whole."""

from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import Array
from numpy.typing import NDArray

from handgrad.core.errors import InvalidInputError
from handgrad.core.network import (
    MAX_OUTPUTS,
    Network,
    forward,
    fully_connected,
    init,
    loss_and_grads,
    training_loss,
)
from handgrad.core.operations.affine import MAX_WIDTH
from handgrad.core.operations.base import Params

KEY = jax.random.key(0)


def draw(network: Network, seed: int) -> Params:
    """Gives float64 params where float64 is on."""
    generator = np.random.default_rng(seed)
    return tuple(
        {name: jnp.asarray(generator.normal(size=array.shape)) for name, array in layer.items()}
        for layer in network.learned
    )


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.integers(1, 8),
    hidden=st.lists(st.integers(1, 7), max_size=4),
    outputs=st.integers(1, 6),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_gradients_are_those_of_autodiff(
    inputs: int, hidden: list[int], outputs: int, batch_size: int, seed: int
) -> None:
    with jax.enable_x64(new_val=True):
        network = fully_connected(inputs, tuple(hidden), outputs)
        params = draw(network, seed)
        generator = np.random.default_rng(seed)
        batch = jnp.asarray(generator.normal(0, 3, (batch_size, inputs)))
        labels = jnp.asarray(generator.integers(0, outputs, batch_size))
        nothing: Params = tuple({} for _ in params)

        def loss_of(params: Params) -> Array:
            return training_loss(network, params, nothing, batch, labels, KEY)

        # Compiled as one, which takes a fraction of the time of compiling each small operation.
        (expected_loss, expected), (loss, grads) = jax.jit(
            lambda params: (
                jax.value_and_grad(loss_of)(params),
                loss_and_grads(network, params, nothing, batch, labels, KEY)[:2],
            )
        )(params)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), grads, expected)


def report_gradients(
    arrays: list[tuple[NDArray[Any], NDArray[Any]]], X: NDArray[Any], labels: NDArray[Any]
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """The report's equations as it writes them: an example is a column, a bias a column."""
    outputs = [X]
    for W, b in arrays[:-1]:
        outputs.append(1 / (1 + np.exp(-(W @ outputs[-1] + b))))
    W, b = arrays[-1]
    exponentials = np.exp(W @ outputs[-1] + b)
    g = exponentials / exponentials.sum(axis=0)
    g[labels, np.arange(len(labels))] -= 1
    g /= len(labels)
    gradients = []
    for (W, _), inputs in zip(reversed(arrays), reversed(outputs), strict=True):
        gradients.append((g @ inputs.T, g.sum(axis=1, keepdims=True)))
        g = (W.T @ g) * (1 - inputs) * inputs
    return gradients[::-1]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("hidden", [(), (6,), (6, 3)])
def test_the_gradients_are_the_reports(hidden: tuple[int, ...]) -> None:
    network = fully_connected(5, hidden, 4)
    params = draw(network, 3)
    generator = np.random.default_rng(4)
    batch, labels = generator.normal(size=(7, 5)), generator.integers(0, 4, 7)
    affine = [(np.asarray(layer["W"]), np.asarray(layer["b"])[:, None]) for layer in params if layer]
    nothing: Params = tuple({} for _ in params)
    _, grads, _ = loss_and_grads(network, params, nothing, jnp.asarray(batch), jnp.asarray(labels), KEY)
    found = [layer for layer in grads if layer]
    for layer, (W_grad, b_grad) in zip(found, report_gradients(affine, batch.T, labels), strict=True):
        np.testing.assert_allclose(layer["W"], W_grad, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(layer["b"][:, None], b_grad, rtol=1e-10, atol=1e-14)


def test_the_initial_params_have_the_reports_deviation() -> None:
    network = fully_connected(784, (500,), 200)
    params = init(network, jax.random.key(1))
    for layer, inputs in ((params[0], 784), (params[2], 500)):
        assert layer["W"].dtype == jnp.float32
        assert float(jnp.mean(layer["W"])) == pytest.approx(0, abs=4 * inputs**-0.5 / layer["W"].size ** 0.5)
        assert float(jnp.std(layer["W"])) == pytest.approx(inputs**-0.5, rel=0.02)
        assert float(jnp.std(layer["b"])) == pytest.approx(inputs**-0.5, rel=0.2)
    assert params[1] == {}


def test_a_key_gives_its_params_and_another_key_others() -> None:
    network = fully_connected(6, (4,), 3)
    first, same, other = (init(network, jax.random.key(seed)) for seed in (7, 7, 8))
    jax.tree.map(np.testing.assert_array_equal, first, same)
    assert not np.array_equal(first[0]["W"], other[0]["W"])
    assert not np.array_equal(first[0]["W"].ravel()[:12], first[2]["W"].ravel())


def test_a_network_tells_its_widths() -> None:
    network = fully_connected(784, (100,), 10)
    assert (network.inputs, network.title, network.outputs) == (784, "784-100-10", 10)
    params = init(network, jax.random.key(0))
    assert network.parameters == sum(array.size for array in jax.tree.leaves(params)) == 79_510
    assert network == fully_connected(784, (100,), 10)
    assert hash(network) == hash(fully_connected(784, (100,), 10))


@pytest.mark.parametrize(
    ("inputs", "hidden", "outputs", "field"),
    [
        (0, (), 10, "network.input_shape"),
        (2**24 + 1, (), 1, "network.input_shape"),
        (784, (0,), 10, "network.layers[0].outputs"),
        (784, (100, -5), 10, "network.layers[2].outputs"),
        (784, (10**9,), 10, "network.layers[0].outputs"),
        (784, (MAX_WIDTH + 1,), 10, "network.layers[0].outputs"),
        (784, (2,) * 128, 10, "network.layers"),
        (784, (MAX_WIDTH, MAX_WIDTH), 10, "network.layers"),
        (784, (), 0, "network.layers[0].outputs"),
        (784, (), MAX_OUTPUTS + 1, "network.layers[0].outputs"),
    ],
)
def test_a_width_out_of_range_is_named(inputs: int, hidden: tuple[int, ...], outputs: int, field: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        fully_connected(inputs, hidden, outputs)
    assert raised.value.field == field


def test_the_deepest_network_there_may_be_is_made() -> None:
    network = fully_connected(2, (3,) * 127, 2)
    assert network.leaf_shapes[2] == (3,)
    params = init(network, jax.random.key(0))
    logits = forward(network, params, tuple({} for _ in params), jnp.ones((1, 2), jnp.float32))
    assert logits.shape == (1, 2)
