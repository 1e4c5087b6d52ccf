"""The client: one method for each call of the service."""

import hashlib
import io
import os
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, final

import grpc
import numpy as np
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from numpy.typing import NDArray

from handgrad.client import errors
from handgrad.client.address import proxy_variable, split_address
from handgrad.client.channel import Security, open_channel
from handgrad.client.job import SECONDS_BETWEEN_TRIES, Job
from handgrad.client.network import LayerSpec, fully_connected, network_to_proto, read_network
from handgrad.client.params import Params, array_of, arrays_from_proto, verify, write_npz
from handgrad.client.private_server import PrivateServer
from handgrad.client.signature import TRANSFORMS, Transform
from handgrad.client.sweep import MEASURES, Halving, Measure, Sweep
from handgrad.client.text import printable
from handgrad.client.upload import CHUNK_BYTES, chunks_of, dataset_files, describe, image_tensors
from handgrad.v1 import certificate_pb2, dataset_pb2, job_pb2, network_pb2, params_pb2, signature_pb2, sweep_pb2
from handgrad.v1 import training_service_pb2 as pb
from handgrad.v1.training_service_pb2_grpc import TrainingServiceStub

Split = Literal["train", "test"]
Kind = Literal["probabilities", "scores"]
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]

SERVICE: Final = pb.DESCRIPTOR.services_by_name["TrainingService"].full_name
CONNECT_SECONDS: Final = 10.0
CALL_SECONDS: Final = 120.0
RECONNECT_SECONDS: Final = 60.0
IMAGE_BYTES_PER_CALL: Final = 2 * 2**20
ANSWER_BYTES_PER_CALL: Final = 2 * 2**20

MAX_CLASSES: Final = 256
"""What a server allows a network."""

_SPLITS: Final[dict[Split, dataset_pb2.Split.ValueType]] = {
    "train": dataset_pb2.SPLIT_TRAIN,
    "test": dataset_pb2.SPLIT_TEST,
}

_STATES: Final[dict[State, job_pb2.JobState.ValueType]] = {
    "queued": job_pb2.JOB_STATE_QUEUED,
    "running": job_pb2.JOB_STATE_RUNNING,
    "succeeded": job_pb2.JOB_STATE_SUCCEEDED,
    "failed": job_pb2.JOB_STATE_FAILED,
    "cancelled": job_pb2.JOB_STATE_CANCELLED,
}

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True)
class Evaluation:
    """How well a model does.

    Attributes:
        version: The params that were evaluated.
        loss: Mean of the loss that was trained, without label smoothing.
        accuracy: Part of the images whose most probable class is their label, 0 to 1.
        images: How many there were.
        confusion: `[C, C]`: row r, column c counts the images of label r that were taken for c.
        loss_name: Which loss it is: "softmax_cross_entropy", in nats, or "squared_error".
        notes: What was assumed, a sentence each.
    """

    version: params_pb2.ParamsVersion
    loss: float
    accuracy: float
    images: int
    confusion: NDArray[np.int64]
    loss_name: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """What a model takes images for.

    Attributes:
        version: The params that were asked; its signature has the classes' names.
        labels: The class that each image is taken for, `[N]`.
        outputs: What the model says of each class, `[N, C]`, float32: probabilities or scores, as `kind` says.
        kind: "probabilities", or "scores" where the loss that was trained makes none.
        notes: What was assumed of the images, a sentence each.
    """

    version: params_pb2.ParamsVersion
    labels: NDArray[np.int64]
    outputs: NDArray[np.float32]
    kind: Kind
    notes: tuple[str, ...] = ()

    def class_name(self, label: int) -> str | None:
        """Returns the name of a class, where the model has names."""
        names = self.version.signature.outputs.class_names
        return names[label] if label < len(names) else None

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """The outputs, where they are probabilities.

        Raises:
            PreconditionError: They are scores.
        """
        if self.kind != "probabilities":
            loss = self.version.signature.outputs.loss
            raise errors.PreconditionError(
                f"a model trained with {loss} has no probabilities; `outputs` are its scores"
            )
        return self.outputs


def connect(
    address: str | None = None,
    *,
    token: str | None = None,
    ca: str | os.PathLike[str] | None = None,
    certificate: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
) -> "Client":
    """Connects to a server, or starts a private one.

    Args:
        address: "HOST:PORT" of a server that runs. None: a private server is started on a loopback port, and stopped
            when the client is closed; that needs `handgrad[server]`.
        token: The token that the server asks for; None for that in $HANDGRAD_TOKEN.
        ca: PEM file of the authority that signed the server's certificate: the connection uses TLS. None for that in
            $HANDGRAD_CA.
        certificate: PEM file of one's own certificate, where the server asks for one; None for that in
            $HANDGRAD_CERTIFICATE.
        key: PEM file of its key; None for that in $HANDGRAD_KEY.

    Raises:
        UnavailableError: No server answers there, or none could be started.
        InvalidArgumentError: The address is not HOST:PORT, a token would go to another machine without TLS, or a
            certificate comes without its key.
        OSError: A file cannot be read.
    """
    return Client(address, token=token, ca=ca, certificate=certificate, key=key)


