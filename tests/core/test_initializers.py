"""Initializers: the variance that each paper asks for, and the ends of a uniform distribution."""

import jax.numpy as jnp
import numpy as np
import pytest

from handgrad.core.initializers import INITIALIZERS, draw_from
from handgrad.core.operations.convolution import Convolution

INPUTS, OUTPUTS = 300, 500
VARIANCES = {
    "report": 1 / INPUTS,
    "glorot_normal": 2 / (INPUTS + OUTPUTS),
    "glorot_uniform": 2 / (INPUTS + OUTPUTS),
    "he_normal": 2 / INPUTS,
    "he_uniform": 2 / INPUTS,
    "zeros": 0.0,
}


@pytest.mark.parametrize("name", INITIALIZERS)
def test_weights_have_the_variance_of_the_paper(name: str) -> None:
    W = INITIALIZERS[name](np.random.default_rng(2), (OUTPUTS, INPUTS), INPUTS, OUTPUTS)
    assert W.dtype == np.float32
    assert W.var() == pytest.approx(VARIANCES[name], rel=0.02)
    assert W.mean() == pytest.approx(0, abs=0.01 * VARIANCES[name] ** 0.5 + 1e-9)
    if name.endswith("uniform"):
        assert np.abs(W).max() <= (3 * VARIANCES[name]) ** 0.5
        assert np.abs(W).max() > 0.99 * (3 * VARIANCES[name]) ** 0.5


def test_the_fan_in_of_a_convolution_is_its_kernels() -> None:
    params = Convolution(64, 5).init(draw_from(np.random.default_rng(0)), (9, 9, 32))
    assert params["W"].shape == (64, 5, 5, 32)
    assert float(jnp.var(params["W"])) == pytest.approx(2 / (25 * 32), rel=0.03)
    assert not params["b"].any()
