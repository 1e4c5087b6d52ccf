"""The client: one method for each call of the service."""

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from handgrad.client.job import Job
from handgrad.client.params import Params, arrays_from_proto, verify, write_npz
from handgrad.client.private_server import PrivateServer
from handgrad.v1 import dataset_pb2, job_pb2, network_pb2, params_pb2
from handgrad.v1 import training_service_pb2 as pb
from handgrad.v1.training_service_pb2_grpc import TrainingServiceStub

Pixels = Literal["raw", "unit"]
Split = Literal["train", "test"]

SERVICE: Final = pb.DESCRIPTOR.services_by_name["TrainingService"].full_name
CHUNK_BYTES: Final = 2**20
CONNECT_SECONDS: Final = 10.0
CALL_SECONDS: Final = 120.0
IDX_FILES: Final = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

_PIXELS: Final[dict[Pixels | None, network_pb2.PixelScale.ValueType]] = {
    None: network_pb2.PIXEL_SCALE_UNSPECIFIED,
    "raw": network_pb2.PIXEL_SCALE_RAW,
    "unit": network_pb2.PIXEL_SCALE_UNIT,
}
_SPLITS: Final[dict[Split, dataset_pb2.Split.ValueType]] = {
    "train": dataset_pb2.SPLIT_TRAIN,
    "test": dataset_pb2.SPLIT_TEST,
}

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True)
class Evaluation:
    """How well a model does.

    Attributes:
        version: The params that were evaluated.
        loss: Mean cross-entropy, in nats.
        accuracy: Part of the images whose most probable class is their label, 0 to 1.
        images: How many there were.
        confusion: `[C, C]`: row r, column c counts the images of label r that were taken for c.
    """

    version: params_pb2.ParamsVersion
    loss: float
    accuracy: float
    images: int
    confusion: NDArray[np.int64]


def connect(address: str | None = None) -> "Client":
    """Connects to a server, or starts a private one.

    Args:
        address: "HOST:PORT" of a server that runs. None: a private server is started on a loopback port, and stopped
            when the client is closed; that needs `handgrad[server]`.

    Raises:
        UnavailableError: No server answers there, or none could be started.
    """
    return Client(address)


