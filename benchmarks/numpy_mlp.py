"""The peer: the preset `mlp` as a plain float32 numpy program, with nothing of handgrad's in it.

784-512-512-10 with rectifiers, dropout and AdamW, as a good numpy user would write it: whole mini-batches as matrices,
updates in place.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTHS = (784, 512, 512, 10)
BATCH_SIZE, RATE, DECAY, DROPOUT = 100, np.float32(0.002), np.float32(0.01), 0.25
BETA1, BETA2, EPSILON = np.float32(0.9), np.float32(0.999), np.float32(1e-8)

Float32s = NDArray[np.float32]


def trainer(images: NDArray[np.uint8] | Float32s, labels: NDArray[np.uint8]) -> Callable[[int], float]:
    """Gives a function that trains so many iterations more, and gives the loss of the last."""
    generator = np.random.default_rng(0)
    weights = [_he(generator, fan_in, width) for fan_in, width in pairwise(WIDTHS)]
    biases = [np.zeros(width, np.float32) for width in WIDTHS[1:]]
    params = [*weights, *biases]
    means, squares = ([np.zeros_like(array) for array in params] for _ in range(2))
    rows = np.arange(BATCH_SIZE)
    scale = np.float32(1 / (1 - DROPOUT))
    order: NDArray[np.int64] = np.empty(0, np.int64)
    t = 0

    def update(grads: list[Any]) -> None:
        rate = RATE * np.sqrt(1 - BETA2**t) / (1 - BETA1**t)
        for array, g, m, v in zip(params, grads, means, squares, strict=True):
            np.multiply(m, BETA1, out=m)
            np.add(m, (1 - BETA1) * g, out=m)
            np.multiply(v, BETA2, out=v)
            np.add(v, (1 - BETA2) * np.square(g), out=v)
            if array.ndim == 2:
                np.multiply(array, 1 - RATE * DECAY, out=array)
            np.subtract(array, rate * m / (np.sqrt(v) + EPSILON), out=array)

    def train(iterations: int) -> float:
        nonlocal order, t
        loss = 0.0
        for _ in range(iterations):
            t += 1
            if len(order) < BATCH_SIZE:
                order = generator.permutation(len(images))
            batch, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
            hidden: list[Float32s] = [images[batch].astype(np.float32) / np.float32(255)]
            masks: list[Float32s] = []
            for W, b in zip(weights[:-1], biases[:-1], strict=True):
                Y = hidden[-1] @ W.T
                Y += b
                # One mask for both: 0 where the rectifier or the dropout gives 0.
                masks.append(((Y > 0) & (generator.random(Y.shape, np.float32) >= DROPOUT)) * scale)
                hidden.append(Y * masks[-1])
            logits = hidden[-1] @ weights[-1].T + biases[-1]
            logits -= logits.max(axis=1, keepdims=True)
            exponentials = np.exp(logits)
            sums = exponentials.sum(axis=1, keepdims=True)
            loss = float((np.log(sums[:, 0]) - logits[rows, labels[batch]]).mean())
            g = exponentials / sums
            g[rows, labels[batch]] -= 1
            g /= BATCH_SIZE
            weight_grads: list[Float32s] = []
            bias_grads: list[Float32s] = []
            for layer in (2, 1, 0):
                weight_grads.insert(0, g.T @ hidden[layer])
                bias_grads.insert(0, g.sum(axis=0))
                if layer:
                    g = g @ weights[layer] * masks[layer - 1]
            update([*weight_grads, *bias_grads])
        return loss

    return train


def _he(generator: np.random.Generator, fan_in: int, width: int) -> Float32s:
    return generator.standard_normal((width, fan_in), np.float32) * np.float32(np.sqrt(2 / fan_in))
