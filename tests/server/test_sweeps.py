"""Sweeps: each member is the network trained alone, hopeless ones are stopped, and the best becomes a model."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import handgrad
from handgrad.client.errors import code
from handgrad.core import training
from handgrad.server.app import Server
from handgrad.server.sweeps import Halving
from handgrad.v1 import job_pb2, sweep_pb2
from handgrad.v1 import training_service_pb2 as pb
from handgrad.v1.training_service_pb2_grpc import TrainingServiceStub

CONFIG: dict[str, Any] = {"batch_size": 10, "epochs": 4}
MEMBERS = handgrad.grid(learning_rate=(0.05, 0.2), seed=(0, 1), hidden=((), (4,)))


@pytest.fixture(params=[1, 3], ids=["alone", "together"])
def networks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many networks train in one compiled loop: 1 as on a CPU, several as on a GPU."""
    networks: int = request.param
    monkeypatch.setattr(training, "_most_together", lambda *_: networks)
    return networks


def started(hg: handgrad.Client, tiny: str, members: Sequence[dict[str, Any]] = MEMBERS, **more: Any) -> handgrad.Sweep:
    config = CONFIG | more.pop("config", {})
    return hg.train_sweep(members, dataset=tiny, config=config, **more)


def state(member: sweep_pb2.SweepMember) -> str:
    return job_pb2.JobState.Name(member.state).removeprefix("JOB_STATE_").lower()


def test_each_member_has_the_bits_of_the_network_alone(hg: handgrad.Client, tiny: str) -> None:
    found = started(hg, tiny, config={"momentum": 0.5, "optimizer": "adam"})
    info = found.wait()
    assert [state(member) for member in info.members] == ["succeeded"] * 8
    for member, own in zip(info.members, MEMBERS, strict=True):
        alone = hg.train(dataset=tiny, **CONFIG, momentum=0.5, optimizer="adam", **own)
        alone.wait()
        job = hg.get_job(member.job)
        assert job.params_sha256 == alone.info.params_sha256
        np.testing.assert_array_equal(hg.get_losses(member.job), alone.losses())
        assert (member.config.learning_rate, member.config.seed) == (own["learning_rate"], own["seed"])
        assert not member.config.HasField("batch_size")


