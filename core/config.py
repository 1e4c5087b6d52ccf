"""The settings of a run, their presets and their bounds."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from importlib import resources
from typing import Any, Final

from handgrad.core.augmentation import Augmentation
from handgrad.core.description import describe, endings
from handgrad.core.errors import InvalidInputError
from handgrad.core.network import LOSSES, Loss, Network
from handgrad.core.network_spec import layers_from_spec
from handgrad.core.operations.base import Layer, Operation
from handgrad.core.operations.losses import SOFTMAX_CROSS_ENTROPY
from handgrad.core.operations.softmax import Softmax
from handgrad.core.optimizers import OPTIMIZERS, Optimizer
from handgrad.core.schedules import SCHEDULES, Schedule
from handgrad.core.signature import Transform

MAX_EPOCHS = 100_000
MAX_ITERATIONS = 100_000_000
MAX_SEED = 2**32 - 1
MIN_LEARNING_RATE, MAX_LEARNING_RATE = 1.2e-38, 1e38
"""The update is float32, where a smaller rate would be taken for 0, and a larger one for infinity."""

MAX_ACTIVATIONS = 2**28
"""The most numbers that one mini-batch may have in all layers together, which bounds the memory of an iteration."""

_CHOICES: Final[tuple[tuple[str, Mapping[str, Optimizer | Schedule | Operation]], ...]] = (
    ("optimizer", OPTIMIZERS),
    ("schedule", SCHEDULES),
    ("loss", LOSSES),
)
"""The settings that choose what reads some of the others."""


@dataclass(frozen=True)
class TrainConfig:
    """What decides a run, besides the network, the data and the params it starts from.

    Attributes:
        batch_size: Images in a mini-batch, 1 to those that are trained on, and few enough that an iteration fits in
            memory. When it does not divide them evenly, the last mini-batch of an epoch holds what is left: no image is
            dropped.
        epochs: Passes over the training images, 1 to MAX_EPOCHS.
        learning_rate: Step size, finite and more than 0; the largest of its schedule.
        seed: Of the initial params, the permutations, and what else is random, 0 to MAX_SEED.
        publish_every_iterations: Iterations from one publication of the params to the next; 0 for epochs' ends only.
        optimizer: A name of OPTIMIZERS.
        momentum: As in Hyperparameters.
        beta2: As in Hyperparameters.
        epsilon: As in Hyperparameters.
        weight_decay: As in Hyperparameters. It concerns weights alone: no bias, no gamma, no beta.
        clip_norm: The largest norm of the gradients together; 0 for any.
        schedule: A name of SCHEDULES.
        schedule_factor: What the schedule multiplies by, or ends at.
        schedule_epochs: Epochs from one multiplication to the next, of the schedules that multiply.
        warmup_epochs: Epochs in which the learning rate rises to its full size, in a line.
        loss: A name of LOSSES.
        label_smoothing: Part of a target that all classes share.
        flip: As in Augmentation.
        crop: As in Augmentation.
        shift: As in Augmentation.
        validation_images: Images of the training split that are not trained on, but tell after each epoch how training
            goes; 0 for none.
        patience: Epochs without a smaller validation loss after which training stops; 0 for never.
        keep_best: Whether the params of the epoch with the smallest validation loss are published last.
    """

    batch_size: int
    epochs: int
    learning_rate: float
    seed: int = 0
    publish_every_iterations: int = 0
    momentum: float = 0.0
    optimizer: str = "sgd"
    beta2: float = 0.0
    epsilon: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    schedule: str = "constant"
    schedule_factor: float = 0.0
    schedule_epochs: float = 1.0
    warmup_epochs: float = 0.0
    loss: str = "softmax_cross_entropy"
    label_smoothing: float = 0.0
    flip: bool = False
    crop: int = 0
    shift: int = 0
    validation_images: int = 0
    patience: int = 0
    keep_best: bool = False

    def check(self, network: Network, train_images: int) -> None:
        """Raises InvalidInputError, which names the setting, where one is out of its range."""
        trained = train_images - self.validation_images
        if not 0 <= self.validation_images < train_images:
            raise InvalidInputError(
                "validation_images",
                f"from 0 to {train_images - 1}, of the training split; got {self.validation_images}",
            )
        if not 1 <= self.batch_size <= trained:
            raise InvalidInputError("batch_size", f"from 1 to {trained}, the images to train on; got {self.batch_size}")
        if self.batch_size * network.activations > MAX_ACTIVATIONS:
            raise InvalidInputError(
                "batch_size",
                f"at most {MAX_ACTIVATIONS // network.activations} for a network with {network.activations} numbers an "
                f"image, so that an iteration fits in memory; got {self.batch_size}",
            )
        self._check_length(trained)
        self._check_names()
        self._check_ranges()
        self._check_augmentation(network)
        self._check_layers(network)

    def _check_length(self, trained: int) -> None:
        if not 1 <= self.epochs <= MAX_EPOCHS:
            raise InvalidInputError("epochs", f"from 1 to {MAX_EPOCHS}; got {self.epochs}")
        iterations = self.epochs * math.ceil(trained / self.batch_size)
        if iterations > MAX_ITERATIONS:
            raise InvalidInputError("epochs", f"at most {MAX_ITERATIONS} iterations in all; got {iterations}")
        if self.publish_every_iterations < 0:
            raise InvalidInputError("publish_every_iterations", f"0 or more; got {self.publish_every_iterations}")
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidInputError("seed", f"from 0 to {MAX_SEED}; got {self.seed}")
        if not 0 <= self.patience <= MAX_EPOCHS:
            raise InvalidInputError("patience", f"from 0 to {MAX_EPOCHS}; got {self.patience}")

    def _check_names(self) -> None:
        for field, table in _CHOICES:
            if getattr(self, field) not in table:
                raise InvalidInputError(field, f"one of {', '.join(table)}; got {getattr(self, field)!r:.100}")

    def _check_ranges(self) -> None:
        if not (math.isfinite(self.learning_rate) and MIN_LEARNING_RATE <= self.learning_rate <= MAX_LEARNING_RATE):
            raise InvalidInputError(
                "learning_rate", f"from {MIN_LEARNING_RATE} to {MAX_LEARNING_RATE}; got {self.learning_rate}"
            )
        for field, most in (("momentum", 1), ("beta2", 1), ("label_smoothing", 1)):
            if not 0 <= getattr(self, field) < most:
                raise InvalidInputError(field, f"from 0 to less than {most}; got {getattr(self, field)}")
        for field in ("epsilon", "weight_decay", "clip_norm", "schedule_factor", "warmup_epochs"):
            value = getattr(self, field)
            if value and not MIN_LEARNING_RATE <= value <= MAX_LEARNING_RATE:
                raise InvalidInputError(field, f"0, or from {MIN_LEARNING_RATE} to {MAX_LEARNING_RATE}; got {value}")
        if not MIN_LEARNING_RATE <= self.schedule_epochs <= MAX_EPOCHS:
            raise InvalidInputError("schedule_epochs", f"more than 0, at most {MAX_EPOCHS}; got {self.schedule_epochs}")
        reads = SCHEDULES[self.schedule].reads
        if "schedule_factor" in reads and self.schedule_factor > 1:
            raise InvalidInputError("schedule_factor", f"from 0 to 1; got {self.schedule_factor}")
        if "schedule_epochs" in reads and not self.schedule_factor:
            raise InvalidInputError(
                "schedule_factor",
                f"schedule {self.schedule} multiplies the learning rate by it: more than 0, at most 1; got 0",
            )

    def _check_augmentation(self, network: Network) -> None:
        if not self.augmentation:
            return
        shape = network.input_shape
        field = next(field for field in ("flip", "crop", "shift") if getattr(self, field))
        if len(shape) != 3:
            raise InvalidInputError(field, f"a network of images, [rows, columns, channels]; this one takes {shape}")
        for name in ("crop", "shift"):
            if not 0 <= getattr(self, name) < min(shape[:2]):
                raise InvalidInputError(name, f"from 0 to {min(shape[:2]) - 1} pixels; got {getattr(self, name)}")

    def _check_layers(self, network: Network) -> None:
        """Raises InvalidInputError where a layer makes a run that cannot work."""
        if self.loss == SOFTMAX_CROSS_ENTROPY.name:
            for row in endings(network):
                if isinstance(row.layer, Softmax):
                    raise InvalidInputError(
                        "network.layers",
                        f"layer {row.position}, softmax, ends the network, but loss {self.loss} has a softmax of its "
                        "own; leave the layer out, or choose loss squared_error",
                    )
        for row in describe(network):
            where, shape = f"layer {row.position}, {row.layer.kind}", row.input_shape
            if row.layer.ignores_inputs(shape, 2):
                raise InvalidInputError(
                    "network.layers",
                    f"{where}, normalizes over a single number, so that it puts out the same for every image; "
                    "leave it out",
                )
            if row.layer.ignores_inputs(shape, self.batch_size):
                raise InvalidInputError(
                    "batch_size",
                    f"2 or more, as {where}, normalizes each channel over the mini-batch, and gets a single number of "
                    f"each from an image; got {self.batch_size}",
                )

    @property
    def unread(self) -> dict[str, str]:
        """The settings that nothing reads beside this optimizer, schedule and loss, and who would read them."""
        found: dict[str, str] = {}
        for field, table in _CHOICES:
            chosen = getattr(self, field)
            readers: dict[str, list[str]] = {}
            for name, each in table.items():
                for setting in each.reads:
                    readers.setdefault(setting, []).append(name)
            for setting in sorted(readers.keys() - table[chosen].reads):
                told = f"{field} {chosen} does not read it (those that do: {', '.join(readers[setting])})"
                found[setting] = f"{told}; leave it out, or choose another {field}"
        if not self.validation_images:
            found |= dict.fromkeys(("patience", "keep_best"), "needs validation_images, which tell how training goes")
        return found

    @property
    def augmentation(self) -> Augmentation:
        """What is done to images while training."""
        return Augmentation(self.flip, self.crop, self.shift)

    @property
    def objective(self) -> Loss:
        """What is minimized."""
        return Loss(self.loss, self.label_smoothing)

    @property
    def method(self) -> Optimizer:
        """The optimizer: that of the name; with momentum, plain SGD is classical momentum."""
        return OPTIMIZERS["momentum" if self.optimizer == "sgd" and self.momentum else self.optimizer]

    def iterations_per_epoch(self, train_images: int) -> int:
        """Gives the mini-batches of an epoch, a last and smaller one included, for a split of so many images."""
        return math.ceil((train_images - self.validation_images) / self.batch_size)


UNUSED: Final = {field.name: field.default for field in fields(TrainConfig) if field.default is not MISSING}
"""The value of each setting that says that it is not used: what it is where nobody sets it."""


def overridden(config: TrainConfig, overrides: Mapping[str, Any]) -> TrainConfig:
    """Returns settings with some of them replaced.

    Another optimizer brings its own numbers, where none are given. What nothing reads any more is as if nobody had set
    it.

    Raises:
        InvalidInputError: There is no optimizer, schedule or loss of that name, or nothing reads what is given.
    """
    for name, problem in unread_overrides(config, overrides).items():
        raise InvalidInputError(name, problem)
    replaced = _replaced(config, overrides)
    return replace(replaced, **{name: UNUSED[name] for name in replaced.unread})


def unread_overrides(config: TrainConfig, overrides: Mapping[str, Any]) -> dict[str, str]:
    """Returns which of the settings that are given nothing would read, each with who would.

    One that is given as UNUSED has it is not among them: nobody has to read it.

    Raises:
        InvalidInputError: There is no optimizer, schedule or loss of that name.
    """
    unread = _replaced(config, overrides).unread
    given = {name: overrides[name] for name in unread if overrides.get(name, UNUSED[name]) != UNUSED[name]}
    return {name: f"{unread[name]}; got {value}" for name, value in given.items()}


def _replaced(config: TrainConfig, overrides: Mapping[str, Any]) -> TrainConfig:
    for field, table in _CHOICES:
        name = overrides.get(field, getattr(config, field))
        if name not in table:
            raise InvalidInputError(field, f"one of {', '.join(table)}; got {name!r:.100}")
    name = overrides.get("optimizer", config.optimizer)
    if name != config.optimizer:
        chosen = OPTIMIZERS[name]
        config = replace(config, momentum=chosen.momentum, beta2=chosen.beta2, epsilon=chosen.epsilon)
    return replace(config, **overrides)


@dataclass(frozen=True)
class Preset:
    """A named starting point: the layers, the settings, and how bytes become inputs."""

    layers: tuple[Layer, ...]
    config: TrainConfig
    transform: Transform


PRESETS = ("report", "mlp", "lenet", "cnn", "resnet")
"""Names of the files in `presets/`."""


@cache
def preset(name: str) -> Preset:
    """Gives a preset by its name; an InvalidInputError for `preset` lists those there are."""
    if name not in PRESETS:
        raise InvalidInputError("preset", f"one of {', '.join(PRESETS)}; got {name!r:.100}")
    told = tomllib.loads((resources.files("handgrad.core") / "presets" / f"{name}.toml").read_text())
    base = TrainConfig(batch_size=100, epochs=10, learning_rate=0.01)
    return Preset(layers_from_spec(told["layers"]), overridden(base, told["settings"]), told.get("transform", "unit"))
