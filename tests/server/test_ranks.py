"""What members of a sweep are ranked by, and their places: like is compared with like."""

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import numpy as np
import pytest

import handgrad
from handgrad.client.errors import code
from handgrad.core.config import preset
from handgrad.core.errors import InvalidInputError
from handgrad.core.network import fully_connected, make_network
from handgrad.core.operations.affine import Affine
from handgrad.core.operations.dropout import Dropout
from handgrad.core.signature import unknown
from handgrad.server.app import Server
from handgrad.server.jobs import Epoch, Job, JobRequest, JobState
from handgrad.server.sweeps import Measure, Member, Sweep, check_seeds, measure_of, ranked
from handgrad.v1 import job_pb2, sweep_pb2
from handgrad.v1 import training_service_pb2 as pb

MEAN, LOSS, ACCURACY = Measure.MEAN_LOSS, Measure.VALIDATION_LOSS, Measure.VALIDATION_ACCURACY
NETWORK = fully_connected(12, (), 3)
PLAIN = JobRequest("", "tiny", NETWORK, preset("report").config, 65, unknown(NETWORK))
REGULARIZED = make_network([Dropout(0.5), Affine()], (12,), 3)


def asked(**settings: Any) -> JobRequest:
    return replace(PLAIN, config=replace(PLAIN.config, **settings))


VALIDATED = asked(validation_images=10)
BY_LOSS = [asked(validation_images=10, loss=loss) for loss in ("softmax_cross_entropy", "squared_error")]
OF_TRAINING: dict[str, list[JobRequest]] = {
    "label_smoothing": [PLAIN, asked(label_smoothing=0.2)],
    "weight_decay": [PLAIN, asked(weight_decay=0.2)],
    "flip": [PLAIN, asked(flip=True)],
    "crop": [PLAIN, asked(crop=1)],
    "shift": [PLAIN, asked(shift=1)],
    "dropout": [PLAIN, replace(PLAIN, network=REGULARIZED)],
}


@pytest.mark.parametrize(
    ("members", "measure", "expected"),
    [
        ([PLAIN, asked(learning_rate=0.1, optimizer="adam", seed=3)], None, MEAN),
        ([PLAIN, replace(PLAIN, network=fully_connected(12, (5,), 3))], None, MEAN),
        ([VALIDATED] * 2, None, LOSS),
        ([VALIDATED] * 2, MEAN, MEAN),
        ([VALIDATED] * 2, ACCURACY, ACCURACY),
        (BY_LOSS, None, ACCURACY),
        (BY_LOSS, ACCURACY, ACCURACY),
    ],
)
def test_members_are_ranked_by_what_compares_them(
    members: list[JobRequest], measure: Measure | None, expected: Measure
) -> None:
    assert measure_of(members, measure) is expected


@pytest.mark.parametrize("setting", OF_TRAINING)
def test_training_losses_of_unlike_things_are_not_compared(setting: str) -> None:
    members = OF_TRAINING[setting]
    told = f"mean_loss does not compare members that differ in {setting}; rank them by validation_loss"
    for measure, field in ((None, "validation_images"), (MEAN, "measure")):
        with pytest.raises(InvalidInputError) as raised:
            measure_of(members, measure)
        assert raised.value.field == field
        assert raised.value.problem == f"{told}, which needs validation_images"
    validated = [replace(each, config=replace(each.config, validation_images=10)) for each in members]
    assert measure_of(validated, None) is LOSS
    with pytest.raises(InvalidInputError) as raised:
        measure_of(validated, MEAN)
    assert (raised.value.field, raised.value.problem) == ("measure", told)


@pytest.mark.parametrize(
    ("members", "measure", "field", "told"),
    [
        (
            [PLAIN, asked(loss="squared_error")],
            None,
            "validation_images",
            "differ in loss; rank them by validation_acc",
        ),
        (BY_LOSS, LOSS, "measure", "validation_loss does not compare members that differ in loss"),
        (BY_LOSS, MEAN, "measure", "mean_loss does not compare members that differ in loss"),
        ([PLAIN], LOSS, "measure", "validation_loss needs validation_images"),
        ([PLAIN], ACCURACY, "measure", "validation_accuracy needs validation_images"),
        ([PLAIN, VALIDATED], None, "validation_images", "one number for all members"),
        ([VALIDATED, asked(validation_images=20)], ACCURACY, "validation_images", "got 10 and 20"),
    ],
)
def test_what_compares_nothing_is_refused(
    members: list[JobRequest], measure: Measure | None, field: str, told: str
) -> None:
    with pytest.raises(InvalidInputError) as raised:
        measure_of(members, measure)
    assert raised.value.field == field
    assert told in raised.value.problem


