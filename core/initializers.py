"""How weights are drawn before training.

An initializer is a function `(key, shape, inputs, outputs) -> array`, float32, with the numbers that each output sums
over (the fan-in) and that each input reaches (the fan-out).
"""

import math
from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
from jax import Array

Initializer = Callable[[Array, tuple[int, ...], int, int], Array]


def normal(key: Array, shape: tuple[int, ...], deviation: float) -> Array:
    """Draws from N(0, deviation^2)."""
    return deviation * jax.random.normal(key, shape, jnp.float32)


def uniform(key: Array, shape: tuple[int, ...], deviation: float) -> Array:
    """Draws uniformly between -a and a, with a = sqrt(3) deviation: a variance of a^2 / 3 = deviation^2."""
    a = 3**0.5 * deviation
    return jax.random.uniform(key, shape, jnp.float32, -a, a)


def _glorot(inputs: int, outputs: int) -> float:
    return math.sqrt(2 / (inputs + outputs))


def _he(inputs: int) -> float:
    return math.sqrt(2 / inputs)


INITIALIZERS: Final[dict[str, Initializer]] = {
    # The lab report's own: variance 1 / inputs, as in LeCun, Bottou, Orr, Müller, "Efficient BackProp" (1998), eq. 16.
    "report": lambda key, shape, inputs, outputs: normal(key, shape, inputs**-0.5),  # noqa: ARG005
    # Variance 2 / (inputs + outputs): Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural
    # networks", AISTATS 2010, eq. 12; eq. 16 for the uniform.
    "glorot_normal": lambda key, shape, inputs, outputs: normal(key, shape, _glorot(inputs, outputs)),
    "glorot_uniform": lambda key, shape, inputs, outputs: uniform(key, shape, _glorot(inputs, outputs)),
    # Variance 2 / inputs: He, Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015, eq. 10.
    "he_normal": lambda key, shape, inputs, outputs: normal(key, shape, _he(inputs)),  # noqa: ARG005
    "he_uniform": lambda key, shape, inputs, outputs: uniform(key, shape, _he(inputs)),  # noqa: ARG005
    "zeros": lambda key, shape, inputs, outputs: jnp.zeros(shape, jnp.float32),  # noqa: ARG005
}


def check_initializer(name: str) -> None:
    """Raises ValueError where there is no initializer of that name."""
    if name not in INITIALIZERS:
        raise ValueError(f"initializer: one of {', '.join(INITIALIZERS)}; got {name!r}")
