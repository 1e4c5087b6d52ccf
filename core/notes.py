"""What whoever trains should know of a run that works, but not as it may seem: a sentence each."""

import math
from collections.abc import Sequence

from handgrad.core.config import UNUSED, TrainConfig
from handgrad.core.description import endings
from handgrad.core.network import Network
from handgrad.core.operations.dropout import Dropout
from handgrad.core.operations.losses import SOFTMAX_CROSS_ENTROPY
from handgrad.core.optimizers import OPTIMIZERS

_STANDSTILL = 0.001
"""What a mean loss falls by at least, as a part of it, where it is said to fall."""

_WORSE = 0.1
"""What a mean loss lies above that of guessing by at least, as a part of it, where it is told to be worse."""

_GUESSING = 0.01
"""How near the loss of guessing a mean loss is taken for it: a part of it."""


def notes(network: Network, config: TrainConfig, classes: int, start: TrainConfig | None = None) -> tuple[str, ...]:
    """Returns what is to be told before a run.

    Args:
        network: The network.
        config: The settings, which have been checked.
        classes: Classes of the data set.
        start: The preset's settings, which `config` was made of.
    """
    return (
        *_of_outputs(network, config, classes),
        *_of_settings(config),
        *(_of_preset(config, start) if start else ()),
    )


def stuck_note(loss_name: str, classes: int, mean_losses: Sequence[float]) -> str:
    """Returns what is to be told at a run's end where its loss did not fall; nothing where it did.

    Args:
        loss_name: A name of LOSSES.
        classes: Classes of the data set.
        mean_losses: Mean loss of each epoch.
    """
    if not mean_losses or classes < 2:
        return ""
    first, last = mean_losses[0], mean_losses[-1]
    guessing = math.log(classes) if loss_name == SOFTMAX_CROSS_ENTROPY.name else (1 - 1 / classes) / 2
    beside = f"guessing among {classes} classes has {guessing:.4f}"
    if all(abs(loss - guessing) <= _GUESSING * guessing for loss in mean_losses):
        if len(mean_losses) == 1:
            return f"the mean loss is {last:.4f}, and {beside}; more epochs or another learning_rate may help"
        return f"the mean loss stayed at {last:.4f}, no better than {beside}; another learning_rate may help"
    if len(mean_losses) > 1 and first > 0 and last > (1 - _STANDSTILL) * first:
        fell = f"{first:.4f} in the first epoch, {last:.4f} in the last"
        return f"the mean loss did not fall: {fell}; another learning_rate may help"
    if len(mean_losses) > 1 and last > (1 + _WORSE) * guessing:
        return f"the mean loss is {last:.4f} in the last epoch, and {beside}; another learning_rate may help"
    return ""


def _of_outputs(network: Network, config: TrainConfig, classes: int) -> list[str]:
    found: list[str] = []
    if network.outputs > classes:
        found.append(
            f"the network has {network.outputs} outputs, and the data set {classes} classes: "
            f"those from {classes} on belong to none"
        )
    if isinstance(network.layers[-1], Dropout):
        found.append(
            "the last layer, dropout, leaves out the network's outputs at random; it belongs before another layer"
        )
    elif config.loss == SOFTMAX_CROSS_ENTROPY.name:
        # Of a block's two ways the sum is put out, which lies elsewhere.
        for row in endings(network) if len(endings(network)) == 1 else ():
            low, high = row.layer.output_range
            told = f"layer {row.position}, {row.layer.kind}, ends the network"
            if math.isfinite(high):
                # The label's output is then at most `high`, and each of the others at least `low`.
                least = math.log1p((network.outputs - 1) * math.exp(low - high))
                found.append(
                    f"{told} with numbers from {low} to {high}, so that the loss cannot fall below {least:.4f}; "
                    "leave it out, as the loss has a softmax of its own"
                )
            elif math.isfinite(low):
                found.append(
                    f"{told} with no number below {low}, and learns nothing where it puts out {low}; leave it out, as "
                    "the loss takes any numbers"
                )
    return found


def _of_settings(config: TrainConfig) -> list[str]:
    found: list[str] = []
    if config.warmup_epochs >= config.epochs:
        found.append(
            f"the learning rate rises to the run's end: warmup_epochs {config.warmup_epochs:g}, epochs {config.epochs}"
        )
    elif config.schedule == "step" and config.warmup_epochs + config.schedule_epochs >= config.epochs:
        found.append(
            f"schedule step does not change the learning rate within {config.epochs} epochs, as schedule_epochs is "
            f"{config.schedule_epochs:g}"
        )
    if config.patience >= config.epochs:
        found.append(f"patience {config.patience} is not over within {config.epochs} epochs")
    return found


def _of_preset(config: TrainConfig, start: TrainConfig) -> list[str]:
    """Returns what a preset sets on purpose, and the caller's other choice does not read."""
    own = OPTIMIZERS[start.optimizer]
    usual = UNUSED | {name: getattr(own, name) for name in own.reads}
    return [
        f"{name} {getattr(start, name):g} of the preset is not used: {problem.partition(';')[0]}"
        for name, problem in config.unread.items()
        if getattr(start, name) not in (UNUSED[name], usual[name])
    ]
