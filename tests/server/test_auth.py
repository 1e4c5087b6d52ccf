"""Tokens and certificates: no call without them, each call of the service tried."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from google.protobuf import descriptor_pb2, message_factory

import handgrad
from handgrad.client import errors
from handgrad.core.errors import InvalidInputError
from handgrad.core.operations.table import OPERATIONS
from handgrad.core.verification import check_operations
from handgrad.server import auth, service
from handgrad.server.app import Server
from handgrad.v1 import training_service_pb2

SERVICE = training_service_pb2.DESCRIPTOR.services_by_name["TrainingService"]
METHODS = [method.name for method in SERVICE.methods]
READING = {
    method.name
    for method in SERVICE.methods
    if method.GetOptions().idempotency_level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
}
DENIED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    """A token of each scope, by its name; their file is `tokens`."""
    file = tmp_path / "tokens"
    return {"writer": auth.add_token(file, "writer", "full"), "reader": auth.add_token(file, "reader", "read-only")}


@pytest.fixture
def guarded(tmp_path: Path, tokens: dict[str, str]) -> Iterator[Server]:
    """A server that asks for one of these tokens."""
    assert tokens
    server = Server("127.0.0.1:0", tmp_path / "data", tokens=tmp_path / "tokens")
    yield server
    server.stop()


def code_of(channel: grpc.Channel, name: str, metadata: tuple[tuple[str, str], ...]) -> grpc.StatusCode:
    """Calls a method with an empty request; gives what it is answered."""
    method = SERVICE.methods_by_name[name]
    kinds = [message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type)]
    path = f"/{SERVICE.full_name}/{name}"
    shape = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    call: Any = getattr(channel, shape)(
        path, request_serializer=kinds[0].SerializeToString, response_deserializer=kinds[1].FromString
    )
    request: Any = iter([kinds[0]()]) if method.client_streaming else kinds[0]()
    try:
        answer = call(request, metadata=metadata, timeout=20)
        if method.server_streaming:
            next(answer)
            answer.cancel()
    except grpc.RpcError as error:
        return errors.code(error)
    return grpc.StatusCode.OK


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.mark.parametrize("name", METHODS)
def test_each_call_asks_for_a_token(
    guarded: Server, tokens: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "check_operations", lambda seed: check_operations(seed, OPERATIONS[-1:]))
    with grpc.insecure_channel(guarded.address) as channel:
        for metadata in (
            (),
            bearer(""),
            bearer("wrong"),
            bearer(tokens["writer"][:-1]),
            bearer(tokens["writer"] + "x"),
            (("authorization", tokens["writer"]),),
            (("authorization", f"Basic {tokens['writer']}"),),
        ):
            assert code_of(channel, name, metadata) is grpc.StatusCode.UNAUTHENTICATED
        found = code_of(channel, name, bearer(tokens["reader"]))
        assert (found in DENIED) == (name not in READING)
        assert code_of(channel, name, bearer(tokens["writer"])) not in DENIED


def test_the_calls_of_a_read_only_token_change_nothing() -> None:
    # Whoever marks another call NO_SIDE_EFFECTS adds it here, and thinks twice.
    assert {
        *("GetJob", "ListJobs", "WatchJob", "GetLoss", "GetParams", "StreamParams", "WatchParams"),
        *("ListModels", "ListCheckpoints", "ListDatasets", "GetDataset", "GetExamples", "Predict", "Evaluate"),
        *("DescribeNetwork", "CheckGradients", "WatchSweep", "GetSweep", "ListSweeps"),
    } == READING


def test_the_client_sends_its_token_and_is_known_by_it(
    guarded: Server, tokens: dict[str, str], tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with handgrad.connect(guarded.address, token=tokens["writer"]) as hg:
        hg.upload_dataset(tiny_folder, "tiny")
        job = hg.train(dataset="tiny", hidden=[], batch_size=10, epochs=1, client="pretender").wait()
        assert job.client == "writer"
        assert next(hg.watch_params(job.model)).version.version == 2
    monkeypatch.setenv("HANDGRAD_TOKEN", tokens["reader"])
    with handgrad.connect(guarded.address) as hg:
        assert hg.get_params(job.model).version.version == 2
        with pytest.raises(handgrad.PermissionDeniedError, match="the token reader is read-only"):
            hg.save_params(job.model, "one")
    with handgrad.connect(guarded.address, token="wrong") as hg, pytest.raises(handgrad.UnauthenticatedError):
        list(hg.list_jobs())


def test_reflection_asks_for_a_token(guarded: Server, tokens: dict[str, str]) -> None:
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    with grpc.insecure_channel(guarded.address) as channel:
        call: Any = channel.stream_stream(path)
        with pytest.raises(grpc.RpcError) as raised:
            next(call(iter([b""]), timeout=20))
        assert isinstance(raised.value, grpc.Call)
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        next(call(iter([b"\x3a\x01*"]), timeout=20, metadata=bearer(tokens["reader"])))


def test_a_token_is_kept_as_its_hash(tmp_path: Path, tokens: dict[str, str]) -> None:
    file = tmp_path / "tokens"
    assert not any(token in file.read_text() for token in tokens.values())
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600  # noqa: PTH116
    made = subprocess.run(
        [sys.executable, "-m", "handgrad.server", "token", "third", "--read-only", "--tokens", str(file)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = auth.read_tokens(file)
    assert found.check(f"/{SERVICE.full_name}/GetJob", f"Bearer {made.stdout.strip()}") == "third"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "cannot be read"),
        ("", "has no token"),
        ("# none\n\n", "has no token"),
        ("a full abc\n", "line 1: NAME, full or read-only"),
        (f"a full {'0' * 64}\nb all {'0' * 64}\n", "line 2"),
        (f"A full {'0' * 64}\n", "line 1: a name has 1 to 63 characters"),
    ],
)
def test_a_tokens_file_that_cannot_be_used_is_told(tmp_path: Path, text: str | None, told: str) -> None:
    if text is not None:
        (tmp_path / "tokens").write_text(text)
    with pytest.raises(InvalidInputError, match=told) as raised:
        Server("127.0.0.1:0", tmp_path / "data", tokens=tmp_path / "tokens")
    assert raised.value.field == "tokens"


@pytest.fixture(scope="session")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates: the server's, one client's, one of an authority that nobody knows."""
    folder = tmp_path_factory.mktemp("certificates")
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    for authority, name in ((ca, "127.0.0.1"), (ca, "client"), (other, "stranger")):
        certificate = authority.issue_cert(name)
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        for part in certificate.cert_chain_pems:
            part.write_to_path(str(folder / f"{name}.pem"), append=True)
    return folder


