"""Normalizations: numbers are brought to mean 0 and variance 1, over the batch or over an example."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from handgrad.core.initializers import Draw
from handgrad.core.operations.base import (
    Example,
    Golden,
    Layer,
    LayerParams,
    Operation,
    Shape,
    require,
    require_floating,
    sum_to_last,
)

Residuals = tuple[Array, Array, Array]


def _check(name: str, inputs: Array, *vectors: Array) -> None:
    require(
        inputs.ndim >= 2 and all(vector.shape == inputs.shape[-1:] for vector in vectors),
        f"{name} takes inputs [B, ..., C] and vectors [C]; got {inputs.shape}, {[vector.shape for vector in vectors]}",
    )
    require_floating(name, inputs, *vectors)


# Over the batch


def batch_norm(inputs: Array, gamma: Array, beta: Array, *, epsilon: float) -> Array:
    """Normalizes each channel over the batch and, for images, over rows and columns.

    With M numbers x_i of a channel, their mean mu = (1/M) sum_i x_i, variance var = (1/M) sum_i (x_i - mu)^2:

        s = sqrt(var + epsilon),    n_i = (x_i - mu) / s,    y_i = gamma n_i + beta

    With g = dE/dy and v_i = dE/dn_i = g_i gamma:

        dE/dgamma = sum_i g_i n_i,    dE/dbeta = sum_i g_i

    x_i reaches E through n_i, through mu and through var. From dn_j/dx_i = (delta_ij - 1/M) / s - n_j (ds/dx_i) / s and
    ds/dx_i = (1 / 2s) (2/M) (x_i - mu) = n_i / M, where the mean's part of dvar vanishes since sum_j (x_j - mu) = 0:

        dE/dx_i = (v_i - (1/M) sum_j v_j - n_i (1/M) sum_j v_j n_j) / s

    Args:
        inputs: x, `[B, ..., C]`, floating; M is the product of all lengths but C.
        gamma: Scales, `[C]`, of the same dtype.
        beta: Offsets, `[C]`, of the same dtype.
        epsilon: Added to the variance, so that nothing is divided by 0.

    Returns:
        y, of the shape of x.

    Raises:
        TypeError: The shapes or dtypes do not fit.

    References:
        Ioffe, Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate shift",
        ICML 2015, algorithm 1, and the derivatives of section 3.
    """
    return batch_norm_fwd(inputs, gamma, beta, epsilon=epsilon)[0]


def batch_norm_fwd(inputs: Array, gamma: Array, beta: Array, *, epsilon: float) -> tuple[Array, Residuals]:
    """Forward pass of `batch_norm`. Residuals: n, s `[C]`, gamma."""
    _check("batch_norm", inputs, gamma, beta)
    mean, variance = moments(inputs)
    deviation = jnp.sqrt(variance + epsilon)
    normalized = (inputs - mean) / deviation
    return gamma * normalized + beta, (normalized, deviation, gamma)


def batch_norm_bwd(residuals: Residuals, g: Array, *, epsilon: float) -> tuple[Array, Array, Array]:
    """Backward pass of `batch_norm`: `(dE/dx, dE/dgamma, dE/dbeta)`."""
    del epsilon
    normalized, deviation, gamma = residuals
    gamma_grad, beta_grad = sum_to_last(g * normalized), sum_to_last(g)
    M = g.size // g.shape[-1]
    # Of the formula's sums of v, gamma is a factor: those of g, which are there already, do for both.
    inputs_grad = (g - beta_grad / M - normalized * (gamma_grad / M)) * (gamma / deviation)
    return inputs_grad, gamma_grad, beta_grad


def moments(inputs: Array) -> tuple[Array, Array]:
    """Gives the mean and the variance of each channel of `[B, ..., C]`, `[C]`."""
    M = inputs.size // inputs.shape[-1]
    mean = sum_to_last(inputs) / M
    return mean, sum_to_last(jnp.square(inputs - mean)) / M


def batch_norm_inference(
    inputs: Array, gamma: Array, beta: Array, mean: Array, variance: Array, *, epsilon: float
) -> Array:
    """Normalizes each channel by a mean and a variance that are given, those gathered while training.

    With s = sqrt(var + epsilon) and n = (x - mu) / s, y = gamma n + beta. Nothing but y depends on x, so

        dE/dx = g gamma / s            dE/dgamma = sum g n            dE/dbeta = sum g
        dE/dmu = -sum g gamma / s      dE/dvar = -(1/2) sum g gamma n / s^2

    the sums over everything but the channel.

    Args:
        inputs: x, `[B, ..., C]`, floating.
        gamma: Scales, `[C]`, of the same dtype.
        beta: Offsets, `[C]`, of the same dtype.
        mean: mu, `[C]`, of the same dtype.
        variance: var, `[C]`, of the same dtype, 0 or more.
        epsilon: Added to the variance.

    Returns:
        y, of the shape of x.

    Raises:
        TypeError: The shapes or dtypes do not fit.

    References:
        Ioffe, Szegedy (2015), algorithm 2.
    """
    return batch_norm_inference_fwd(inputs, gamma, beta, mean, variance, epsilon=epsilon)[0]


def batch_norm_inference_fwd(
    inputs: Array, gamma: Array, beta: Array, mean: Array, variance: Array, *, epsilon: float
) -> tuple[Array, Residuals]:
    """Forward pass of `batch_norm_inference`. Residuals: n, s `[C]`, gamma."""
    _check("batch_norm_inference", inputs, gamma, beta, mean, variance)
    deviation = jnp.sqrt(variance + epsilon)
    normalized = (inputs - mean) / deviation
    return gamma * normalized + beta, (normalized, deviation, gamma)


def batch_norm_inference_bwd(
    residuals: Residuals, g: Array, *, epsilon: float
) -> tuple[Array, Array, Array, Array, Array]:
    """Backward pass of `batch_norm_inference`: `(dE/dx, dE/dgamma, dE/dbeta, dE/dmu, dE/dvar)`."""
    del epsilon
    normalized, deviation, gamma = residuals
    inputs_grad = g * gamma / deviation
    variance_grad = -sum_to_last(g * normalized) * gamma / (2 * deviation**2)
    gamma_grad = sum_to_last(g * normalized)
    return inputs_grad, gamma_grad, sum_to_last(g), -sum_to_last(inputs_grad), variance_grad


# Over an example


def layer_norm(inputs: Array, gamma: Array, beta: Array, *, epsilon: float) -> Array:
    """Normalizes each example over its last axis: a vector over all of it, an image over the channels of each place.

    With the C numbers x_c of a place, their mean mu, variance var, and s = sqrt(var + epsilon):

        n_c = (x_c - mu) / s,    y_c = gamma_c n_c + beta_c

    With v_c = g_c gamma_c, the derivation of `batch_norm` holds with the sum over c in place of that over the batch:

        dE/dx_c = (v_c - (1/C) sum_k v_k - n_c (1/C) sum_k v_k n_k) / s
        dE/dgamma_c = sum g_c n_c,    dE/dbeta_c = sum g_c

    the last two sums over everything but c.

    Args:
        inputs: x, `[B, ..., C]`, floating.
        gamma: Scales, `[C]`, of the same dtype.
        beta: Offsets, `[C]`, of the same dtype.
        epsilon: Added to the variance.

    Returns:
        y, of the shape of x.

    Raises:
        TypeError: The shapes or dtypes do not fit.

    References:
        Ba, Kiros, Hinton, "Layer normalization" (2016), equations 3 and 4.
    """
    return layer_norm_fwd(inputs, gamma, beta, epsilon=epsilon)[0]


def layer_norm_fwd(inputs: Array, gamma: Array, beta: Array, *, epsilon: float) -> tuple[Array, Residuals]:
    """Forward pass of `layer_norm`. Residuals: n, s `[B, ..., 1]`, gamma."""
    _check("layer_norm", inputs, gamma, beta)
    mean = jnp.mean(inputs, axis=-1, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(jnp.square(inputs - mean), axis=-1, keepdims=True) + epsilon)
    normalized = (inputs - mean) / deviation
    return gamma * normalized + beta, (normalized, deviation, gamma)


def layer_norm_bwd(residuals: Residuals, g: Array, *, epsilon: float) -> tuple[Array, Array, Array]:
    """Backward pass of `layer_norm`: `(dE/dx, dE/dgamma, dE/dbeta)`."""
    del epsilon
    normalized, deviation, gamma = residuals
    v = g * gamma
    mean_v = jnp.mean(v, axis=-1, keepdims=True)
    mean_vn = jnp.mean(v * normalized, axis=-1, keepdims=True)
    inputs_grad = (v - mean_v - normalized * mean_vn) / deviation
    return inputs_grad, sum_to_last(g * normalized), sum_to_last(g)


def _examples(generator: np.random.Generator) -> list[Example]:
    return [
        Example(
            (generator.normal(size=shape), generator.normal(size=shape[-1]), generator.normal(size=shape[-1])), epsilon
        )
        for shape in ((4, 3), (2, 3, 2, 5), (7, 2))
        for epsilon in ({"epsilon": 1e-5}, {"epsilon": 0.5})
    ]


def _inference_examples(generator: np.random.Generator) -> list[Example]:
    return [
        Example((*e.arrays, generator.normal(size=C), generator.random(C) + 0.1), e.settings)
        for e in _examples(generator)
        for C in e.arrays[1].shape
    ]


_VECTORS = [[1, -4], [3, 0], [-2, 2], [5, 6.5]]
_IMAGES = [[[[1, -4], [3, 0]]], [[[-2, 2], [5, 6.5]]]]
_GAMMA, _BETA, _MEAN, _VARIANCE = [2, -0.5], [0.25, 1], [0.5, -2], [2, 0.25]
_BATCH_SOURCE = (
    "PyTorch 2.13.0, torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True, eps), float64"
)
_BATCH_OUTPUTS = [
    [-0.330041459751703, 1.67770885801708],
    [1.21673576625284, 1.14876535907692],
    [-2.65020729875851, 0.884293609606841],
    [2.76351299225738, 0.289232173299164],
]
_BATCH_NORM_GOLDEN = (
    Golden(_BATCH_SOURCE, (_VECTORS, _GAMMA, _BETA), _BATCH_OUTPUTS, {"epsilon": 1e-5}),
    # The same numbers as two images of a row and two columns: each channel's moments are over all places.
    Golden(
        _BATCH_SOURCE,
        (_IMAGES, _GAMMA, _BETA),
        [[_BATCH_OUTPUTS[:2]], [_BATCH_OUTPUTS[2:]]],
        {"epsilon": 1e-5},
    ),
    Golden(
        _BATCH_SOURCE,
        (_VECTORS, _GAMMA, _BETA),
        [
            [-0.309502884944188, 1.66616049069756],
            [1.18250480824031, 1.14623035161654],
            [-2.54751442472094, 0.886265282076026],
            [2.67451250142482, 0.301343875609871],
        ],
        {"epsilon": 0.5},
    ),
)
_INFERENCE_SOURCE = (
    "PyTorch 2.13.0, torch.nn.functional.batch_norm(x, mean, variance, gamma, beta, training=False, eps), float64"
)
_INFERENCE_OUTPUTS = [
    [0.957105013426224, 2.99996000119996],
    [3.78552506713112, -0.99996000119996],
    [-3.28552506713112, -2.99992000239992],
    [6.61394512083601, -7.49983000509983],
]
_INFERENCE_GOLDEN = (
    Golden(_INFERENCE_SOURCE, (_VECTORS, _GAMMA, _BETA, _MEAN, _VARIANCE), _INFERENCE_OUTPUTS, {"epsilon": 1e-5}),
    Golden(
        _INFERENCE_SOURCE,
        (_IMAGES, _GAMMA, _BETA, _MEAN, _VARIANCE),
        [[_INFERENCE_OUTPUTS[:2]], [_INFERENCE_OUTPUTS[2:]]],
        {"epsilon": 1e-5},
    ),
    Golden(
        _INFERENCE_SOURCE,
        (_VECTORS, _GAMMA, _BETA, _MEAN, _VARIANCE),
        [
            [0.882455532033676, 2.15470053837925],
            [3.41227766016838, -0.154700538379252],
            [-2.91227766016838, -1.3094010767585],
            [5.94209978830308, -3.90747728811182],
        ],
        {"epsilon": 0.5},
    ),
)
_LAYER_SOURCE = "PyTorch 2.13.0, torch.nn.functional.layer_norm(x, (3,), gamma, beta, eps), float64"
_LAYER_GAMMA, _LAYER_BETA = [2, -0.5, 3], [0.25, 1, -1]
_LAYER_OUTPUTS = [
    [1.26600027858223, 1.69850019152529, 1.66700073127837],
    [-0.0744426715022692, 1.56777467512897, 2.89331205802723],
]
_LAYER_NORM_GOLDEN = (
    Golden(_LAYER_SOURCE, ([[1, -4, 2], [3, 0, 7.5]], _LAYER_GAMMA, _LAYER_BETA), _LAYER_OUTPUTS, {"epsilon": 1e-5}),
    # An image of two rows and two columns: each place by itself.
    Golden(
        _LAYER_SOURCE,
        ([[[[1, -4, 2], [3, 0, 7.5]], [[0, 1, 0], [-2, -1, 9]]]], _LAYER_GAMMA, _LAYER_BETA),
        [
            [
                _LAYER_OUTPUTS,
                [
                    [-1.16418174364182, 0.29290912817909, -3.12127261546273],
                    [-1.36077420600541, 1.30202016362601, 3.22828229076419],
                ],
            ]
        ],
        {"epsilon": 1e-5},
    ),
    Golden(
        _LAYER_SOURCE,
        ([[1, -4, 2], [3, 0, 7.5]], _LAYER_GAMMA, _LAYER_BETA),
        [
            [1.23102294317595, 1.67445327343346, 1.57518522583686],
            [-0.0662277660168379, 1.55339859052947, 2.79473319220206],
        ],
        {"epsilon": 0.5},
    ),
)

BATCH_NORM = Operation("batch_norm", batch_norm, batch_norm_fwd, batch_norm_bwd, _examples, _BATCH_NORM_GOLDEN)
BATCH_NORM_INFERENCE = Operation(
    "batch_norm_inference",
    *(batch_norm_inference, batch_norm_inference_fwd, batch_norm_inference_bwd),
    _inference_examples,
    _INFERENCE_GOLDEN,
)
LAYER_NORM = Operation("layer_norm", layer_norm, layer_norm_fwd, layer_norm_bwd, _examples, _LAYER_NORM_GOLDEN)


@dataclass(frozen=True)
class BatchNorm(Layer):
    """A layer that normalizes each channel over the batch, and at inference by running statistics.

    Attributes:
        epsilon: Added to the variance.
        decay: Part of the running mean and variance that stays at each iteration.
    """

    epsilon: float = 1e-5
    decay: float = 0.9

    kind: ClassVar[str] = "batch_norm"

    def check(self) -> None:
        """Raises ValueError where a setting is out of its range."""
        _check_epsilon(self.epsilon)
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay: from 0 to less than 1; got {self.decay}")

    def ignores_inputs(self, shape: Shape, batch_size: int) -> bool:
        """Returns whether a mini-batch has one number of a channel, which is its own mean: beta is put out."""
        return batch_size * math.prod(shape[:-1]) == 1

    def init(self, draw: Draw, shape: Shape) -> LayerParams:
        """Gives gamma, ones, and beta, zeros: `[channels]`."""
        del draw
        return _ones_and_zeros(shape)

    def statistics(self, shape: Shape) -> LayerParams:
        """Gives the mean, zeros, and the variance, ones: `[channels]`."""
        return {"mean": jnp.zeros(shape[-1], jnp.float32), "variance": jnp.ones(shape[-1], jnp.float32)}

    def fwd(
        self, params: LayerParams, statistics: LayerParams, inputs: Array, key: Array | None
    ) -> tuple[Array, Any, LayerParams]:
        """Normalizes, by the batch's own moments while training, which the running ones then follow."""
        gamma, beta = params["gamma"], params["beta"]
        if key is None:
            mean, variance = statistics["mean"], statistics["variance"]
            outputs = batch_norm_inference(inputs, gamma, beta, mean, variance, epsilon=self.epsilon)
            return outputs, None, statistics
        outputs, residuals = batch_norm_fwd(inputs, gamma, beta, epsilon=self.epsilon)
        mean, variance = moments(inputs)
        size = inputs.size // inputs.shape[-1]
        # The variance of a sample is too small by (M - 1) / M: the running one is the unbiased, as in the paper.
        unbiased = variance * (size / max(size - 1, 1))
        return (
            outputs,
            residuals,
            {
                "mean": self.decay * statistics["mean"] + (1 - self.decay) * mean,
                "variance": self.decay * statistics["variance"] + (1 - self.decay) * unbiased,
            },
        )

    def bwd(self, residuals: Any, g: Array) -> tuple[LayerParams, Array]:
        """Gives the gradients of gamma, beta and the inputs, for a forward pass with a key."""
        inputs_grad, gamma_grad, beta_grad = batch_norm_bwd(residuals, g, epsilon=self.epsilon)
        return {"gamma": gamma_grad, "beta": beta_grad}, inputs_grad


