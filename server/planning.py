"""What a Train request comes to: presets, the model and the data set fill in what it leaves open."""

from dataclasses import dataclass, replace
from typing import Any

from handgrad.core.config import TrainConfig, overridden, preset, unread_overrides
from handgrad.core.errors import InvalidInputError
from handgrad.core.network import Network, make_network
from handgrad.core.notes import notes
from handgrad.core.operations.base import Layer
from handgrad.core.optimizers import OptState
from handgrad.core.signature import Signature, Transform, check_transform, example_shape, fits, told
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
        transform: How numbers become inputs; None for the model's, otherwise the preset's, of bytes.
        continue_optimizer: As in JobRequest.
        overrides: Values for other attributes of TrainConfig, which replace the preset's.
    """

    preset: str
    model: str
    dataset: str
    network: NetworkRequest | None
    transform: Transform | None
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
    return (*(("network",) if own.network else ()), *own.overrides)


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
    network = models.network(settings.model)
    if settings.network or not network:
        made = {} if made is None else made
        if settings.network not in made:
            made[settings.network] = _made(settings.network or NetworkRequest((), start.layers), data)
        network = made[settings.network]
    config = overridden(start.config, settings.overrides)
    held = models.signature(settings.model)
    signature, assumed = _signature(held, settings.transform, start.transform, data, config.loss)
    check_fit(network, data, settings.dataset)
    config.check(network, data.train_images)
    return JobRequest(
        *(settings.model, settings.dataset, network, config, data.train_images, signature),
        continue_optimizer=settings.continue_optimizer,
        notes=(
            *assumed,
            *data.notes,
            *_of_schedule(models.newest(settings.model), config),
            *_of_optimizer(models.newest(settings.model), config, fresh=not settings.continue_optimizer),
            *notes(network, config, data.classes, start.config),
        ),
    )


def _of_schedule(newest: Version | None, config: TrainConfig) -> list[str]:
    """Returns what is to be told where a further job on a model is not as one longer job would have been."""
    if newest is None or not newest.epochs or (config.schedule == "constant" and not config.warmup_epochs):
        return []
    schedule = config.schedule if config.schedule != "constant" else "the warm-up"
    return [f"{schedule} begins anew, over the epochs of this job: the learning rate does not go on where it was"]


def _of_optimizer(newest: Version | None, config: TrainConfig, *, fresh: bool) -> list[str]:
    """Returns what is to be told where a job on a model's newest version begins its optimizer anew unasked."""
    method = config.method
    if newest is None or fresh or method.init(()) == OptState():
        return []
    if newest.optimizer is None:
        why = "as it comes from a file or was trained without one"
        return [f"{method.name} begins anew: the model's newest version has no optimizer state, {why}"]
    if newest.optimizer_name != method.name:
        return [f"{method.name} begins anew: the model's newest version keeps the state of {newest.optimizer_name}"]
    return []


def _signature(
    held: Signature | None, asked: Transform | None, preferred: Transform, data: Summary, loss: str
) -> tuple[Signature, list[str]]:
    """Returns the signature that a job's versions will have, and what was assumed.

    Args:
        held: The model's, if it exists.
        asked: The transform that the caller asks for, if any.
        preferred: The preset's transform, of bytes.
        data: The data set.
        loss: The loss that the job trains.
    """
    if held and held.numbers is None:
        # Of params whose file did not say it: what the caller says counts, and what a preset only prefers does not.
        if not asked and preferred != held.transform and data.data_type == "uint8":
            raise InvalidInputError(
                "transform",
                "the file of the model's params does not say how bytes become inputs: say identity, which takes them "
                "as they are, or unit, which divides them by 255",
            )
        held = replace(held, transform=asked or held.transform)
    if held:
        if asked and asked != held.transform:
            raise InvalidInputError(
                "transform", f"the model's is {held.transform}, which belongs to its params; got {asked}"
            )
        return held.trained_on(data.image_shape, data.numbers, data.class_names, loss, "dataset")
    if asked:
        check_transform(asked, data.numbers, "transform")
    assumed: list[str] = []
    transform = asked or preferred
    if not asked and preferred == "unit" and data.data_type != "uint8":
        transform = "identity"
        assumed = [f"the numbers are {data.numbers.told}, and taken as they are: only bytes are divided by 255"]
    elif not asked and preferred == "unit" and data.high <= 1:
        transform = "identity"
        assumed = ["the bytes are taken as they are, 0 and 1: not divided by 255"]
    return Signature(example_shape(data.image_shape), data.numbers, transform, loss, data.class_names), assumed


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


def check_fit(network: Network, data: Summary, dataset: str) -> None:
    """Raises InvalidInputError where a network cannot take a data set's images or tell its classes apart."""
    if not fits(network.input_shape, data.image_shape) and network.input_shape != (data.inputs,):
        raise InvalidInputError(
            "network.input_shape",
            f"the network takes {told(network.input_shape, None)}; an image of data set {dataset} has "
            f"{told(data.image_shape, None)}",
        )
    if network.outputs < data.classes:
        raise InvalidInputError(
            "network.layers",
            f"{data.classes} outputs or more, the classes of data set {dataset}; the network has {network.outputs}",
        )


def check_dataset(version: Version, data: Summary, dataset: str) -> list[str]:
    """Holds a data set against what a version takes; returns what was assumed, a sentence each.

    Raises:
        InvalidInputError: Its images are something else, it has more classes, or its classes have other names.
    """
    notes = version.signature.check_examples(data.image_shape, data.numbers, "dataset")
    version.signature.check_class_names(data.class_names, "dataset")
    check_fit(version.network, data, dataset)
    return notes
