"""The servicer: each method parses a request, calls, and encodes the answer."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import BoundedSemaphore
from typing import Final

import grpc

from handgrad.core.datasets import IDX_FILES
from handgrad.core.errors import InvalidInputError
from handgrad.core.evaluation import evaluate
from handgrad.core.parameter_files import MAX_FILE_BYTES, check_named_arrays, from_named_arrays, read
from handgrad.server import convert
from handgrad.server.checkpoints import Checkpoints
from handgrad.server.datasets import MAX_UPLOAD_BYTES, Datasets
from handgrad.server.errors import ExhaustedError, PreconditionError
from handgrad.server.jobs import Job, Jobs, Progress
from handgrad.server.models import Models
from handgrad.server.names import check_name
from handgrad.server.planning import check_fit, plan
from handgrad.server.worker import Worker
from handgrad.v1 import training_service_pb2 as pb
from handgrad.v1.training_service_pb2_grpc import TrainingServiceServicer

MAX_STREAMS: Final = 48
"""Streams open at once. Each holds one of the server's threads; `app` has more of them, so that calls find one."""

CHUNK_BYTES: Final = 2**20
LOSSES_PER_REPLY: Final = 300_000
"""So many, with 100,000 epochs, which is the most there are, stay below the 4 MB that gRPC receives."""

SECONDS_BETWEEN_PROGRESS: Final = 0.1
_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass
class State:
    """What the service serves."""

    jobs: Jobs
    models: Models
    datasets: Datasets
    checkpoints: Checkpoints
    worker: Worker
    streams: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(MAX_STREAMS))


