"""The client: connecting, and what each method does with what it is given and with what arrives."""

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NoReturn

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

import handgrad
from handgrad.client import client as client_module
from handgrad.client import upload as upload_module
from handgrad.client.upload import FORMATS
from handgrad.v1 import tensor_pb2
from handgrad.v1 import training_service_pb2 as pb

ARRAYS: dict[str, Any] = {"W_1": np.arange(36.0).reshape(3, 12) / 36, "b_1": np.ones((3, 1))}
TRAIN_IMAGES = "train-images-idx3-ubyte"


@pytest.fixture
def silent_port() -> Iterator[str]:
    """A port where a connection is taken, and nothing said."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def web_server() -> Iterator[str]:
    """A server that speaks HTTP/1.1, and not gRPC."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def refuse(*_: object, **__: object) -> NoReturn:
    raise AssertionError("something was sent")


def test_a_port_where_nobody_listens_is_named() -> None:
    with socket.socket() as bound:
        # Bound, and so nobody else's, but not listening.
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(handgrad.UnavailableError, match=f"the server at {address} does not answer"):
            handgrad.connect(address)


def test_a_server_that_does_not_speak_grpc_is_named(web_server: str) -> None:
    with pytest.raises(handgrad.UnavailableError, match=f"the server at {web_server} does not answer"):
        handgrad.connect(web_server)


def test_a_server_that_says_nothing_is_named(monkeypatch: pytest.MonkeyPatch, silent_port: str) -> None:
    monkeypatch.setattr(client_module, "CONNECT_SECONDS", 0.5)
    with pytest.raises((handgrad.DeadlineError, handgrad.UnavailableError), match=silent_port):
        handgrad.connect(silent_port)


@pytest.mark.parametrize("has_health", [False, True], ids=["no service", "only health"])
def test_a_grpc_server_that_is_not_handgrads_is_told(has_health: bool) -> None:  # noqa: FBT001 - a parameter
    other = grpc.server(ThreadPoolExecutor(1))
    if has_health:
        health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), other)
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    try:
        with pytest.raises(handgrad.ServerError, match=f"the server at 127.0.0.1:{port} is not one of handgrad's"):
            handgrad.connect(f"127.0.0.1:{port}")
    finally:
        other.stop(None).wait()


def test_a_server_that_stops_is_told() -> None:
    other = grpc.server(ThreadPoolExecutor(1))
    health = HealthServicer()
    health.set(client_module.SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, other)
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    try:
        with pytest.raises(handgrad.UnavailableError, match="is stopping"):
            handgrad.connect(f"127.0.0.1:{port}")
    finally:
        other.stop(None).wait()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("preset", 7),
        ("model", 5),
        ("model", "\ud800"),
        ("dataset", ["mnist"]),
        ("hidden", 5),
        ("hidden", ["wide"]),
        ("hidden", [2**63]),
        ("batch_size", "ten"),
        ("batch_size", 1.5),
        ("epochs", 2**63),
        ("epochs", -(2**63) - 1),
        ("learning_rate", "fast"),
        ("transform", "grey"),
        ("seed", 2**64),
        ("publish_every_iterations", "often"),
    ],
)
def test_a_setting_that_cannot_be_sent_is_named(
    monkeypatch: pytest.MonkeyPatch, hg: handgrad.Client, field: str, value: Any
) -> None:
    monkeypatch.setattr(hg._stub, "Train", refuse)
    with pytest.raises(handgrad.InvalidArgumentError, match=field) as raised:
        hg.train(**{field: value})
    assert raised.value.field == field


CALLS: dict[str, tuple[str, Callable[[handgrad.Client, Any], object]]] = {
    "CancelJob": ("job", lambda hg, wrong: hg.cancel_job(wrong)),
    "GetLoss": ("skip", lambda hg, wrong: hg.get_loss("job-1", skip=wrong)),
    "GetParams": ("version", lambda hg, wrong: hg.get_params("mine", wrong)),
    "SaveParams": ("version", lambda hg, wrong: hg.save_params("mine", "one", wrong)),
    "LoadParams": ("model", lambda hg, wrong: hg.load_params("one", wrong)),
    "UploadParams": ("model", lambda hg, wrong: hg.upload_params(ARRAYS, wrong)),
    "Evaluate": ("split", lambda hg, wrong: hg.evaluate("mine", split=wrong)),
}


@pytest.mark.parametrize("rpc", CALLS)
def test_an_argument_that_cannot_be_sent_is_named(
    monkeypatch: pytest.MonkeyPatch, hg: handgrad.Client, rpc: str
) -> None:
    field, call = CALLS[rpc]
    monkeypatch.setattr(hg._stub, rpc, refuse)
    with pytest.raises(handgrad.InvalidArgumentError, match=field) as raised:
        call(hg, 2**63)
    assert raised.value.field == field