@dataclass(frozen=True)
class LayerNorm(Layer):
    """A layer that normalizes each example over its last axis.

    Attributes:
        epsilon: Added to the variance.
    """

    epsilon: float = 1e-5

    kind: ClassVar[str] = "layer_norm"

    def check(self) -> None:
        """Raises ValueError where epsilon is out of its range."""
        _check_epsilon(self.epsilon)

    def ignores_inputs(self, shape: Shape, batch_size: int) -> bool:
        """Returns whether there is one channel, which is its own mean: beta is put out."""
        del batch_size
        return shape[-1] == 1

    def init(self, draw: Draw, shape: Shape) -> LayerParams:
        """Gives gamma, ones, and beta, zeros: `[channels]`."""
        del draw
        return _ones_and_zeros(shape)

    def fwd(
        self, params: LayerParams, statistics: LayerParams, inputs: Array, key: Array | None
    ) -> tuple[Array, Any, LayerParams]:
        """Normalizes, the same way while training and at inference."""
        del key
        outputs, residuals = layer_norm_fwd(inputs, params["gamma"], params["beta"], epsilon=self.epsilon)
        return outputs, residuals, statistics

    def bwd(self, residuals: Any, g: Array) -> tuple[LayerParams, Array]:
        """Gives the gradients of gamma, beta and the inputs."""
        inputs_grad, gamma_grad, beta_grad = layer_norm_bwd(residuals, g, epsilon=self.epsilon)
        return {"gamma": gamma_grad, "beta": beta_grad}, inputs_grad


def _ones_and_zeros(shape: Shape) -> LayerParams:
    return {"gamma": jnp.ones(shape[-1], jnp.float32), "beta": jnp.zeros(shape[-1], jnp.float32)}


def _check_epsilon(epsilon: float) -> None:
    if not 1e-12 <= epsilon <= 1:
        raise ValueError(f"epsilon: from 1e-12 to 1; got {epsilon}")
