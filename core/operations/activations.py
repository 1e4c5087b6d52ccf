"""Activations: functions of each element alone. With y = f(x), the backward pass is dE/dx = g f'(x)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from handgrad.core.operations.base import Example, Golden, Numbers, Operation, Stateless, require


def _require_floating(name: str, inputs: Array) -> None:
    require(jnp.issubdtype(inputs.dtype, jnp.floating), f"{name} takes a floating dtype; got {inputs.dtype}")


# Sigmoid


def sigmoid(inputs: Array) -> Array:
    """Applies the logistic sigmoid to each element: y = 1 / (1 + exp(-x)).

    From dy/dx = exp(-x) / (1 + exp(-x))^2 and 1 - y = exp(-x) / (1 + exp(-x)):

        dE/dx = g (1 - y) y

    Args:
        inputs: x, any shape, floating.

    Returns:
        y, of the same shape and dtype, in [0, 1]. It is never NaN unless x is, and nothing in it overflows: at both
        ends it rounds to 0 or 1. In float32 its last non-zero value for negative x lies near x = -87.

    Raises:
        TypeError: The dtype is not floating.

    References:
        Rumelhart, Hinton, Williams (1986), equation 2, and equation 5 for the derivative.
    """
    return sigmoid_fwd(inputs)[0]


def sigmoid_fwd(inputs: Array) -> tuple[Array, Array]:
    """Forward pass of `sigmoid`. Residuals: the output y."""
    _require_floating("sigmoid", inputs)
    # exp(-|x|) is at most 1, so it cannot overflow; for x < 0, 1 / (1 + exp(-x)) = exp(x) / (1 + exp(x)).
    decay = jnp.exp(-jnp.abs(inputs))
    outputs = jnp.where(inputs >= 0, 1, decay) / (1 + decay)
    return outputs, outputs


def sigmoid_bwd(residuals: Array, g: Array) -> tuple[Array]:
    """Backward pass of `sigmoid`: `(dE/dx,)` from g of the output's shape."""
    outputs = residuals
    return (g * (1 - outputs) * outputs,)


# Hyperbolic tangent


def tanh(inputs: Array) -> Array:
    """Applies the hyperbolic tangent to each element: y = (exp(x) - exp(-x)) / (exp(x) + exp(-x)).

    From the quotient rule, with (exp(x) + exp(-x))^2 - (exp(x) - exp(-x))^2 over the square of the denominator:

        dE/dx = g (1 - y^2)

    Args:
        inputs: x, any shape, floating.

    Returns:
        y, of the same shape and dtype, in [-1, 1].

    References:
        LeCun, Bottou, Orr, Müller, "Efficient BackProp" (1998), section 4.4.
    """
    return tanh_fwd(inputs)[0]


def tanh_fwd(inputs: Array) -> tuple[Array, Array]:
    """Forward pass of `tanh`. Residuals: the output y."""
    _require_floating("tanh", inputs)
    outputs = jnp.tanh(inputs)
    return outputs, outputs


def tanh_bwd(residuals: Array, g: Array) -> tuple[Array]:
    """Backward pass of `tanh`: `(dE/dx,)`."""
    return (g * (1 - residuals * residuals),)


# Rectifiers


def relu(inputs: Array) -> Array:
    """Applies the rectifier to each element: y = x for x > 0, otherwise 0.

        dE/dx = g for x > 0, otherwise 0

    At 0, where there is no derivative, it is taken to be 0.

    Args:
        inputs: x, any shape, floating.

    Returns:
        y, of the same shape and dtype.

    References:
        Nair, Hinton, "Rectified linear units improve restricted Boltzmann machines", ICML 2010, section 2.
    """
    return relu_fwd(inputs)[0]


def relu_fwd(inputs: Array) -> tuple[Array, Array]:
    """Forward pass of `relu`. Residuals: the output y, which is positive where x is."""
    _require_floating("relu", inputs)
    outputs = jnp.where(inputs > 0, inputs, 0)
    return outputs, outputs


def relu_bwd(residuals: Array, g: Array) -> tuple[Array]:
    """Backward pass of `relu`: `(dE/dx,)`."""
    return (jnp.where(residuals > 0, g, 0),)