def test_a_dataset_name_that_cannot_be_sent_is_named(hg: handgrad.Client, tiny_folder: Path) -> None:
    wrong: Any = 5
    with pytest.raises(handgrad.InvalidArgumentError) as raised:
        hg.upload_dataset(tiny_folder, wrong)
    assert raised.value.field == "dataset"


def test_an_invalid_argument_is_a_value_error_too(hg: handgrad.Client) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        hg.train(batch_size=0)


def test_a_limit_below_zero_is_refused(hg: handgrad.Client, tiny: str) -> None:
    job = hg.train(dataset=tiny, hidden=[], epochs=1, batch_size=10)
    job.wait()
    with pytest.raises(handgrad.InvalidArgumentError) as raised:
        hg.get_losses(job.name, limit=-1)
    assert raised.value.field == "limit"


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


DAMAGES: dict[str, Callable[[pb.GetParamsResponse], None]] = {
    "a bit": lambda reply: reply.tensors[1].__setattr__("data", flipped(reply.tensors[1].data)),
    "the end": lambda reply: reply.tensors[1].__setattr__("data", reply.tensors[1].data[:-4]),
    "the hash": lambda reply: reply.params_version.__setattr__("params_sha256", "0" * 64),
    "a type": lambda reply: reply.tensors[0].__setattr__("data_type", tensor_pb2.DATA_TYPE_UNSPECIFIED),
    "a shape": lambda reply: reply.tensors[0].shape.__setitem__(0, 4),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_params_that_were_damaged_on_the_way_are_told(
    monkeypatch: pytest.MonkeyPatch, hg: handgrad.Client, damage: str
) -> None:
    hg.upload_params(ARRAYS, "mine")
    get_params = hg._stub.GetParams

    def damaged(request: pb.GetParamsRequest, **options: Any) -> pb.GetParamsResponse:
        reply = get_params(request, **options)
        DAMAGES[damage](reply)
        return reply

    monkeypatch.setattr(hg._stub, "GetParams", damaged)
    with pytest.raises(handgrad.DamagedError):
        hg.get_params("mine")


def test_params_whose_stream_lost_a_piece_are_told(monkeypatch: pytest.MonkeyPatch, hg: handgrad.Client) -> None:
    hg.upload_params({"W_1": np.ones((1, 10**6)), "b_1": np.ones((1, 1))}, "large")
    pieces = list(hg._stub.StreamParams(pb.StreamParamsRequest(model="large")))
    assert len(pieces) > 1
    monkeypatch.setattr(hg._stub, "StreamParams", lambda _, **__: iter(pieces[:-1]))
    with pytest.raises(handgrad.DamagedError, match="SHA-256"):
        hg.get_params("large")


def test_params_cannot_be_changed_where_they_arrived(hg: handgrad.Client) -> None:
    hg.upload_params(ARRAYS, "mine")
    with pytest.raises(ValueError, match="read-only"):
        hg.get_params("mine").arrays["W_1"][0, 0] = 1


def test_params_are_uploaded_from_arrays_and_from_both_kinds_of_files(hg: handgrad.Client, tmp_path: Path) -> None:
    first = hg.upload_params(ARRAYS).params_version
    files = [tmp_path / "params.npz", tmp_path / "params.safetensors"]
    for file in files:
        hg.get_params(first.model).save(file)
    # As numpy writes them for the report's program: float64.
    np.savez(tmp_path / "report.npz", **ARRAYS)
    sources: list[str | Path] = [files[0], str(files[1]), tmp_path / "report.npz"]
    uploaded = [hg.upload_params(source, "mine").params_version for source in sources]
    assert [version.version for version in uploaded] == [1, 2, 3]
    assert {version.params_sha256 for version in uploaded} == {first.params_sha256}


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"W_1": ARRAYS["W_1"]}, "b_1 is missing"),
        (ARRAYS | {"file": np.ones(1)}, "arrays"),
        (ARRAYS | {"b_1": np.ones(3)}, r"b_1 has shape \(3,\)"),
        (ARRAYS | {"b_1": np.full((3, 1), np.nan)}, "b_1 has nan"),
        (ARRAYS | {"b_1": np.ones((3, 1), np.int64)}, "b_1 is int64"),
        ({}, "W_1 is missing"),
    ],
)
def test_arrays_that_cannot_be_used_are_told(hg: handgrad.Client, arrays: dict[str, Any], problem: str) -> None:
    with pytest.raises(handgrad.InvalidArgumentError, match=problem) as raised:
        hg.upload_params(arrays, "mine")
    assert raised.value.field == "arrays"


