"""Losses: what is minimized, a scalar E for a mini-batch; and what is added to it."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from handgrad.core.operations.base import Example, Golden, Operation, require, require_floating
from handgrad.core.operations.softmax import log_softmax


def softmax_cross_entropy(logits: Array, labels: Array, *, smoothing: float = 0.0) -> Array:
    """Gives the mean cross-entropy of the softmax against integer labels, in nats.

    With z the logits, y = softmax(z), and the target y', which is the one-hot label, smoothed by a:

        E = -(1/B) sum_i sum_c y'_ic log y_ic,    log y_c = z_c - log sum_k exp(z_k)
        y'_c = (1 - a) [c is the label] + a / C

    Since d(log sum_k exp(z_k)) / dz_c = y_c, and sum_c y'_c = 1:

        dE/dz = (y - y') / B

    Args:
        logits: z, `[B, C]`, floating.
        labels: The class of each row, `[B]`, an integer from 0 to C - 1. Not differentiable: its cotangent is None.
        smoothing: a, from 0 to 1: the part of the target that all classes share.

    Returns:
        E, a scalar of the logits' dtype.

    Raises:
        TypeError: The ranks, lengths or dtypes do not fit.

    References:
        Bridle, "Training stochastic model recognition algorithms as networks can lead to maximum mutual information
        estimation of parameters", NIPS 2 (1989), for softmax with this loss and its derivative; Szegedy, Vanhoucke,
        Ioffe, Shlens, Wojna, "Rethinking the Inception architecture for computer vision", CVPR 2016, section 7, for the
        smoothing.
    """
    return softmax_cross_entropy_fwd(logits, labels, smoothing=smoothing)[0]


def softmax_cross_entropy_fwd(
    logits: Array, labels: Array, *, smoothing: float = 0.0
) -> tuple[Array, tuple[Array, Array]]:
    """Forward pass of `softmax_cross_entropy`. Residuals: log y `[B, C]` and whether c is the label `[B, C]`."""
    _check("softmax_cross_entropy", logits, labels)
    B, C = logits.shape
    log_probabilities = log_softmax(logits)
    is_label = _one_hot(labels, C)
    # Divided before the sum, which therefore stays finite; where, not a product with 0, which would make NaN of inf.
    loss = -jnp.sum(jnp.where(is_label, log_probabilities, 0) / B)
    if smoothing:
        loss = (1 - smoothing) * loss - jnp.sum(log_probabilities * (smoothing / (B * C)))
    return loss, (log_probabilities, is_label)


def softmax_cross_entropy_bwd(
    residuals: tuple[Array, Array], g: Array, *, smoothing: float = 0.0
) -> tuple[Array, None]:
    """Backward pass of `softmax_cross_entropy`: `(dE/dz [B, C], None)` from the scalar g."""
    log_probabilities, is_label = residuals
    B, C = is_label.shape
    targets = (1 - smoothing) * is_label + smoothing / C if smoothing else is_label
    return g * (jnp.exp(log_probabilities) - targets) / B, None


def squared_error(outputs: Array, labels: Array) -> Array:
    """Gives half the squared distance of the outputs from the one-hot label, in the mean of the batch.

    With z the outputs and y' the one-hot label:

        E = (1/2B) sum_i sum_c (z_ic - y'_ic)^2
        dE/dz = (z - y') / B

    Args:
        outputs: z, `[B, C]`, floating.
        labels: The class of each row, `[B]`, an integer from 0 to C - 1. Not differentiable: its cotangent is None.

    Returns:
        E, a scalar of the outputs' dtype.

    Raises:
        TypeError: The ranks, lengths or dtypes do not fit.

    References:
        Rumelhart, Hinton, Williams (1986), equation 3, for the sum over a batch.
    """
    return squared_error_fwd(outputs, labels)[0]


def squared_error_fwd(outputs: Array, labels: Array) -> tuple[Array, Array]:
    """Forward pass of `squared_error`. Residuals: z - y', `[B, C]`."""
    _check("squared_error", outputs, labels)
    difference = outputs - _one_hot(labels, outputs.shape[1])
    return jnp.sum(jnp.square(difference)) / (2 * len(outputs)), difference


def squared_error_bwd(residuals: Array, g: Array) -> tuple[Array, None]:
    """Backward pass of `squared_error`: `(dE/dz [B, C], None)` from the scalar g."""
    return g * residuals / len(residuals), None


def l2_penalty(W: Array, decay: Array) -> Array:
    """Gives what weight decay adds to the loss for one array of weights: (lambda / 2) sum of W^2.

        dE/dW = g lambda W,    dE/dlambda = g (1/2) sum of W^2

    Args:
        W: Weights, any shape, floating.
        decay: lambda, a scalar of the same dtype.

    Returns:
        A scalar of the same dtype.

    Raises:
        TypeError: The dtypes do not fit.

    References:
        Krogh, Hertz, "A simple weight decay can improve generalization", NIPS 4 (1991), equation 1.
    """
    return l2_penalty_fwd(W, decay)[0]


def l2_penalty_fwd(W: Array, decay: Array) -> tuple[Array, tuple[Array, Array]]:
    """Forward pass of `l2_penalty`. Residuals: W and lambda."""
    require_floating("l2_penalty", W, decay)
    return decay / 2 * jnp.sum(jnp.square(W)), (W, decay)


def l2_penalty_bwd(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """Backward pass of `l2_penalty`: `(dE/dW, dE/dlambda)` from the scalar g."""
    W, decay = residuals
    return g * decay * W, g * jnp.sum(jnp.square(W)) / 2


def _check(name: str, outputs: Array, labels: Array) -> None:
    require(
        outputs.ndim == 2 and labels.shape == outputs.shape[:1],
        f"{name} takes outputs [B, C] and labels [B]; got {outputs.shape}, {labels.shape}",
    )
    require(
        jnp.issubdtype(outputs.dtype, jnp.floating) and jnp.issubdtype(labels.dtype, jnp.integer),
        f"{name} takes floating outputs and integer labels; got {outputs.dtype}, {labels.dtype}",
    )


def _one_hot(labels: Array, classes: int) -> Array:
    return labels[:, None].astype(jnp.int32) == jnp.arange(classes, dtype=jnp.int32)


def _examples(generator: np.random.Generator) -> list[Example]:
    return [
        Example((3 * generator.normal(size=(B, C)), generator.integers(0, C, B))) for B, C in ((4, 5), (1, 3), (3, 1))
    ]


def _smoothed_examples(generator: np.random.Generator) -> list[Example]:
    return [
        Example(example.arrays, {"smoothing": smoothing})
        for example in _examples(generator)
        for smoothing in (0.0, 0.2)
    ]


_LOGITS, _LABELS = [[1, -2, 0.5], [0, 3, -2]], [2, 0]
_CROSS_ENTROPY_SOURCE = "PyTorch 2.13.0, torch.nn.functional.cross_entropy(z, labels, label_smoothing=a), float64"
_CROSS_ENTROPY_GOLDEN = (
    Golden(_CROSS_ENTROPY_SOURCE, (_LOGITS, _LABELS), 2.02979106885972),
    Golden(_CROSS_ENTROPY_SOURCE, (_LOGITS, _LABELS), 2.06312440219305, {"smoothing": 0.2}),
    Golden(_CROSS_ENTROPY_SOURCE, (_LOGITS, _LABELS), 2.19645773552638, {"smoothing": 1.0}),
    Golden("by hand: log y = (0, -1000, -1500), but for exp(-1000)", ([[1000, 0, -500]], [1]), 1000),
    Golden(
        "by hand: 0.8 x 1000 + 0.2 x (0 + 1000 + 1500) / 3",
        ([[1000, 0, -500]], [1]),
        800 + 500 / 3,
        {"smoothing": 0.2},
    ),
)
_SQUARED_ERROR_GOLDEN = (
    Golden(
        "by hand: z - y' is (1, 1, -1) and (0.5, 0, 2), E = (3 + 4.25) / (2 x 2): half of the sum over the classes, in "
        "the mean of the batch; PyTorch's mse_loss is the mean over both, without the half",
        ([[1, 2, -1], [0.5, 0, 3]], [1, 2]),
        1.8125,
    ),
)
_L2_GOLDEN = (Golden("by hand: 0.1 / 2 x (1 + 4 + 9 + 0.25)", ([[1, -2], [3, 0.5]], 0.1), 0.7125),)

SOFTMAX_CROSS_ENTROPY = Operation(
    "softmax_cross_entropy",
    *(softmax_cross_entropy, softmax_cross_entropy_fwd, softmax_cross_entropy_bwd),
    _smoothed_examples,
    _CROSS_ENTROPY_GOLDEN,
    reads=frozenset({"label_smoothing"}),
)
SQUARED_ERROR = Operation(
    "squared_error", squared_error, squared_error_fwd, squared_error_bwd, _examples, _SQUARED_ERROR_GOLDEN
)
L2_PENALTY = Operation(
    "l2_penalty",
    *(l2_penalty, l2_penalty_fwd, l2_penalty_bwd),
    lambda generator: [Example((generator.normal(size=(3, 4)), np.array(0.3)))],
    _L2_GOLDEN,
)
