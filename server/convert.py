"""The contract's messages from and to the server's own types: `x_to_proto`, `x_from_proto`."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any, Final

import numpy as np
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from handgrad.core.config import TrainConfig
from handgrad.core.description import describe
from handgrad.core.errors import InvalidInputError
from handgrad.core.evaluation import Evaluation
from handgrad.core.network import Network
from handgrad.core.network_spec import layers_from_spec, layers_to_spec
from handgrad.core.signature import Kind, Numbers, Signature, Transform, fits, told
from handgrad.core.verification import AUTODIFF_TOLERANCE, DIFFERENCES_TOLERANCE, FLOAT32_TOLERANCE, Certificate
from handgrad.server.certificates import VERSION
from handgrad.server.checkpoints import Checkpoint
from handgrad.server.datasets import MNIST, SplitName, Summary
from handgrad.server.interceptors import MAX_ANSWER_BYTES
from handgrad.server.jobs import Epoch, Event, Job, JobState, Progress
from handgrad.server.models import Data, Model, Version
from handgrad.server.names import check_name
from handgrad.server.planning import NetworkChoice, NetworkRequest, SweepSettings, TrainSettings
from handgrad.server.sweeps import Halving, Measure, Member, Sweep
from handgrad.server.uploads import File
from handgrad.v1 import (
    certificate_pb2,
    dataset_pb2,
    job_pb2,
    network_pb2,
    params_pb2,
    signature_pb2,
    sweep_pb2,
    tensor_pb2,
    training_service_pb2,
)

MAX_INLINED_BYTES: Final = 3 * 2**20
"""Params of at most this size come inside a reply. gRPC receives 4 MB unless a client says otherwise."""

REST_BYTES: Final = 2048
"""Of an answer, besides what is counted: numbers of fields, lengths, notes, the token of the next page."""

_TRANSFORMS: Final[dict[int, Transform | None]] = {
    signature_pb2.TRANSFORM_UNSPECIFIED: None,
    signature_pb2.TRANSFORM_IDENTITY: "identity",
    signature_pb2.TRANSFORM_UNIT: "unit",
}
_TRANSFORMS_TO_PROTO: Final[dict[Transform, signature_pb2.Transform.ValueType]] = {
    "identity": signature_pb2.TRANSFORM_IDENTITY,
    "unit": signature_pb2.TRANSFORM_UNIT,
}
_KINDS: Final[dict[Kind, signature_pb2.OutputKind.ValueType]] = {
    "probabilities": signature_pb2.OUTPUT_KIND_PROBABILITIES,
    "scores": signature_pb2.OUTPUT_KIND_SCORES,
}
_SPLITS: Final[dict[int, SplitName]] = {
    dataset_pb2.SPLIT_UNSPECIFIED: "test",
    dataset_pb2.SPLIT_TRAIN: "train",
    dataset_pb2.SPLIT_TEST: "test",
}
_STATES: Final[dict[JobState, job_pb2.JobState.ValueType]] = {
    JobState.QUEUED: job_pb2.JOB_STATE_QUEUED,
    JobState.RUNNING: job_pb2.JOB_STATE_RUNNING,
    JobState.SUCCEEDED: job_pb2.JOB_STATE_SUCCEEDED,
    JobState.FAILED: job_pb2.JOB_STATE_FAILED,
    JobState.CANCELLED: job_pb2.JOB_STATE_CANCELLED,
}
_STATES_FROM_PROTO: Final[dict[int, JobState]] = {value: state for state, value in _STATES.items()}
_DTYPES: Final[dict[int, np.dtype[Any]]] = {
    tensor_pb2.DATA_TYPE_UINT8: np.dtype(np.uint8),
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
}
_DATA_TYPES: Final[dict[str, tensor_pb2.DataType.ValueType]] = {
    "uint8": tensor_pb2.DATA_TYPE_UINT8,
    "float32": tensor_pb2.DATA_TYPE_FLOAT32,
}
_MEASURES: Final[dict[int, Measure | None]] = {
    sweep_pb2.MEASURE_UNSPECIFIED: None,
    sweep_pb2.MEASURE_MEAN_LOSS: Measure.MEAN_LOSS,
    sweep_pb2.MEASURE_VALIDATION_LOSS: Measure.VALIDATION_LOSS,
    sweep_pb2.MEASURE_VALIDATION_ACCURACY: Measure.VALIDATION_ACCURACY,
}
_MEASURES_TO_PROTO: Final[dict[Measure | None, sweep_pb2.Measure.ValueType]] = {
    None: sweep_pb2.MEASURE_UNSPECIFIED,
    Measure.MEAN_LOSS: sweep_pb2.MEASURE_MEAN_LOSS,
    Measure.VALIDATION_LOSS: sweep_pb2.MEASURE_VALIDATION_LOSS,
    Measure.VALIDATION_ACCURACY: sweep_pb2.MEASURE_VALIDATION_ACCURACY,
}
_CONFIG: Final = tuple(field.name for field in fields(TrainConfig))

MAX_PAGE: Final = 100
FIRST_EPOCHS: Final = 1
FACTOR: Final = 3
"""Of halving, where a request leaves them out."""

MAX_DIMENSIONS: Final = 8
_LABEL_BYTES: Final = 2


def transform_from_proto(value: int) -> Transform | None:
    """Returns None for an unspecified transform."""
    if value not in _TRANSFORMS:
        raise InvalidInputError("transform", f"TRANSFORM_IDENTITY or TRANSFORM_UNIT; got {value}")
    return _TRANSFORMS[value]


def signature_to_proto(signature: Signature, network: Network) -> signature_pb2.Signature:
    """Returns what a model takes, and what its outputs mean."""
    numbers = signature.numbers
    return signature_pb2.Signature(
        inputs=signature_pb2.InputSignature(
            shape=signature.shape,
            data_type=_DATA_TYPES[numbers.data_type] if numbers else tensor_pb2.DATA_TYPE_UNSPECIFIED,
            low=numbers.low if numbers else None,
            high=numbers.high if numbers else None,
            mean=numbers.mean if numbers else None,
            transform=_TRANSFORMS_TO_PROTO[signature.transform],
        ),
        outputs=signature_pb2.OutputSignature(
            classes=network.outputs,
            class_names=signature.class_names,
            loss=signature.loss,
            kind=_KINDS[signature.kind],
        ),
    )


def split_from_proto(value: int) -> SplitName:
    """Gives the test split for an unspecified one."""
    if value not in _SPLITS:
        raise InvalidInputError("split", f"SPLIT_TRAIN or SPLIT_TEST; got {value}")
    return _SPLITS[value]


def settings_from_proto(request: training_service_pb2.TrainRequest) -> TrainSettings:
    """Gives what a Train request asks for; what it leaves out is left open, but for the preset and the data set."""
    return _settings(request, request.config, continue_optimizer=not request.fresh_optimizer)


def sweep_from_proto(request: training_service_pb2.TrainSweepRequest) -> SweepSettings:
    """Gives what a TrainSweep request asks for."""
    halving = None
    if request.HasField("halving"):
        asked = request.halving
        halving = Halving(asked.first_epochs or FIRST_EPOCHS, asked.factor or FACTOR)
    members = []
    for number, config in enumerate(request.members):
        try:
            members.append(_settings(request, config, continue_optimizer=False))
        except InvalidInputError as error:
            raise InvalidInputError(f"members[{number}].{error.field}", error.problem) from error
    if request.measure not in _MEASURES:
        raise InvalidInputError("measure", f"MEASURE_MEAN_LOSS to MEASURE_VALIDATION_ACCURACY; got {request.measure}")
    return SweepSettings(
        _settings(request, request.config, continue_optimizer=False),
        tuple(members),
        halving,
        _MEASURES[request.measure],
        request.mean_of_seeds,
    )


def _settings(
    request: training_service_pb2.TrainRequest | training_service_pb2.TrainSweepRequest,
    config: job_pb2.TrainConfig,
    *,
    continue_optimizer: bool,
) -> TrainSettings:
    given = {field.name for field, _ in config.ListFields()}
    return TrainSettings(
        preset=request.preset or "report",
        model=request.model and check_name(request.model, "model"),
        dataset=dataset_name(request.dataset),
        network=network_from_proto(config.network) if config.HasField("network") else None,
        transform=transform_from_proto(request.transform),
        continue_optimizer=continue_optimizer,
        overrides={field: getattr(config, field) for field in _CONFIG if field in given},
    )


def sweep_to_proto(sweep: Sweep, iteration: Callable[[Job], int]) -> sweep_pb2.Sweep:
    """Returns a sweep, with the iterations that each member has done by now, and its network if all of them fit."""
    message = sweep_pb2.Sweep(
        sweep=sweep.name,
        model=sweep.model,
        version=sweep.version,
        dataset=sweep.dataset,
        client=sweep.client,
        state=_STATES[sweep.state],
        error=sweep.error,
        create_time=timestamp(sweep.create_time),
        end_time=timestamp(sweep.end_time),
        members=[_member_to_proto(member, iteration(member.job)) for member in sweep.members],
        halving=sweep_pb2.Halving(**vars(sweep.halving)) if sweep.halving else None,
        measure=_MEASURES_TO_PROTO[sweep.measure],
        mean_of_seeds=sweep.mean_of_seeds,
    )
    if message.ByteSize() > MAX_ANSWER_BYTES - REST_BYTES:
        for member in message.members:
            member.config.ClearField("network")
    return message


def _member_to_proto(member: Member, iteration: int) -> sweep_pb2.SweepMember:
    job = member.job
    network, config = job.request.network, job.request.config
    # A sweep of an older server may name `pixels` too.
    own = {name: getattr(config, name) for name in member.own if name in _CONFIG}
    return sweep_pb2.SweepMember(
        job=job.name,
        model=job.request.model,
        config=job_pb2.TrainConfig(network=network_to_proto(network) if "network" in member.own else None, **own),
        state=_STATES[job.state],
        error=job.error,
        iteration=iteration,
        iterations=job.request.iterations,
        epoch=epoch_to_proto(member.epoch) if member.epoch else None,
        rank=member.rank,
        measured=member.measured,
    )


def dataset_name(name: str) -> str:
    """Gives the data set that a request names, MNIST where it names none."""
    return check_name(name or MNIST, "dataset")


def network_from_proto(network: network_pb2.NetworkSpec) -> NetworkRequest:
    """Gives a network as it is asked for."""
    if len(network.input_shape) > MAX_DIMENSIONS:
        raise InvalidInputError(
            "network.input_shape", f"{MAX_DIMENSIONS} lengths at most; got {len(network.input_shape)}"
        )
    layers = layers_from_spec([_layer_to_spec(layer) for layer in network.layers])
    return NetworkRequest(tuple(network.input_shape), layers)


def _layer_to_spec(layer: network_pb2.Layer) -> dict[str, Any]:
    settings: dict[str, Any] = MessageToDict(layer.settings)
    branches = {"layers": layer.layers, "shortcut": layer.shortcut}
    inside = {name: [_layer_to_spec(each) for each in layers] for name, layers in branches.items() if layers}
    return {"kind": layer.kind} | settings | inside


@lru_cache(maxsize=64)
def network_to_proto(network: Network) -> network_pb2.NetworkSpec:
    """Gives a network. What is given is everybody's: it is not to be changed."""
    layers = [_layer_to_proto(layer) for layer in layers_to_spec(network.layers)]
    return network_pb2.NetworkSpec(input_shape=network.input_shape, layers=layers)


