"""Dropout: while training, a part of the numbers is left out at random."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from handgrad.core.operations.base import Example, Golden, Layer, LayerParams, Operation, require, require_floating


def dropout(inputs: Array, kept: Array, *, rate: float) -> Array:
    """Leaves out numbers, and scales those that are kept: y = m x / (1 - p), with m 1 where x is kept, otherwise 0.

    m is kept with probability 1 - p, so that the mean of y is x, and nothing needs scaling at inference.

        dE/dx = g m / (1 - p)

    Args:
        inputs: x, any shape, floating.
        kept: m, of the same shape, bool. Not differentiable: its cotangent is None.
        rate: p, from 0 to less than 1.

    Returns:
        y, of the same shape and dtype.

    Raises:
        TypeError: The shapes or dtypes do not fit.

    References:
        Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout: a simple way to prevent neural networks from
        overfitting", JMLR 15 (2014), section 4, and section 10 for the scaling while training.
    """
    return dropout_fwd(inputs, kept, rate=rate)[0]


def dropout_fwd(inputs: Array, kept: Array, *, rate: float) -> tuple[Array, Array]:
    """Forward pass of `dropout`. Residuals: m."""
    require(
        kept.shape == inputs.shape and kept.dtype == bool,
        f"dropout takes a bool for each of its inputs; got {inputs.shape} and {kept.dtype} {kept.shape}",
    )
    require_floating("dropout", inputs)
    return jnp.where(kept, inputs / (1 - rate), 0), kept


def dropout_bwd(residuals: Array, g: Array, *, rate: float) -> tuple[Array, None]:
    """Backward pass of `dropout`: `(dE/dx, None)`."""
    return jnp.where(residuals, g / (1 - rate), 0), None


def _examples(generator: np.random.Generator) -> list[Example]:
    return [
        Example((generator.normal(size=shape), generator.random(shape) >= rate), {"rate": rate})
        for shape, rate in (((4, 5), 0.3), ((1, 2, 3, 2), 0.8), ((3, 2), 0.0))
    ]


_INPUTS = [[1.0, -2.0, 4.0], [0.5, 3.0, -8.0]]
_KEPT = [[True, True, False], [True, False, True]]
_GOLDEN = (
    Golden("by hand: 1 / (1 - 0.2) = 1.25", (_INPUTS, _KEPT), [[1.25, -2.5, 0], [0.625, 0, -10]], {"rate": 0.2}),
    Golden("by hand: 1 / (1 - 0.75) = 4", (_INPUTS, _KEPT), [[4, -8, 0], [2, 0, -32]], {"rate": 0.75}),
)

DROPOUT = Operation("dropout", dropout, dropout_fwd, dropout_bwd, _examples, _GOLDEN)


@dataclass(frozen=True)
class Dropout(Layer):
    """A layer that leaves out numbers while training.

    Attributes:
        rate: Probability that a number is left out.
    """

    rate: float

    kind: ClassVar[str] = "dropout"
    passes: ClassVar[bool] = True

    def check(self) -> None:
        """Raises ValueError where the rate is out of its range."""
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate: from 0 to less than 1; got {self.rate}")

    def fwd(
        self, params: LayerParams, statistics: LayerParams, inputs: Array, key: Array | None
    ) -> tuple[Array, Any, LayerParams]:
        """Draws what is kept from the key; gives the inputs as they are without one."""
        del params
        if key is None:
            return inputs, jnp.ones(inputs.shape, bool), statistics
        kept = jax.random.uniform(key, inputs.shape, jnp.float32) >= self.rate
        outputs, residuals = dropout_fwd(inputs, kept, rate=self.rate)
        return outputs, residuals, statistics

    def bwd(self, residuals: Any, g: Array) -> tuple[LayerParams, Array]:
        """Gives the gradient of the inputs, for a forward pass with a key."""
        return {}, dropout_bwd(residuals, g, rate=self.rate)[0]
