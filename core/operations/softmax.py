"""The softmax: logits become probabilities."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from handgrad.core.operations.base import Example, Golden, Operation, Shape, Stateless, require_floating


def log_softmax(logits: Array) -> Array:
    """Gives the logarithm of the softmax of each row: log y_c = z_c - log sum_k exp(z_k).

    The largest logit of the row is taken off first, which leaves the softmax as it is, so no exponential exceeds 1. A
    difference of two logits can still lie below the dtype's range: it is then held at half the lowest finite number, so
    that a mean of such rounds to no infinity.

    Args:
        logits: z, `[B, C]`, floating and finite.

    Returns:
        log y, `[B, C]`, finite and at most 0.
    """
    shifted = logits - jnp.max(logits, axis=1, keepdims=True)
    shifted = jnp.maximum(shifted, np.finfo(logits.dtype).min / 2)
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=1, keepdims=True))


def softmax(logits: Array) -> Array:
    """Gives probabilities over the last axis: y_c = exp(z_c) / sum_k exp(z_k).

    From dy_c/dz_k = y_c (delta_ck - y_k):

        dE/dz_k = y_k (g_k - sum_c g_c y_c)

    Args:
        logits: z, `[B, ..., C]`, floating.

    Returns:
        y, of the same shape and dtype; each row sums to 1.

    References:
        Bridle (1989), equation 3.
    """
    return softmax_fwd(logits)[0]


def softmax_fwd(logits: Array) -> tuple[Array, Array]:
    """Forward pass of `softmax`. Residuals: the output y."""
    require_floating("softmax", logits)
    exponentials = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    outputs = exponentials / jnp.sum(exponentials, axis=-1, keepdims=True)
    return outputs, outputs


def softmax_bwd(residuals: Array, g: Array) -> tuple[Array]:
    """Backward pass of `softmax`: `(dE/dz,)`."""
    outputs = residuals
    return (outputs * (g - jnp.sum(g * outputs, axis=-1, keepdims=True)),)


def _examples(generator: np.random.Generator) -> list[Example]:
    return [Example((2 * generator.normal(size=shape),)) for shape in ((3, 4), (1, 2, 2, 3), (2, 1))]


_GOLDEN = (
    Golden(
        "PyTorch 2.13.0, torch.softmax(z, -1), float64; in the second row exp(1000) alone would overflow",
        ([[1, 2, 4], [-1, 0, 1000]],),
        [[0.042010066134066, 0.114195199384594, 0.843794734481339], [0, 0, 1]],
    ),
    Golden(
        "PyTorch 2.13.0, torch.softmax(z, -1), float64: over the channels of each place of an image",
        ([[[[1, 3], [0, -2]]]],),
        [[[[0.119202922022118, 0.880797077977882], [0.880797077977882, 0.119202922022118]]]],
    ),
)


@dataclass(frozen=True)
class Softmax(Stateless):
    """A layer that makes probabilities of each vector. The loss of classification has a softmax of its own."""

    kind: ClassVar[str] = "softmax"
    output_range: ClassVar[tuple[float, float]] = (0, 1)
    operation: ClassVar[Operation] = Operation("softmax", softmax, softmax_fwd, softmax_bwd, _examples, _GOLDEN)

    def ignores_inputs(self, shape: Shape, batch_size: int) -> bool:
        """Returns whether a vector has one number, whose probability is 1."""
        del batch_size
        return shape[-1] == 1