def _layer_to_proto(spec: Mapping[str, Any]) -> network_pb2.Layer:
    inside = {name: [_layer_to_proto(each) for each in spec.get(name, ())] for name in ("layers", "shortcut")}
    layer = network_pb2.Layer(kind=spec["kind"], layers=inside["layers"], shortcut=inside["shortcut"])
    layer.settings.update({name: value for name, value in spec.items() if name not in ("kind", *inside)})
    return layer


def choice_from_proto(choice: training_service_pb2.NetworkChoice) -> NetworkChoice:
    """Gives a network to look at."""
    if choice.version < 0:
        raise InvalidInputError("choice.version", f"0 for the newest, or 1, 2, 3, ...; got {choice.version}")
    return NetworkChoice(
        network=network_from_proto(choice.network) if choice.HasField("network") else None,
        preset=choice.preset,
        model=choice.model and check_name(choice.model, "choice.model"),
        version=choice.version,
        dataset=dataset_name(choice.dataset),
    )


def description_to_proto(network: Network) -> training_service_pb2.DescribeNetworkResponse:
    """Gives a network layer by layer."""
    rows = describe(network)
    return training_service_pb2.DescribeNetworkResponse(
        network=network_to_proto(network),
        layers=[
            network_pb2.LayerDescription(
                position=row.position,
                kind=row.layer.kind,
                input_shape=row.input_shape,
                output_shape=row.output_shape,
                parameters=row.parameters,
                flops=row.flops,
            )
            for row in rows
        ],
        parameters=network.parameters,
        flops=sum(row.flops for row in rows),
    )


