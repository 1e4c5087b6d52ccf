"""What is seen from outside: metrics over HTTP, and the log."""

import json
import logging
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest

import handgrad
from handgrad.core.errors import InvalidInputError
from handgrad.server import logs
from handgrad.server.app import Server
from handgrad.v1 import training_service_pb2 as pb


@pytest.fixture
def server(tmp_path: Path, free_port: int) -> Iterator[Server]:
    server = Server("127.0.0.1:0", tmp_path / "data", metrics_address=f"127.0.0.1:{free_port}")
    yield server
    server.stop()


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_metrics_tell_what_happened(hg: handgrad.Client, tiny: str, free_port: int) -> None:
    job = hg.train(dataset=tiny, hidden=[4], batch_size=10, epochs=3)
    job.wait()
    hg.get_params(job.model)
    with pytest.raises(handgrad.NotFoundError):
        hg.get_params("nothing")
    found = scrape(free_port)
    assert found['handgrad_jobs{state="succeeded"}'] == 1
    assert found['handgrad_jobs{state="running"}'] == 0
    assert found["handgrad_iterations_total"] == 21
    assert found["handgrad_versions_published_total"] == 4
    assert found["handgrad_storage_errors_total"] == 0
    assert found["handgrad_loss"] == pytest.approx(float(job.losses()[-1]))
    assert found["handgrad_iterations_per_second"] == 0
    assert found['handgrad_rpcs_total{code="OK",method="GetParams"}'] == 1
    assert found['handgrad_rpcs_total{code="NOT_FOUND",method="GetParams"}'] == 1
    # Ended by the client once the job was accepted; what followed was watched.
    assert found['handgrad_rpcs_total{code="CANCELLED",method="Train"}'] == 1
    assert found['handgrad_rpcs_total{code="OK",method="WatchJob"}'] == 1
    assert found['handgrad_rpc_seconds_count{method="GetParams"}'] == 2
    reply = hg._stub.GetParams(pb.GetParamsRequest(model=job.model))
    assert found['handgrad_rpc_sent_bytes_total{method="GetParams"}'] == reply.ByteSize()


def test_an_unknown_method_is_no_label(hg: handgrad.Client, free_port: int) -> None:
    call: Any = hg._channel.unary_unary("/handgrad.v1.TrainingService/Nonsense")
    with pytest.raises(grpc.RpcError):
        call(b"", timeout=20)
    assert not [name for name in scrape(free_port) if "Nonsense" in name]


def test_an_address_that_is_taken_is_told(server: Server, tmp_path: Path, free_port: int) -> None:
    assert server.address
    with pytest.raises(InvalidInputError, match="Address already in use") as raised:
        Server("127.0.0.1:0", tmp_path / "other", metrics_address=f"127.0.0.1:{free_port}")
    assert raised.value.field == "metrics_address"
    # Nothing of the failed start is left.
    Server("127.0.0.1:0", tmp_path / "other").stop()


def test_each_line_of_a_call_has_its_id(hg: handgrad.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "handgrad")
    caplog.handler.addFilter(logs._add_id)
    caplog.handler.setFormatter(logs.Json())
    for given, told in (("my-id", "my-id"), ("no id!", ""), ("", "")):
        caplog.clear()
        with pytest.raises(grpc.RpcError):
            hg._stub.GetJob(pb.GetJobRequest(job="job-1"), metadata=(("x-request-id", given),))
        lines = [json.loads(caplog.handler.format(record)) for record in caplog.records]
        assert len(lines) == 2
        assert {line["request_id"] for line in lines} in ([{told}] if told else [{lines[0]["request_id"]}])
        assert lines[0]["request_id"] not in ("-", "no id!")
        assert lines[0]["message"] == "/handgrad.v1.TrainingService/GetJob: there is no job 'job-1'"
        assert " NOT_FOUND in " in lines[1]["message"]
        assert {line["level"] for line in lines} == {"INFO"}


def test_a_traceback_stays_in_its_line() -> None:
    def fail() -> NoReturn:
        raise ZeroDivisionError("of ours")

    with pytest.raises(ZeroDivisionError) as raised:
        fail()
    record = logging.LogRecord("handgrad", logging.ERROR, "", 0, "%s failed", ("it",), None)
    record.exc_info = (raised.type, raised.value, raised.tb)
    line = json.loads(logs.Json().format(record))
    assert line["message"] == "it failed"
    assert line["exception"].endswith("ZeroDivisionError: of ours")
