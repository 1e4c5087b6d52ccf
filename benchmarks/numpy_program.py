"""The peer: the report's run as a plain float32 numpy program, with nothing of handgrad's in it.

It is written as a good numpy user would write it: whole mini-batches as matrices, one example a row, in float32, the
images gathered as bytes (which was faster than keeping 188 MB of float32), gradients in place, no checks in the loop.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

HIDDEN, CLASSES, BATCH_SIZE, LEARNING_RATE = 100, 10, 100, np.float32(0.01)


def train(
    images: NDArray[np.uint8] | NDArray[np.float32], labels: NDArray[np.uint8], epochs: int, seed: int
) -> Iterator[float]:
    """Trains 784-100-10 with sigmoid and softmax cross-entropy on raw pixels; yields each epoch's mean loss."""
    generator = np.random.default_rng(seed)
    inputs = images.shape[1]

    def normal(fan_in: int, *shape: int) -> NDArray[np.float32]:
        return np.asarray(generator.standard_normal(shape) / np.sqrt(fan_in), np.float32)

    W_1, b_1 = normal(inputs, HIDDEN, inputs), normal(inputs, HIDDEN)
    W_2, b_2 = normal(HIDDEN, CLASSES, HIDDEN), normal(HIDDEN, CLASSES)
    rows = np.arange(BATCH_SIZE)
    per_epoch = len(images) // BATCH_SIZE
    with np.errstate(over="ignore"):
        for _ in range(epochs):
            permutation = generator.permutation(len(images))
            total = 0.0
            for i in range(per_epoch):
                batch = permutation[i * BATCH_SIZE : (i + 1) * BATCH_SIZE]
                X: NDArray[np.float32] = images[batch].astype(np.float32)
                targets: NDArray[Any] = labels[batch]
                H = 1 / (1 + np.exp(-(X @ W_1.T + b_1)))
                logits = H @ W_2.T + b_2
                logits -= logits.max(axis=1, keepdims=True)
                exponentials = np.exp(logits)
                sums = exponentials.sum(axis=1, keepdims=True)
                total += float((np.log(sums[:, 0]) - logits[rows, targets]).mean())
                g = exponentials / sums
                g[rows, targets] -= 1
                g /= BATCH_SIZE
                g_hidden = g @ W_2 * (1 - H) * H
                W_2 -= LEARNING_RATE * (g.T @ H)
                b_2 -= LEARNING_RATE * g.sum(axis=0)
                W_1 -= LEARNING_RATE * (g_hidden.T @ X)
                b_1 -= LEARNING_RATE * g_hidden.sum(axis=0)
            yield total / per_epoch
