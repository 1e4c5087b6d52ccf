"""The servicer: each method parses a request, calls, and encodes the answer."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Condition
from typing import Final, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message

from handgrad.core.config import MAX_SEED, preset
from handgrad.core.errors import InvalidInputError
from handgrad.core.evaluation import evaluate, predict
from handgrad.core.network import CROSS_ENTROPY, Network
from handgrad.core.parameter_files import MAX_FILE_BYTES, from_named_arrays, read
from handgrad.core.signature import Transform, to_inputs
from handgrad.core.verification import BATCH_SIZE, MAX_PARAMETERS, Certificate, certify, check_network, check_operations
from handgrad.server import auth, convert
from handgrad.server.certificates import Certificates
from handgrad.server.checkpoints import Checkpoints
from handgrad.server.datasets import Datasets
from handgrad.server.disk import Objects
from handgrad.server.errors import ExhaustedError, ServiceError, StoppingError
from handgrad.server.interceptors import MAX_ANSWER_BYTES, Encoded
from handgrad.server.jobs import Caller, Job, Jobs, Progress
from handgrad.server.models import Draft, Model, Models, Version
from handgrad.server.names import check_name
from handgrad.server.params_uploads import plan_upload
from handgrad.server.planning import check_dataset, check_fit, chosen_network, plan, plan_sweep
from handgrad.server.streams import Streams
from handgrad.server.sweeps import Sweep, Sweeps
from handgrad.server.uploads import CHUNK_BYTES, Uploads
from handgrad.server.worker import Worker
from handgrad.v1 import job_pb2, params_pb2, sweep_pb2
from handgrad.v1 import training_service_pb2 as pb
from handgrad.v1.training_service_pb2_grpc import TrainingServiceServicer

log = logging.getLogger(__name__)

T = TypeVar("T")
M = TypeVar("M", bound=Message)

LOSSES_PER_REPLY: Final = 150_000
"""So many, with 100,000 epochs, which is the most there are, stay below the 4 MB that gRPC receives."""

ELEMENT_BYTES: Final = 8
"""Of each element of an answer, besides its message: its field's number, and its length."""

MAX_REQUEST_ID_BYTES: Final = 128
SECONDS_BETWEEN_PROGRESS: Final = 0.1
SECONDS_BETWEEN_STANDINGS: Final = 0.25
_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass
class State:
    """What the service serves."""

    jobs: Jobs
    sweeps: Sweeps
    models: Models
    datasets: Datasets
    uploads: Uploads
    checkpoints: Checkpoints
    certificates: Certificates
    objects: Objects
    worker: Worker
    streams: Streams