def tls(folder: Path) -> dict[str, Path]:
    return {"tls_certificate": folder / "127.0.0.1.pem", "tls_key": folder / "127.0.0.1.key"}


def test_tls_is_spoken_to_those_who_know_the_authority(tmp_path: Path, authorities: Path) -> None:
    server = Server("127.0.0.1:0", tmp_path / "data", **tls(authorities))
    with handgrad.connect(server.address, ca=authorities / "ca.pem") as hg:
        assert [dataset.dataset for dataset in hg.list_datasets()] == ["mnist"]
    wrongs: tuple[dict[str, Any], ...] = ({}, {"ca": authorities / "stranger.pem"})
    for wrong in wrongs:
        with pytest.raises(handgrad.UnavailableError):
            handgrad.connect(server.address, **wrong)
    server.stop()


def test_mutual_tls_asks_for_a_certificate(tmp_path: Path, authorities: Path) -> None:
    server = Server("127.0.0.1:0", tmp_path / "data", **tls(authorities), tls_client_ca=authorities / "ca.pem")
    ca = authorities / "ca.pem"
    with handgrad.connect(
        server.address, ca=ca, certificate=authorities / "client.pem", key=authorities / "client.key"
    ) as hg:
        assert list(hg.list_jobs()) == []
    for name in ("", "stranger"):
        files: dict[str, Any] = {}
        if name:
            files = {"certificate": authorities / f"{name}.pem", "key": authorities / f"{name}.key"}
        with pytest.raises(handgrad.UnavailableError):
            handgrad.connect(server.address, ca=ca, **files)
        pems = [file.read_bytes() for file in (ca, *(files[each] for each in ("key", "certificate") if files))]
        with grpc.secure_channel(server.address, grpc.ssl_channel_credentials(*pems)) as channel:
            for method in METHODS:
                assert code_of(channel, method, ()) is grpc.StatusCode.UNAVAILABLE
    server.stop()


def test_certificates_that_cannot_be_used_are_told(tmp_path: Path, authorities: Path) -> None:
    (tmp_path / "noise").write_text("noise")
    good = tls(authorities)
    for settings, field in (
        ({"tls_certificate": good["tls_certificate"]}, "tls_key"),
        (good | {"tls_certificate": tmp_path / "nothing"}, "tls_certificate"),
        (good | {"tls_key": tmp_path / "noise"}, "tls_key"),
        (good | {"tls_key": authorities / "client.key"}, "tls_key"),
        (good | {"tls_client_ca": tmp_path / "noise"}, "tls_client_ca"),
        (good | {"tls_client_ca": authorities / "client.key"}, "tls_client_ca"),
        ({"tls_client_ca": authorities / "ca.pem"}, "tls_client_ca"),
    ):
        with pytest.raises(InvalidInputError) as raised:
            Server("127.0.0.1:0", tmp_path / "data", **settings)
        assert raised.value.field == field


def test_other_machines_are_served_with_tls_and_tokens_alone(
    tmp_path: Path, authorities: Path, tokens: dict[str, str]
) -> None:
    assert tokens
    for settings in ({}, tls(authorities), {"tokens": tmp_path / "tokens"}):
        with pytest.raises(InvalidInputError, match="TLS and tokens, or --insecure") as raised:
            Server("0.0.0.0:0", tmp_path / "data", **settings)
        assert raised.value.field == "address"
    with pytest.raises(InvalidInputError, match="metrics are open") as raised:
        Server("127.0.0.1:0", tmp_path / "data", metrics_address="0.0.0.0:0")
    assert raised.value.field == "metrics_address"


def test_a_token_is_not_sent_to_another_machine_without_tls() -> None:
    with pytest.raises(handgrad.InvalidArgumentError, match="not sent there without TLS") as raised:
        handgrad.connect("192.0.2.1:50051", token="secret")
    assert raised.value.field == "token"
