"""What params make of images, and how well they do on a split of a data set."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from handgrad.core.compilation import compiler_options
from handgrad.core.network import CROSS_ENTROPY, LOSSES, Loss, Network, forward
from handgrad.core.operations.base import Params
from handgrad.core.operations.softmax import log_softmax
from handgrad.core.signature import Kind, Transform, to_inputs

ACTIVATIONS_PER_CALL = 2**23
"""Numbers that one call computes in all layers together, which bounds its memory."""


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        loss: Mean loss of an image: for the cross-entropy in nats.
        accuracy: Part of the images whose most probable class is their label.
        confusion: `[C, C]`, int64: row r, column c counts the images of label r that were taken for c.
    """

    loss: float
    accuracy: float
    confusion: NDArray[np.int64]


def evaluate(
    network: Network,
    params: Params,
    statistics: Params,
    images: Array,
    labels: Array,
    transform: Transform,
    loss: Loss = CROSS_ENTROPY,
) -> Evaluation:
    """Evaluates params on images, as many at a time as ACTIVATIONS_PER_CALL allows.

    Args:
        network: The architecture.
        params: Its params.
        statistics: What its layers keep besides.
        images: `[N, D]`, uint8 or float32, N 1 or more.
        labels: `[N]`, integer.
        transform: From images to inputs.
        loss: What is measured.
    """
    size = images.shape[0]
    images_per_call = max(1, ACTIVATIONS_PER_CALL // network.activations)
    total = 0.0
    confusion = np.zeros((network.outputs, network.outputs), np.int64)
    for start in range(0, size, images_per_call):
        part = slice(start, start + images_per_call)
        arrays = (images[part], labels[part])
        part_loss, part_confusion = _compiled_part()(network, params, statistics, *arrays, transform, loss)
        total += float(part_loss) * len(arrays[1])
        confusion += np.asarray(part_confusion)
    return Evaluation(total / size, float(np.trace(confusion)) / size, confusion)


def predict(
    network: Network,
    params: Params,
    statistics: Params,
    images: NDArray[np.uint8] | NDArray[np.float32],
    transform: Transform,
    kind: Kind = "probabilities",
) -> NDArray[np.float32]:
    """Returns what a model says of images: the probability of each class, or its score.

    Args:
        network: The architecture.
        params: Its params.
        statistics: What its layers keep besides.
        images: `[N, D]`, uint8 or float32.
        transform: From images to inputs.
        kind: Whether the outputs are logits, whose softmax is returned, or scores.

    Returns:
        `[N, C]`, float32; the rows of probabilities sum to 1.
    """
    size = len(images)
    # Filled up to a power of two, so that callers with batches of any size cause few compilations, not one each.
    padded = np.zeros((1 << (size - 1).bit_length(), images.shape[1]), images.dtype)
    padded[:size] = images
    return np.asarray(_compiled_outputs()(network, params, statistics, jnp.asarray(padded), transform, kind))[:size]


def _outputs(
    network: Network, params: Params, statistics: Params, images: Array, transform: Transform, kind: Kind
) -> Array:
    outputs = forward(network, params, statistics, to_inputs(images, transform))
    return jnp.exp(log_softmax(outputs)) if kind == "probabilities" else outputs


@cache
def _compiled_outputs() -> Callable[..., Array]:
    return jax.jit(_outputs, static_argnames=("network", "transform", "kind"), compiler_options=compiler_options())


def _evaluate_part(
    network: Network,
    params: Params,
    statistics: Params,
    images: Array,
    labels: Array,
    transform: Transform,
    loss: Loss,
) -> tuple[Array, Array]:
    """Gives the mean of the losses, whose sum may exceed float32, and the counts of the confusion matrix."""
    logits = forward(network, params, statistics, to_inputs(images, transform))
    labels = labels.astype(jnp.int32)
    # Without smoothing, which is for training: what is measured is the label's.
    mean = LOSSES[loss.name].op(logits, labels)
    counts = jnp.zeros((network.outputs, network.outputs), jnp.int32)
    return mean, counts.at[labels, jnp.argmax(logits, axis=1)].add(1)


@cache
def _compiled_part() -> Callable[..., tuple[Array, Array]]:
    return jax.jit(
        _evaluate_part, static_argnames=("network", "transform", "loss"), compiler_options=compiler_options()
    )