def certificate_to_proto(certificate: Certificate | None) -> certificate_pb2.Certificate | None:
    """Gives what was found of gradients; None for None."""
    if certificate is None:
        return None
    return certificate_pb2.Certificate(
        passed=certificate.passed,
        checks=[certificate_pb2.ArrayCheck(passed=check.passed, **vars(check)) for check in certificate.checks],
        autodiff_tolerance=AUTODIFF_TOLERANCE,
        differences_tolerance=DIFFERENCES_TOLERANCE,
        float32_tolerance=FLOAT32_TOLERANCE,
        batch_size=certificate.batch_size,
        seed=certificate.seed,
        data=certificate.data,
        jax=certificate.jax,
        handgrad=VERSION,
        loss=certificate.loss,
    )


def config_to_proto(network: Network, config: TrainConfig) -> job_pb2.TrainConfig:
    """Gives the settings of a run."""
    return job_pb2.TrainConfig(
        network=network_to_proto(network),
        **{field: getattr(config, field) for field in _CONFIG},
    )


def job_to_proto(job: Job, iteration: int | None = None) -> job_pb2.Job:
    """Gives a job as it stands, or with more iterations done than are committed."""
    request = job.request
    return job_pb2.Job(
        job=job.name,
        model=request.model,
        dataset=request.dataset,
        config=config_to_proto(request.network, request.config),
        state=_STATES[job.state],
        error=job.error,
        iteration=job.iteration if iteration is None else iteration,
        iterations=request.iterations,
        iterations_per_epoch=request.iterations_per_epoch,
        version=job.version,
        params_sha256=job.params_sha256,
        create_time=timestamp(job.create_time),
        start_time=timestamp(job.start_time),
        end_time=timestamp(job.end_time),
        client=job.client,
        request_id=job.request_id,
        sequence=job.sequence,
        resumes=job.resumes,
        continued_optimizer_state=job.continued,
        best_epoch=job.best_epoch,
        best_version=job.best_version,
        stopped_early=job.stopped_early,
        signature=signature_to_proto(request.signature, request.network),
        epochs_before=job.epochs_before,
        notes=job.notes,
    )