def test_a_mean_of_seeds_needs_members_that_differ_in_their_seed_alone() -> None:
    check_seeds([PLAIN, asked(learning_rate=0.1), asked(learning_rate=0.1, seed=1)])
    for members in ([PLAIN], [PLAIN, PLAIN], [PLAIN, asked(learning_rate=0.1, seed=1)]):
        with pytest.raises(InvalidInputError, match="mean_of_seeds: members that differ in their seed alone"):
            check_seeds(members)


RUNNING, FAILED, CANCELLED = JobState.RUNNING, JobState.FAILED, JobState.CANCELLED


def places(
    members: Sequence[tuple[float, int, JobState, int, float]], measure: Measure = MEAN, *, mean_of_seeds: bool = True
) -> list[tuple[int, float | None]]:
    """Gives rank and measure of members, of which are told learning rate, seed, state, epochs and what was measured."""
    found: list[Member] = []
    for number, (rate, seed, state, epochs, measured) in enumerate(members):
        request = replace(asked(learning_rate=rate, seed=seed), model=f"m{number}")
        job = cast("Job", SimpleNamespace(number=number, name=f"job-{number}", request=request, state=state))
        epoch = Epoch(epochs, measured, 1.0, measured, measured) if epochs else None
        found.append(Member(job, (), epoch, epoch))
    sweep = Sweep(
        *(1, "sweep-1", "best", 0, "tiny", "", RUNNING, "", 0.0, None, None, 0),
        measure=measure,
        mean_of_seeds=mean_of_seeds,
    )
    return [(member.rank, member.measured) for member in ranked(sweep, found)]


def test_the_smallest_loss_and_the_largest_accuracy_are_the_best() -> None:
    members = [(0.1, 0, RUNNING, 1, 0.5), (0.2, 0, RUNNING, 1, 0.25), (0.3, 0, RUNNING, 0, 0.0)]
    assert places(members, MEAN, mean_of_seeds=False) == [(2, 0.5), (1, 0.25), (0, None)]
    assert places(members, LOSS, mean_of_seeds=False) == [(2, 0.5), (1, 0.25), (0, None)]
    assert places(members, ACCURACY, mean_of_seeds=False) == [(1, 0.5), (2, 0.25), (0, None)]


def test_what_is_no_number_is_the_worst() -> None:
    members = [(0.1, 0, RUNNING, 1, math.nan), (0.2, 0, RUNNING, 1, 0.0)]
    for measure in Measure:
        assert [rank for rank, _ in places(members, measure, mean_of_seeds=False)] == [2, 1]


def test_groups_of_seeds_are_ranked_by_their_mean() -> None:
    # The luckiest single member is in the worse group.
    members = [
        (0.1, 0, RUNNING, 1, 0.25),
        (0.2, 0, RUNNING, 1, 0.5),
        (0.1, 1, RUNNING, 1, 1.75),
        (0.2, 1, RUNNING, 1, 0.75),
    ]
    assert places(members) == [(3, 1.0), (1, 0.625), (4, 1.0), (2, 0.625)]
    assert places(members, ACCURACY) == [(2, 1.0), (4, 0.625), (1, 1.0), (3, 0.625)]
    assert [rank for rank, _ in places(members, mean_of_seeds=False)] == [1, 2, 4, 3]


def test_a_group_of_which_one_failed_stands_behind_those_of_which_none_did() -> None:
    members = [
        (0.1, 0, RUNNING, 3, 0.25),
        (0.1, 1, FAILED, 2, 0.1),
        (0.2, 0, RUNNING, 3, 0.5),
        (0.3, 0, CANCELLED, 1, 0.1),
    ]
    assert places(members) == [(2, 0.25), (0, None), (1, 0.5), (3, 0.1)]
    assert places(members, mean_of_seeds=False) == [(1, 0.25), (0, None), (2, 0.5), (3, 0.1)]


def test_a_member_that_was_stopped_has_no_part_in_the_mean_of_others() -> None:
    members = [(0.1, 0, RUNNING, 3, 0.25), (0.1, 1, CANCELLED, 1, 9.0), (0.2, 0, RUNNING, 3, 0.5)]
    assert places(members) == [(1, 0.25), (2, 0.25), (3, 0.5)]
    members = [(0.1, 0, CANCELLED, 1, 0.25), (0.1, 1, CANCELLED, 1, 0.75), (0.2, 0, CANCELLED, 3, 4.0)]
    assert places(members) == [(2, 0.5), (3, 0.5), (1, 4.0)]


