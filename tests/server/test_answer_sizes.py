"""Answers that would be over 4 MB: pages end sooner, images are refused, and what cannot be cut is told."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import handgrad
from handgrad.core.config import TrainConfig
from handgrad.core.errors import InvalidInputError
from handgrad.core.network import MAX_LAYERS, MAX_OUTPUTS, make_network
from handgrad.core.network_spec import layers_from_spec
from handgrad.server import convert, interceptors, service
from handgrad.server.app import Server
from handgrad.server.jobs import JobRequest, JobState
from handgrad.server.models import Model
from handgrad.server.sweeps import MAX_MEMBERS, Halving, Member, Sweep
from handgrad.v1 import job_pb2, params_pb2
from handgrad.v1 import training_service_pb2 as pb

FOUR_MB = 4 * 2**20
CONFIG = TrainConfig(batch_size=10, epochs=1, learning_rate=0.1, pixels="raw")
SETTINGS: dict[str, Any] = {"hidden": [4], "batch_size": 10, "epochs": 1}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a few of everything that is listed, which trains nothing."""
    folder = tmp_path_factory.mktemp("sizes")
    server = Server("127.0.0.1:0", folder / "data")
    with pytest.MonkeyPatch.context() as patched, handgrad.connect(server.address) as client:
        patched.setattr(server._worker, "look", lambda: None)
        for number in range(5):
            images = np.full((20, 3, 4), number, np.uint8)
            labels = np.arange(20, dtype=np.uint8) % 3
            np.savez(folder / "tiny.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
            client.upload_dataset(folder / "tiny.npz", f"tiny-{number}")
            client.upload_params({"W_1": np.full((3, 12), number / 10), "b_1": np.zeros((3, 1))}, f"model-{number}")
            client.save_params(f"model-{number}", f"checkpoint-{number}")
            client.train_sweep([{}], dataset="tiny-0", config=SETTINGS)
        yield server
    server.stop()


@pytest.fixture
def hg(running: Server) -> Iterator[handgrad.Client]:
    with handgrad.connect(running.address) as client:
        yield client


def at_most(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Makes answers of a size the largest that there are."""
    for module in (interceptors, convert, service):
        monkeypatch.setattr(module, "MAX_ANSWER_BYTES", size)


LISTS: dict[str, tuple[Callable[[handgrad.Client], Iterator[Any]], str]] = {
    "ListJobs": (lambda hg: hg.list_jobs(), "job"),
    "ListSweeps": (lambda hg: hg.list_sweeps(), "sweep"),
    "ListModels": (lambda hg: hg.list_models(), "model"),
    "ListCheckpoints": (lambda hg: hg.list_checkpoints(), "checkpoint"),
    "ListDatasets": (lambda hg: hg.list_datasets(), "dataset"),
}


@pytest.mark.parametrize("rpc", LISTS)
def test_a_page_ends_where_the_answer_would_be_too_large(
    hg: handgrad.Client, monkeypatch: pytest.MonkeyPatch, rpc: str
) -> None:
    listed, name = LISTS[rpc]
    whole = list(listed(hg))
    assert len(whole) >= 5
    # Two and a half of the largest.
    most = convert.REST_BYTES + round(2.5 * max(each.ByteSize() + service.ELEMENT_BYTES for each in whole))
    at_most(monkeypatch, most)
    pages: list[Any] = []
    call = getattr(hg._stub, rpc)

    def counted(request: Any, **options: Any) -> Any:
        pages.append(call(request, **options))
        return pages[-1]

    monkeypatch.setattr(hg._stub, rpc, counted)
    assert [getattr(each, name) for each in listed(hg)] == [getattr(each, name) for each in whole]
    assert len(pages) >= 2
    assert max(page.ByteSize() for page in pages) <= most


def test_the_largest_networks_are_listed(running: Server, hg: handgrad.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    # As many layers as are allowed; to make 120 models of it would take seconds.
    convolution = {"kind": "convolution", "channels": 1, "kernel": 3, "padding": 1}
    layers = [{"kind": "residual", "layers": [convolution]}] * (MAX_LAYERS - 2)
    deep = make_network(layers_from_spec([*layers, {"kind": "flatten"}, {"kind": "affine"}]), (3, 4), 3)
    models = [Model(f"deep-{number:03}", deep) for number in range(120)]

    def page(size: int, after: str) -> list[Model]:
        return [model for model in models if model.name > after][:size]

    monkeypatch.setattr(running._worker._models, "page", page)
    listed = list(hg.list_models())
    assert [model.model for model in listed] == [model.name for model in models]
    assert sum(model.ByteSize() for model in listed) > FOUR_MB


def test_a_sweep_of_as_many_networks_as_are_allowed_fits(running: Server) -> None:
    layers = [*[{"kind": "affine", "outputs": 3}] * 99, {"kind": "affine"}]
    network = make_network(layers_from_spec(layers), (3, 4), 3)
    job = replace(running._worker._jobs.get("job-1"), request=JobRequest("", "tiny-0", network, CONFIG, 20))
    member = Member(job, ("network", "learning_rate", "seed"), None)
    now = 1_700_000_000.0
    sweep = Sweep(9, "sweep-9", "sweep-9", 0, "tiny-0", "somebody", JobState.RUNNING, "", now, None, Halving(1, 3), 0)
    few = convert.sweep_to_proto(replace(sweep, members=(member,) * 3), lambda job: job.iteration)
    assert {len(each.config.network.layers) for each in few.members} == {100}
    assert sum(each.ByteSize() for each in few.members) / 3 * MAX_MEMBERS > FOUR_MB
    message = convert.sweep_to_proto(replace(sweep, members=(member,) * MAX_MEMBERS), lambda job: job.iteration)
    assert pb.WatchSweepResponse(sweep=message).ByteSize() <= FOUR_MB
    assert len(message.members) == MAX_MEMBERS
    # Only the networks are left out.
    assert not any(each.config.HasField("network") for each in message.members)
    assert {(each.job, each.config.learning_rate) for each in message.members} == {(job.name, CONFIG.learning_rate)}


def test_a_large_sweep_is_watched_and_its_networks_are_found(
    hg: handgrad.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [{"hidden": (width,), "seed": width} for width in range(1, 9)]
    sweep = hg.train_sweep(members, dataset="tiny-0", config={"batch_size": 10, "epochs": 1})
    assert all(member.config.HasField("network") for member in sweep.info.members)
    at_most(monkeypatch, sweep.info.ByteSize())
    cut = next(sweep.standings())
    assert [member.config.seed for member in cut.members] == list(range(1, 9))
    assert not any(member.config.HasField("network") for member in cut.members)
    assert hg.get_sweep(sweep.name) == cut
    jobs = [hg.get_job(member.job) for member in cut.members]
    assert [job.config.network.layers[0].settings["outputs"] for job in jobs] == list(range(1, 9))
    again = hg.train_sweep(members, dataset="tiny-0", config={"batch_size": 10, "epochs": 1})
    assert [member.config.seed for member in again.info.members] == list(range(1, 9))
    assert {member.state for member in hg.cancel_sweep(sweep.name).members} == {job_pb2.JOB_STATE_CANCELLED}


def test_what_cannot_be_cut_is_told(hg: handgrad.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(hg.list_jobs()).job
    at_most(monkeypatch, 100)
    told = r"the answer has \d+ bytes, and gRPC receives 100 at most"
    for call in (
        lambda: hg.get_job(name),
        lambda: next(hg.watch_job(name)),
        lambda: hg.get_params("model-0"),
        lambda: next(hg.list_models()),
    ):
        with pytest.raises(handgrad.ExhaustedError, match=told):
            call()


def test_as_many_images_are_predicted_as_fit_an_answer(hg: handgrad.Client) -> None:
    hg.upload_params({"W_1": np.linspace(-1, 1, MAX_OUTPUTS)[:, None], "b_1": np.zeros((MAX_OUTPUTS, 1))}, "wide")

    def predict(count: int) -> pb.PredictResponse:
        images = params_pb2.Tensor(data_type=params_pb2.DATA_TYPE_UINT8, shape=[count, 1], data=bytes([1]) * count)
        with hg._errors():
            return hg._stub.Predict(pb.PredictRequest(model="wide", images=images))

    with pytest.raises(handgrad.InvalidArgumentError, match=r"at most 4\d{3} images in a call") as raised:
        predict(100_000)
    assert raised.value.field == "images.shape"
    told = re.search(r"at most (\d+) images", str(raised.value))
    assert told
    most = int(told[1])
    response = predict(most)
    assert len(response.labels) == most
    # Nearly full: the next image would not fit.
    assert FOUR_MB - 2000 < response.ByteSize() <= FOUR_MB
    with pytest.raises(handgrad.InvalidArgumentError, match=f"at most {most} images in a call.*; got {most + 1}"):
        predict(most + 1)


def test_the_client_predicts_any_number_of_images(hg: handgrad.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    hg.upload_params({"W_1": np.linspace(-1, 1, MAX_OUTPUTS)[:, None], "b_1": np.zeros((MAX_OUTPUTS, 1))}, "wider")
    images = np.arange(5000, dtype=np.uint8)[:, None] % 3
    found = hg.predict("wider", images, pixels="raw")
    assert found.probabilities.shape == (5000, MAX_OUTPUTS)
    expected = np.exp(images * np.linspace(-1, 1, MAX_OUTPUTS))
    np.testing.assert_allclose(found.probabilities, expected / expected.sum(axis=1, keepdims=True), rtol=1e-4)
    # Where there are fewer classes, a few calls do.
    counts: list[int] = []
    call = hg._stub.Predict

    def counted(request: pb.PredictRequest, **options: Any) -> pb.PredictResponse:
        counts.append(request.images.shape[0])
        return call(request, **options)

    monkeypatch.setattr(hg._stub, "Predict", counted)
    assert hg.predict("model-1", np.zeros((20_000, 12), np.uint8)).labels.shape == (20_000,)
    assert len(counts) == 2


def test_a_network_of_blocks_without_number_is_refused() -> None:
    # A file may tell of blocks without layers, which did not count as layers.
    layers = layers_from_spec([*[{"kind": "residual", "layers": []}] * (MAX_LAYERS + 1), {"kind": "flatten"}])
    with pytest.raises(InvalidInputError, match="at most 256 residual blocks; got 257") as raised:
        make_network(layers, (1, 3), 3)
    assert raised.value.field == "network.layers"