def event_to_proto(job: Job, event: Event) -> job_pb2.JobEvent:
    """Gives a part of a job's history; the job as it is now tells what it was then."""
    message = job_pb2.JobEvent(sequence=event.sequence, time=timestamp(event.time))
    body = dict(event.body)
    if event.kind == "epoch":
        message.epoch.CopyFrom(job_pb2.Epoch(**body))
    elif event.kind == "published":
        message.published.CopyFrom(
            params_pb2.ParamsVersion(
                model=job.request.model,
                network=network_to_proto(job.request.network),
                signature=signature_to_proto(job.request.signature, job.request.network),
                job=job.name,
                publish_time=timestamp(body.pop("publish_time")),
                **body,
            )
        )
    elif event.kind == "finished":
        message.finished.CopyFrom(job_to_proto(job))
    else:
        # As it was at that moment, so that the same event is told the same at any time.
        then = job_to_proto(job, 0)
        for field in ("error", "version", "params_sha256", "end_time", "resumes"):
            then.ClearField(field)
        # Nor was anything known of validation.
        then.ClearField("best_epoch")
        then.ClearField("best_version")
        then.ClearField("stopped_early")
        then.notes[:] = job.request.notes
        then.sequence = event.sequence
        if event.kind == "started":
            then.state = job_pb2.JOB_STATE_RUNNING
            message.started.CopyFrom(then)
        else:
            then.state = job_pb2.JOB_STATE_QUEUED
            then.ClearField("start_time")
            then.ClearField("continued_optimizer_state")
            then.ClearField("epochs_before")
            message.accepted.CopyFrom(then)
    return message


def states_from_proto(values: Sequence[int]) -> list[JobState]:
    """Gives the states that a filter names."""
    for value in values:
        if value not in _STATES_FROM_PROTO:
            raise InvalidInputError("states", f"JOB_STATE_QUEUED to JOB_STATE_CANCELLED; got {value}")
    return [_STATES_FROM_PROTO[value] for value in values]


def page_size_from_proto(size: int) -> int:
    """Gives how many to list, MAX_PAGE where nothing is said."""
    if size < 0:
        raise InvalidInputError("page_size", f"0 or more; got {size}")
    return min(size or MAX_PAGE, MAX_PAGE)