DATA = "tiny"
CONFIG: dict[str, Any] = {"batch_size": 10, "epochs": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def hg(folder: Path) -> Iterator[handgrad.Client]:
    """A client of one server for all tests below."""
    generator = np.random.default_rng(0)
    splits: dict[str, Any] = {}
    for split, count in (("train", 65), ("test", 20)):
        splits[f"x_{split}"] = generator.integers(0, 256, (count, 3, 4), np.uint8)
        splits[f"y_{split}"] = np.arange(count, dtype=np.uint8) % 3
    np.savez(folder / "tiny.npz", **splits)
    server = Server("127.0.0.1:0", folder / "data")
    with handgrad.connect(server.address) as client:
        client.upload_dataset(folder / "tiny.npz", DATA)
        yield client
    server.stop()


def started(hg: handgrad.Client, members: Sequence[dict[str, Any]], **more: Any) -> handgrad.Sweep:
    config = CONFIG | more.pop("config", {})
    return hg.train_sweep(members, dataset=DATA, config=config, transform="unit", **more)


def test_members_with_different_losses_are_ranked_by_accuracy(hg: handgrad.Client) -> None:
    members = handgrad.grid(loss=("softmax_cross_entropy", "squared_error"), learning_rate=(0.001, 0.1))
    found = started(hg, members, config={"validation_images": 20}, model="of-losses")
    info = found.wait()
    assert (found.measure, info.mean_of_seeds) == ("validation_accuracy", False)
    accuracies = [member.epoch.validation_accuracy for member in found.ranked]
    assert accuracies == sorted(accuracies, reverse=True)
    assert [member.measured for member in found.ranked] == pytest.approx(accuracies, rel=1e-6)
    assert found.params().version.job == found.ranked[0].job


def test_the_best_epoch_is_measured_where_it_is_kept(hg: handgrad.Client) -> None:
    # So fast that it overfits, and the newest epoch is not the best.
    settings = {"keep_best": True, "validation_images": 20, "epochs": 12, "optimizer": "adam", "learning_rate": 0.05}
    for measure, name in (
        ("validation_accuracy", "validation_accuracy"),
        (None, "validation_loss"),
        ("mean_loss",) * 2,
    ):
        found = started(hg, [{"hidden": (32,)}], config=settings, measure=measure)
        (member,) = found.wait().members
        best = hg.get_job(member.job).best_epoch
        assert best < 12
        assert member.epoch.epoch == 12
        assert member.measured == pytest.approx(getattr(found.epochs(member)[best - 1], name), rel=1e-6)
        assert member.measured != pytest.approx(getattr(member.epoch, name), rel=1e-6)


def test_halving_keeps_and_stops_seeds_together(hg: handgrad.Client) -> None:
    members = handgrad.grid(seed=(0, 1), learning_rate=(0.00001, 0.1))
    config = {"validation_images": 20, "epochs": 3}
    found = started(hg, members, config=config, mean_of_seeds=True, halving=handgrad.Halving(1, 2))
    info = found.wait()
    assert info.mean_of_seeds
    assert [member.epoch.epoch for member in found.ranked] == [3, 3, 1, 1]
    first, second, *stopped = found.ranked
    assert first.config.learning_rate == second.config.learning_rate
    assert {member.state for member in stopped} == {job_pb2.JOB_STATE_CANCELLED}
    assert first.epoch.validation_loss < second.epoch.validation_loss
    mean = (first.epoch.validation_loss + second.epoch.validation_loss) / 2
    assert first.measured == second.measured == pytest.approx(mean, rel=1e-12)
    assert found.params().version.job == first.job


def test_a_sweep_of_an_older_server_keeps_its_way(hg: handgrad.Client, folder: Path) -> None:
    for validation_images, measure in ((0, "mean_loss"), (20, "validation_loss")):
        found = started(
            hg, handgrad.grid(seed=(0, 1)), config={"validation_images": validation_images}, measure=measure
        )
        found.wait()
        with sqlite3.connect(next((folder / "data").glob("*.sqlite*"))) as database:
            query = "SELECT asked FROM sweeps WHERE name = ?"
            kept = json.loads(database.execute(query, (found.name,)).fetchone()[0])
            assert (kept.pop("measure"), kept.pop("mean_of_seeds")) == (measure, False)
            database.execute("UPDATE sweeps SET asked = ? WHERE name = ?", (json.dumps(kept), found.name))
        database.close()
        again = hg.sweep(found.name)
        assert again.measure == measure
        assert list(again.info.members) == list(found.info.members)
        assert next(iter(hg.list_sweeps())).measure == sweep_pb2.MEASURE_UNSPECIFIED


def test_a_setting_of_all_members_is_read_by_some(hg: handgrad.Client) -> None:
    found = started(hg, handgrad.grid(optimizer=("sgd", "adam")), config={"beta2": 0.9})
    info = found.wait()
    assert [hg.get_job(member.job).config.beta2 for member in info.members] == [0, 0.9]


SOFTMAX = [{"kind": "affine"}, {"kind": "softmax"}]


@pytest.mark.parametrize(
    ("members", "more", "field", "told"),
    [
        (handgrad.grid(optimizer=("sgd", "adam"), beta2=(0.9, 0.99)), {}, "members[0].beta2", "sgd does not read it"),
        ([{}, {"label_smoothing": 0.1, "loss": "squared_error"}], {}, "members[1].label_smoothing", "does not read it"),
        ([{"optimizer": "sgd"}, {"optimizer": "momentum"}], {"config": {"beta2": 0.9}}, "beta2", "those that do: rms"),
        ([{}], {"config": {"patience": 2}}, "patience", "needs validation_images"),
        ([{}, {"network": SOFTMAX}], {}, "members[1].network.layers", "layer 2, softmax, ends the network"),
        ([{"loss": "squared_error"}, {}], {}, "validation_images", "differ in loss"),
        ([{}], {"measure": "validation_loss"}, "measure", "needs validation_images"),
        ([{}], {"measure": "loss"}, "measure", "one of 'mean_loss', 'validation_loss', 'validation_accuracy'"),
        ([{}], {"mean_of_seeds": True}, "mean_of_seeds", "got no two such"),
        ([{}], {"halving": handgrad.Halving(2, 3)}, "halving.first_epochs", "less than the members' epochs, 2"),
    ],
)
def test_what_cannot_work_is_refused(
    hg: handgrad.Client, members: list[dict[str, Any]], more: dict[str, Any], field: str, told: str
) -> None:
    before = len(list(hg.list_jobs()))
    with pytest.raises(handgrad.InvalidArgumentError) as raised:
        started(hg, members, **more)
    assert raised.value.field == field
    assert told in str(raised.value)
    assert len(list(hg.list_jobs())) == before


def test_an_unknown_measure_is_refused_by_the_server(hg: handgrad.Client) -> None:
    request = pb.TrainSweepRequest(dataset=DATA, members=[job_pb2.TrainConfig()])
    request.MergeFromString(pb.TrainSweepRequest(measure=sweep_pb2.MEASURE_MEAN_LOSS).SerializeToString()[:1] + b"\x09")
    with pytest.raises(grpc.RpcError) as raised:
        next(iter(hg._stub.TrainSweep(request)))
    assert code(raised.value) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"beta2": 0.9}, "beta2"),
        ({"label_smoothing": 0.1, "loss": "squared_error"}, "label_smoothing"),
        ({"schedule_factor": 0.1}, "schedule_factor"),
        ({"network": SOFTMAX}, "network.layers"),
        ({"network": [SOFTMAX[0], {"kind": "batch_norm"}], "batch_size": 1}, "batch_size"),
    ],
)
def test_a_job_that_cannot_work_is_refused(hg: handgrad.Client, settings: dict[str, Any], field: str) -> None:
    with pytest.raises(handgrad.InvalidArgumentError) as raised:
        hg.train(dataset=DATA, **CONFIG | settings)
    assert raised.value.field == field


def test_a_network_that_ends_in_a_softmax_is_described_verified_and_trained_with_squared_error(
    hg: handgrad.Client,
) -> None:
    assert [row.kind for row in hg.describe_network(SOFTMAX, dataset=DATA).layers] == ["affine", "softmax"]
    assert hg.check_gradients(SOFTMAX, dataset=DATA).passed
    job = hg.train(dataset=DATA, network=SOFTMAX, loss="squared_error", label_smoothing=0, **CONFIG)
    assert job.wait().state == job_pb2.JOB_STATE_SUCCEEDED