@final
class Client:
    """A connection to a server: use it in a `with`, or close it. Any thread may call it.

    Every method raises an exception of `handgrad.client.errors`. Messages of the contract (`handgrad.v1`) are given as
    they come.
    """

    def __init__(self, address: str | None = None) -> None:
        """Connects; see `connect`."""
        self._server = PrivateServer() if address is None else None
        self.address = self._server.address if self._server else str(address)
        # No proxy of the environment's leads to this machine itself.
        local = self.address.rpartition(":")[0].strip("[]") in ("localhost", "::1") or self.address.startswith("127.")
        options = [("grpc.enable_http_proxy", 0)] if local else []
        self._channel = grpc.insecure_channel(self.address, options)
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
        hidden: Sequence[int] | None = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
        pixels: Pixels | None = None,
        seed: int | None = None,
        publish_every_iterations: int | None = None,
    ) -> Job:
        """Starts a job. It goes on when this client closes, unless the server is its own.

        Args:
            preset: Settings to start from; "report" if empty. The others replace the preset's.
            model: Model to train: continued if it exists, otherwise made. Empty: a new one, named by the server.
            dataset: Data set to train on; "mnist" if empty.
            hidden: Width of each hidden layer, `()` for none.
            batch_size: Images in a mini-batch.
            epochs: Passes over the training split.
            learning_rate: Step size of SGD.
            pixels: "raw" for 0 to 255, "unit" for 0 to 1.
            seed: Of the initial params and of the permutations.
            publish_every_iterations: Iterations from one publication to the next; 0 for epochs' ends only.

        Raises:
            InvalidArgumentError: A setting is out of its range.
            NotFoundError: There is no such data set.
            PreconditionError: The model has another network.
            ExhaustedError: Too many jobs wait.
        """
        request = _message(
            pb.TrainRequest,
            preset=preset,
            model=model,
            dataset=dataset,
            network=None if hidden is None else _message(network_pb2.Network, hidden=hidden),
            batch_size=batch_size,
            epochs=epochs,
            learning_rate=learning_rate,
            pixels=_choice(_PIXELS, pixels, "pixels"),
            seed=seed,
            publish_every_iterations=publish_every_iterations,
        )
        with self._errors():
            responses = self._stub.Train(request)
            accepted = next(responses).accepted
        return Job(self, accepted, responses, self._errors)

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
        response = self._call(self._stub.GetParams, _message(pb.GetParamsRequest, model=model, version=version))
        found = response.params_version
        if response.inlined:
            data = b"".join(tensor.data for tensor in response.tensors)
        else:
            with self._errors():
                request = pb.StreamParamsRequest(model=found.model, version=found.version)
                data = b"".join(piece.chunk for piece in self._stub.StreamParams(request))
        verify(found, data)
        return Params(found, arrays_from_proto(response.tensors, data))

    def save_params(self, model: str, checkpoint: str, version: int = 0) -> params_pb2.Checkpoint:
        """Saves a version, the newest for 0, as a checkpoint on the server's disk.

        Raises:
            AlreadyExistsError: The name holds other params.
            NotFoundError: There is no such model or version.
        """
        request = _message(pb.SaveParamsRequest, model=model, checkpoint=checkpoint, version=version)
        return self._call(self._stub.SaveParams, request).checkpoint

    def load_params(self, checkpoint: str, model: str = "") -> params_pb2.ParamsVersion:
        """Publishes a checkpoint as the next version of a model; empty for a new one.

        Raises:
            NotFoundError: There is no such checkpoint.
            PreconditionError: The model has another network, or a job is training it.
            DamagedError: The checkpoint's file is damaged.
        """
        request = _message(pb.LoadParamsRequest, checkpoint=checkpoint, model=model)
        return self._call(self._stub.LoadParams, request).params_version

    def upload_params(
        self, source: str | os.PathLike[str] | Mapping[str, NDArray[Any]], model: str = ""
    ) -> params_pb2.ParamsVersion:
        """Publishes params of one's own as the next version of a model; empty for a new one.

        Args:
            source: A .npz or .safetensors file, or arrays: `W_1`, `b_1`, `W_2`, ... as in `Params`, float32 or float64.
            model: The model's name.

        Raises:
            InvalidArgumentError: An array is missing, unknown, of a wrong shape or type, or not finite.
            PreconditionError: The model has another network, or a job is training it.
            OSError: The file cannot be read.
        """
        if isinstance(source, Mapping):
            content = io.BytesIO()
            write_npz(content, source)
            chunks, file = _chunks(content.getvalue()), "arrays"
        else:
            chunks, file = _chunks(Path(source).read_bytes()), Path(source).name
        first = _message(pb.UploadParamsRequest, model=model, file=file)

        def requests() -> Iterator[pb.UploadParamsRequest]:
            yield first
            yield from (pb.UploadParamsRequest(chunk=chunk) for chunk in chunks)

        return self._call(self._stub.UploadParams, requests()).params_version

    def upload_dataset(self, folder: str | os.PathLike[str], name: str = "") -> dataset_pb2.Dataset:
        """Gives the server a data set, which it keeps until it stops.

        Args:
            folder: Where the four IDX files of MNIST's names are, gzipped (.gz) or not.
            name: Its name; empty for one that is made from the files.

        Raises:
            InvalidArgumentError: A file is missing or malformed.
            AlreadyExistsError: The name holds another data set.
            OSError: The folder or a file cannot be read.
        """
        there = {path.name: path for path in Path(folder).iterdir()}
        found = [there.get(file) or there.get(f"{file}.gz") for file in IDX_FILES]
        paths = [path for path in found if path]
        first = _message(pb.UploadDatasetRequest, dataset=name)
        for path in paths:
            # Here, for an error in gRPC's thread, which reads them below, would not reach the caller.
            path.open("rb").close()

        def requests() -> Iterator[pb.UploadDatasetRequest]:
            for path in paths:
                # One without bytes, so that the server hears of an empty file too.
                yield pb.UploadDatasetRequest(dataset=first.dataset, file=path.name)
                with path.open("rb") as file:
                    while chunk := file.read(CHUNK_BYTES):
                        yield pb.UploadDatasetRequest(file=path.name, chunk=chunk)

        return self._call(self._stub.UploadDataset, requests()).dataset

    def evaluate(
        self, model: str, version: int = 0, *, dataset: str = "", split: Split = "test", pixels: Pixels | None = None
    ) -> Evaluation:
        """Evaluates a version of a model, the newest for 0.

        Args:
            model: The model's name.
            version: The version's number.
            dataset: Data set; "mnist" if empty.
            split: Which part of it.
            pixels: How pixels become inputs; None for the way the params were trained.

        Raises:
            NotFoundError: There is no such model, version or data set.
            InvalidArgumentError: The network does not fit the data set.
        """
        request = _message(
            pb.EvaluateRequest,
            model=model,
            version=version,
            dataset=dataset,
            split=_choice(_SPLITS, split, "split"),
            pixels=_choice(_PIXELS, pixels, "pixels"),
        )
        response = self._call(self._stub.Evaluate, request)
        confusion = np.array(response.confusion, np.int64).reshape(response.classes, response.classes)
        return Evaluation(response.params_version, response.loss, response.accuracy, response.images, confusion)

    def _call(self, method: Callable[..., T], request: Message | Iterator[Message]) -> T:
        with self._errors():
            return method(request, timeout=CALL_SECONDS)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns gRPC's errors into handgrad's."""
        try:
            yield
        except grpc.RpcError as rpc_error:
            error = errors.from_rpc_error(rpc_error)
            if isinstance(error, errors.UnavailableError):
                fault = self._server.fault() if self._server else ""
                error = errors.UnavailableError(fault or f"the server at {self.address} does not answer: {error}")
            elif isinstance(error, errors.DeadlineError):
                error = errors.DeadlineError(f"the server at {self.address} did not answer in time")
            raise error from rpc_error

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


def _message(kind: type[M], **fields: object) -> M:
    """Makes a message; a value that its field cannot hold is an InvalidArgumentError that names the field."""
    for name, value in fields.items():
        try:
            kind(**{name: value})
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
