"""The server as a process and as a citizen of gRPC: addresses, health, reflection, signals, nonsense."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import hypothesis.strategies as st
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings

import handgrad
from handgrad.client.errors import code
from handgrad.core.errors import InvalidInputError
from handgrad.server.app import SERVICE, Server
from handgrad.v1 import job_pb2, network_pb2
from handgrad.v1 import training_service_pb2 as pb


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1:", ":50051", "127.0.0.1:port", "127.0.0.1:65536"])
def test_an_address_is_host_and_port(tmp_path: Path, address: str) -> None:
    with pytest.raises(InvalidInputError, match="HOST:PORT") as raised:
        Server(address, tmp_path)
    assert raised.value.field == "address"


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "example.org:0", "192.0.2.1:0"])
def test_other_machines_are_kept_out_unless_asked(tmp_path: Path, address: str) -> None:
    with pytest.raises(InvalidInputError, match="--insecure"):
        Server(address, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_insecure_allows_it(tmp_path: Path) -> None:
    server = Server("0.0.0.0:0", tmp_path, insecure=True)
    with handgrad.connect(f"127.0.0.1:{server.address.rpartition(':')[2]}"):
        pass
    server.stop()


def test_a_port_in_use_is_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="Address already in use"):
        Server(server.address, tmp_path / "other")


def test_health_is_told_for_each_service(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "handgrad.v1.TrainingService"):
            status = stub.Check(health_pb2.HealthCheckRequest(service=service)).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as raised:
            stub.Check(health_pb2.HealthCheckRequest(service="nothing"))
        assert code(raised.value) == grpc.StatusCode.NOT_FOUND


def test_reflection_gives_the_contract(server: Server) -> None:
    request = reflection_pb2.ServerReflectionRequest
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        listed, described = stub.ServerReflectionInfo(
            iter([request(list_services=""), request(file_containing_symbol=SERVICE)])
        )
    names = {service.name for service in listed.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    assert described.file_descriptor_response.file_descriptor_proto


@contextmanager
def process(data_dir: Path, *options: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Runs the server as its own process; gives it and its address."""
    command = [sys.executable, "-m", "handgrad.server", "--address", "127.0.0.1:0", "--data-dir", str(data_dir)]
    with subprocess.Popen(
        [*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout
            line = server.stdout.readline()
            assert line.startswith("listening on 127.0.0.1:")
            yield server, line.split()[-1]
        finally:
            if server.poll() is None:
                server.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly_also_while_it_trains(tmp_path: Path, number: signal.Signals) -> None:
    with process(tmp_path) as (server, address), handgrad.connect(address) as hg:
        job = hg.train(epochs=1000)
        next(event for event in job.events() if isinstance(event, job_pb2.Epoch))
        hg.save_params(job.model, "kept")
        server.send_signal(number)
        hg.reconnect_seconds = 0
        with pytest.raises(handgrad.UnavailableError):
            job.wait()
        _, log = server.communicate(timeout=30)
        assert server.returncode == 0
        assert "Traceback" not in log
        assert log.splitlines()[-1].endswith("stopped")
    with process(tmp_path) as (server, address), handgrad.connect(address) as hg:
        assert hg.load_params("kept").params_version.version == 1
        # It went on by itself.
        found = hg.get_job(job.name)
        assert (found.state, found.resumes) == (job_pb2.JOB_STATE_RUNNING, 1)
        hg.cancel_job(job.name)


def test_a_private_server_ends_with_its_input(tmp_path: Path) -> None:
    with process(tmp_path, "--private") as (server, _):
        _, log = server.communicate(timeout=30)
        assert server.returncode == 0
        assert log == ""


def test_what_it_cannot_start_with_is_one_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for address, data_dir, told in (
        (server.address, "other", "Address already in use"),
        ("nonsense", "other", "HOST:PORT"),
        ("127.0.0.1:0", "data", "in use by another handgrad server"),
        ("127.0.0.1:0", "file", "file"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "handgrad.server", "--address", address, "--data-dir", str(tmp_path / data_dir)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("handgrad serve: ")
        assert told in line


DOCUMENTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
NUMBERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, 2, 10]))
NAMES = st.one_of(st.text(max_size=70), st.sampled_from(["tiny", "mine", "job-1", "report", ""]))
KINDS = st.sampled_from(["affine", "relu", "flatten", "convolution", "residual", "dropout"])
REQUESTS = st.one_of(
    st.builds(
        pb.TrainRequest,
        preset=NAMES,
        model=NAMES,
        dataset=NAMES,
        config=st.builds(
            job_pb2.TrainConfig,
            network=st.builds(
                network_pb2.NetworkSpec,
                input_shape=st.lists(NUMBERS, max_size=3),
                layers=st.lists(st.builds(network_pb2.Layer, kind=st.one_of(NAMES, KINDS)), max_size=3),
            ),
            batch_size=NUMBERS,
            epochs=st.one_of(st.integers(-(2**63), 3), st.just(2**63 - 1)),
            learning_rate=st.floats(),
            seed=NUMBERS,
            publish_every_iterations=NUMBERS,
            optimizer=NAMES,
            validation_images=NUMBERS,
            patience=NUMBERS,
        ),
    ),
    st.builds(pb.GetLossRequest, job=NAMES, skip=NUMBERS, limit=NUMBERS),
    st.builds(pb.CancelJobRequest, job=NAMES),
    st.builds(pb.GetParamsRequest, model=NAMES, version=NUMBERS),
    st.builds(pb.StreamParamsRequest, model=NAMES, version=NUMBERS),
    st.builds(pb.LoadParamsRequest, checkpoint=NAMES, model=NAMES),
    st.builds(pb.SaveParamsRequest, model=NAMES, checkpoint=NAMES, version=NUMBERS),
    st.builds(pb.EvaluateRequest, model=NAMES, dataset=NAMES, version=NUMBERS, split=st.sampled_from([0, 1, 2])),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REQUESTS)
@pytest.mark.usefixtures("tiny")
def test_nonsense_is_answered_with_documented_codes_alone(hg: handgrad.Client, request: Any) -> None:
    name = type(request).__name__.removesuffix("Request")
    method = getattr(hg._stub, name)
    try:
        response = method(request, timeout=30)
        if name in ("Train", "StreamParams"):
            list(response)
        status = grpc.StatusCode.OK
    except grpc.RpcError as error:
        status = code(error)
    assert status in DOCUMENTED


def test_bytes_that_are_no_message_do_not_harm_it(server: Server, hg: handgrad.Client, tiny: str) -> None:
    def unchanged(content: bytes) -> bytes:
        return content

    with grpc.insecure_channel(server.address) as channel:
        for method in ("GetParams", "GetLoss", "SaveParams", "Nothing"):
            call = channel.unary_unary(f"/{SERVICE}/{method}", unchanged, unchanged)
            with pytest.raises(grpc.RpcError):
                call(os.urandom(50), timeout=10)
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(1000))
    assert hg.train(dataset=tiny, batch_size=10, epochs=1).wait().state == job_pb2.JOB_STATE_SUCCEEDED