def number_page_from_proto(token: str) -> int:
    """Gives the number of the job or sweep that the page before ended with."""
    if not token:
        return sys.maxsize
    if not (token.isascii() and token.isdigit() and len(token) < len(str(sys.maxsize))):
        raise InvalidInputError("page_token", f"what an answer gave as next_page_token, or nothing; got {token[:80]!r}")
    return int(token)


def name_page_from_proto(token: str) -> str:
    """Gives the name that the page before ended with."""
    return token and check_name(token, "page_token")


def epoch_to_proto(epoch: Epoch) -> job_pb2.Epoch:
    """Gives the sum of an epoch."""
    return job_pb2.Epoch(**vars(epoch))


def progress_to_proto(progress: Progress) -> job_pb2.Progress:
    """Gives how far a job is."""
    return job_pb2.Progress(
        epoch=progress.epoch,
        iteration=progress.iteration,
        loss=progress.loss,
        iterations_per_second=progress.iterations_per_second,
    )


def version_to_proto(version: Version) -> params_pb2.ParamsVersion:
    """Gives what is known of a version, without its arrays."""
    return params_pb2.ParamsVersion(
        model=version.model,
        version=version.number,
        params_sha256=version.sha256,
        network=network_to_proto(version.network),
        publish_time=timestamp(version.publish_time),
        job=version.job,
        iteration=version.iteration,
        loss=version.loss,
        size_bytes=version.size_bytes,
        signature=signature_to_proto(version.signature, version.network),
        optimizer_state=version.optimizer is not None,
        epochs=version.epochs,
    )


def tensors_to_proto(data: Data, *, inlined: bool) -> list[tensor_pb2.Tensor]:
    """Gives arrays, with their elements or without."""
    return [
        tensor_pb2.Tensor(
            name=name,
            data_type=tensor_pb2.DATA_TYPE_FLOAT32,
            shape=array.shape,
            data=array.tobytes() if inlined else b"",
        )
        for name, array in data.arrays.items()
    ]


@lru_cache(maxsize=16)
def encoded_params(version: Version, data: Data) -> bytes:
    """Gives `params_to_proto` encoded, and keeps it for the next caller."""
    return params_to_proto(version, data).SerializeToString()


def params_to_proto(version: Version, data: Data) -> training_service_pb2.GetParamsResponse:
    """Gives a version, with its arrays if they are small enough."""
    inlined = version.size_bytes <= MAX_INLINED_BYTES
    tensors = tensors_to_proto(data, inlined=inlined)
    return training_service_pb2.GetParamsResponse(
        params_version=version_to_proto(version), tensors=tensors, inlined=inlined
    )


def model_to_proto(model: Model, job: str) -> params_pb2.Model:
    """Gives a model, and the job that is on it."""
    newest = model.versions.get(model.newest)
    return params_pb2.Model(
        model=model.name,
        network=network_to_proto(model.network),
        newest=version_to_proto(newest) if newest else None,
        versions=list(model.versions),
        job=job,
    )


def checkpoint_to_proto(checkpoint: Checkpoint) -> params_pb2.Checkpoint:
    """Gives what is known of a checkpoint, without its arrays."""
    saved = checkpoint.version
    return params_pb2.Checkpoint(
        checkpoint=checkpoint.name,
        params_sha256=saved.sha256,
        network=network_to_proto(saved.network),
        save_time=timestamp(saved.publish_time),
        signature=signature_to_proto(saved.signature, saved.network),
        epochs=saved.epochs,
        optimizer_state=saved.optimizer is not None,
        size_bytes=saved.size_bytes,
        model=saved.model,
        version=saved.number,
        iteration=saved.iteration,
        loss=saved.loss,
        certificate=certificate_to_proto(checkpoint.certificate),
    )


def files_from_proto(files: Sequence[dataset_pb2.UploadFile]) -> tuple[File, ...]:
    """Gives the files of an upload."""
    return tuple(File(file.file, file.size_bytes, file.sha256) for file in files)


def dataset_to_proto(name: str, summary: Summary) -> dataset_pb2.Dataset:
    """Gives what is known of a data set, without its images."""
    return dataset_pb2.Dataset(
        dataset=name,
        train_images=summary.train_images,
        test_images=summary.test_images,
        image_shape=summary.image_shape,
        classes=summary.classes,
        data_type=_DATA_TYPES[summary.data_type],
        sha256=summary.sha256,
        size_bytes=summary.size_bytes,
        create_time=timestamp(summary.create_time),
        class_names=summary.class_names,
        train_images_per_class=summary.train_images_per_class,
        notes=summary.notes,
        low=summary.low,
        high=summary.high,
        mean=summary.mean,
    )


