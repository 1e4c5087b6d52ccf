"""The settings of a run, their presets and their bounds."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from handgrad.core.errors import InvalidInputError
from handgrad.core.network import Network

Pixels: TypeAlias = Literal["raw", "unit"]
"""How a pixel's byte becomes an input: as it is, or divided by 255."""

MAX_EPOCHS = 100_000
MAX_ITERATIONS = 100_000_000
MAX_SEED = 2**32 - 1
MIN_LEARNING_RATE, MAX_LEARNING_RATE = 1.2e-38, 1e38
"""The update is float32, where a smaller rate would be taken for 0, and a larger one for infinity."""

MAX_ACTIVATIONS = 2**28
"""The most numbers that one mini-batch may have in all layers together, which bounds the memory of an iteration."""


@dataclass(frozen=True)
class TrainConfig:
    """What decides a run, besides the network, the data and the params it starts from.

    Attributes:
        batch_size: Images in a mini-batch, 1 to the images of the training split, and few enough that an iteration
            fits in memory. When it does not divide them evenly, the last mini-batch of an epoch holds what is left: no
            image is dropped.
        epochs: Passes over the training split, 1 to MAX_EPOCHS.
        learning_rate: Step size of SGD, finite and more than 0.
        pixels: How pixels become inputs.
        seed: Of the initial params and of the permutations, 0 to MAX_SEED.
        publish_every_iterations: Iterations from one publication of the params to the next; 0 for epochs' ends only.
        momentum: Part of the step before that each step repeats, 0 (plain SGD) to less than 1.
    """

    batch_size: int
    epochs: int
    learning_rate: float
    pixels: Pixels
    seed: int = 0
    publish_every_iterations: int = 0
    momentum: float = 0.0

    def check(self, network: Network, train_images: int) -> None:
        """Raises InvalidInputError, which names the setting, where one is out of its range."""
        if not 1 <= self.batch_size <= train_images:
            raise InvalidInputError(
                "batch_size", f"from 1 to {train_images}, the images of the training split; got {self.batch_size}"
            )
        activations = self.batch_size * sum(network.widths)
        if activations > MAX_ACTIVATIONS:
            raise InvalidInputError(
                "batch_size",
                f"at most {MAX_ACTIVATIONS // sum(network.widths)} with widths {'-'.join(map(str, network.widths))}, "
                f"so that an iteration fits in memory; got {self.batch_size}",
            )
        if not 1 <= self.epochs <= MAX_EPOCHS:
            raise InvalidInputError("epochs", f"from 1 to {MAX_EPOCHS}; got {self.epochs}")
        iterations = self.epochs * self.iterations_per_epoch(train_images)
        if iterations > MAX_ITERATIONS:
            raise InvalidInputError("epochs", f"at most {MAX_ITERATIONS} iterations in all; got {iterations}")
        if not (math.isfinite(self.learning_rate) and MIN_LEARNING_RATE <= self.learning_rate <= MAX_LEARNING_RATE):
            raise InvalidInputError(
                "learning_rate", f"from {MIN_LEARNING_RATE} to {MAX_LEARNING_RATE}; got {self.learning_rate}"
            )
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidInputError("seed", f"from 0 to {MAX_SEED}; got {self.seed}")
        if self.publish_every_iterations < 0:
            raise InvalidInputError("publish_every_iterations", f"0 or more; got {self.publish_every_iterations}")
        if not 0 <= self.momentum < 1:
            raise InvalidInputError("momentum", f"from 0 to less than 1; got {self.momentum}")

    def iterations_per_epoch(self, train_images: int) -> int:
        """Gives the mini-batches of an epoch, a last and smaller one included."""
        return math.ceil(train_images / self.batch_size)


@dataclass(frozen=True)
class Preset:
    """A named starting point: the hidden widths and the settings."""

    hidden: tuple[int, ...]
    config: TrainConfig


PRESETS = {
    # The lab report that handgrad started from: raw pixels, plain SGD.
    "report": Preset((100,), TrainConfig(batch_size=100, epochs=10, learning_rate=0.01, pixels="raw")),
}


def preset(name: str) -> Preset:
    """Gives a preset by its name; an InvalidInputError for `preset` lists those there are."""
    if name not in PRESETS:
        raise InvalidInputError("preset", f"one of {', '.join(sorted(PRESETS))}; got {name!r}")
    return PRESETS[name]
