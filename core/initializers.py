"""How weights are drawn before training.

An initializer is a function `(generator, shape, inputs, outputs) -> array`, float32, with the numbers that each output
sums over (the fan-in) and that each input reaches (the fan-out).
"""

import math
from collections.abc import Callable
from typing import Final

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

Float32s = NDArray[np.float32]
Initializer = Callable[[np.random.Generator, tuple[int, ...], int, int], Float32s]

Draw = Callable[[str, tuple[int, ...], int, int], Array]
"""`draw(initializer, shape, inputs, outputs)`: what gives a layer the arrays that it begins with."""


def draw_from(generator: np.random.Generator) -> Draw:
    """Gives the function that draws arrays from a generator, one after the other."""
    return lambda name, shape, inputs, outputs: jnp.array(INITIALIZERS[name](generator, shape, inputs, outputs))


def draw_shapes(name: str, shape: tuple[int, ...], inputs: int, outputs: int) -> Array:
    """Draws nothing: for who only wants to know what arrays there are."""
    del name, inputs, outputs
    return jnp.zeros(shape, jnp.float32)


def normal(generator: np.random.Generator, shape: tuple[int, ...], deviation: float) -> Float32s:
    """Draws from N(0, deviation^2)."""
    return np.float32(deviation) * generator.standard_normal(shape, np.float32)


def uniform(generator: np.random.Generator, shape: tuple[int, ...], deviation: float) -> Float32s:
    """Draws uniformly between -a and a, with a = sqrt(3) deviation: a variance of a^2 / 3 = deviation^2."""
    a = 3**0.5 * deviation
    return np.float32(2 * a) * generator.random(shape, np.float32) - np.float32(a)


def _glorot(inputs: int, outputs: int) -> float:
    return math.sqrt(2 / (inputs + outputs))


def _he(inputs: int) -> float:
    return math.sqrt(2 / inputs)


INITIALIZERS: Final[dict[str, Initializer]] = {
    # The lab report's own: variance 1 / inputs, as in LeCun, Bottou, Orr, Müller, "Efficient BackProp" (1998), eq. 16.
    "report": lambda generator, shape, inputs, outputs: normal(generator, shape, inputs**-0.5),  # noqa: ARG005
    # Variance 2 / (inputs + outputs): Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural
    # networks", AISTATS 2010, eq. 12; eq. 16 for the uniform.
    "glorot_normal": lambda generator, shape, inputs, outputs: normal(generator, shape, _glorot(inputs, outputs)),
    "glorot_uniform": lambda generator, shape, inputs, outputs: uniform(generator, shape, _glorot(inputs, outputs)),
    # Variance 2 / inputs: He, Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015, eq. 10.
    "he_normal": lambda generator, shape, inputs, outputs: normal(generator, shape, _he(inputs)),  # noqa: ARG005
    "he_uniform": lambda generator, shape, inputs, outputs: uniform(generator, shape, _he(inputs)),  # noqa: ARG005
    "zeros": lambda generator, shape, inputs, outputs: np.zeros(shape, np.float32),  # noqa: ARG005
}


def check_initializer(name: str) -> None:
    """Raises ValueError where there is no initializer of that name."""
    if name not in INITIALIZERS:
        raise ValueError(f"initializer: one of {', '.join(INITIALIZERS)}; got {name!r}")