def leaky_relu(inputs: Array, *, slope: float) -> Array:
    """Applies the leaky rectifier to each element: y = x for x > 0, otherwise a x with a the slope.

        dE/dx = g for x > 0, otherwise a g

    At 0 the derivative is taken to be a.

    Args:
        inputs: x, any shape, floating.
        slope: a, for x <= 0.

    Returns:
        y, of the same shape and dtype.

    References:
        Maas, Hannun, Ng, "Rectifier nonlinearities improve neural network acoustic models" (2013), equation 2.
    """
    return leaky_relu_fwd(inputs, slope=slope)[0]


def leaky_relu_fwd(inputs: Array, *, slope: float) -> tuple[Array, Array]:
    """Forward pass of `leaky_relu`. Residuals: x."""
    _require_floating("leaky_relu", inputs)
    return jnp.where(inputs > 0, inputs, slope * inputs), inputs


def leaky_relu_bwd(residuals: Array, g: Array, *, slope: float) -> tuple[Array]:
    """Backward pass of `leaky_relu`: `(dE/dx,)`."""
    return (jnp.where(residuals > 0, g, slope * g),)


# Smooth relatives of the rectifier


def elu(inputs: Array, *, alpha: float) -> Array:
    """Applies the exponential linear unit to each element: y = x for x > 0, otherwise a (exp(x) - 1).

        dE/dx = g for x > 0, otherwise g a exp(x) = g (y + a)

    At 0 the derivative is taken to be a.

    Args:
        inputs: x, any shape, floating.
        alpha: a, so that y tends to -a.

    Returns:
        y, of the same shape and dtype.

    References:
        Clevert, Unterthiner, Hochreiter, "Fast and accurate deep network learning by exponential linear units", ICLR
        2016, equation 15.
    """
    return elu_fwd(inputs, alpha=alpha)[0]


def elu_fwd(inputs: Array, *, alpha: float) -> tuple[Array, Array]:
    """Forward pass of `elu`. Residuals: the output y, whose sign is that of x."""
    _require_floating("elu", inputs)
    # The exponential of a large x would overflow, and its autodiff make NaN of it, where it is not even used.
    outputs = jnp.where(inputs > 0, inputs, alpha * jnp.expm1(jnp.where(inputs > 0, 0, inputs)))
    return outputs, outputs


def elu_bwd(residuals: Array, g: Array, *, alpha: float) -> tuple[Array]:
    """Backward pass of `elu`: `(dE/dx,)`."""
    return (jnp.where(residuals > 0, g, g * (residuals + alpha)),)


def gelu(inputs: Array) -> Array:
    """Applies the Gaussian error linear unit to each element: y = x Phi(x), with Phi(x) = (1 + erf(x / sqrt 2)) / 2.

    Phi is the distribution function of N(0, 1), and its derivative the density phi(x) = exp(-x^2 / 2) / sqrt(2 pi):

        dE/dx = g (Phi(x) + x phi(x))

    Args:
        inputs: x, any shape, floating.

    Returns:
        y, of the same shape and dtype; exact, not the approximation by tanh.

    References:
        Hendrycks, Gimpel, "Gaussian error linear units" (2016), section 2.
    """
    return gelu_fwd(inputs)[0]


def gelu_fwd(inputs: Array) -> tuple[Array, tuple[Array, Array]]:
    """Forward pass of `gelu`. Residuals: x and Phi(x)."""
    _require_floating("gelu", inputs)
    # erfc of a negative is exact where 1 + erf would cancel.
    distribution = lax.erfc(-inputs * (0.5**0.5)) / 2
    return inputs * distribution, (inputs, distribution)


def gelu_bwd(residuals: tuple[Array, Array], g: Array) -> tuple[Array]:
    """Backward pass of `gelu`: `(dE/dx,)`."""
    inputs, distribution = residuals
    density = jnp.exp(-inputs * inputs / 2) * (2 * np.pi) ** -0.5
    return (g * (distribution + inputs * density),)


