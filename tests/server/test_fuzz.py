"""Ten thousand malformed requests: documented codes alone, no traceback in the log, no memory that stays."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from crashes import Killable
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import handgrad
from handgrad.client.errors import code
from handgrad.v1 import training_service_pb2

SERVICE = training_service_pb2.DESCRIPTOR.services_by_name["TrainingService"]
# A check takes seconds, whatever it is asked with; tests/server/test_networks.py asks it nonsense.
METHODS = [method for method in SERVICE.methods if method.name != "CheckGradients"]
DOCUMENTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DATA_LOSS,
}
FIELD_EXAMPLES, REQUESTS_AN_EXAMPLE = 120, 50
MUTATIONS, BROKEN_STREAMS = 3600, 400
WARM_UP = 1500
MEMORY_MARGIN = 1.05
"""What the allocator's own arenas may grow by: 64 threads have one each."""

NAMES = st.one_of(st.text(max_size=70), st.sampled_from(["tiny", "mine", "job-1", "one", "report", "a/b", "../x", ""]))
INTEGERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([-1, 0, 1, 2, 10]))
SMALL = st.one_of(st.integers(-(2**31), 2**31 - 1), st.sampled_from([-1, 0, 1, 2]))
KINDS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: NAMES,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=200),
    FieldDescriptor.TYPE_INT64: INTEGERS,
    FieldDescriptor.TYPE_INT32: SMALL,
    FieldDescriptor.TYPE_ENUM: st.integers(0, 9),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32),
}


MAX_DEPTH = 4
"""A layer holds layers, and so does a Struct's value."""


def messages(descriptor: Descriptor, depth: int = 0) -> st.SearchStrategy[Any]:
    """Messages of any values in any of their fields, MAX_DEPTH within one another at most."""
    kind = message_factory.GetMessageClass(descriptor)
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in descriptor.fields:
        nested = field.message_type
        if nested is not None and depth == MAX_DEPTH:
            continue
        strategy = messages(nested, depth + 1) if nested is not None else KINDS[field.type]
        if nested is not None and nested.GetOptions().map_entry:
            inside = nested.fields_by_name["value"].message_type
            assert inside is not None
            values = messages(inside, depth + 1)
            fields[field.name] = st.dictionaries(NAMES, values, max_size=2)
            continue
        fields[field.name] = st.lists(strategy, max_size=3) if field.is_repeated else strategy
    always: dict[str, st.SearchStrategy[Any]] = {}
    if descriptor.name in ("TrainRequest", "TrainSweepRequest"):
        # What is well formed would train, and is no matter of this test.
        del fields["dataset"]
        always["dataset"] = st.text(max_size=20).map(lambda text: f"{text}-not-there")
    return st.fixed_dictionaries(always, optional=fields).map(lambda values: kind(**values))


CALLS = st.sampled_from(METHODS).flatmap(lambda method: st.tuples(st.just(method.name), messages(method.input_type)))


class Raw:
    """Calls that send bytes as they are."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def __call__(self, name: str, *contents: bytes) -> grpc.StatusCode:
        method = SERVICE.methods_by_name[name]
        shape = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        call: Any = getattr(self._channel, shape)(f"/{SERVICE.full_name}/{name}")
        try:
            answer = call(iter(contents) if method.client_streaming else contents[0], timeout=30)
            if method.server_streaming:
                next(answer, None)
                answer.cancel()
        except grpc.RpcError as error:
            return code(error)
        return grpc.StatusCode.OK


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Killable, Raw, Path]]:
    folder = tmp_path_factory.mktemp("fuzz")
    server = Killable(folder / "data")
    with server.running():
        assert server._channel is not None
        yield server, Raw(server._channel), folder / "data.log"


def resident_bytes(server: Killable) -> int:
    assert server._process is not None
    pages = int(Path(f"/proc/{server._process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def nothing_is_left(server: Killable, log: Path) -> Iterator[None]:
    before = resident_bytes(server)
    yield
    assert resident_bytes(server) <= MEMORY_MARGIN * before
    assert "Traceback" not in log.read_text()
    assert " ERROR " not in log.read_text()


def mutated(generator: np.random.Generator) -> tuple[str, bytes]:
    """A message of plain values with bytes changed, cut, repeated or added."""
    method = METHODS[generator.integers(len(METHODS))]
    message = message_factory.GetMessageClass(method.input_type)()
    for field in method.input_type.fields:
        if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
            setattr(message, field.name, "not-there")
        elif field.type == FieldDescriptor.TYPE_INT64 and not field.is_repeated:
            setattr(message, field.name, int(generator.integers(0, 300)))
    content = bytearray(message.SerializeToString() or b"\x0a\x01x")
    for _ in range(generator.integers(1, 6)):
        at = int(generator.integers(len(content))) if content else 0
        kind = generator.integers(4)
        if kind == 0 and content:
            content[at] ^= int(generator.integers(1, 256))
        elif kind == 1:
            del content[at:]
        elif kind == 2:
            content += content[at:]
        else:
            content[at:at] = generator.bytes(int(generator.integers(1, 20)))
    # A change may have made a data set's name none at all, and so the request well formed.
    return method.name, bytes(content) + (b"\x1a\x05other" if method.name.startswith("Train") else b"")


def mutate(raw: Raw, count: int, seed: int) -> set[grpc.StatusCode]:
    generator = np.random.default_rng(seed)
    return {raw(*mutated(generator)) for _ in range(count)}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_ten_thousand_malformed_requests(serving: tuple[Killable, Raw, Path], tiny_folder: Path) -> None:
    server, raw, log = serving
    assert server.stub is not None
    assert server._channel is not None
    # What stays by design: the data set that ships with the server, once somebody has asked for it.
    raw("ListDatasets", b"")
    mutate(raw, WARM_UP, seed=1)

    @settings(
        max_examples=FIELD_EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(st.lists(CALLS, min_size=REQUESTS_AN_EXAMPLE, max_size=REQUESTS_AN_EXAMPLE))
    def any_values(calls: list[tuple[str, Any]]) -> None:
        for name, message in calls:
            assert raw(name, message.SerializeToString()) in DOCUMENTED, (name, message)

    def broken_streams() -> None:
        generator = np.random.default_rng(2)
        request = training_service_pb2.UploadParamsRequest(model="mine", file="a.npz", chunk=b"PK\x03\x04" + bytes(500))
        content = request.SerializeToString()
        for _ in range(BROKEN_STREAMS):
            pieces = [content] * int(generator.integers(0, 4))
            pieces.append(content[: generator.integers(1, len(content))])
            assert raw("UploadParams", *pieces) in DOCUMENTED

    with nothing_is_left(server, log):
        any_values()
        assert mutate(raw, MUTATIONS, seed=0) <= DOCUMENTED
        broken_streams()
    # It still serves.
    with handgrad.connect(server.address) as hg:
        hg.upload_dataset(tiny_folder, "tiny")
        hg.train(dataset="tiny", batch_size=10, epochs=1).wait()
