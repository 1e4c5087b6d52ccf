"""GetParams, StreamParams, UploadParams: versions, sizes, and files that cannot be used."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import handgrad
from handgrad.client.network import title
from handgrad.server import models, service, uploads
from handgrad.server.app import Server
from handgrad.v1 import signature_pb2, tensor_pb2
from handgrad.v1 import training_service_pb2 as pb

Arrays = dict[str, NDArray[Any]]


def arrays(widths: tuple[int, ...] = (12, 4, 3), seed: int = 0) -> Arrays:
    generator = np.random.default_rng(seed)
    found: Arrays = {}
    for k, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        found[f"W_{k}"] = generator.normal(size=(outputs, inputs))
        found[f"b_{k}"] = generator.normal(size=(outputs, 1))
    return found


def test_what_is_uploaded_is_given_back(hg: handgrad.Client) -> None:
    uploaded = hg.upload_params(arrays(), "mine").params_version
    found = hg.get_params("mine")
    assert found.version == uploaded
    assert (uploaded.model, uploaded.version, uploaded.job, uploaded.size_bytes) == ("mine", 1, "", 67 * 4)
    assert uploaded.signature.inputs == signature_pb2.InputSignature(
        shape=[12], transform=signature_pb2.TRANSFORM_IDENTITY
    )
    assert uploaded.epochs == 0
    assert title(uploaded.network) == "12-4-3"
    assert list(found.arrays) == ["W_1", "b_1", "W_2", "b_2"]
    for name, array in arrays().items():
        np.testing.assert_array_equal(found.arrays[name], array.astype(np.float32))


def test_tensors_travel_as_type_shape_and_little_endian_bytes(hg: handgrad.Client) -> None:
    hg.upload_params(arrays(), "mine")
    tensors = hg._stub.GetParams(pb.GetParamsRequest(model="mine")).tensors
    assert [tensor.name for tensor in tensors] == ["W_1", "b_1", "W_2", "b_2"]
    assert [list(tensor.shape) for tensor in tensors] == [[4, 12], [4, 1], [3, 4], [3, 1]]
    assert {tensor.data_type for tensor in tensors} == {tensor_pb2.DATA_TYPE_FLOAT32}
    assert tensors[1].data == arrays()["b_1"].astype("<f4").tobytes()


def test_a_model_without_a_name_gets_one(hg: handgrad.Client) -> None:
    names = {hg.upload_params(arrays()).params_version.model for _ in range(3)}
    assert len(names) == 3


def test_versions_are_kept_and_then_forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = Server("127.0.0.1:0", tmp_path / "data", keep_versions=3, keep_every=4)
    with handgrad.connect(server.address) as hg:
        hashes = [hg.upload_params(arrays(seed=seed), "mine").params_version.params_sha256 for seed in range(8)]
        for number in (4, 6, 7, 8):
            assert hg.get_params("mine", number).version.params_sha256 == hashes[number - 1]
        assert hg.get_params("mine").version.version == 8
        for number in (1, 5, 9):
            with pytest.raises(handgrad.NotFoundError, match=f"no version {number}; versions 4, 6, 7, 8 are kept"):
                hg.get_params("mine", number)
        assert [list(model.versions) for model in hg.list_models()] == [[4, 6, 7, 8]]
        assert len(list((tmp_path / "data/objects").iterdir())) == 4
        monkeypatch.setattr(models, "BYTES_KEPT", 300)
        hg.upload_params(arrays(seed=9), "mine")
        with pytest.raises(handgrad.NotFoundError, match="versions 4, 8, 9 are kept"):
            hg.get_params("mine", 7)
    server.stop()


def test_a_deleted_model_goes_on_with_its_numbers(hg: handgrad.Client) -> None:
    hg.upload_params(arrays(), "mine")
    hg.upload_params(arrays(seed=1), "mine")
    hg.save_params("mine", "one")
    hg.delete_model("mine")
    with pytest.raises(handgrad.NotFoundError, match="there is no model 'mine'"):
        hg.get_params("mine")
    with pytest.raises(handgrad.NotFoundError):
        hg.delete_model("mine")
    assert list(hg.list_models()) == []
    # Of another network, too.
    assert hg.upload_params(arrays((12, 3)), "mine").params_version.version == 3
    assert hg.load_params("one", "again").params_version.version == 1


def test_what_is_known_already_is_not_sent(hg: handgrad.Client) -> None:
    hg.upload_params(arrays(), "mine")
    reply = hg._stub.GetParams(pb.GetParamsRequest(model="mine", if_newer_than=1))
    assert reply == pb.GetParamsResponse(unchanged=True)
    assert reply.ByteSize() == 2
    assert hg.get_newer_params("mine", 1) is None
    assert hg.get_newer_params("mine", 7) is None
    hg.upload_params(arrays(seed=1), "mine")
    newer = hg.get_newer_params("mine", 1)
    assert newer is not None
    assert newer.version.version == 2
    for request in (pb.GetParamsRequest(if_newer_than=-1), pb.GetParamsRequest(if_newer_than=1, version=1)):
        request.model = "mine"
        with pytest.raises(handgrad.InvalidArgumentError) as raised, hg._errors():
            hg._stub.GetParams(request)
        assert raised.value.field == "if_newer_than"


def test_versions_are_watched_as_they_come(hg: handgrad.Client) -> None:
    hg.upload_params(arrays(), "mine")
    watched = hg.watch_params("mine")
    assert next(watched).version.version == 1
    for seed in range(2, 5):
        hg.upload_params(arrays(seed=seed), "mine")
        found = next(watched)
        assert found.version.version == seed
        np.testing.assert_array_equal(found.arrays["W_1"], arrays(seed=seed)["W_1"].astype(np.float32))
    # Whoever was away gets the newest, and not those in between.
    watched.close()
    for seed in range(3):
        hg.upload_params(arrays(seed=seed), "mine")
    again = hg.watch_params("mine", after_version=4)
    assert next(again).version.version == 7
    hg.delete_model("mine")
    with pytest.raises(handgrad.NotFoundError):
        next(again)
    hg.upload_params(arrays(), "mine")
    bare = hg._stub.WatchParams(pb.WatchParamsRequest(model="mine", metadata_only=True))
    response = next(bare)
    assert (response.params_version.version, len(response.tensors), response.inlined) == (8, 0, False)
    bare.cancel()
    with pytest.raises(handgrad.InvalidArgumentError) as raised:
        next(hg.watch_params("mine", after_version=-1))
    assert raised.value.field == "after_version"


def test_large_params_are_watched_too(hg: handgrad.Client) -> None:
    large = arrays((5250, 200))
    hg.upload_params(large, "large")
    watched = hg.watch_params("large")
    np.testing.assert_array_equal(next(watched).arrays["W_1"], large["W_1"].astype(np.float32))
    watched.close()


def test_large_params_come_in_chunks_and_no_message_is_over_4_mb(hg: handgrad.Client) -> None:
    # 1,050,000 weights: 4.2 MB, more than gRPC receives by default.
    hg.upload_params(arrays((5250, 200)), "large")
    reply = hg._stub.GetParams(pb.GetParamsRequest(model="large"))
    assert not reply.inlined
    assert {tensor.data for tensor in reply.tensors} == {b""}
    chunks = [response.chunk for response in hg._stub.StreamParams(pb.StreamParamsRequest(model="large"))]
    assert max(map(len, chunks)) == uploads.CHUNK_BYTES
    assert sum(map(len, chunks)) == reply.params_version.size_bytes
    # This verifies the hash.
    np.testing.assert_array_equal(hg.get_params("large").arrays["W_1"], arrays((5250, 200))["W_1"].astype(np.float32))


def test_params_that_just_fit_come_inlined(hg: handgrad.Client) -> None:
    # 3 MiB - 4 bytes.
    hg.upload_params({"W_1": np.ones((1, 786_430)), "b_1": np.ones((1, 1))}, "fits")
    assert hg._stub.GetParams(pb.GetParamsRequest(model="fits")).inlined
    hg.upload_params({"W_1": np.ones((1, 786_432)), "b_1": np.ones((1, 1))}, "over")
    assert not hg._stub.GetParams(pb.GetParamsRequest(model="over")).inlined


def test_what_does_not_exist_is_told(hg: handgrad.Client) -> None:
    hg.upload_params(arrays(), "mine")
    with pytest.raises(handgrad.NotFoundError, match="no model 'yours'"):
        hg.get_params("yours")
    with pytest.raises(handgrad.NotFoundError, match="no version 2"):
        hg.get_params("mine", 2)
    with pytest.raises(handgrad.NotFoundError), hg._errors():
        list(hg._stub.StreamParams(pb.StreamParamsRequest(model="yours")))
    with pytest.raises(handgrad.InvalidArgumentError, match="got -1") as raised:
        hg.get_params("mine", -1)
    assert raised.value.field == "version"


def test_an_uploaded_file_is_named_in_its_error(hg: handgrad.Client, tmp_path: Any) -> None:
    file = tmp_path / "broken.npz"
    file.write_bytes(b"PK nonsense")
    with pytest.raises(handgrad.InvalidArgumentError, match=r"broken\.npz") as raised:
        hg.upload_params(file, "mine")
    assert raised.value.field == "broken.npz"
    with pytest.raises(handgrad.NotFoundError):
        hg.get_params("mine")


def test_an_upload_without_anything_is_refused(hg: handgrad.Client) -> None:
    with pytest.raises(handgrad.InvalidArgumentError, match="the file is empty"), hg._errors():
        hg._stub.UploadParams(iter([]))


def test_an_upload_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch, hg: handgrad.Client) -> None:
    monkeypatch.setattr(service, "MAX_FILE_BYTES", 1000)

    def endless() -> Iterator[pb.UploadParamsRequest]:
        for _ in range(10_000):
            yield pb.UploadParamsRequest(chunk=b"\0" * 100)

    with pytest.raises(handgrad.ExhaustedError, match="larger than 1000 bytes"), hg._errors():
        hg._stub.UploadParams(endless())


def test_a_model_keeps_its_network(hg: handgrad.Client) -> None:
    hg.upload_params(arrays(), "mine")
    with pytest.raises(handgrad.PreconditionError, match="mine has another network, 12-4-3, not 12-5-3"):
        hg.upload_params(arrays((12, 5, 3)), "mine")


def test_a_model_that_is_being_trained_takes_nothing_else(hg: handgrad.Client, tiny: str) -> None:
    hg.upload_params(arrays(), "mine")
    hg.save_params("mine", "start")
    job = hg.train(dataset=tiny, model="mine", epochs=100_000, batch_size=10)
    calls: list[Callable[[], object]] = [
        lambda: hg.upload_params(arrays(), "mine"),
        lambda: hg.load_params("start", "mine"),
    ]
    for call in calls:
        with pytest.raises(handgrad.PreconditionError, match=f"{job.name} is training model mine"):
            call()
    job.cancel()
    list(job.events())
    assert hg.load_params("start", "mine").params_version.version > 1


def test_uploaded_params_are_trained_on(hg: handgrad.Client, tiny: str) -> None:
    start = hg.upload_params(arrays(), "mine").params_version
    job = hg.train(dataset=tiny, model="mine", epochs=1, batch_size=10, learning_rate=1e-6)
    job.wait()
    # So small a step leaves them nearly where they were.
    np.testing.assert_allclose(job.params().arrays["W_1"], arrays()["W_1"], atol=1e-2)
    assert job.params(1).version.params_sha256 == start.params_sha256
    # What the file did not say is known from here on.
    inputs = job.params().version.signature.inputs
    assert (list(inputs.shape), inputs.data_type) == ([3, 4, 1], tensor_pb2.DATA_TYPE_UINT8)
    assert inputs.transform == signature_pb2.TRANSFORM_IDENTITY


def test_versions_are_read_while_a_job_trains(server: Server, hg: handgrad.Client, tiny: str) -> None:
    job = hg.train(dataset=tiny, model="mine", epochs=100_000, batch_size=10, hidden=[8], publish_every_iterations=1)
    next(job.events())
    with handgrad.connect(server.address) as other:
        seen = [0]
        # While the loop is compiled, nothing is published.
        while seen[-1] < 50 and len(seen) < 50_000:
            # This verifies that each answer is one whole version.
            seen.append(other.get_params("mine").version.version)
    job.cancel()
    assert seen == sorted(seen)
    assert seen[-1] >= 50