def silu(inputs: Array) -> Array:
    """Applies the sigmoid linear unit, also called swish, to each element: y = x s with s = sigmoid(x).

    From ds/dx = (1 - s) s:

        dE/dx = g (s + x (1 - s) s) = g (s + y (1 - s))

    Args:
        inputs: x, any shape, floating.

    Returns:
        y, of the same shape and dtype.

    References:
        Elfwing, Uchibe, Doya, "Sigmoid-weighted linear units for neural network function approximation in reinforcement
        learning" (2017), equations 4 and 5.
    """
    return silu_fwd(inputs)[0]


def silu_fwd(inputs: Array) -> tuple[Array, tuple[Array, Array]]:
    """Forward pass of `silu`. Residuals: s and y."""
    _require_floating("silu", inputs)
    gate = sigmoid(inputs)
    outputs = inputs * gate
    return outputs, (gate, outputs)


def silu_bwd(residuals: tuple[Array, Array], g: Array) -> tuple[Array]:
    """Backward pass of `silu`: `(dE/dx,)`."""
    gate, outputs = residuals
    return (g * (gate + outputs * (1 - gate)),)


def softplus(inputs: Array) -> Array:
    """Applies the softplus to each element: y = log(1 + exp(x)).

        dE/dx = g exp(x) / (1 + exp(x)) = g sigmoid(x)

    Args:
        inputs: x, any shape, floating.

    Returns:
        y, of the same shape and dtype.

    References:
        Dugas, Bengio, Bélisle, Nadeau, Garcia, "Incorporating second-order functional knowledge for better option
        pricing", NIPS 2000, section 2.
    """
    return softplus_fwd(inputs)[0]


def softplus_fwd(inputs: Array) -> tuple[Array, Array]:
    """Forward pass of `softplus`. Residuals: x."""
    _require_floating("softplus", inputs)
    # log(1 + exp(x)) = x + log(1 + exp(-x)) for x > 0, where exp(x) overflows. At 0 both halves have derivative 1/2.
    decay = jnp.log1p(jnp.exp(jnp.where(inputs > 0, -inputs, inputs)))
    return jnp.where(inputs > 0, inputs + decay, decay), inputs


def softplus_bwd(residuals: Array, g: Array) -> tuple[Array]:
    """Backward pass of `softplus`: `(dE/dx,)`."""
    return (g * sigmoid(residuals),)


# Layers


def _examples(settings: dict[str, float], generator: np.random.Generator) -> list[Example]:
    return [Example((3 * generator.normal(size=shape),), dict(settings)) for shape in ((3, 4), (1, 2, 2, 3))]


def _of(
    op: Callable[..., Array],
    fwd: Callable[..., tuple[Array, Any]],
    bwd: Callable[..., tuple[Array]],
    *golden: Golden,
    **settings: float,
) -> Operation:
    return Operation(op.__name__, op, fwd, bwd, partial(_examples, settings), golden)


_INPUTS = [[-8, -2, -0.5], [0, 1.5, 20]]
"""Of both signs and 0, and of either end where an activation rounds, cancels or saturates."""


def _golden(source: str, output: Numbers, **settings: float) -> Golden:
    return Golden(source, (_INPUTS,), output, settings)


_BY_DEFINITION = "mpmath 1.3.0 with 30 digits, {}; PyTorch 2.13.0, {}, agrees"


@dataclass(frozen=True)
class Sigmoid(Stateless):
    """A layer that applies `sigmoid`."""

    kind: ClassVar[str] = "sigmoid"
    output_range: ClassVar[tuple[float, float]] = (0, 1)
    operation: ClassVar[Operation] = _of(
        sigmoid,
        sigmoid_fwd,
        sigmoid_bwd,
        _golden(
            _BY_DEFINITION.format("1 / (1 + exp(-x))", "torch.sigmoid"),
            [[0.000335350130466478, 0.119202922022118, 0.377540668798145], [0.5, 0.817574476193644, 0.999999997938846]],
        ),
    )


@dataclass(frozen=True)
class Tanh(Stateless):
    """A layer that applies `tanh`."""

    kind: ClassVar[str] = "tanh"
    output_range: ClassVar[tuple[float, float]] = (-1, 1)
    operation: ClassVar[Operation] = _of(
        tanh,
        tanh_fwd,
        tanh_bwd,
        _golden(
            _BY_DEFINITION.format("tanh(x)", "torch.tanh"),
            [[-0.999999774929676, -0.964027580075817, -0.46211715726001], [0, 0.905148253644866, 1]],
        ),
    )


