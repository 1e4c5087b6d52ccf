"""What a Train request comes to: presets, the model and the data set fill in what it leaves open."""

from dataclasses import dataclass
from typing import Any

from handgrad.core.config import Pixels, overridden, preset
from handgrad.core.errors import InvalidInputError
from handgrad.core.network import Network, make_network
from handgrad.core.operations.base import Layer
from handgrad.server.datasets import Datasets, Summary
from handgrad.server.jobs import JobRequest
from handgrad.server.models import Models, Version


@dataclass(frozen=True)
class NetworkRequest:
    """A network as it is asked for: without an input shape it takes the images of the data set."""

    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class NetworkChoice:
    """A network to look at: layers, or a preset's, or a model's, filled in for a data set."""

    network: NetworkRequest | None
    preset: str
    model: str
    version: int
    dataset: str


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
        overrides: Values for other attributes of TrainConfig, which replace the preset's.
    """

    preset: str
    model: str
    dataset: str
    network: NetworkRequest | None
    pixels: Pixels | None
    continue_optimizer: bool
    overrides: dict[str, Any]


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
        network = _made(settings.network or NetworkRequest((), start.layers), data)
    check_fit(network, data.inputs, data.classes, settings.dataset)
    pixels = settings.pixels or (newest and newest.pixels) or start.config.pixels
    config = overridden(start.config, settings.overrides | {"pixels": pixels})
    config.check(network, data.train_images)
    return JobRequest(settings.model, settings.dataset, network, config, data.train_images, settings.continue_optimizer)


def chosen_network(choice: NetworkChoice, models: Models, datasets: Datasets) -> tuple[Network, Version | None]:
    """Gives the network that somebody wants to look at, and the version of it, where a model was named that has one.

    Raises:
        InvalidInputError: Not one of the three is named, or the network is none.
        NotFoundError: There is no such model, version or data set.
    """
    if (choice.network is not None) + bool(choice.preset) + bool(choice.model) != 1:
        raise InvalidInputError("choice", "one of network, preset and model")
    if choice.model:
        version = models.get(choice.model, choice.version)
        return version.network, version
    asked = choice.network or NetworkRequest((), preset(choice.preset).layers)
    return _made(asked, datasets.describe(choice.dataset)), None


def _made(asked: NetworkRequest, data: Summary) -> Network:
    return make_network(asked.layers, asked.input_shape or data.image_shape, data.classes)


def check_fit(network: Network, inputs: int, classes: int, dataset: str) -> None:
    """Raises InvalidInputError where a network cannot take a data set's images or tell its classes apart."""
    if network.inputs != inputs:
        raise InvalidInputError(
            "network.input_shape",
            f"{inputs} numbers, as an image of data set {dataset} has; the network takes {network.inputs}",
        )
    if network.outputs < classes:
        raise InvalidInputError(
            "network.layers",
            f"{classes} outputs or more, the classes of data set {dataset}; the network has {network.outputs}",
        )
