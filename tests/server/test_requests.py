"""What only a client of another kind would send: enums of tomorrow, uploads in odd pieces, texts of any length."""

import io
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
import safetensors.numpy
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import handgrad
from handgrad.v1 import training_service_pb2 as pb

ARRAYS: dict[str, Any] = {"W_1": np.ones((3, 12)), "b_1": np.ones((3, 1))}


def npz(arrays: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def upload(hg: handgrad.Client, *requests: pb.UploadParamsRequest) -> pb.UploadParamsResponse:
    with hg._errors():
        return hg._stub.UploadParams(iter(requests))


def test_a_wrong_field_comes_as_a_detail_of_the_status(hg: handgrad.Client) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        hg._stub.GetLoss(pb.GetLossRequest(job="a/b"))
    call: Any = raised.value
    assert call.code() == grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(call)
    assert status is not None
    (detail,) = status.details
    bad_request = error_details_pb2.BadRequest()
    assert detail.Unpack(bad_request)
    (violation,) = bad_request.field_violations
    assert violation.field == "job"
    assert call.details() == status.message == f"job: {violation.description}"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.TrainRequest.FromString(b"\x48\x09"), "transform"),
        (pb.TrainRequest.FromString(b"\x48\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "transform"),
        (pb.EvaluateRequest.FromString(b"\x0a\x04mine\x1a\x04tiny\x20\x09"), "split"),
    ],
    ids=["Train.transform 9", "Train.transform -1", "Evaluate.split 9"],
)
@pytest.mark.usefixtures("tiny")
def test_an_enums_value_that_it_does_not_know_is_named(hg: handgrad.Client, request_: Any, field: str) -> None:
    hg.upload_params(ARRAYS, "mine")
    call = getattr(hg._stub, type(request_).__name__.removesuffix("Request"))
    with pytest.raises(handgrad.InvalidArgumentError, match=field) as raised, hg._errors():
        # One of a stream is not heard before it is asked for.
        next(call(request_))
    assert raised.value.field == field


@pytest.mark.parametrize("size", [1, 7, 100])
def test_the_pieces_of_a_file_may_have_any_size(hg: handgrad.Client, size: int) -> None:
    content = npz(ARRAYS)
    pieces = [pb.UploadParamsRequest(chunk=content[at : at + size]) for at in range(0, len(content), size)]
    # Model and file are read from the first message only; one without bytes is a message like any other.
    first, last = pb.UploadParamsRequest(model="mine", file="p.npz"), pb.UploadParamsRequest(model="a/b", file="../b")
    version = upload(hg, first, *pieces, last).params_version
    assert version.model == "mine"
    assert version.params_sha256 == hg.upload_params(ARRAYS).params_version.params_sha256


def test_what_a_caller_calls_its_file_is_no_path(hg: handgrad.Client) -> None:
    with pytest.raises(handgrad.InvalidArgumentError, match="neither a whole") as raised:
        upload(hg, pb.UploadParamsRequest(file="/etc/passwd", chunk=b"hello"))
    assert raised.value.field == "/etc/passwd"
    with pytest.raises(handgrad.InvalidArgumentError, match="the file is empty") as raised:
        upload(hg, pb.UploadParamsRequest(file="/etc/passwd"))


def with_bad_name() -> bytes:
    # The directory says that its names are UTF-8.
    return npz({"W_\u00e9": np.ones((1, 1))}).replace("\u00e9".encode(), b"\xff\xff")


def with_bad_offset() -> bytes:
    content = bytearray(npz(ARRAYS))
    # Where the directory begins, in the record at the file's end: so far off that its members begin before the file.
    content[-6:-2] = (int.from_bytes(content[-6:-2], "little") + 1000).to_bytes(4, "little")
    return bytes(content)


def with_signaling_nan() -> bytes:
    b = np.array([0x7FF4000000000000] * 3, np.uint64).view(np.float64).reshape(3, 1)
    return npz(ARRAYS | {"b_1": b})


@pytest.mark.parametrize("content", [with_bad_name, with_bad_offset, with_signaling_nan])
def test_a_damaged_file_is_its_senders_error_and_not_the_servers(
    hg: handgrad.Client, content: Callable[[], bytes]
) -> None:
    with pytest.raises(handgrad.InvalidArgumentError) as raised:
        upload(hg, pb.UploadParamsRequest(file="p.npz", chunk=content()))
    assert raised.value.field == "p.npz"


def many_arrays(hg: handgrad.Client) -> object:
    # Another program's model: not a few arrays, and long names.
    arrays = {f"model.layers.{number}.attention.output.weight": np.ones((1, 1), np.float32) for number in range(500)}
    return upload(hg, pb.UploadParamsRequest(chunk=safetensors.numpy.save(arrays)))


LONG = "x" * 100_000
LONG_TEXTS: dict[str, Callable[[handgrad.Client], object]] = {
    "a preset": lambda hg: hg.train(LONG),
    "a model": lambda hg: hg.get_params(LONG),
    "a job": lambda hg: hg.get_loss(LONG),
    "a checkpoint": lambda hg: hg.load_params(LONG),
    "a data set": lambda hg: hg.evaluate("mine", dataset=LONG),
    "a file": lambda hg: upload(hg, pb.UploadParamsRequest(file=LONG, chunk=b"hello")),
    # A status's text is percent-encoded: nine bytes for each of these.
    "a file of another script": lambda hg: upload(hg, pb.UploadParamsRequest(file="\u5b57" * 30_000, chunk=b"hello")),
    "an array": lambda hg: upload(hg, pb.UploadParamsRequest(chunk=npz({"y" * 50_000: np.ones(1)}))),
    "many arrays": many_arrays,
    "hidden layers": lambda hg: hg.train(hidden=[0] * 20_000),
}


@pytest.mark.parametrize("text", LONG_TEXTS)
def test_a_long_text_is_not_sent_back_at_full_length(hg: handgrad.Client, text: str) -> None:
    hg.upload_params(ARRAYS, "mine")
    # gRPC drops an answer whose status is over 8 kB, and tells the caller something else.
    with pytest.raises(handgrad.InvalidArgumentError) as raised:
        LONG_TEXTS[text](hg)
    assert len(str(raised.value)) < 4000