class TrainingService(TrainingServiceServicer):
    """Answers the calls of handgrad.v1.TrainingService, which the contract describes."""

    def __init__(self, state: State) -> None:
        self._state = state

    def Train(self, request: pb.TrainRequest, context: grpc.ServicerContext) -> Iterator[pb.TrainResponse]:  # noqa: N802
        """Starts a job and streams its progress."""
        state = self._state
        with self._stream():
            job = state.worker.submit(plan(convert.settings_from_proto(request), state.models, state.datasets))
            yield pb.TrainResponse(accepted=convert.job_to_proto(job))
            yield from _events(job, context)

    def CancelJob(self, request: pb.CancelJobRequest, context: grpc.ServicerContext) -> pb.CancelJobResponse:  # noqa: N802
        """Asks a job to stop."""
        del context
        job = self._state.jobs.get(check_name(request.job, "job"))
        self._state.worker.cancel(job, "cancelled by CancelJob")
        return pb.CancelJobResponse(job=convert.job_to_proto(job))

    def GetLoss(self, request: pb.GetLossRequest, context: grpc.ServicerContext) -> pb.GetLossResponse:  # noqa: N802
        """Gives losses."""
        del context
        job = self._state.jobs.get(check_name(request.job, "job"))
        for name, value in (("skip", request.skip), ("limit", request.limit)):
            if value < 0:
                raise InvalidInputError(name, f"0 or more; got {value}")
        losses = job.losses(request.skip, min(request.limit or LOSSES_PER_REPLY, LOSSES_PER_REPLY))
        return pb.GetLossResponse(
            job=convert.job_to_proto(job),
            losses=losses.tolist(),
            epochs=[convert.epoch_to_proto(epoch) for epoch in list(job.epochs)],
        )

    def GetParams(self, request: pb.GetParamsRequest, context: grpc.ServicerContext) -> pb.GetParamsResponse:  # noqa: N802
        """Gives a version's params."""
        del context
        return convert.params_to_proto(self._state.models.get(*_version_asked(request)))

    def StreamParams(  # noqa: N802
        self, request: pb.StreamParamsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.StreamParamsResponse]:
        """Streams a version's data."""
        del context
        version = self._state.models.get(*_version_asked(request))
        with self._stream():
            for start in range(0, len(version.data), CHUNK_BYTES):
                yield pb.StreamParamsResponse(chunk=version.data[start : start + CHUNK_BYTES])

    def SaveParams(self, request: pb.SaveParamsRequest, context: grpc.ServicerContext) -> pb.SaveParamsResponse:  # noqa: N802
        """Saves a checkpoint."""
        del context
        name = check_name(request.checkpoint, "checkpoint")
        saved = self._state.checkpoints.save(name, self._state.models.get(*_version_asked(request)))
        return pb.SaveParamsResponse(checkpoint=convert.checkpoint_to_proto(saved))

    def LoadParams(self, request: pb.LoadParamsRequest, context: grpc.ServicerContext) -> pb.LoadParamsResponse:  # noqa: N802
        """Publishes a checkpoint as a model's next version."""
        del context
        loaded = self._state.checkpoints.load(check_name(request.checkpoint, "checkpoint"))
        model = self._idle_model(request.model)
        version = self._state.models.publish(
            self._state.models.reserve(model, loaded.network), loaded.arrays, loaded.pixels
        )
        return pb.LoadParamsResponse(params_version=convert.version_to_proto(version))

    def UploadParams(  # noqa: N802
        self, request_iterator: Iterator[pb.UploadParamsRequest], context: grpc.ServicerContext
    ) -> pb.UploadParamsResponse:
        """Publishes a caller's file as a model's next version."""
        del context
        first: pb.UploadParamsRequest | None = None
        content = bytearray()
        with self._stream():
            for request in request_iterator:
                first = first or request
                content += request.chunk
                if len(content) > MAX_FILE_BYTES:
                    raise ExhaustedError(f"the parameter file is larger than {MAX_FILE_BYTES} bytes")
        first = first or pb.UploadParamsRequest()
        file = first.file or "file"
        model = self._idle_model(first.model)
        network, arrays = check_named_arrays(read(bytes(content), file), file)
        version = self._state.models.publish(self._state.models.reserve(model, network), arrays, None)
        return pb.UploadParamsResponse(params_version=convert.version_to_proto(version))

    def UploadDataset(  # noqa: N802
        self, request_iterator: Iterator[pb.UploadDatasetRequest], context: grpc.ServicerContext
    ) -> pb.UploadDatasetResponse:
        """Keeps a caller's data set."""
        del context
        name: str | None = None
        files: dict[str, bytearray] = {}
        with self._stream():
            for request in request_iterator:
                if name is None:
                    name = request.dataset and check_name(request.dataset, "dataset")
                file = request.file.removesuffix(".gz")
                if file not in IDX_FILES:
                    raise InvalidInputError(
                        "file", f"one of {', '.join(IDX_FILES)}, with or without .gz; got {request.file[:80]!r}"
                    )
                files.setdefault(file, bytearray()).extend(request.chunk)
                if sum(map(len, files.values())) > MAX_UPLOAD_BYTES:
                    raise ExhaustedError(f"the data set's files are larger than {MAX_UPLOAD_BYTES} bytes together")
        kept, dataset = self._state.datasets.add(name or "", {file: bytes(content) for file, content in files.items()})
        return pb.UploadDatasetResponse(dataset=convert.dataset_to_proto(kept, dataset))

    def Evaluate(self, request: pb.EvaluateRequest, context: grpc.ServicerContext) -> pb.EvaluateResponse:  # noqa: N802
        """Evaluates a version on a split."""
        del context
        state = self._state
        version = state.models.get(*_version_asked(request))
        split = convert.split_from_proto(request.split)
        pixels = convert.pixels_from_proto(request.pixels) or version.pixels or "raw"
        name = convert.dataset_name(request.dataset)
        dataset = state.datasets.get(name)
        check_fit(version.network, dataset.inputs, dataset.classes, name)
        evaluation = state.worker.call(
            lambda: evaluate(
                version.network,
                from_named_arrays(version.network, version.arrays),
                *state.datasets.on_device(name, split),
                pixels,
            )
        )
        return convert.evaluation_to_proto(version, evaluation)

    def _idle_model(self, name: str) -> str:
        """Gives the name back, or raises PreconditionError where a job is training that model."""
        if name and (job := self._state.jobs.training(check_name(name, "model"))):
            raise PreconditionError(
                f"{job.name} is training model {name}; wait for it, cancel it, or choose another name"
            )
        return name

    @contextmanager
    def _stream(self) -> Iterator[None]:
        if not self._state.streams.acquire(blocking=False):
            raise ExhaustedError(f"{MAX_STREAMS} streams are open already; try again when some have ended")
        try:
            yield
        finally:
            self._state.streams.release()


def _version_asked(
    request: pb.GetParamsRequest | pb.StreamParamsRequest | pb.SaveParamsRequest | pb.EvaluateRequest,
) -> tuple[str, int]:
    if request.version < 0:
        raise InvalidInputError("version", f"0 for the newest, or 1, 2, 3, ...; got {request.version}")
    return check_name(request.model, "model"), request.version


def _events(job: Job, context: grpc.ServicerContext) -> Iterator[pb.TrainResponse]:
    """Tells every epoch in order, the newest progress a few times a second, and the end."""
    epochs_told, told_at = 0, 0.0
    seen: Progress | None = None
    told: Progress | None = None
    while context.is_active():
        with job.changed:
            if len(job.epochs) == epochs_told and job.progress is seen and not job.status.state.ended:
                # Not longer, so that a caller that went away is noticed while nothing happens.
                job.changed.wait(_SECONDS_BETWEEN_LOOKS)
            ended = job.status.state.ended
            epochs, seen = job.epochs[epochs_told:], job.progress
        due = time.monotonic() - told_at >= SECONDS_BETWEEN_PROGRESS or epochs or ended
        if seen is not None and seen is not told and due:
            yield pb.TrainResponse(progress=convert.progress_to_proto(seen))
            told, told_at = seen, time.monotonic()
        for epoch in epochs:
            yield pb.TrainResponse(epoch=convert.epoch_to_proto(epoch))
        epochs_told += len(epochs)
        if ended:
            yield pb.TrainResponse(finished=convert.job_to_proto(job))
            return
