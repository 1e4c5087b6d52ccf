"""What a Train request comes to: presets, the model and the data set fill in what it leaves open."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from handgrad.core.config import Pixels, preset
from handgrad.core.errors import InvalidInputError
from handgrad.core.network import Network, fully_connected
from handgrad.server.datasets import Datasets
from handgrad.server.jobs import JobRequest
from handgrad.server.models import Models


@dataclass(frozen=True)
class NetworkRequest:
    """A network as it is asked for: 0 inputs or outputs are taken from the data set."""

    inputs: int
    hidden: tuple[int, ...]
    outputs: int


@dataclass(frozen=True)
class TrainSettings:
    """What a caller asks for.

    Attributes:
        preset: Name of the preset.
        model: Name of the model; empty for a new one.
        dataset: Name of the data set.
        network: The network; None for the model's, otherwise the preset's.
        pixels: None for the model's, otherwise the preset's.
        continue_optimizer: As in JobRequest.
        overrides: Numbers for other attributes of TrainConfig, which replace the preset's.
    """

    preset: str
    model: str
    dataset: str
    network: NetworkRequest | None
    pixels: Pixels | None
    continue_optimizer: bool
    overrides: Mapping[str, Any]


def plan(settings: TrainSettings, models: Models, datasets: Datasets) -> JobRequest:
    """Fills in a caller's settings, and checks all of them but whether the model has another network.

    Raises:
        InvalidInputError: A setting is out of its range, or the network does not fit the data set.
        NotFoundError: There is no such data set.
    """
    start = preset(settings.preset)
    data = datasets.describe(settings.dataset)
    newest = models.newest(settings.model)
    network = models.network(settings.model)
    if settings.network or not network:
        asked = settings.network or NetworkRequest(0, start.hidden, 0)
        network = fully_connected(asked.inputs or data.inputs, asked.hidden, asked.outputs or data.classes)
    check_fit(network, data.inputs, data.classes, settings.dataset)
    pixels = settings.pixels or (newest and newest.pixels) or start.config.pixels
    config = replace(start.config, pixels=pixels, **settings.overrides)
    config.check(network, data.train_images)
    return JobRequest(settings.model, settings.dataset, network, config, data.train_images, settings.continue_optimizer)


def check_fit(network: Network, inputs: int, classes: int, dataset: str) -> None:
    """Raises InvalidInputError where a network cannot take a data set's images or tell its classes apart."""
    if network.inputs != inputs:
        raise InvalidInputError(
            "network.inputs",
            f"{inputs}, the numbers of an image of data set {dataset}; the network has {network.inputs}",
        )
    if network.outputs < classes:
        raise InvalidInputError(
            "network.outputs",
            f"{classes} or more, the classes of data set {dataset}; the network has {network.outputs}",
        )
