"""The contract's messages from and to the server's own types: `x_to_proto`, `x_from_proto`."""

from functools import lru_cache
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from handgrad.core.config import Pixels, TrainConfig
from handgrad.core.datasets import Dataset
from handgrad.core.errors import InvalidInputError
from handgrad.core.evaluation import Evaluation
from handgrad.core.network import Network
from handgrad.server.checkpoints import Checkpoint
from handgrad.server.datasets import MNIST, SplitName
from handgrad.server.jobs import Epoch, Job, JobState, Progress
from handgrad.server.models import Version
from handgrad.server.names import check_name
from handgrad.server.planning import NetworkRequest, TrainSettings
from handgrad.v1 import dataset_pb2, job_pb2, network_pb2, params_pb2, training_service_pb2

MAX_INLINED_BYTES: Final = 3 * 2**20
"""Params of at most this size come inside a reply. gRPC receives 4 MB unless a client says otherwise."""

_PIXELS: Final[dict[int, Pixels | None]] = {
    network_pb2.PIXEL_SCALE_UNSPECIFIED: None,
    network_pb2.PIXEL_SCALE_RAW: "raw",
    network_pb2.PIXEL_SCALE_UNIT: "unit",
}
_PIXELS_TO_PROTO: Final[dict[Pixels | None, network_pb2.PixelScale.ValueType]] = {
    None: network_pb2.PIXEL_SCALE_UNSPECIFIED,
    "raw": network_pb2.PIXEL_SCALE_RAW,
    "unit": network_pb2.PIXEL_SCALE_UNIT,
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
_OVERRIDES: Final = ("batch_size", "epochs", "learning_rate", "seed", "publish_every_iterations")


def pixels_from_proto(value: int, field: str = "pixels") -> Pixels | None:
    """Gives None for an unspecified scale."""
    if value not in _PIXELS:
        raise InvalidInputError(field, f"PIXEL_SCALE_RAW or PIXEL_SCALE_UNIT; got {value}")
    return _PIXELS[value]


def split_from_proto(value: int) -> SplitName:
    """Gives the test split for an unspecified one."""
    if value not in _SPLITS:
        raise InvalidInputError("split", f"SPLIT_TRAIN or SPLIT_TEST; got {value}")
    return _SPLITS[value]


def settings_from_proto(request: training_service_pb2.TrainRequest) -> TrainSettings:
    """Gives what a Train request asks for; what it leaves out is left open, but for the preset and the data set."""
    network = request.network
    return TrainSettings(
        preset=request.preset or "report",
        model=request.model and check_name(request.model, "model"),
        dataset=dataset_name(request.dataset),
        network=NetworkRequest(network.inputs, tuple(network.hidden), network.outputs)
        if request.HasField("network")
        else None,
        pixels=pixels_from_proto(request.pixels),
        overrides={field: getattr(request, field) for field in _OVERRIDES if request.HasField(field)},
    )


def dataset_name(name: str) -> str:
    """Gives the data set that a request names, MNIST where it names none."""
    return check_name(name or MNIST, "dataset")


def network_to_proto(network: Network) -> network_pb2.Network:
    """Gives a network."""
    return network_pb2.Network(inputs=network.inputs, hidden=network.hidden, outputs=network.outputs)


def config_to_proto(network: Network, config: TrainConfig) -> job_pb2.TrainConfig:
    """Gives the settings of a run."""
    return job_pb2.TrainConfig(
        network=network_to_proto(network),
        batch_size=config.batch_size,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        pixels=_PIXELS_TO_PROTO[config.pixels],
        seed=config.seed,
        publish_every_iterations=config.publish_every_iterations,
    )


def job_to_proto(job: Job) -> job_pb2.Job:
    """Gives a job as it stands."""
    request, status = job.request, job.status
    return job_pb2.Job(
        job=job.name,
        model=request.model,
        dataset=request.dataset,
        config=config_to_proto(request.network, request.config),
        state=_STATES[status.state],
        error=status.error,
        iteration=job.iteration,
        iterations=request.iterations,
        iterations_per_epoch=request.iterations_per_epoch,
        version=status.version.number if status.version else 0,
        params_sha256=status.version.sha256 if status.version else "",
        create_time=_timestamp(job.create_time),
        start_time=_timestamp(status.start_time),
        end_time=_timestamp(status.end_time),
    )


def epoch_to_proto(epoch: Epoch) -> job_pb2.Epoch:
    """Gives the sum of an epoch."""
    return job_pb2.Epoch(epoch=epoch.epoch, mean_loss=epoch.mean_loss, seconds=epoch.seconds)


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
        publish_time=_timestamp(version.publish_time),
        job=version.job,
        iteration=version.iteration,
        loss=version.loss,
        size_bytes=len(version.data),
        pixels=_PIXELS_TO_PROTO[version.pixels],
    )


@lru_cache(maxsize=16)
def params_to_proto(version: Version) -> training_service_pb2.GetParamsResponse:
    """Gives a version, with its arrays if they are small enough. Kept for the next caller: it must not be changed."""
    inlined = len(version.data) <= MAX_INLINED_BYTES
    tensors = [
        params_pb2.Tensor(
            name=name,
            data_type=params_pb2.DATA_TYPE_FLOAT32,
            shape=array.shape,
            data=array.tobytes() if inlined else b"",
        )
        for name, array in version.arrays.items()
    ]
    return training_service_pb2.GetParamsResponse(
        params_version=version_to_proto(version), tensors=tensors, inlined=inlined
    )


def checkpoint_to_proto(checkpoint: Checkpoint) -> params_pb2.Checkpoint:
    """Gives what is known of a checkpoint, without its arrays."""
    return params_pb2.Checkpoint(
        checkpoint=checkpoint.name,
        params_sha256=checkpoint.sha256,
        network=network_to_proto(checkpoint.network),
        save_time=_timestamp(checkpoint.save_time),
        pixels=_PIXELS_TO_PROTO[checkpoint.pixels],
    )


def dataset_to_proto(name: str, dataset: Dataset) -> dataset_pb2.Dataset:
    """Gives what is known of a data set, without its images."""
    return dataset_pb2.Dataset(
        dataset=name,
        train_images=len(dataset.train.labels),
        test_images=len(dataset.test.labels),
        rows=dataset.rows,
        columns=dataset.columns,
        classes=dataset.classes,
    )


def evaluation_to_proto(version: Version, evaluation: Evaluation) -> training_service_pb2.EvaluateResponse:
    """Gives the result of an evaluation."""
    return training_service_pb2.EvaluateResponse(
        params_version=version_to_proto(version),
        loss=evaluation.loss,
        accuracy=evaluation.accuracy,
        images=int(evaluation.confusion.sum()),
        classes=len(evaluation.confusion),
        confusion=evaluation.confusion.ravel().tolist(),
    )


def _timestamp(seconds: float | None) -> Timestamp | None:
    if seconds is None:
        return None
    timestamp = Timestamp()
    timestamp.FromNanoseconds(round(seconds * 1e9))
    return timestamp
