"""What a Train request comes to: presets, the model and the data set fill in what it leaves open."""

from dataclasses import dataclass, replace
from typing import Any

from handgrad.core.config import Pixels, overridden, preset, unread_overrides
from handgrad.core.errors import InvalidInputError
from handgrad.core.network import Network, make_network
from handgrad.core.operations.base import Layer
from handgrad.server.datasets import Datasets, Summary
from handgrad.server.jobs import JobRequest
from handgrad.server.models import Models, Version
from handgrad.server.sweeps import MAX_MEMBERS, Halving, Measure, SweepRequest, check_seeds, measure_of


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


@dataclass(frozen=True)
class SweepSettings:
    """What a caller asks for.

    Attributes:
        all: What all members have, and the model that the best becomes.
        members: What each member has of its own.
        halving: How hopeless members are stopped; None for not at all.
        measure: What members are ranked by; None for what compares them.
        mean_of_seeds: Whether those that differ in their seed alone are ranked together.
    """

    all: TrainSettings
    members: tuple[TrainSettings, ...]
    halving: Halving | None
    measure: Measure | None = None
    mean_of_seeds: bool = False


def plan_sweep(settings: SweepSettings, models: Models, datasets: Datasets) -> SweepRequest:
    """Fills in a caller's settings, and checks all of them but whether the model has another network.

    A setting of all members may be one that only some of them read; one that a member has of its own, it must read.

    Raises:
        InvalidInputError: As for `plan`; the field begins with `members[i]`. Or there are too few or too many members,
            or what was asked does not compare them.
        NotFoundError: There is no such data set.
    """
    if not 1 <= len(settings.members) <= MAX_MEMBERS:
        raise InvalidInputError("members", f"from 1 to {MAX_MEMBERS}; got {len(settings.members)}")
    start = preset(settings.all.preset).config
    unread: list[dict[str, str]] = []
    made: dict[NetworkRequest | None, Network] = {}
    requests: list[JobRequest] = []
    for number, own in enumerate(settings.members):
        overrides = settings.all.overrides | own.overrides
        try:
            problems = unread_overrides(start, overrides)
            unread.append({name: told for name, told in problems.items() if name not in own.overrides})
            asked = replace(
                settings.all,
                model="",
                network=own.network or settings.all.network,
                pixels=own.pixels or settings.all.pixels,
                overrides={name: value for name, value in overrides.items() if name not in unread[-1]},
            )
            requests.append(plan(asked, models, datasets, made))
        except InvalidInputError as error:
            # What the member did not say itself is wrong for all.
            field = error.field if error.field in settings.all.overrides else f"members[{number}].{error.field}"
            raise InvalidInputError(field, error.problem) from error
    for name, problem in unread[0].items():
        if all(name in others for others in unread):
            raise InvalidInputError(name, problem)
    if settings.halving:
        settings.halving.check(max(request.config.epochs for request in requests))
    if settings.mean_of_seeds:
        check_seeds(requests)
    return SweepRequest(
        settings.all.model,
        settings.all.dataset,
        tuple(requests),
        tuple(_own_names(own) for own in settings.members),
        settings.halving,
        measure_of(requests, settings.measure),
        settings.mean_of_seeds,
    )


def _own_names(own: TrainSettings) -> tuple[str, ...]:
    network = ("network",) if own.network else ()
    return (*network, *(("pixels",) if own.pixels else ()), *own.overrides)


def plan(
    settings: TrainSettings,
    models: Models,
    datasets: Datasets,
    made: dict[NetworkRequest | None, Network] | None = None,
) -> JobRequest:
    """Fills in a caller's settings, and checks all of them but whether the model has another network.

    Args:
        settings: What the caller asks for.
        models: The models.
        datasets: The data sets.
        made: Networks that were made of what was asked before, with the same preset and data set.

    Raises:
        InvalidInputError: A setting is out of its range, or the network does not fit the data set.
        NotFoundError: There is no such data set.
    """
    start = preset(settings.preset)
    data = datasets.describe(settings.dataset)
    newest = models.newest(settings.model)
    network = models.network(settings.model)
    if settings.network or not network:
        made = {} if made is None else made
        if settings.network not in made:
            made[settings.network] = _made(settings.network or NetworkRequest((), start.layers), data)
        network = made[settings.network]
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