def test_members_that_train_together_are_the_networks_alone_but_for_rounding(
    hg: handgrad.Client, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops: list[int] = []
    train_together = training.train_together

    def counted(*arguments: Any) -> Iterator[tuple[training.Chunk, ...]]:
        loops.append(len(arguments[1]))
        return train_together(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(training, "_most_together", lambda *_: 4)
        patched.setattr(training, "train_together", counted)
        info = started(hg, tiny, config={"validation_images": 10}).wait()
    # Two shapes, four networks of each.
    assert loops == [4, 4]
    for member, own in zip(info.members, MEMBERS, strict=True):
        alone = hg.train(dataset=tiny, **CONFIG, validation_images=10, **own)
        alone.wait()
        np.testing.assert_allclose(hg.get_losses(member.job), alone.losses(), rtol=1e-4)
        model = hg.get_job(member.job).model
        for name, array in hg.get_params(model).arrays.items():
            np.testing.assert_allclose(array, alone.params().arrays[name], rtol=1e-4, atol=1e-5)
        told, expected = (hg.get_loss(job).epochs for job in (member.job, alone.name))
        assert [epoch.epoch for epoch in told] == [1, 2, 3, 4]
        for one, other in zip(told, expected, strict=True):
            assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-4)


@pytest.mark.usefixtures("networks")
def test_the_best_member_becomes_a_model_and_the_others_keep_their_newest_version(
    hg: handgrad.Client, tiny: str
) -> None:
    found = started(hg, tiny, model="winner")
    info = found.wait()
    best = found.ranked[0]
    losses = [member.epoch.mean_loss for member in found.ranked]
    assert losses == sorted(losses)
    assert [member.rank for member in found.ranked] == list(range(1, 9))
    assert (info.model, info.version) == ("winner", 1)
    params = found.params()
    assert params.version.params_sha256 == hg.get_job(best.job).params_sha256
    assert params.version.job == best.job
    models = {model.model: list(model.versions) for model in hg.list_models()}
    assert models == {"winner": [1]} | {f"sweep-1.{number}": [5] for number in range(1, 9)}
    assert [epoch.epoch for epoch in found.epochs(best)] == [1, 2, 3, 4]


def test_a_sweep_goes_on_a_model_of_the_same_network_alone(hg: handgrad.Client, tiny: str) -> None:
    hg.train(dataset=tiny, **CONFIG, hidden=(4,), model="mine").wait()
    again = started(hg, tiny, [{"hidden": (4,), "seed": 3}], model="mine")
    again.wait()
    assert again.info.version == 6
    with pytest.raises(handgrad.PreconditionError, match="model mine has another network"):
        started(hg, tiny, model="mine")
    assert len(list(hg.list_sweeps())) == 1


@pytest.mark.usefixtures("networks")
def test_halving_stops_the_hopeless_by_their_validation_loss(hg: handgrad.Client, tiny: str) -> None:
    members = handgrad.grid(learning_rate=(0.001, 0.01, 0.1), seed=(0, 1, 2))
    found = started(hg, tiny, members, config={"validation_images": 20}, halving=handgrad.Halving(1, 3))
    info = found.wait()
    assert info.measure == sweep_pb2.MEASURE_VALIDATION_LOSS
    assert [member.epoch.epoch for member in found.ranked] == [4, 3, 3] + [1] * 6
    assert [state(member) for member in found.ranked] == ["succeeded"] + ["cancelled"] * 8
    assert "stopped by halving: rank 3 of 3 after epoch 3" in found.ranked[2].error
    # Those that went on are those with the smallest loss after the epoch, and nothing was trained twice.
    first = {member.job: found.epochs(member)[0].validation_loss for member in info.members}
    assert set(sorted(first, key=first.__getitem__)[:3]) == {member.job for member in found.ranked[:3]}
    best = hg.get_job(found.ranked[0].job)
    assert (best.iteration, best.resumes) == (20, 0)
    assert info.version == 1


def test_the_numbers_of_epochs_at_which_members_are_stopped() -> None:
    assert Halving(1, 3).pauses(10) == [1, 3, 9]
    assert Halving(2, 2).pauses(8) == [2, 4]
    assert Halving(5, 2).pauses(5) == []


@pytest.mark.usefixtures("networks")
def test_one_member_and_a_whole_sweep_are_cancelled(hg: handgrad.Client, tiny: str) -> None:
    found = started(hg, tiny, handgrad.grid(seed=range(12)), config={"epochs": 20_000})
    hg.cancel_job(found.info.members[3].job)
    while state(hg.get_sweep(found.name).members[3]) != "cancelled":
        time.sleep(0.01)
    while not hg.get_sweep(found.name).members[0].HasField("epoch"):
        time.sleep(0.01)
    found.cancel()
    info = found.wait()
    assert {state(member) for member in info.members} == {"cancelled"}
    # Those that ran have an epoch, and so there is a best one; the others never began.
    assert info.version == 1
    assert info.members[11].rank == 0


def test_a_sweep_that_is_cancelled_before_it_began(hg: handgrad.Client, tiny: str) -> None:
    running = hg.train(dataset=tiny, batch_size=10, epochs=50_000)
    waiting = started(hg, tiny)
    waiting.cancel()
    running.cancel()
    with pytest.raises(handgrad.SweepError, match="cancelled before an epoch ended"):
        waiting.wait()


@pytest.mark.usefixtures("networks")
def test_a_member_that_diverges_fails_alone(hg: handgrad.Client, tiny: str) -> None:
    found = started(hg, tiny, [{"learning_rate": 0.05}, {"learning_rate": 1e30}])
    info = found.wait()
    assert [(state(member), member.rank) for member in info.members] == [("succeeded", 1), ("failed", 0)]
    assert "diverged" in info.members[1].error
    with pytest.raises(handgrad.SweepError, match="no member trained an epoch"):
        started(hg, tiny, [{"learning_rate": 1e30}]).wait()


@pytest.mark.parametrize(
    ("members", "config", "field"),
    [
        ([], {}, "members"),
        ([{}] * 1025, {}, "members"),
        ([{}, {"learning_rate": -1.0}], {}, "members[1].learning_rate"),
        ([{}, {"hidden": (0,)}], {}, "members[1].network.layers[0].outputs"),
        ([{}], {"learning_rate": -1.0}, "learning_rate"),
        ([{"colour": 3}], {}, "colour"),
        ([{"seed": "many"}], {}, "seed"),
    ],
)
def test_what_is_out_of_range_names_the_member(
    hg: handgrad.Client, tiny: str, members: list[dict[str, Any]], config: dict[str, Any], field: str
) -> None:
    with pytest.raises(handgrad.InvalidArgumentError) as caught:
        started(hg, tiny, members, config=config)
    assert caught.value.field == field
    assert not list(hg.list_sweeps())
    assert not list(hg.list_models())


def test_halving_is_checked(hg: handgrad.Client, tiny: str) -> None:
    for halving, field in ((handgrad.Halving(-1, 3), "first_epochs"), (handgrad.Halving(1, 1), "factor")):
        with pytest.raises(handgrad.InvalidArgumentError) as caught:
            started(hg, tiny, halving=halving)
        assert caught.value.field == f"halving.{field}"


def test_a_request_id_starts_one_sweep(hg: handgrad.Client, tiny: str) -> None:
    first = started(hg, tiny, request_id="one")
    first.wait()
    again = started(hg, tiny, request_id="one")
    assert again.wait().sweep == first.name
    with pytest.raises(handgrad.AlreadyExistsError, match="was used for another request"):
        started(hg, tiny, [{"seed": 7}], request_id="one")
    assert [found.sweep for found in hg.list_sweeps()] == ["sweep-1"]


def test_unknown_sweeps_and_pages(server: Server, hg: handgrad.Client, tiny: str) -> None:
    for ask in (hg.get_sweep, hg.cancel_sweep, lambda name: next(iter(hg.watch_sweep(name)))):
        with pytest.raises(handgrad.NotFoundError, match="there is no sweep"):
            ask("sweep-9")
    for _ in range(3):
        started(hg, tiny, [{}]).wait()
    with grpc.insecure_channel(server.address) as channel:
        stub = TrainingServiceStub(channel)
        page = stub.ListSweeps(pb.ListSweepsRequest(page_size=2))
        assert [found.sweep for found in page.sweeps] == ["sweep-3", "sweep-2"]
        page = stub.ListSweeps(pb.ListSweepsRequest(page_size=2, page_token=page.next_page_token))
        assert ([found.sweep for found in page.sweeps], page.next_page_token) == (["sweep-1"], "")
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListSweeps(pb.ListSweepsRequest(page_token="x"))
    assert code(caught.value) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.usefixtures("networks")
def test_a_sweep_goes_on_after_a_stop_bit_for_bit(tmp_path: Path, tiny_folder: Path) -> None:
    members = handgrad.grid(seed=range(4), learning_rate=(0.05, 0.1))
    config: dict[str, Any] = {"batch_size": 10, "epochs": 80, "optimizer": "adam"}

    def members_of(folder: Path, stops: int) -> list[str]:
        name, done = "", 0
        for stop in range(stops + 1):
            server = Server("127.0.0.1:0", folder, snapshot_seconds=0)
            try:
                with handgrad.connect(server.address) as hg:
                    hg.reconnect_seconds = 0
                    if not name:
                        hg.upload_dataset(tiny_folder, "tiny")
                        halving = handgrad.Halving(20, 2)
                        name = hg.train_sweep(members, dataset="tiny", config=config, halving=halving).name
                    if stop == stops:
                        info = hg.sweep(name).wait()
                        return [hg.get_job(member.job).params_sha256 for member in info.members]
                    while sum(member.iteration for member in hg.get_sweep(name).members) <= done + 400:
                        time.sleep(0.005)
                    done = sum(member.iteration for member in hg.get_sweep(name).members)
            finally:
                server.stop()
        raise AssertionError("unreachable")

    assert members_of(tmp_path / "disturbed", 2) == members_of(tmp_path / "undisturbed", 0)


def test_a_group_goes_on_bit_for_bit_without_a_member_that_was_cancelled(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_most_together", lambda *_: 3)
    members = handgrad.grid(seed=range(3))
    config: dict[str, Any] = {"batch_size": 10, "epochs": 100, "momentum": 0.9}
    server = Server("127.0.0.1:0", tmp_path / "data", snapshot_seconds=0)
    try:
        with handgrad.connect(server.address) as hg:
            hg.upload_dataset(tiny_folder, "tiny")
            undisturbed = hg.train_sweep(members, dataset="tiny", config=config).wait()
            expected = [hg.get_job(member.job).params_sha256 for member in undisturbed.members]
            name = hg.train_sweep(members, dataset="tiny", config=config).name
            cancelled = hg.get_sweep(name).members[1].job
            while hg.get_job(cancelled).iteration < 20:
                time.sleep(0.001)
            hg.cancel_job(cancelled)
    finally:
        server.stop()
    server = Server("127.0.0.1:0", tmp_path / "data")
    try:
        with handgrad.connect(server.address) as hg:
            info = hg.sweep(name).wait()
            found = [hg.get_job(member.job) for member in info.members]
    finally:
        server.stop()
    assert [state(member) for member in info.members] == ["succeeded", "cancelled", "succeeded"]
    assert 20 <= found[1].iteration < 500
    assert found[0].resumes == 1
    assert [found[0].params_sha256, found[2].params_sha256] == [expected[0], expected[2]]


def test_a_sweep_counts_as_one_job_of_the_queue(tmp_path: Path, tiny_folder: Path) -> None:
    server = Server("127.0.0.1:0", tmp_path / "data", max_queued_jobs=2)
    try:
        with handgrad.connect(server.address) as hg:
            hg.upload_dataset(tiny_folder, "tiny")
            running = hg.train(dataset="tiny", batch_size=10, epochs=50_000)
            while hg.get_job(running.name).iteration == 0:
                time.sleep(0.005)
            sweeps = [started(hg, "tiny") for _ in range(2)]
            for ask in (lambda: started(hg, "tiny"), lambda: hg.train(dataset="tiny", batch_size=10)):
                with pytest.raises(handgrad.ExhaustedError, match="2 jobs are waiting already"):
                    ask()
            running.cancel()
            for found in sweeps:
                assert found.wait().version == 1
    finally:
        server.stop()
