"""What params make of images, and how well they do on a split of a data set."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from handgrad.core.config import Pixels
from handgrad.core.network import Network, Params, forward
from handgrad.core.operations import log_softmax
from handgrad.core.training import scale_pixels

ACTIVATIONS_PER_CALL = 2**23
"""Numbers that one call computes in all layers together, which bounds its memory."""


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        loss: Mean cross-entropy, in nats.
        accuracy: Part of the images whose most probable class is their label.
        confusion: `[C, C]`, int64: row r, column c counts the images of label r that were taken for c.
    """

    loss: float
    accuracy: float
    confusion: NDArray[np.int64]


def evaluate(network: Network, params: Params, images: Array, labels: Array, pixels: Pixels) -> Evaluation:
    """Evaluates params on images, as many at a time as ACTIVATIONS_PER_CALL allows.

    Args:
        network: The architecture.
        params: Its params.
        images: `[N, D]`, uint8 or float32, N 1 or more.
        labels: `[N]`, integer.
        pixels: How pixels become inputs.
    """
    size = images.shape[0]
    images_per_call = max(1, ACTIVATIONS_PER_CALL // sum(network.widths))
    loss = 0.0
    confusion = np.zeros((network.outputs, network.outputs), np.int64)
    for start in range(0, size, images_per_call):
        part = slice(start, start + images_per_call)
        part_labels = labels[part]
        part_loss, part_confusion = _evaluate_part(network, params, images[part], part_labels, pixels)
        loss += float(part_loss) * part_labels.shape[0]
        confusion += np.asarray(part_confusion)
    return Evaluation(loss / size, float(np.trace(confusion)) / size, confusion)


def predict(
    network: Network, params: Params, images: NDArray[np.uint8] | NDArray[np.float32], pixels: Pixels
) -> NDArray[np.float32]:
    """Gives the probability of each class for images.

    Args:
        network: The architecture.
        params: Its params.
        images: `[N, D]`, uint8 or float32.
        pixels: How pixels become inputs.

    Returns:
        `[N, C]`, float32; the rows sum to 1.
    """
    size = len(images)
    # Filled up to a power of two, so that callers with batches of any size cause few compilations, not one each.
    padded = np.zeros((1 << (size - 1).bit_length(), images.shape[1]), images.dtype)
    padded[:size] = images
    return np.asarray(_probabilities(network, params, jnp.asarray(padded), pixels))[:size]


@partial(jax.jit, static_argnames=("network", "pixels"))
def _probabilities(network: Network, params: Params, images: Array, pixels: Pixels) -> Array:
    return jnp.exp(log_softmax(forward(network, params, scale_pixels(images, pixels))))


@partial(jax.jit, static_argnames=("network", "pixels"))
def _evaluate_part(
    network: Network, params: Params, images: Array, labels: Array, pixels: Pixels
) -> tuple[Array, Array]:
    """Gives the mean of the losses, whose sum may exceed float32, and the counts of the confusion matrix."""
    logits = forward(network, params, scale_pixels(images, pixels))
    log_probabilities = log_softmax(logits)
    labels = labels.astype(jnp.int32)
    losses = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)
    counts = jnp.zeros((network.outputs, network.outputs), jnp.int32)
    return -jnp.sum(losses / losses.size), counts.at[labels, jnp.argmax(logits, axis=1)].add(1)