class TrainingService(TrainingServiceServicer):
    """Answers the calls of handgrad.v1.TrainingService, which the contract describes."""

    def __init__(self, state: State) -> None:
        self._state = state

    def Train(self, request: pb.TrainRequest, context: grpc.ServicerContext) -> Iterator[pb.TrainResponse]:  # noqa: N802
        """Starts a job and streams its history."""
        state = self._state
        with self._stream(context):
            caller = _caller(request, context)
            job = state.worker.submit(plan(convert.settings_from_proto(request), state.models, state.datasets), caller)
            # The callback is not taken where the call has ended already.
            if request.cancel_on_disconnect and not context.add_callback(lambda: self._abandon(job)):
                self._abandon(job)
            for event in self._events(job, 0, context):
                yield pb.TrainResponse(event=event)

    def GetJob(self, request: pb.GetJobRequest, context: grpc.ServicerContext) -> pb.GetJobResponse:  # noqa: N802
        """Gives a job."""
        del context
        return pb.GetJobResponse(job=self._job_to_proto(self._job(request.job)))

    def ListJobs(self, request: pb.ListJobsRequest, context: grpc.ServicerContext) -> pb.ListJobsResponse:  # noqa: N802
        """Lists jobs."""
        del context
        size = convert.page_size_from_proto(request.page_size)
        jobs = self._state.jobs.page(
            size + 1,
            convert.number_page_from_proto(request.page_token),
            states=convert.states_from_proto(request.states),
            model=request.model and check_name(request.model, "model"),
            client=request.client and check_name(request.client, "client"),
        )
        messages, token = _page(jobs, size, self._job_to_proto, lambda each: each.number)
        return pb.ListJobsResponse(jobs=messages, next_page_token=token)

    def CancelJob(self, request: pb.CancelJobRequest, context: grpc.ServicerContext) -> pb.CancelJobResponse:  # noqa: N802
        """Asks a job to stop."""
        del context
        job = self._state.jobs.cancel(self._job(request.job), "cancelled by CancelJob")
        # It may have been the last of a sweep.
        self._state.worker.look()
        return pb.CancelJobResponse(job=self._job_to_proto(job))

    def WatchJob(self, request: pb.WatchJobRequest, context: grpc.ServicerContext) -> Iterator[pb.WatchJobResponse]:  # noqa: N802
        """Streams a job's history."""
        job = self._job(request.job)
        if not 0 <= request.after_sequence <= job.sequence:
            raise InvalidInputError(
                "after_sequence", f"from 0 to {job.sequence}, its newest event; got {request.after_sequence}"
            )
        with self._stream(context):
            for event in self._events(job, request.after_sequence, context):
                yield pb.WatchJobResponse(event=event)

    def GetLoss(self, request: pb.GetLossRequest, context: grpc.ServicerContext) -> pb.GetLossResponse:  # noqa: N802
        """Gives losses."""
        del context
        job = self._job(request.job)
        for name, value in (("skip", request.skip), ("limit", request.limit)):
            if value < 0:
                raise InvalidInputError(name, f"0 or more; got {value}")
        losses = self._state.jobs.losses(job, request.skip, min(request.limit or LOSSES_PER_REPLY, LOSSES_PER_REPLY))
        return pb.GetLossResponse(
            job=self._job_to_proto(job),
            losses=losses.tolist(),
            epochs=[convert.epoch_to_proto(epoch) for epoch in self._state.jobs.epochs(job)],
        )

    def TrainSweep(  # noqa: N802
        self, request: pb.TrainSweepRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.TrainSweepResponse]:
        """Starts a sweep and streams how it stands."""
        state = self._state
        with self._stream(context):
            asked = plan_sweep(convert.sweep_from_proto(request), state.models, state.datasets)
            sweep = state.worker.submit_sweep(asked, _caller(request, context))
            for message in self._standings(sweep.name, context):
                yield pb.TrainSweepResponse(sweep=message)

    def WatchSweep(  # noqa: N802
        self, request: pb.WatchSweepRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchSweepResponse]:
        """Streams how a sweep stands."""
        name = self._sweep(request.sweep).name
        with self._stream(context):
            for message in self._standings(name, context):
                yield pb.WatchSweepResponse(sweep=message)

    def GetSweep(self, request: pb.GetSweepRequest, context: grpc.ServicerContext) -> pb.GetSweepResponse:  # noqa: N802
        """Gives a sweep."""
        del context
        return pb.GetSweepResponse(sweep=self._sweep_to_proto(self._sweep(request.sweep)))

    def ListSweeps(self, request: pb.ListSweepsRequest, context: grpc.ServicerContext) -> pb.ListSweepsResponse:  # noqa: N802
        """Lists sweeps."""
        del context
        size = convert.page_size_from_proto(request.page_size)
        sweeps = self._state.sweeps.page(size + 1, convert.number_page_from_proto(request.page_token))
        messages, token = _page(sweeps, size, self._sweep_to_proto, lambda each: each.number)
        return pb.ListSweepsResponse(sweeps=messages, next_page_token=token)

    def CancelSweep(self, request: pb.CancelSweepRequest, context: grpc.ServicerContext) -> pb.CancelSweepResponse:  # noqa: N802
        """Asks a sweep's members to stop."""
        del context
        sweep = self._sweep(request.sweep)
        self._state.sweeps.cancel(sweep, "cancelled by CancelSweep")
        self._state.worker.look()
        return pb.CancelSweepResponse(sweep=self._sweep_to_proto(self._sweep(sweep.name)))

    def GetParams(  # type: ignore[override]  # noqa: N802 - encoded once for all callers
        self, request: pb.GetParamsRequest, context: grpc.ServicerContext
    ) -> pb.GetParamsResponse | Encoded:
        """Gives a version's params."""
        del context
        if request.if_newer_than < 0 or (request.if_newer_than and request.version):
            raise InvalidInputError(
                "if_newer_than", f"0, or a version that is known, with version 0; got {request.if_newer_than}"
            )
        version = self._version(request)
        if request.if_newer_than and version.number <= request.if_newer_than:
            return pb.GetParamsResponse(unchanged=True)
        if request.metadata_only:
            return pb.GetParamsResponse(params_version=convert.version_to_proto(version))
        return Encoded(convert.encoded_params(version, self._state.models.data(version)))

    def StreamParams(  # noqa: N802
        self, request: pb.StreamParamsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.StreamParamsResponse]:
        """Streams a version's data."""
        data = self._state.models.data(self._version(request)).data
        with self._stream(context):
            for start in range(0, len(data), CHUNK_BYTES):
                yield pb.StreamParamsResponse(chunk=data[start : start + CHUNK_BYTES])

    def WatchParams(  # noqa: N802
        self, request: pb.WatchParamsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchParamsResponse]:
        """Streams versions as they are published."""
        name = check_name(request.model, "model")
        if request.after_version < 0:
            raise InvalidInputError("after_version", f"0 or more; got {request.after_version}")
        after, models = request.after_version, self._state.models
        with self._stream(context):
            while context.is_active():
                version = models.wait(name, after, _SECONDS_BETWEEN_LOOKS, lambda: not context.is_active())
                if self._state.worker.stopping:
                    raise StoppingError("the server is stopping")
                if version is None:
                    continue
                after = version.number
                response = pb.WatchParamsResponse(params_version=convert.version_to_proto(version))
                if not request.metadata_only:
                    whole = convert.params_to_proto(version, models.data(version))
                    response.inlined = whole.inlined
                    response.tensors.extend(whole.tensors)
                # gRPC takes the next answer only when it has sent this one: a slow reader holds up this thread alone.
                yield response

    def SaveParams(self, request: pb.SaveParamsRequest, context: grpc.ServicerContext) -> pb.SaveParamsResponse:  # noqa: N802
        """Saves a checkpoint."""
        del context
        name = check_name(request.checkpoint, "checkpoint")
        version = self._version(request)
        saved = self._state.checkpoints.save(
            name, version, self._state.certificates.of(version.network, version.signature.objective)
        )
        return pb.SaveParamsResponse(checkpoint=convert.checkpoint_to_proto(saved))

    def LoadParams(self, request: pb.LoadParamsRequest, context: grpc.ServicerContext) -> pb.LoadParamsResponse:  # noqa: N802
        """Publishes a checkpoint as a model's next version."""
        del context
        network, draft = self._state.checkpoints.load(
            check_name(request.checkpoint, "checkpoint"),
            request.model and check_name(request.model, "model"),
            with_optimizer=request.with_optimizer_state,
        )
        certificate = self._state.checkpoints.get(request.checkpoint).certificate
        return pb.LoadParamsResponse(
            params_version=convert.version_to_proto(self._publish(draft, network)),
            certificate=convert.certificate_to_proto(certificate),
        )

    def UploadParams(  # noqa: N802
        self, request_iterator: Iterator[pb.UploadParamsRequest], context: grpc.ServicerContext
    ) -> pb.UploadParamsResponse:
        """Publishes a caller's file as a model's next version."""
        first: pb.UploadParamsRequest | None = None
        content = bytearray()
        with self._stream(context):
            for request in request_iterator:
                first = first or request
                content += request.chunk
                if len(content) > MAX_FILE_BYTES:
                    raise ExhaustedError(f"the parameter file is larger than {MAX_FILE_BYTES} bytes")
        first = first or pb.UploadParamsRequest()
        file = first.file or "file"
        model = first.model and check_name(first.model, "model")
        asked = convert.network_from_proto(first.network) if first.HasField("network") else None
        uploaded = plan_upload(
            *(read(bytes(content), file), file, model, self._state.models),
            asked=asked,
            transform=convert.transform_from_proto(first.transform),
        )
        version = self._publish(uploaded.draft, uploaded.network)
        return pb.UploadParamsResponse(params_version=convert.version_to_proto(version), notes=uploaded.notes)

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsResponse:  # noqa: N802
        """Lists models."""
        del context
        size = convert.page_size_from_proto(request.page_size)
        models = self._state.models.page(size + 1, convert.name_page_from_proto(request.page_token))
        messages, token = _page(models, size, self._model_to_proto, lambda each: each.name)
        return pb.ListModelsResponse(models=messages, next_page_token=token)

    def DeleteModel(self, request: pb.DeleteModelRequest, context: grpc.ServicerContext) -> pb.DeleteModelResponse:  # noqa: N802
        """Deletes a model."""
        del context
        self._state.models.delete(check_name(request.model, "model"))
        return pb.DeleteModelResponse()

    def ListCheckpoints(  # noqa: N802
        self, request: pb.ListCheckpointsRequest, context: grpc.ServicerContext
    ) -> pb.ListCheckpointsResponse:
        """Lists checkpoints."""
        del context
        size = convert.page_size_from_proto(request.page_size)
        found = self._state.checkpoints.page(size + 1, convert.name_page_from_proto(request.page_token))
        messages, token = _page(found, size, convert.checkpoint_to_proto, lambda each: each.name)
        return pb.ListCheckpointsResponse(checkpoints=messages, next_page_token=token)

    def DeleteCheckpoint(  # noqa: N802
        self, request: pb.DeleteCheckpointRequest, context: grpc.ServicerContext
    ) -> pb.DeleteCheckpointResponse:
        """Deletes a checkpoint."""
        del context
        self._state.checkpoints.delete(check_name(request.checkpoint, "checkpoint"))
        return pb.DeleteCheckpointResponse()

    def StartDatasetUpload(  # noqa: N802
        self, request: pb.StartDatasetUploadRequest, context: grpc.ServicerContext
    ) -> pb.StartDatasetUploadResponse:
        """Begins an upload, or takes it up again."""
        del context
        name = request.dataset and check_name(request.dataset, "dataset")
        started = self._state.uploads.start(name, convert.files_from_proto(request.files))
        if isinstance(started, str):
            known = convert.dataset_to_proto(started, self._state.datasets.describe(started))
            return pb.StartDatasetUploadResponse(dataset=known)
        return pb.StartDatasetUploadResponse(upload=started[0], received_bytes=started[1])

    def UploadDatasetChunk(  # noqa: N802
        self, request: pb.UploadDatasetChunkRequest, context: grpc.ServicerContext
    ) -> pb.UploadDatasetChunkResponse:
        """Takes the next bytes of an upload."""
        del context
        received = self._state.uploads.add(
            request.upload, request.file_index, request.offset_bytes, request.chunk, request.sha256
        )
        return pb.UploadDatasetChunkResponse(received_bytes=received)

    def FinishDatasetUpload(  # noqa: N802
        self, request: pb.FinishDatasetUploadRequest, context: grpc.ServicerContext
    ) -> pb.FinishDatasetUploadResponse:
        """Ends an upload."""
        del context
        name = self._state.uploads.finish(request.upload)
        summary = self._state.datasets.describe(name)
        return pb.FinishDatasetUploadResponse(dataset=convert.dataset_to_proto(name, summary))

    def ListDatasets(self, request: pb.ListDatasetsRequest, context: grpc.ServicerContext) -> pb.ListDatasetsResponse:  # noqa: N802
        """Lists data sets."""
        del context
        size = convert.page_size_from_proto(request.page_size)
        found = self._state.datasets.page(size + 1, convert.name_page_from_proto(request.page_token))
        messages, token = _page(found, size, lambda each: convert.dataset_to_proto(*each), lambda each: each[0])
        return pb.ListDatasetsResponse(datasets=messages, next_page_token=token)

    def GetDataset(self, request: pb.GetDatasetRequest, context: grpc.ServicerContext) -> pb.GetDatasetResponse:  # noqa: N802
        """Describes a data set."""
        del context
        name = check_name(request.dataset, "dataset")
        return pb.GetDatasetResponse(dataset=convert.dataset_to_proto(name, self._state.datasets.describe(name)))

    def GetExamples(self, request: pb.GetExamplesRequest, context: grpc.ServicerContext) -> pb.GetExamplesResponse:  # noqa: N802
        """Gives examples of a data set."""
        del context
        name, datasets = convert.dataset_name(request.dataset), self._state.datasets
        split = convert.split_from_proto(request.split)
        convert.check_examples_fit(len(request.indices), datasets.describe(name))
        return convert.examples_to_proto(*datasets.examples(name, split, list(request.indices)))

    def DeleteDataset(  # noqa: N802
        self, request: pb.DeleteDatasetRequest, context: grpc.ServicerContext
    ) -> pb.DeleteDatasetResponse:
        """Deletes a data set."""
        del context
        self._state.datasets.delete(check_name(request.dataset, "dataset"))
        return pb.DeleteDatasetResponse()

    def Predict(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:  # noqa: N802
        """Tells the classes of images."""
        del context
        state = self._state
        version = self._version(request)
        images, notes = version.signature.read(convert.images_from_proto(request.images, version.signature), "images")
        convert.check_prediction_fits(version, len(images))
        arrays, signature = state.models.data(version).arrays, version.signature
        outputs = state.worker.call(
            lambda: predict(
                *(version.network, *from_named_arrays(version.network, arrays), images),
                *(signature.transform, signature.kind),
            )
        )
        return convert.prediction_to_proto(version, outputs, notes)

    def Evaluate(self, request: pb.EvaluateRequest, context: grpc.ServicerContext) -> pb.EvaluateResponse:  # noqa: N802
        """Evaluates a version on a split."""
        del context
        state = self._state
        version = self._version(request)
        split = convert.split_from_proto(request.split)
        name = convert.dataset_name(request.dataset)
        notes = check_dataset(version, state.datasets.describe(name), name)
        arrays = state.models.data(version).arrays
        evaluation = state.worker.call(
            lambda: evaluate(
                version.network,
                *from_named_arrays(version.network, arrays),
                *state.datasets.on_device(name, split),
                version.signature.transform,
                version.signature.objective,
            )
        )
        return convert.evaluation_to_proto(version, evaluation, notes)

    def DescribeNetwork(  # noqa: N802
        self, request: pb.DescribeNetworkRequest, context: grpc.ServicerContext
    ) -> pb.DescribeNetworkResponse:
        """Describes a network."""
        del context
        choice = convert.choice_from_proto(request.choice)
        network, _ = chosen_network(choice, self._state.models, self._state.datasets)
        return convert.description_to_proto(network)

    def CheckGradients(  # noqa: N802
        self, request: pb.CheckGradientsRequest, context: grpc.ServicerContext
    ) -> pb.CheckGradientsResponse:
        """Checks gradients."""
        if not 0 <= request.seed <= MAX_SEED:
            raise InvalidInputError("seed", f"from 0 to {MAX_SEED}; got {request.seed}")
        # It takes seconds, as a stream does, and a thread for as long: it is counted as one until it is done.
        with ExitStack() as stack:
            stack.callback(self._state.streams.open(_stream_caller(context)))
            if request.HasField("choice"):
                certificate = self._check_network(request)
            else:
                with self._state.certificates.checking:
                    certificate = check_operations(request.seed)
        return pb.CheckGradientsResponse(certificate=convert.certificate_to_proto(certificate))

    def _check_network(self, request: pb.CheckGradientsRequest) -> Certificate:
        state, choice = self._state, convert.choice_from_proto(request.choice)
        network, version = chosen_network(choice, state.models, state.datasets)
        if network.parameters > MAX_PARAMETERS:
            raise InvalidInputError(
                "choice", f"a network of at most {MAX_PARAMETERS} parameters; this one has {network.parameters}"
            )
        inputs, data = None, "random"
        if request.images:
            summary = state.datasets.describe(choice.dataset)
            if version:
                check_dataset(version, summary, choice.dataset)
            check_fit(network, summary, choice.dataset)
            # Small inputs, so that nothing saturates: any network's gradients are right there or nowhere.
            transform: Transform = "unit" if summary.data_type == "uint8" else "identity"
            images = state.datasets.images(choice.dataset, request.seed, BATCH_SIZE)
            inputs = np.asarray(to_inputs(images, version.signature.transform if version else transform))
            data = choice.dataset
        with state.certificates.checking:
            if version is None:
                loss = preset(choice.preset).config.objective if choice.preset else CROSS_ENTROPY
                return certify(network, inputs=inputs, loss=loss, data=data, seed=request.seed)
            params, statistics = from_named_arrays(network, state.models.data(version).arrays)
            generator = np.random.default_rng(request.seed)
            if inputs is None:
                inputs = generator.normal(size=(BATCH_SIZE, network.inputs)).astype(np.float32)
            labels = generator.integers(0, network.outputs, len(inputs))
            return check_network(
                *(network, params, statistics, inputs, labels),
                loss=version.signature.objective,
                seed=request.seed,
                data=data,
            )

    def _abandon(self, job: Job) -> None:
        # A server that stops is no caller that goes away: whether the job ends then is the next start's to say.
        if self._state.worker.stopping:
            return
        try:
            self._state.jobs.cancel(job, "its caller went away")
        except ServiceError:
            log.exception("%s cannot be cancelled", job.name)

    def _job(self, name: str) -> Job:
        return self._state.jobs.get(check_name(name, "job"))

    def _job_to_proto(self, job: Job) -> job_pb2.Job:
        return convert.job_to_proto(job, self._state.jobs.iteration(job))

    def _model_to_proto(self, model: Model) -> params_pb2.Model:
        job = self._state.jobs.on_model(model.name)
        return convert.model_to_proto(model, job.name if job else "")

    def _sweep(self, name: str) -> Sweep:
        return self._state.sweeps.get(check_name(name, "sweep"))

    def _sweep_to_proto(self, sweep: Sweep) -> sweep_pb2.Sweep:
        return convert.sweep_to_proto(sweep, self._state.jobs.iteration)

    def _standings(self, name: str, context: grpc.ServicerContext) -> Iterator[sweep_pb2.Sweep]:
        """Tells how a sweep stands, whenever that changed, until it has ended."""
        jobs = self._state.jobs
        told: sweep_pb2.Sweep | None = None
        while context.is_active():
            with jobs.changed:
                seen = jobs.turn
            message = self._sweep_to_proto(self._state.sweeps.get(name))
            if message != told:
                told = message
                yield message
            if message.HasField("end_time"):
                return
            if self._state.worker.stopping:
                raise StoppingError("the server is stopping; the sweep goes on when it has started again")
            # Not more often: all members are told of each time.
            jobs.wait(None, SECONDS_BETWEEN_STANDINGS, lambda: not context.is_active())
            jobs.wait(seen, SECONDS_BETWEEN_STANDINGS, lambda: not context.is_active())

    def _version(
        self,
        request: pb.GetParamsRequest
        | pb.StreamParamsRequest
        | pb.SaveParamsRequest
        | pb.PredictRequest
        | pb.EvaluateRequest,
    ) -> Version:
        if request.version < 0:
            raise InvalidInputError("version", f"0 for the newest, or 1, 2, 3, ...; got {request.version}")
        return self._state.models.get(check_name(request.model, "model"), request.version)

    def _publish(self, draft: Draft, network: Network) -> Version:
        self._state.objects.check_room(sum(array.nbytes for array in draft.arrays.values()))
        return self._state.models.publish(draft, network)

    def _events(self, job: Job, after: int, context: grpc.ServicerContext) -> Iterator[job_pb2.JobEvent]:
        """Tells a job's history in order, the newest progress a few times a second, and the end."""
        jobs = self._state.jobs
        told: Progress | None = None
        while context.is_active():
            with jobs.changed:
                seen = jobs.turn
            events = jobs.events(job, after)
            if events:
                job = jobs.get(job.name)
            elif job.state.ended:
                # Whoever asks after the last event has seen everything.
                return
            for event in events:
                yield convert.event_to_proto(job, event)
                after = event.sequence
                if event.kind == "finished":
                    return
            if self._state.worker.stopping:
                raise StoppingError("the server is stopping; the job goes on when it has started again")
            live = jobs.live.get(job.name)
            if live and live.progress is not None and live.progress is not told:
                told = live.progress
                yield job_pb2.JobEvent(time=convert.timestamp(time.time()), progress=convert.progress_to_proto(told))
            seconds = SECONDS_BETWEEN_PROGRESS if live else _SECONDS_BETWEEN_LOOKS
            jobs.wait(seen, seconds, lambda: not context.is_active())

    @contextmanager
    def _stream(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Counts a stream until it ends or its caller goes away, and wakes its thread then, which ends it."""
        state = self._state
        close = state.streams.open(_stream_caller(context))

        def gone() -> None:
            close()
            _wake(state.jobs.changed)
            _wake(state.models.changed)

        context.add_callback(gone)
        try:
            yield
        finally:
            close()


def _page(
    found: Sequence[T], size: int, to_proto: Callable[[T], M], token: Callable[[T], object]
) -> tuple[list[M], str]:
    """Encodes a page of what was found: `size` of it at most, and no more than fits an answer.

    Returns:
        The messages, and the token of the next page: that of the last of this one, empty where nothing comes after it.
    """
    messages: list[M] = []
    room = MAX_ANSWER_BYTES - convert.REST_BYTES
    for each in found[:size]:
        message = to_proto(each)
        room -= message.ByteSize() + ELEMENT_BYTES
        # One that is too large alone is told so where answers are sent.
        if room < 0 and messages:
            break
        messages.append(message)
    return messages, str(token(found[len(messages) - 1])) if len(messages) < len(found) else ""


def _stream_caller(context: grpc.ServicerContext) -> str:
    """Returns who a stream counts for: a token's name, which has no colon, or the peer, which has one."""
    return auth.caller.get() or context.peer()


def _wake(changed: Condition) -> None:
    """Wakes those who wait, so that they see that their caller went away.

    It runs on the thread that serves all calls, which must not wait for the lock; where the lock is taken, they look a
    moment later by themselves.
    """
    if changed.acquire(blocking=False):
        changed.notify_all()
        changed.release()


def _caller(request: pb.TrainRequest | pb.TrainSweepRequest, context: grpc.ServicerContext) -> Caller:
    if len(request.request_id.encode()) > MAX_REQUEST_ID_BYTES:
        raise InvalidInputError("request_id", f"at most {MAX_REQUEST_ID_BYTES} bytes")
    client = request.client and check_name(request.client, "client")
    fingerprint = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
    return Caller(
        auth.caller.get() or client or address(context.peer()),
        request.request_id,
        fingerprint,
        isinstance(request, pb.TrainRequest) and request.cancel_on_disconnect,
    )


def address(peer: str) -> str:
    """Gives the host of gRPC's name for a caller, "ipv4:127.0.0.1:12345" or "ipv6:%5B::1%5D:12345"."""
    return peer.partition(":")[2].rpartition(":")[0].replace("%5B", "").replace("%5D", "")
