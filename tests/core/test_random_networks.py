"""Networks that hypothesis makes up: the hand-written gradients are autodiff's, to 1e-10, whatever is put together."""

from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, given, settings
from jax import Array

from handgrad.core.errors import InvalidInputError
from handgrad.core.initializers import INITIALIZERS
from handgrad.core.network import (
    LOSSES,
    Loss,
    Network,
    initial_statistics,
    loss_and_grads,
    make_network,
    training_loss,
)
from handgrad.core.network_spec import layers_from_spec
from handgrad.core.operations.base import Params
from handgrad.core.operations.table import LAYERS
from handgrad.core.verification import _FLOOR

EXAMPLES = 200

# A softmax that is nearly sure rounds p - 1 by 1e-16 for each unit of its logits, tens of them with these params, and
# inputs multiply that: smaller gradients than this have not the ten digits that are asked for.
SMALLEST = 1e-4

ANYWHERE = st.one_of(
    st.sampled_from(["sigmoid", "tanh", "relu", "gelu", "silu", "softplus", "softmax", "layer_norm"]).map(
        lambda kind: {"kind": kind}
    ),
    st.builds(lambda slope: {"kind": "leaky_relu", "slope": slope}, st.sampled_from([0.01, 0.3])),
    st.builds(lambda alpha: {"kind": "elu", "alpha": alpha}, st.sampled_from([0.5, 1.0])),
    st.builds(lambda rate: {"kind": "dropout", "rate": rate}, st.sampled_from([0.2, 0.5])),
    st.just({"kind": "batch_norm", "epsilon": 0.1}),
)
CONVOLUTIONS = st.builds(
    lambda channels, kernel, stride, padding, bias: {
        "kind": "convolution",
        "channels": channels,
        "kernel": kernel,
        "stride": stride,
        "padding": min(padding, kernel - 1),
        "bias": bias,
    },
    *(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 1), st.booleans()),
)
POOLS = st.builds(
    lambda kind, window, stride: {"kind": kind, "window": window, "stride": stride},
    *(st.sampled_from(["max_pool", "average_pool"]), st.integers(1, 2), st.integers(1, 2)),
)
SAME = {"kind": "convolution", "channels": 2, "kernel": 3, "padding": "same"}
RESIDUALS = st.one_of(
    st.lists(ANYWHERE, min_size=1, max_size=2).map(lambda layers: {"kind": "residual", "layers": layers}),
    ANYWHERE.map(
        lambda layer: {
            "kind": "residual",
            "layers": [SAME, layer],
            "shortcut": [{"kind": "convolution", "channels": 2, "kernel": 1}],
        }
    ),
)
AFFINE = st.builds(
    lambda outputs, initializer: {"kind": "affine", "outputs": outputs, "initializer": initializer},
    *(st.integers(1, 4), st.sampled_from(sorted(INITIALIZERS))),
)
NETWORKS = st.tuples(
    st.lists(st.one_of(ANYWHERE, CONVOLUTIONS, POOLS, RESIDUALS), max_size=4),
    st.lists(st.one_of(AFFINE, ANYWHERE), max_size=3),
).map(lambda parts: [*parts[0], {"kind": "flatten"}, *parts[1], {"kind": "affine"}])

seen: set[str] = set()


def network_of(spec: list[dict[str, Any]], shape: tuple[int, ...]) -> Network | None:
    try:
        return make_network(layers_from_spec(spec), shape, 3)
    except InvalidInputError:
        # An image became too small for what came after it.
        return None


SLOW = [HealthCheck.too_slow, HealthCheck.large_base_example]


# The same networks in every run, so that a run that passes says that the next one will.
@settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=SLOW)
@given(
    spec=NETWORKS,
    shape=st.sampled_from([(5, 4), (4, 4, 2), (6, 5, 1)]),
    batch_size=st.integers(1, 5),
    loss=st.sampled_from([Loss(), Loss(smoothing=0.1), Loss("squared_error")]),
    seed=st.integers(0, 2**32 - 1),
)
def check(spec: list[dict[str, Any]], shape: tuple[int, ...], batch_size: int, loss: Loss, seed: int) -> None:
    network = network_of(spec, shape)
    if network is None:
        network = network_of([{"kind": "flatten"}, {"kind": "affine"}], shape)
    assert network is not None
    seen.update(leaf.kind for leaf in network.leaves)
    seen.update(layer.kind for layer in network.layers)
    generator = np.random.default_rng(seed)
    key = jax.random.key(seed)
    with jax.enable_x64(new_val=True):
        params: Params = tuple(
            {name: jnp.asarray(generator.normal(size=array.shape)) for name, array in layer.items()}
            for layer in network.learned
        )
        statistics = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), initial_statistics(network))
        inputs = jnp.asarray(generator.normal(size=(batch_size, network.inputs)))
        labels = jnp.asarray(generator.integers(0, 3, batch_size))

        def both(params: Params) -> tuple[tuple[Array, Params], tuple[Array, Params]]:
            def objective(params: Params) -> Array:
                return training_loss(network, params, statistics, inputs, labels, key, loss)

            value, grads, _ = loss_and_grads(network, params, statistics, inputs, labels, key, loss)
            return jax.value_and_grad(objective)(params), (value, grads)

        # Compiled as one, with little effort, which takes a part of the time. (With none, XLA makes NaN of autodiff.)
        fast = jax.jit(both, compiler_options={"xla_backend_optimization_level": 1})
        (expected_value, expected), (value, grads) = fast(params)
    np.testing.assert_allclose(value, expected_value, rtol=1e-12)
    largest = max(float(np.abs(array).max()) for array in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        # A gradient that is 0 but for its rounding is held against the others, as in the certificate.
        scale = max(float(np.abs(b).max()), _FLOOR * largest, SMALLEST)
        assert float(np.abs(np.asarray(a) - np.asarray(b)).max()) <= 1e-10 * scale, (spec, shape)


def test_the_gradients_of_random_networks_are_those_of_autodiff() -> None:
    check()
    # Every kind of layer was in one of them, and every loss there is was drawn from.
    assert seen == set(LAYERS)
    assert set(LOSSES) == {"softmax_cross_entropy", "squared_error"}
