"""Optimizers, against a hand computation."""

import jax.numpy as jnp
import numpy as np

from handgrad.core.network import Params
from handgrad.core.optimizers import SGD, Hyperparameters


def test_sgd_takes_a_step_against_the_gradient() -> None:
    params: Params = ({"W": jnp.array([[1.0, 2.0]]), "b": jnp.array([3.0])}, {})
    grads: Params = ({"W": jnp.array([[10.0, -20.0]]), "b": jnp.array([0.0])}, {})
    state = SGD.init(params)
    for _ in range(2):
        params, state = SGD.update(grads, state, params, Hyperparameters(jnp.float32(0.5), jnp.float32(0)))
    np.testing.assert_array_equal(params[0]["W"], [[-9.0, 22.0]])
    np.testing.assert_array_equal(params[0]["b"], [3.0])
    assert params[1] == {}
    assert state == ()