def test_a_parameter_file_that_is_not_there_is_told(hg: handgrad.Client, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        hg.upload_params(tmp_path / "nothing.npz")


def test_a_data_set_may_be_gzipped(hg: handgrad.Client, tiny_folder: Path, tmp_path: Path) -> None:
    gzipped = tmp_path / "gzipped"
    gzipped.mkdir()
    for path in tiny_folder.iterdir():
        (gzipped / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    plain, packed = hg.upload_dataset(tiny_folder), hg.upload_dataset(str(gzipped), "packed")
    assert packed.dataset == "packed"
    assert (packed.train_images, packed.test_images, list(packed.image_shape), packed.classes) == (65, 20, [3, 4], 3)
    runs = [
        hg.train(dataset=each.dataset, hidden=[4], batch_size=10, epochs=1, learning_rate=0.1).wait()
        for each in (plain, packed)
    ]
    assert runs[0].params_sha256 == runs[1].params_sha256


def test_a_data_set_keeps_its_name(hg: handgrad.Client, tiny_folder: Path) -> None:
    assert hg.upload_dataset(tiny_folder).dataset == hg.upload_dataset(tiny_folder).dataset


FILE_DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
}


@pytest.mark.parametrize("file", FORMATS[0])
@pytest.mark.parametrize("damage", FILE_DAMAGES)
def test_a_file_of_a_data_set_that_cannot_be_used_is_named(
    hg: handgrad.Client, tiny_folder: Path, file: str, damage: str
) -> None:
    FILE_DAMAGES[damage](tiny_folder / file)
    with pytest.raises(handgrad.InvalidArgumentError, match=damage) as raised:
        hg.upload_dataset(tiny_folder)
    assert raised.value.field == file


def test_a_data_set_that_cannot_be_read_is_told(hg: handgrad.Client, tiny_folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        hg.upload_dataset(tiny_folder / "nowhere")
    (tiny_folder / TRAIN_IMAGES).unlink()
    (tiny_folder / TRAIN_IMAGES).mkdir()
    with pytest.raises(OSError, match=TRAIN_IMAGES):
        hg.upload_dataset(tiny_folder)


def test_an_upload_that_broke_off_goes_on_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch, hg: handgrad.Client, tiny_folder: Path
) -> None:
    sent: list[tuple[int, int]] = []
    send = hg._stub.UploadDatasetChunk

    def breaking(request: pb.UploadDatasetChunkRequest, **options: Any) -> pb.UploadDatasetChunkResponse:
        if len(sent) == 5:
            raise ConnectionError("broke off")
        sent.append((request.file_index, request.offset_bytes))
        return send(request, **options)

    monkeypatch.setattr(upload_module, "CHUNK_BYTES", 300)
    monkeypatch.setattr(hg._stub, "UploadDatasetChunk", breaking)
    with pytest.raises(ConnectionError):
        hg.upload_dataset(tiny_folder, "tiny")
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(hg._stub, "UploadDatasetChunk", send)
    dataset = hg.upload_dataset(tiny_folder, "tiny", progress=lambda done, total: told.append((done, total)))
    assert (dataset.dataset, dataset.train_images) == ("tiny", 65)
    total = sum(path.stat().st_size for path in tiny_folder.iterdir())
    # The first five chunks, of 300 bytes or a file's last ones, are there already.
    assert told[0][0] > 300 + 300 + 196 + 73
    assert told[-1] == (total, total)
    # What the server has is not sent again.
    monkeypatch.setattr(hg._stub, "UploadDatasetChunk", breaking)
    sent += [(0, 0)] * 5
    assert hg.upload_dataset(tiny_folder, "tiny") == dataset


def test_an_evaluation_has_a_square_of_counts(hg: handgrad.Client, tiny: str) -> None:
    hg.upload_params(ARRAYS, "mine")
    found = hg.evaluate("mine", dataset=tiny, split="train")
    assert found.version.version == 1
    assert found.version.signature.inputs.data_type == tensor_pb2.DATA_TYPE_UNSPECIFIED
    assert found.images == 65
    assert found.confusion.shape == (3, 3)
    assert found.confusion.sum() == 65
    assert found.accuracy == np.trace(found.confusion) / 65
    # Labels 0, 1, 2, 0, ...
    np.testing.assert_array_equal(found.confusion.sum(axis=1), [22, 22, 21])


def test_a_client_is_closed_by_its_with(hg: handgrad.Client) -> None:
    with handgrad.connect(hg.address) as other:
        assert other.address == hg.address
    with pytest.raises(ValueError, match="closed"):
        other.get_loss("job-1")