@dataclass(frozen=True)
class ReLU(Stateless):
    """A layer that applies `relu`."""

    kind: ClassVar[str] = "relu"
    output_range: ClassVar[tuple[float, float]] = (0, math.inf)
    operation: ClassVar[Operation] = _of(relu, relu_fwd, relu_bwd, _golden("by hand", [[0, 0, 0], [0, 1.5, 20]]))


@dataclass(frozen=True)
class LeakyReLU(Stateless):
    """A layer that applies `leaky_relu`."""

    slope: float = 0.01

    kind: ClassVar[str] = "leaky_relu"
    operation: ClassVar[Operation] = _of(
        leaky_relu,
        leaky_relu_fwd,
        leaky_relu_bwd,
        _golden("by hand", [[-0.8, -0.2, -0.05], [0, 1.5, 20]], slope=0.1),
        _golden("by hand", [[-2, -0.5, -0.125], [0, 1.5, 20]], slope=0.25),
        slope=0.1,
    )

    def check(self) -> None:
        """Raises ValueError where the slope is out of its range."""
        if not 0 <= self.slope <= 1:
            raise ValueError(f"slope: from 0 to 1; got {self.slope}")


@dataclass(frozen=True)
class ELU(Stateless):
    """A layer that applies `elu`."""

    alpha: float = 1.0

    kind: ClassVar[str] = "elu"
    operation: ClassVar[Operation] = _of(
        elu,
        elu_fwd,
        elu_bwd,
        _golden(
            _BY_DEFINITION.format("a expm1(x) for x <= 0", "torch.nn.functional.elu"),
            [[-0.699765176160468, -0.605265301734371, -0.275428538201157], [0, 1.5, 20]],
            alpha=0.7,
        ),
        _golden(
            _BY_DEFINITION.format("expm1(x) for x <= 0", "torch.nn.functional.elu"),
            [[-0.999664537372097, -0.864664716763387, -0.393469340287367], [0, 1.5, 20]],
            alpha=1.0,
        ),
        alpha=0.7,
    )

    def check(self) -> None:
        """Raises ValueError where alpha is out of its range."""
        if not 0 < self.alpha <= 100:
            raise ValueError(f"alpha: more than 0, and 100 at most; got {self.alpha}")


@dataclass(frozen=True)
class GELU(Stateless):
    """A layer that applies `gelu`."""

    kind: ClassVar[str] = "gelu"
    operation: ClassVar[Operation] = _of(
        gelu,
        gelu_fwd,
        gelu_bwd,
        # At -8, where PyTorch's 1 + erf cancels, mpmath's alone.
        _golden(
            _BY_DEFINITION.format("x ncdf(x)", "torch.nn.functional.gelu"),
            [[-4.97676845941743e-15, -0.0455002638963584, -0.154268769362993], [0, 1.39978919809671, 20]],
        ),
    )


@dataclass(frozen=True)
class SiLU(Stateless):
    """A layer that applies `silu`."""

    kind: ClassVar[str] = "silu"
    operation: ClassVar[Operation] = _of(
        silu,
        silu_fwd,
        silu_bwd,
        _golden(
            _BY_DEFINITION.format("x / (1 + exp(-x))", "torch.nn.functional.silu"),
            [[-0.00268280104373182, -0.238405844044235, -0.188770334399073], [0, 1.22636171429047, 19.9999999587769]],
        ),
    )


@dataclass(frozen=True)
class Softplus(Stateless):
    """A layer that applies `softplus`."""

    kind: ClassVar[str] = "softplus"
    operation: ClassVar[Operation] = _of(
        softplus,
        softplus_fwd,
        softplus_bwd,
        _golden(
            _BY_DEFINITION.format("log1p(exp(x))", "torch.nn.functional.softplus"),
            [
                [0.000335406372895769, 0.126928011042972, 0.474076984180107],
                [0.693147180559945, 1.70141327798275, 20.0000000020612],
            ],
        ),
    )