def check_examples_fit(count: int, summary: Summary) -> None:
    """Raises InvalidInputError where no example is asked for, or more than an answer holds."""
    most = MAX_INLINED_BYTES // (summary.inputs * _DTYPES[_DATA_TYPES[summary.data_type]].itemsize + _LABEL_BYTES)
    if not 1 <= count <= most:
        raise InvalidInputError("indices", f"from 1 to {most}, which an answer holds; got {count}")


def examples_to_proto(examples: NDArray[Any], labels: NDArray[np.uint8]) -> training_service_pb2.GetExamplesResponse:
    """Returns examples of a data set with their labels."""
    return training_service_pb2.GetExamplesResponse(
        examples=tensor_pb2.Tensor(
            name="examples",
            data_type=_DATA_TYPES[str(examples.dtype)],
            shape=examples.shape,
            data=examples.astype(examples.dtype.newbyteorder("<"), copy=False).tobytes(),
        ),
        labels=labels.tolist(),
    )


def images_from_proto(tensor: tensor_pb2.Tensor, signature: Signature) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Returns the images of a Predict request, `[N, ...]`, of a shape that the model takes."""
    dtype = _DTYPES.get(tensor.data_type)
    if dtype is None:
        raise InvalidInputError("images.data_type", f"UINT8 or FLOAT32; got {tensor.data_type}")
    shape = list(tensor.shape)
    if not 2 <= len(shape) <= MAX_DIMENSIONS or min(shape) < 1:
        raise InvalidInputError("images.shape", f"(images, ...) with the shape of an image; got {shape[:8]}")
    if not fits(signature.shape, tuple(shape[1:])):
        given = told(tuple(shape[1:]), Numbers("uint8" if dtype == np.uint8 else "float32"))
        raise InvalidInputError("images.shape", f"the model takes {signature.takes}; got {given}")
    if len(tensor.data) != math.prod(shape) * dtype.itemsize:
        raise InvalidInputError(
            "images.data", f"{math.prod(shape) * dtype.itemsize} bytes for that shape; got {len(tensor.data)}"
        )
    images = np.frombuffer(tensor.data, dtype).reshape(shape)
    if dtype != np.uint8 and not np.isfinite(images).all():
        raise InvalidInputError("images.data", "finite numbers; got NaN or infinity")
    return images


def check_prediction_fits(version: Version, images: int) -> None:
    """Raises InvalidInputError where the prediction of so many images is larger than an answer may be."""
    classes = version.network.outputs
    # A label, of seven bits a byte, and a float for each class.
    bytes_per_image = max(1, math.ceil((classes - 1).bit_length() / 7)) + 4 * classes
    most = (MAX_ANSWER_BYTES - REST_BYTES - version_to_proto(version).ByteSize()) // bytes_per_image
    if images > most:
        raise InvalidInputError(
            "images.shape",
            f"at most {most} images in a call, whose {classes} outputs each fit an answer; got {images}",
        )


def prediction_to_proto(
    version: Version, outputs: NDArray[np.float32], notes: Sequence[str]
) -> training_service_pb2.PredictResponse:
    """Returns the classes of images, with their probabilities or their scores."""
    answer = training_service_pb2.PredictResponse(
        params_version=version_to_proto(version),
        labels=outputs.argmax(axis=1).tolist(),
        classes=outputs.shape[1],
        notes=notes,
    )
    numbers = answer.probabilities if version.signature.kind == "probabilities" else answer.scores
    numbers.extend(outputs.ravel().tolist())
    return answer


def evaluation_to_proto(
    version: Version, evaluation: Evaluation, notes: Sequence[str]
) -> training_service_pb2.EvaluateResponse:
    """Gives the result of an evaluation."""
    return training_service_pb2.EvaluateResponse(
        params_version=version_to_proto(version),
        loss=evaluation.loss,
        accuracy=evaluation.accuracy,
        images=int(evaluation.confusion.sum()),
        classes=len(evaluation.confusion),
        confusion=evaluation.confusion.ravel().tolist(),
        loss_name=version.signature.loss,
        notes=notes,
    )


def timestamp(seconds: float | None) -> Timestamp | None:
    """Gives seconds since 1970; None for None."""
    if seconds is None:
        return None
    timestamp = Timestamp()
    timestamp.FromNanoseconds(round(seconds * 1e9))
    return timestamp