@final
class Client:
    """A connection to a server: use it in a `with`, or close it. Any thread may call it.

    Every method raises an exception of `handgrad.client.errors`. Messages of the contract (`handgrad.v1`) are given as
    they come.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        token: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
    ) -> None:
        """Connects; see `connect`."""
        self._server = PrivateServer() if address is None else None
        # A private server that went away has taken its jobs with it.
        self.reconnect_seconds = 0.0 if self._server else RECONNECT_SECONDS
        self.address = self._server.address if self._server else str(address)
        try:
            self._channel, self._metadata = open_channel(self.address, Security(token, ca, certificate, key))
        except BaseException:
            if self._server is not None:
                self._server.close()
            raise
        self._stub = TrainingServiceStub(self._channel)
        self._health = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        try:
            self._check_health()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Gives the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the client."""
        self.close()

    def close(self) -> None:
        """Closes the connection. A private server stops; on any other, jobs go on."""
        self._channel.close()
        if self._server is not None:
            self._server.close()

    def train(
        self,
        preset: str = "",
        *,
        model: str = "",
        dataset: str = "",
        network: str | os.PathLike[str] | Sequence[LayerSpec] | None = None,
        hidden: Sequence[int] | None = None,
        transform: Transform | None = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
        seed: int | None = None,
        publish_every_iterations: int | None = None,
        optimizer: str | None = None,
        momentum: float | None = None,
        beta2: float | None = None,
        epsilon: float | None = None,
        weight_decay: float | None = None,
        clip_norm: float | None = None,
        schedule: str | None = None,
        schedule_factor: float | None = None,
        schedule_epochs: float | None = None,
        warmup_epochs: float | None = None,
        loss: str | None = None,
        label_smoothing: float | None = None,
        flip: bool | None = None,
        crop: int | None = None,
        shift: int | None = None,
        validation_images: int | None = None,
        patience: int | None = None,
        keep_best: bool | None = None,
        fresh_optimizer: bool = False,
        request_id: str | None = None,
        client: str = "",
        cancel_on_disconnect: bool = False,
    ) -> Job:
        """Starts a job. It goes on when this client closes, unless the server is its own.

        A server that does not answer is asked again for `reconnect_seconds`, with the same request id: the job starts
        once.

        Args:
            preset: Network and settings to start from; "report" if empty. The others replace the preset's.
            model: Model to train: continued if it exists, otherwise made. Empty: a new one, named by the server.
            dataset: Data set to train on; "mnist" if empty.
            network: A network's TOML file, or its layers, such as `[{"kind": "affine", "outputs": 50}, ...]`.
            hidden: Width of each hidden layer of sigmoids, `()` for none: a short way to say a network.
            transform: How numbers become inputs, for a model that is made: "identity" as they are, "unit" divides bytes
                by 255. None: the preset's for a data set of bytes, the identity for one of floats. A model that exists
                keeps its own.
            batch_size: Images in a mini-batch.
            epochs: Passes over the training images.
            learning_rate: Step size.
            seed: Of the initial params, the permutations, and what else is random.
            publish_every_iterations: Iterations from one publication to the next; 0 for epochs' ends only.
            optimizer: "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw" or "muon".
            momentum: Part of the step before that each step repeats, Adam's beta 1: 0 to less than 1.
            beta2: Part of the mean of squares that stays.
            epsilon: Added to what the optimizer divides by.
            weight_decay: Of the squares of all weights in the loss, or of the step itself for adamw and muon.
            clip_norm: Largest norm of all gradients together; 0 for any.
            schedule: "constant", "step", "exponential" or "cosine".
            schedule_factor: What the learning rate is multiplied by, or the part of it that a cosine ends at.
            schedule_epochs: Epochs from one multiplication to the next.
            warmup_epochs: Epochs in which the learning rate rises.
            loss: "softmax_cross_entropy" or "squared_error".
            label_smoothing: Part of a target that all classes share.
            flip: Whether half of the images are mirrored.
            crop: Pixels that images are moved at most; mirrored pixels come in.
            shift: Pixels that images are moved at most; zeros come in.
            validation_images: Images of the training split that are kept for validation.
            patience: Epochs without a smaller validation loss after which training stops; 0 for never.
            keep_best: Whether the params of the epoch with the smallest validation loss are published last.
            fresh_optimizer: Whether the optimizer begins anew where the model keeps its state.
            request_id: A text that no other request has: the same request with the same id starts no second job.
                None: a new one.
            client: Who asks: jobs of several clients take turns. Empty: this machine's address.
            cancel_on_disconnect: Whether the job is cancelled when the connection that started it ends. Such a job
                keeps a stream of the server's until it ends or its `Job` is dropped; any other needs none.

        Raises:
            InvalidArgumentError: A setting is out of its range, or nothing reads it beside the others: 0, and what else
                a setting is where nobody sets it, is taken. Or the network cannot learn with this loss or batch size.
            NotFoundError: There is no such data set.
            AlreadyExistsError: The request id was used for another request.
            PreconditionError: The model has another network.
            ExhaustedError: Too many jobs wait.
        """
        config = _config(
            {
                "network": network,
                "hidden": hidden,
                "batch_size": batch_size,
                "epochs": epochs,
                "learning_rate": learning_rate,
                "seed": seed,
                "publish_every_iterations": publish_every_iterations,
                "optimizer": optimizer,
                "momentum": momentum,
                "beta2": beta2,
                "epsilon": epsilon,
                "weight_decay": weight_decay,
                "clip_norm": clip_norm,
                "schedule": schedule,
                "schedule_factor": schedule_factor,
                "schedule_epochs": schedule_epochs,
                "warmup_epochs": warmup_epochs,
                "loss": loss,
                "label_smoothing": label_smoothing,
                "flip": flip,
                "crop": crop,
                "shift": shift,
                "validation_images": validation_images,
                "patience": patience,
                "keep_best": keep_best,
            }
        )
        request = _message(
            pb.TrainRequest,
            preset=preset,
            model=model,
            dataset=dataset,
            config=config,
            fresh_optimizer=fresh_optimizer,
            request_id=uuid.uuid4().hex if request_id is None else request_id,
            client=client,
            cancel_on_disconnect=cancel_on_disconnect,
            transform=_choice(TRANSFORMS, transform, "transform"),
        )

        def start() -> Generator[job_pb2.JobEvent, None, None]:
            return self._events(lambda: self._stub.Train(request, metadata=self._metadata))

        first, stream = self._started(start, again=bool(request.request_id))
        if cancel_on_disconnect:
            return Job(self, first.accepted, stream)
        stream.close()
        return Job(self, first.accepted)

    def train_sweep(
        self,
        members: Sequence[Mapping[str, Any]],
        preset: str = "",
        *,
        model: str = "",
        dataset: str = "",
        config: Mapping[str, Any] | None = None,
        transform: Transform | None = None,
        halving: Halving | None = None,
        measure: Measure | None = None,
        mean_of_seeds: bool = False,
        request_id: str | None = None,
        client: str = "",
    ) -> Sweep:
        """Starts a sweep: many networks in one call. It goes on when this client closes, unless the server is its own.

        A server that does not answer is asked again, as for `train`.

        Args:
            members: The settings that each member has of its own, by the names of `train`'s arguments, such as
                `{"learning_rate": 0.01, "hidden": (50,)}`; `handgrad.grid` makes them of lists of values.
            preset: Network and settings to start from; "report" if empty.
            model: Model that the best member becomes the next version of; empty for one named as the sweep.
            dataset: Data set to train on; "mnist" if empty.
            config: The settings that all members have. Some of the members at least must read each of them.
            transform: As for `train`, for all members.
            halving: When hopeless members are stopped; None for never.
            measure: What members are ranked by: "mean_loss" of the newest epoch's mini-batches, or "validation_loss" or
                "validation_accuracy" of the validation images; with keep_best, those of the best epoch. None: the
                validation loss, or the accuracy where the members have different losses; without validation images the
                mean loss. One that would compare unlike things is refused.
            mean_of_seeds: Whether members that differ in their seed alone are ranked together, by the mean of their
                measure; where one of them failed, behind those of which none did. The best of the best ones becomes the
                model.
            request_id: As for `train`.
            client: As for `train`.

        Raises:
            InvalidArgumentError: A setting is none, out of its range, or read by nothing; or the measure does not
                compare the members.
            NotFoundError: There is no such data set.
            AlreadyExistsError: The request id was used for another request.
            PreconditionError: The model has another network.
            ExhaustedError: Too many jobs wait.
        """
        request = _message(
            pb.TrainSweepRequest,
            preset=preset,
            model=model,
            dataset=dataset,
            config=_config(config or {}),
            members=[_config(member) for member in members],
            halving=halving and sweep_pb2.Halving(first_epochs=halving.first_epochs, factor=halving.factor),
            transform=_choice(TRANSFORMS, transform, "transform"),
            measure=_choice(MEASURES, measure, "measure"),
            mean_of_seeds=mean_of_seeds,
            request_id=uuid.uuid4().hex if request_id is None else request_id,
            client=client,
        )

        def start() -> Generator[sweep_pb2.Sweep, None, None]:
            return self._standings(lambda: self._stub.TrainSweep(request, metadata=self._metadata))

        first, stream = self._started(start, again=bool(request.request_id))
        stream.close()
        return Sweep(self, first)

    def sweep(self, name: str) -> Sweep:
        """Gives a sweep that was started before, by anybody."""
        return Sweep(self, self.get_sweep(name))

    def get_sweep(self, sweep: str) -> sweep_pb2.Sweep:
        """Gives a sweep as it stands."""
        return self._call(self._stub.GetSweep, _message(pb.GetSweepRequest, sweep=sweep)).sweep

    def list_sweeps(self) -> Iterator[sweep_pb2.Sweep]:
        """Gives sweeps without their members, the newest first."""

        def page(token: str) -> tuple[Sequence[sweep_pb2.Sweep], str]:
            response = self._call(self._stub.ListSweeps, _message(pb.ListSweepsRequest, page_token=token))
            return response.sweeps, response.next_page_token

        return _pages(page)

    def watch_sweep(self, sweep: str) -> Iterator[sweep_pb2.Sweep]:
        """Gives how a sweep stands, now and whenever that changed, until it or the connection ends.

        `Sweep.standings` does the same, and survives a lost connection.

        Raises:
            NotFoundError: There is no such sweep.
            UnavailableError: The server went away.
        """
        request = _message(pb.WatchSweepRequest, sweep=sweep)
        return self._standings(lambda: self._stub.WatchSweep(request, metadata=self._metadata))

    def cancel_sweep(self, sweep: str) -> sweep_pb2.Sweep:
        """Asks all members of a sweep to stop."""
        return self._call(self._stub.CancelSweep, _message(pb.CancelSweepRequest, sweep=sweep)).sweep

    def job(self, name: str) -> Job:
        """Gives a job that was started before, by anybody; its events begin with the first."""
        return Job(self, self.get_job(name))

    def get_job(self, job: str) -> job_pb2.Job:
        """Gives a job as it stands."""
        return self._call(self._stub.GetJob, _message(pb.GetJobRequest, job=job)).job

    def list_jobs(self, *, states: Sequence[State] = (), model: str = "", client: str = "") -> Iterator[job_pb2.Job]:
        """Gives jobs, the newest first: those in one of the states, on the model, of the client, if given.

        Raises:
            InvalidArgumentError: A filter is none.
        """
        wanted = [_choice(_STATES, state, "states") for state in states]

        def page(token: str) -> tuple[Sequence[job_pb2.Job], str]:
            request = _message(pb.ListJobsRequest, states=wanted, model=model, client=client, page_token=token)
            response = self._call(self._stub.ListJobs, request)
            return response.jobs, response.next_page_token

        return _pages(page)

    def watch_job(self, job: str, after_sequence: int = 0) -> Iterator[job_pb2.JobEvent]:
        """Gives a job's history after an event's number, then what happens, until the job ends or the connection does.

        `Job.events` does the same, and survives a lost connection.

        Raises:
            NotFoundError: There is no such job.
            InvalidArgumentError: The history is not that long yet.
            UnavailableError: The server went away.
        """
        request = _message(pb.WatchJobRequest, job=job, after_sequence=after_sequence)
        return self._events(lambda: self._stub.WatchJob(request, metadata=self._metadata))

    def cancel_job(self, job: str) -> job_pb2.Job:
        """Asks a job to stop at its next pause."""
        return self._call(self._stub.CancelJob, _message(pb.CancelJobRequest, job=job)).job

    def get_loss(self, job: str, *, skip: int = 0, limit: int = 0) -> pb.GetLossResponse:
        """Gives a job's losses after the first `skip`, at most `limit` or as many as a reply holds, and its epochs."""
        return self._call(self._stub.GetLoss, _message(pb.GetLossRequest, job=job, skip=skip, limit=limit))

    def get_losses(self, job: str, *, skip: int = 0, limit: int | None = None) -> NDArray[np.float32]:
        """Gives the losses of a job's iterations after the first `skip`, at most `limit`, in as many calls as it takes.

        Returns:
            `[iterations]`, float32.

        Raises:
            NotFoundError: There is no such job.
            InvalidArgumentError: `skip` or `limit` is negative.
        """
        if limit is not None and limit < 0:
            raise errors.InvalidArgumentError(f"limit: 0 or more; got {limit}", "limit")
        pages: list[NDArray[np.float32]] = []
        found = 0
        while limit is None or found < limit:
            reply = self.get_loss(job, skip=skip + found, limit=0 if limit is None else limit - found)
            pages.append(np.array(reply.losses, np.float32))
            found += len(reply.losses)
            if not reply.losses or skip + found >= reply.job.iteration:
                break
        return np.concatenate(pages) if pages else np.empty(0, np.float32)

    def get_params(self, model: str, version: int = 0) -> Params:
        """Gives a version of a model's params, the newest for 0, whatever its size; its SHA-256 is verified.

        Raises:
            NotFoundError: There is no such model or version, or it is no longer kept.
            DamagedError: What arrived is not what was published.
        """
        request = _message(pb.GetParamsRequest, model=model, version=version)
        return self._params(self._call(self._stub.GetParams, request))

    def get_version(self, model: str, version: int = 0) -> params_pb2.ParamsVersion:
        """Returns what is known of a version, the newest for 0, without its arrays: its network, its signature.

        Raises:
            NotFoundError: There is no such model or version, or it is no longer kept.
        """
        request = _message(pb.GetParamsRequest, model=model, version=version, metadata_only=True)
        return self._call(self._stub.GetParams, request).params_version

    def get_newer_params(self, model: str, if_newer_than: int) -> Params | None:
        """Gives the newest version of a model's params, or None where it is no newer than one that is known.

        Raises:
            NotFoundError: There is no such model.
            DamagedError: What arrived is not what was published.
        """
        request = _message(pb.GetParamsRequest, model=model, if_newer_than=if_newer_than)
        response = self._call(self._stub.GetParams, request)
        return None if response.unchanged else self._params(response)

    def watch_params(self, model: str, after_version: int = 0) -> Generator[Params, None, None]:
        """Gives the versions of a model as they are published, beginning with the newest, for as long as it is asked.

        Whoever takes its time gets the newest version there is, and not those in between.

        Raises:
            NotFoundError: There is no such model, or it was deleted.
            UnavailableError: The server went away.
        """
        request = _message(pb.WatchParamsRequest, model=model, after_version=after_version)
        with self._errors():
            responses = self._stub.WatchParams(request, metadata=self._metadata)
        try:
            while True:
                with self._errors():
                    response = next(responses, None)
                if response is None:
                    return
                try:
                    params = self._params(response)
                except errors.NotFoundError:
                    # It was so slow to fetch that it is no longer kept; a newer one comes.
                    continue
                yield params
        finally:
            responses.cancel()

    def save_params(self, model: str, checkpoint: str, version: int = 0) -> params_pb2.Checkpoint:
        """Saves a version, the newest for 0, as a checkpoint on the server's disk, with a certificate of its gradients.

        Raises:
            AlreadyExistsError: The name holds other params.
            NotFoundError: There is no such model or version.
        """
        request = _message(pb.SaveParamsRequest, model=model, checkpoint=checkpoint, version=version)
        return self._call(self._stub.SaveParams, request).checkpoint

    def load_params(
        self, checkpoint: str, model: str = "", *, with_optimizer_state: bool = False
    ) -> pb.LoadParamsResponse:
        """Publishes a checkpoint as the next version of a model; empty for a new one. Gives that and its certificate.

        With the optimizer's state, a job on the model goes on as if it had never stopped; without, its optimizer begins
        anew.

        Raises:
            NotFoundError: There is no such checkpoint.
            PreconditionError: The model has another network, or a job is training it, or the checkpoint has no
                optimizer state.
            DamagedError: The checkpoint's file is damaged.
        """
        request = _message(
            pb.LoadParamsRequest, checkpoint=checkpoint, model=model, with_optimizer_state=with_optimizer_state
        )
        return self._call(self._stub.LoadParams, request)

    def upload_params(
        self,
        source: str | os.PathLike[str] | Mapping[str, NDArray[Any]],
        model: str = "",
        *,
        network: str | os.PathLike[str] | Sequence[LayerSpec] | None = None,
        input_shape: Sequence[int] = (),
        transform: Transform | None = None,
    ) -> pb.UploadParamsResponse:
        """Publishes params of one's own as the next version of a model; empty for a new one.

        Args:
            source: A .npz or .safetensors file, or arrays: `W_1`, `b_1`, `W_2`, ... as in `Params`, float32 or float64.
            model: The model's name.
            network: The network that they are of, as for `train`; None for the one that the file names, otherwise the
                model's, otherwise the one of affine layers and sigmoids that fits.
            input_shape: Shape of an example of that network, where its file does not say it.
            transform: As for `train`, where the file does not say it.

        Returns:
            The version, and in its notes what was assumed where the file does not say it.

        Raises:
            InvalidArgumentError: An array is missing, unknown, of a wrong shape or type, or not finite.
            PreconditionError: The model has another network or another signature, or a job is training it.
            OSError: The file cannot be read.
        """
        if isinstance(source, Mapping):
            content = io.BytesIO()
            write_npz(content, source)
            chunks, file = _chunks(content.getvalue()), "arrays"
        else:
            chunks, file = _chunks(Path(source).read_bytes()), printable(Path(source).name)
        spec = _network(network, None)
        if spec and not spec.input_shape:
            spec.input_shape.extend(input_shape)
        scale = _choice(TRANSFORMS, transform, "transform")
        first = _message(pb.UploadParamsRequest, model=model, file=file, network=spec, transform=scale)

        def requests() -> Iterator[pb.UploadParamsRequest]:
            yield first
            yield from (pb.UploadParamsRequest(chunk=chunk) for chunk in chunks)

        return self._call(self._stub.UploadParams, requests())

    def list_models(self) -> Iterator[params_pb2.Model]:
        """Gives the models, by name."""

        def page(token: str) -> tuple[Sequence[params_pb2.Model], str]:
            response = self._call(self._stub.ListModels, pb.ListModelsRequest(page_token=token))
            return response.models, response.next_page_token

        return _pages(page)

    def delete_model(self, model: str) -> None:
        """Deletes a model with all its versions; checkpoints stay.

        Raises:
            NotFoundError: There is no such model.
            PreconditionError: A job is training it.
        """
        self._call(self._stub.DeleteModel, _message(pb.DeleteModelRequest, model=model))

    def list_checkpoints(self) -> Iterator[params_pb2.Checkpoint]:
        """Gives the checkpoints, by name."""

        def page(token: str) -> tuple[Sequence[params_pb2.Checkpoint], str]:
            response = self._call(self._stub.ListCheckpoints, pb.ListCheckpointsRequest(page_token=token))
            return response.checkpoints, response.next_page_token

        return _pages(page)

    def delete_checkpoint(self, checkpoint: str) -> None:
        """Deletes a checkpoint, or raises NotFoundError."""
        self._call(self._stub.DeleteCheckpoint, _message(pb.DeleteCheckpointRequest, checkpoint=checkpoint))

    def upload_dataset(
        self,
        source: str | os.PathLike[str],
        name: str = "",
        *,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> dataset_pb2.Dataset:
        """Gives the server a data set, which it keeps until it is deleted.

        An upload that broke off goes on where it stopped when it is called again. What the server has is not sent.

        Args:
            source: An .npz file with x_train, y_train, x_test, y_test, and class_names if you like; or a folder with
                the four IDX files of MNIST's names or CIFAR-10's six binary files, gzipped (.gz) or not, and a text of
                class names (class_names.txt, classes.txt, labels.txt or batches.meta.txt) if you like.
            name: Its name; empty for one that is made from its SHA-256.
            progress: Called with the bytes that are there and the bytes of all files, after each chunk.

        Raises:
            InvalidArgumentError: A file is missing or malformed.
            AlreadyExistsError: The name holds another data set.
            OSError: A file cannot be read.
        """
        files = dataset_files(Path(source))
        request = _message(pb.StartDatasetUploadRequest, dataset=name, files=[describe(path) for path in files])
        started = self._call(self._stub.StartDatasetUpload, request)
        if started.HasField("dataset"):
            return started.dataset
        total, sent = sum(file.size_bytes for file in request.files), sum(started.received_bytes)
        for index, (path, received) in enumerate(zip(files, started.received_bytes, strict=True)):
            for offset, chunk in chunks_of(path, received):
                message = pb.UploadDatasetChunkRequest(
                    upload=started.upload,
                    file_index=index,
                    offset_bytes=offset,
                    chunk=chunk,
                    sha256=hashlib.sha256(chunk).hexdigest(),
                )
                self._call(self._stub.UploadDatasetChunk, message)
                sent += len(chunk)
                progress(sent, total)
        return self._call(self._stub.FinishDatasetUpload, pb.FinishDatasetUploadRequest(upload=started.upload)).dataset

    def list_datasets(self) -> Iterator[dataset_pb2.Dataset]:
        """Gives the data sets, by name."""

        def page(token: str) -> tuple[Sequence[dataset_pb2.Dataset], str]:
            response = self._call(self._stub.ListDatasets, pb.ListDatasetsRequest(page_token=token))
            return response.datasets, response.next_page_token

        return _pages(page)

    def get_dataset(self, dataset: str) -> dataset_pb2.Dataset:
        """Describes a data set, or raises NotFoundError."""
        return self._call(self._stub.GetDataset, _message(pb.GetDatasetRequest, dataset=dataset)).dataset

    def delete_dataset(self, dataset: str) -> None:
        """Deletes a data set.

        Raises:
            NotFoundError: There is none of that name.
            PreconditionError: A job that has not ended needs it, or it ships with the server.
        """
        self._call(self._stub.DeleteDataset, _message(pb.DeleteDatasetRequest, dataset=dataset))

    def get_examples(
        self, dataset: str, indices: Sequence[int], *, split: Split = "test"
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Fetches examples of a data set: `[n, ...]`, uint8 or float32, and their labels `[n]`, in the indices' order.

        Raises:
            NotFoundError: There is no such data set.
            InvalidArgumentError: An index is past the split's end, or there are too many for an answer.
        """
        request = _message(
            pb.GetExamplesRequest, dataset=dataset, split=_choice(_SPLITS, split, "split"), indices=indices
        )
        response = self._call(self._stub.GetExamples, request)
        return array_of(response.examples), np.array(response.labels, np.int64)

    def predict(self, model: str, images: NDArray[Any], version: int = 0) -> Prediction:
        """Tells the classes of images, all by the same version: the newest for 0.

        Args:
            model: The model's name.
            images: `[N, ...]`, uint8 or float32, of the shape and with the kind of numbers that the version's signature
                says.
            version: The version's number.

        Raises:
            NotFoundError: There is no such model or version.
            InvalidArgumentError: The images are not what the model takes; it names both sides.
        """
        images = np.asarray(images)
        pieces: list[pb.PredictResponse] = []

        def answered() -> int:
            # A label and a probability for each class, of which the first answer tells how many there are.
            return ANSWER_BYTES_PER_CALL // (8 + 4 * (pieces[0].classes if pieces else MAX_CLASSES))

        for tensor in image_tensors(images, IMAGE_BYTES_PER_CALL, answered):
            request = _message(pb.PredictRequest, model=model, version=version, images=tensor)
            pieces.append(self._call(self._stub.Predict, request))
            version = pieces[0].params_version.version
        found, kind = pieces[0].params_version, _kind(pieces[0].params_version)
        outputs = [np.array(getattr(piece, kind), np.float32).reshape(-1, piece.classes) for piece in pieces]
        labels = [np.array(piece.labels, np.int64) for piece in pieces]
        notes = tuple(dict.fromkeys(note for piece in pieces for note in piece.notes))
        return Prediction(found, np.concatenate(labels), np.concatenate(outputs), kind, notes)

    def evaluate(self, model: str, version: int = 0, *, dataset: str = "", split: Split = "test") -> Evaluation:
        """Evaluates a version of a model, the newest for 0, by the loss that was trained.

        Args:
            model: The model's name.
            version: The version's number.
            dataset: Data set; "mnist" if empty.
            split: Which part of it.

        Raises:
            NotFoundError: There is no such model, version or data set.
            InvalidArgumentError: The data set is not what the model takes; it names both sides.
        """
        request = _message(
            pb.EvaluateRequest, model=model, version=version, dataset=dataset, split=_choice(_SPLITS, split, "split")
        )
        response = self._call(self._stub.Evaluate, request)
        confusion = np.array(response.confusion, np.int64).reshape(response.classes, response.classes)
        return Evaluation(
            *(response.params_version, response.loss, response.accuracy, response.images, confusion),
            *(response.loss_name, tuple(response.notes)),
        )

    def describe_network(
        self,
        network: str | os.PathLike[str] | Sequence[LayerSpec] | None = None,
        *,
        preset: str = "",
        model: str = "",
        dataset: str = "",
    ) -> pb.DescribeNetworkResponse:
        """Describes a network layer by layer: that of a TOML file, of layers, of a preset, or of a model.

        Args:
            network: A network's TOML file, or its layers.
            preset: A preset's name.
            model: A model's name.
            dataset: Data set whose images and classes fill in what the network leaves open; "mnist" if empty.

        Raises:
            InvalidArgumentError: It is no network; the error names the layer.
            NotFoundError: There is no such model or data set.
        """
        choice = _network_choice(network, preset, model, 0, dataset)
        return self._call(self._stub.DescribeNetwork, pb.DescribeNetworkRequest(choice=choice))

    def check_gradients(
        self,
        network: str | os.PathLike[str] | Sequence[LayerSpec] | None = None,
        *,
        preset: str = "",
        model: str = "",
        version: int = 0,
        dataset: str = "",
        images: bool = False,
        seed: int = 0,
    ) -> certificate_pb2.Certificate:
        """Holds gradients against autodiff and differences: those of a network, or without any, of all operations.

        Args:
            network: A network's TOML file, or its layers.
            preset: A preset's name.
            model: A model's name; its own params are taken.
            version: The model's version.
            dataset: As for `describe_network`.
            images: Whether the inputs are images of the data set, not random.
            seed: Of what is random.

        Raises:
            InvalidArgumentError: It is no network, or too large a one.
            NotFoundError: There is no such model or data set.
        """
        request = _message(pb.CheckGradientsRequest, images=images, seed=seed)
        if network is not None or preset or model:
            request.choice.CopyFrom(_network_choice(network, preset, model, version, dataset))
        return self._call(self._stub.CheckGradients, request).certificate

    def _params(self, response: pb.GetParamsResponse | pb.WatchParamsResponse) -> Params:
        """Fetches what a response leaves out, and verifies the whole."""
        found = response.params_version
        if response.inlined:
            data = b"".join(tensor.data for tensor in response.tensors)
        else:
            with self._errors():
                request = pb.StreamParamsRequest(model=found.model, version=found.version)
                data = b"".join(piece.chunk for piece in self._stub.StreamParams(request, metadata=self._metadata))
        verify(found, data)
        return Params(found, arrays_from_proto(response.tensors, data))

    def _events(
        self, start: Callable[[], Iterator[pb.TrainResponse | pb.WatchJobResponse]]
    ) -> Generator[job_pb2.JobEvent, None, None]:
        for response in self._responses(start):
            yield response.event

    def _standings(
        self, start: Callable[[], Iterator[pb.TrainSweepResponse | pb.WatchSweepResponse]]
    ) -> Generator[sweep_pb2.Sweep, None, None]:
        for response in self._responses(start):
            yield response.sweep

    def _responses(self, start: Callable[[], Iterator[T]]) -> Iterator[T]:
        """Yields what a stream brings. Whoever closes or drops it ends the call, and frees its place on the server."""
        with self._errors():
            responses = start()
            try:
                yield from responses
            finally:
                # What a stub returns is the call itself.
                assert isinstance(responses, grpc.RpcContext)
                responses.cancel()

    def _started(
        self, start: Callable[[], Generator[T, None, None]], *, again: bool
    ) -> tuple[T, Generator[T, None, None]]:
        """Gives the first message of a stream, and the stream; asks for it again where that may be, for a while."""
        deadline = time.monotonic() + self.reconnect_seconds
        while True:
            stream = start()
            try:
                return next(stream), stream
            except errors.UnavailableError:
                # Without an id a repeated request could start a second job.
                if not again or time.monotonic() > deadline:
                    raise
                time.sleep(SECONDS_BETWEEN_TRIES)

    def _call(self, method: Callable[..., T], request: Message | Iterator[Message]) -> T:
        with self._errors():
            return method(request, timeout=CALL_SECONDS, metadata=self._metadata)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns gRPC's errors into handgrad's."""
        try:
            yield
        except grpc.RpcError as rpc_error:
            error = errors.from_rpc_error(rpc_error)
            if isinstance(error, errors.UnavailableError):
                fault = self._server.fault() if self._server else ""
                told = f"the server at {self.address} does not answer{self._by_proxy()}: {error}"
                error = errors.UnavailableError(fault or told)
            elif isinstance(error, errors.DeadlineError):
                error = errors.DeadlineError(f"the server at {self.address} did not answer in time{self._by_proxy()}")
            raise error from rpc_error

    def _by_proxy(self) -> str:
        host, _ = split_address(self.address)
        variable = proxy_variable(host)
        return variable and f" by the proxy of ${variable} (no_proxy={host} goes past it)"

    def _check_health(self) -> None:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        with self._errors():
            try:
                response = self._health(request, timeout=CONNECT_SECONDS)
            except grpc.RpcError as error:
                if errors.code(error) in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND):
                    raise errors.ServerError(f"the server at {self.address} is not one of handgrad's") from error
                raise
        if response.status != health_pb2.HealthCheckResponse.SERVING:
            raise errors.UnavailableError(f"the server at {self.address} is stopping")


def _pages(page: Callable[[str], tuple[Sequence[T], str]]) -> Iterator[T]:
    """Gives the elements of all pages; `page` gives one and the token of the next."""
    token = ""
    while True:
        found, token = page(token)
        yield from found
        if not token:
            return


def _config(settings: Mapping[str, Any]) -> job_pb2.TrainConfig:
    """Gives settings, by the names of `Client.train`'s arguments, as the contract's; None where nothing is said."""
    known = {field.name for field in job_pb2.TrainConfig.DESCRIPTOR.fields} | {"hidden"}
    for name in settings:
        if name not in known:
            raise errors.InvalidArgumentError(
                f"{name}: unknown setting; expected one of {', '.join(sorted(known))}", name
            )
    given = {name: value for name, value in settings.items() if name not in ("network", "hidden")}
    return _message(
        job_pb2.TrainConfig,
        network=_network(settings.get("network"), settings.get("hidden")),
        **given,
    )


def _network(
    network: str | os.PathLike[str] | Sequence[LayerSpec] | None, hidden: Sequence[int] | None
) -> network_pb2.NetworkSpec | None:
    if network is not None and hidden is not None:
        raise errors.InvalidArgumentError("hidden: a network or its hidden widths, not both", "hidden")
    if network is None:
        return None if hidden is None else network_to_proto(fully_connected(hidden))
    return read_network(network) if isinstance(network, str | os.PathLike) else network_to_proto(network)


def _kind(version: params_pb2.ParamsVersion) -> Kind:
    is_scores = version.signature.outputs.kind == signature_pb2.OUTPUT_KIND_SCORES
    return "scores" if is_scores else "probabilities"


def _network_choice(
    network: str | os.PathLike[str] | Sequence[LayerSpec] | None, preset: str, model: str, version: int, dataset: str
) -> pb.NetworkChoice:
    spec = _network(network, None)
    return _message(pb.NetworkChoice, network=spec, preset=preset, model=model, version=version, dataset=dataset)


def _message(kind: type[M], **fields: object) -> M:
    """Makes a message; a value that its field cannot hold is an InvalidArgumentError that names the field."""
    for name, value in fields.items():
        try:
            kind(**{name: value})
        except UnicodeEncodeError as error:
            # Bytes of a terminal or of a file's name that are no text.
            raise errors.InvalidArgumentError(f"{name}: Unicode text; got {value!r:.100}", name) from error
        except (TypeError, ValueError, OverflowError) as error:
            raise errors.InvalidArgumentError(f"{name}: {error}; got {value!r:.100}", name) from error
    return kind(**fields)


def _choice(choices: Mapping[Any, T], value: object, field: str) -> T:
    if value not in choices:
        allowed = ", ".join(repr(choice) for choice in choices if choice is not None)
        raise errors.InvalidArgumentError(f"{field}: one of {allowed}; got {value!r:.100}", field)
    return choices[value]


def _chunks(content: bytes) -> Iterator[bytes]:
    return (content[start : start + CHUNK_BYTES] for start in range(0, len(content), CHUNK_BYTES))
