"""A model's signature goes with it: into files and checkpoints, through jobs, and out of older data directories."""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import handgrad
from handgrad.server.app import Server
from handgrad.v1 import signature_pb2, tensor_pb2
from handgrad.v1 import training_service_pb2 as pb

BEFORE = Path(__file__).with_name("before_signatures.zip")
NORMALIZED: list[dict[str, Any]] = [
    {"kind": "affine", "outputs": 6},
    {"kind": "batch_norm"},
    {"kind": "relu"},
    {"kind": "affine"},
]
RECTIFIED: list[dict[str, Any]] = [
    {"kind": "affine", "outputs": 6},
    {"kind": "relu"},
    {"kind": "dropout", "rate": 0.2},
    {"kind": "affine"},
]
SETTINGS: dict[str, Any] = {"batch_size": 10, "epochs": 2, "optimizer": "adam", "learning_rate": 0.01}
NAMES = np.array(["left", "middle", "right"])


@dataclass
class Splits:
    """Images with a bright pixel in the column of their class, as bytes or as floats from 0 to 1."""

    x_train: Any
    y_train: Any
    x_test: Any
    y_test: Any


def splits(*, floats: bool) -> Splits:
    generator = np.random.default_rng(0)
    found: list[Any] = []
    for count in (60, 20):
        labels = np.arange(count) % 3
        images = generator.integers(0, 200, (count, 3, 4)).astype(np.uint8)
        images[np.arange(count), labels, 0] = 255
        found += [(images / 255).astype(np.float32) if floats else images, labels.astype(np.uint8)]
    return Splits(*found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("signatures")
    np.savez(found / "bytes.npz", **vars(splits(floats=False)))
    np.savez(found / "floats.npz", **vars(splits(floats=True)))
    return found


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[handgrad.Client]:
    """A client of a server that has both data sets."""
    server = Server("127.0.0.1:0", folder / "data")
    with handgrad.connect(server.address) as hg:
        for kind in ("bytes", "floats"):
            hg.upload_dataset(folder / f"{kind}.npz", kind)
        yield hg
    server.stop()


@dataclass
class Told:
    """What a server says of a model."""

    loss: float
    confusion: Any
    outputs: Any
    signature: signature_pb2.Signature
    epochs: int


def told(hg: handgrad.Client, model: str, kind: str) -> Told:
    found = hg.evaluate(model, dataset=kind)
    predicted = hg.predict(model, splits(floats=kind == "floats").x_test)
    assert found.notes == predicted.notes == ()
    version = predicted.version
    return Told(found.loss, found.confusion.tolist(), predicted.outputs.tolist(), version.signature, version.epochs)


@pytest.mark.parametrize("kind", ["bytes", "floats"])
@pytest.mark.parametrize("layers", [RECTIFIED, NORMALIZED], ids=["rectified", "normalized"])
def test_a_file_tells_a_fresh_server_all_that_the_old_one_knew(
    shared: handgrad.Client, server: Server, folder: Path, tmp_path: Path, layers: Any, kind: str
) -> None:
    # The preset mlp divides bytes by 255, and floats never.
    job = shared.train("mlp", dataset=kind, network=layers, **SETTINGS)
    job.wait()
    expected = told(shared, job.model, kind)
    transform = signature_pb2.TRANSFORM_UNIT if kind == "bytes" else signature_pb2.TRANSFORM_IDENTITY
    assert expected.signature.inputs.transform == transform
    assert list(expected.signature.inputs.shape) == [3, 4, 1]
    assert expected.epochs == 2
    shared.save_params(job.model, job.model)
    loaded = shared.load_params(job.model).params_version
    assert told(shared, loaded.model, kind) == expected
    with handgrad.connect(server.address) as fresh:
        fresh.upload_dataset(folder / f"{kind}.npz", kind)
        for file in (tmp_path / "p.npz", tmp_path / "p.safetensors"):
            shared.get_params(job.model).save(file)
            uploaded = fresh.upload_params(file)
            assert list(uploaded.notes) == []
            assert told(fresh, uploaded.params_version.model, kind) == expected


def test_a_model_refuses_what_it_does_not_take(shared: handgrad.Client) -> None:
    for kind, model in (("bytes", "takes-bytes"), ("floats", "takes-floats")):
        shared.train("mlp", dataset=kind, network=RECTIFIED, model=model, **SETTINGS).wait()
    calls = (
        lambda: shared.evaluate("takes-bytes", dataset="floats"),
        lambda: shared.train(dataset="floats", model="takes-bytes", batch_size=10, epochs=1),
        lambda: shared.predict("takes-bytes", splits(floats=True).x_test),
        lambda: shared.check_gradients(model="takes-bytes", dataset="floats", images=True),
    )
    for call in calls:
        with pytest.raises(handgrad.InvalidArgumentError, match=r"takes 3x4x1 bytes; got 3x4x1 floats from 0 to 1"):
            call()
    with pytest.raises(handgrad.InvalidArgumentError, match=r"takes 3x4x1 floats from 0 to 1; got 3x4x1 bytes"):
        shared.evaluate("takes-floats", dataset="bytes")
    with pytest.raises(
        handgrad.InvalidArgumentError, match="the model's is unit, which belongs to its params"
    ) as raised:
        shared.train(dataset="bytes", model="takes-bytes", transform="identity", batch_size=10, epochs=1)
    assert raised.value.field == "transform"


def test_unit_divides_bytes_alone(shared: handgrad.Client) -> None:
    with pytest.raises(
        handgrad.InvalidArgumentError, match="unit divides bytes by 255, and these are floats from 0 to 1"
    ):
        shared.train(dataset="floats", transform="unit", hidden=(4,), batch_size=10, epochs=1)
    job = shared.train("mlp", dataset="floats", network=RECTIFIED, batch_size=10, epochs=2)
    assert list(job.info.notes) == [
        "the numbers are floats from 0 to 1, and taken as they are: only bytes are divided by 255"
    ]
    assert job.info.signature.inputs.transform == signature_pb2.TRANSFORM_IDENTITY
    job.cancel()


def test_two_jobs_on_a_model_that_has_no_version_yet_agree(shared: handgrad.Client) -> None:
    blocking = shared.train(dataset="bytes", hidden=(4,), batch_size=10, epochs=100_000)
    shared.train(dataset="bytes", hidden=(4,), batch_size=10, epochs=1, model="not-yet")
    with pytest.raises(handgrad.InvalidArgumentError, match=r"takes 3x4x1 bytes; got 3x4x1 floats"):
        shared.train(dataset="floats", hidden=(4,), batch_size=10, epochs=1, model="not-yet")
    blocking.cancel()


def test_outputs_are_probabilities_or_scores_by_the_loss(shared: handgrad.Client) -> None:
    data = splits(floats=True)
    shared.train(dataset="floats", hidden=(5,), loss="squared_error", batch_size=10, epochs=3, model="squares").wait()
    params, found = shared.get_params("squares"), shared.predict("squares", data.x_test)
    W_1, b_1, W_2, b_2 = (params.arrays[name].astype(np.float64) for name in ("W_1", "b_1", "W_2", "b_2"))
    hidden = 1 / (1 + np.exp(-(data.x_test.reshape(-1, 12) @ W_1.T + b_1.T)))
    outputs = hidden @ W_2.T + b_2.T
    np.testing.assert_allclose(found.outputs, outputs, rtol=1e-4, atol=1e-5)
    assert found.kind == "scores"
    assert found.version.signature.outputs.kind == signature_pb2.OUTPUT_KIND_SCORES
    with pytest.raises(handgrad.PreconditionError, match="trained with squared_error has no probabilities"):
        _ = found.probabilities
    answer = shared._stub.Predict(
        pb.PredictRequest(
            model="squares",
            images=tensor_pb2.Tensor(
                data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=[1, 12], data=data.x_test[0].tobytes()
            ),
        )
    )
    assert (len(answer.probabilities), len(answer.scores)) == (0, 3)
    evaluated = shared.evaluate("squares", dataset="floats")
    assert evaluated.loss_name == "squared_error"
    expected = np.square(outputs - np.eye(3)[data.y_test]).sum(axis=1).mean() / 2
    assert evaluated.loss == pytest.approx(expected, rel=1e-4)


ARRAYS: dict[str, Any] = {"W_1": np.ones((3, 12)), "b_1": np.zeros((3, 1))}


def test_what_a_file_does_not_say_is_told(shared: handgrad.Client, tmp_path: Path) -> None:
    np.savez(tmp_path / "report.npz", **ARRAYS)
    uploaded = shared.upload_params(tmp_path / "report.npz", "of-a-file")
    assert list(uploaded.notes) == ["taken for 12-3 with sigmoids, pixels 0 to 255: the file does not say"]
    (note,) = shared.evaluate("of-a-file", dataset="bytes").notes
    assert "it is not known which numbers the model takes" in note
    assert shared.predict("of-a-file", splits(floats=True).x_test).notes
    # A preset that would divide bytes cannot know whether the params were trained so.
    with pytest.raises(handgrad.InvalidArgumentError, match="does not say how bytes become inputs") as raised:
        shared.train("mlp", dataset="bytes", model="of-a-file", batch_size=10, epochs=1)
    assert raised.value.field == "transform"
    shared.train("mlp", dataset="bytes", model="of-a-file", transform="unit", batch_size=10, epochs=1).wait()
    after = shared.get_version("of-a-file")
    assert after.signature.inputs.transform == signature_pb2.TRANSFORM_UNIT
    assert shared.predict("of-a-file", splits(floats=False).x_test).notes == ()


def test_an_optimizer_that_begins_anew_is_told(shared: handgrad.Client, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "dataset": "bytes",
        "hidden": (4,),
        "batch_size": 10,
        "epochs": 1,
        "learning_rate": 1e-3,
    }
    told: list[list[str]] = []

    def train(**changes: Any) -> None:
        job = shared.train(model="anew", **settings | changes)
        job.wait()
        told.append([note for note in job.info.notes if "begins anew" in note])

    for optimizer in ("adam", "adam", "momentum", "sgd"):
        train(optimizer=optimizer)
    shared.get_params("anew").save(tmp_path / "p.npz")
    shared.upload_params(tmp_path / "p.npz", "anew")
    train()
    train(optimizer="adam")
    train(optimizer="momentum", fresh_optimizer=True)
    other = "momentum begins anew: the model's newest version keeps the state of adam"
    none = (
        "adam begins anew: the model's newest version has no optimizer state, as it comes from a file or was trained "
        "without one"
    )
    assert told == [[], [], [other], [], [], [none], []]


def test_uploaded_params_keep_the_models_signature_or_are_refused(shared: handgrad.Client, tmp_path: Path) -> None:
    for kind in ("bytes", "floats"):
        shared.train("mlp", dataset=kind, hidden=(), model=f"kept-{kind}", batch_size=10, epochs=1).wait()
        shared.get_params(f"kept-{kind}").save(tmp_path / f"{kind}.npz")
    before = shared.get_version("kept-bytes").signature
    for source in (ARRAYS, tmp_path / "bytes.npz"):
        uploaded = shared.upload_params(source, "kept-bytes")
        assert uploaded.params_version.signature == before
        told = "taken as model kept-bytes takes them, 3x4x1 bytes (unit): the file does not say"
        assert list(uploaded.notes) == ([told] if source is ARRAYS else [])
    with pytest.raises(handgrad.PreconditionError, match=r"kept-bytes takes 3x4x1 bytes \(unit.* floats from 0 to 1"):
        shared.upload_params(tmp_path / "floats.npz", "kept-bytes")


def test_a_network_may_be_named_for_a_file(shared: handgrad.Client, tmp_path: Path) -> None:
    job = shared.train("mlp", dataset="bytes", network=NORMALIZED, **SETTINGS)
    job.wait()
    expected = shared.evaluate(job.model, dataset="bytes")
    # As another program would write them: arrays alone.
    arrays: dict[str, Any] = dict(shared.get_params(job.model).arrays)
    np.savez(tmp_path / "plain.npz", **arrays)
    with pytest.raises(handgrad.InvalidArgumentError, match="the array W_2 is missing"):
        shared.upload_params(tmp_path / "plain.npz")
    uploaded = shared.upload_params(tmp_path / "plain.npz", network=NORMALIZED, transform="unit")
    found = shared.evaluate(uploaded.params_version.model, dataset="bytes")
    assert (found.loss, found.confusion.tolist()) == (expected.loss, expected.confusion.tolist())
    shared.get_params(job.model).save(tmp_path / "told.npz")
    other = r"another network, whose layer 3 is ReLU\(\), not Tanh\(\)"
    with pytest.raises(handgrad.InvalidArgumentError, match=other):
        shared.upload_params(tmp_path / "told.npz", network=[*NORMALIZED[:2], {"kind": "tanh"}, NORMALIZED[3]])


CONVOLUTIONAL: list[dict[str, Any]] = [
    {"kind": "convolution", "channels": 2, "kernel": 2},
    {"kind": "relu"},
    {"kind": "flatten"},
    {"kind": "dropout", "rate": 0.3},
    {"kind": "affine"},
]
GOING_ON: dict[str, dict[str, Any]] = {
    "sgd": {"hidden": (4,)},
    "adam, dropout, shifts": {"network": CONVOLUTIONAL, "optimizer": "adam", "learning_rate": 0.01, "shift": 1},
    "a last mini-batch that is smaller": {"hidden": (4,), "batch_size": 17},
    "validation images": {"hidden": (4,), "validation_images": 15},
}


@pytest.mark.parametrize("kind", GOING_ON)
def test_three_jobs_of_one_epoch_are_one_job_of_three(shared: handgrad.Client, kind: str) -> None:
    settings: dict[str, Any] = {"dataset": "bytes", "transform": "unit", "batch_size": 10} | GOING_ON[kind]
    whole = shared.train(epochs=3, **settings)
    info = whole.wait()
    model = f"in-parts-{list(GOING_ON).index(kind)}"
    jobs = [shared.train(epochs=1, model=model, **settings) for _ in range(3)]
    infos = [job.wait() for job in jobs]
    assert [each.epochs_before for each in infos] == [0, 1, 2]
    losses = np.concatenate([job.losses() for job in jobs])
    np.testing.assert_array_equal(losses, whole.losses())
    assert infos[-1].params_sha256 == info.params_sha256
    assert shared.get_version(model).epochs == 3


def test_each_job_on_a_model_has_orders_of_its_own(shared: handgrad.Client, tmp_path: Path) -> None:
    # So small a step that the losses tell the order alone.
    settings: dict[str, Any] = {"dataset": "bytes", "hidden": (4,), "batch_size": 10, "learning_rate": 1e-30}
    jobs = [shared.train(model="ordered", epochs=1, **settings) for _ in range(3)]
    for job in jobs:
        job.wait()
    orders = {tuple(job.losses().tolist()) for job in jobs}
    assert len(orders) == 3
    # A file and a checkpoint say how far it is, too.
    shared.get_params("ordered", 2).save(tmp_path / "after-one.npz")
    uploaded = shared.upload_params(tmp_path / "after-one.npz").params_version
    shared.save_params("ordered", "after-one", 2)
    loaded = shared.load_params("after-one").params_version
    for version in (uploaded, loaded):
        job = shared.train(model=version.model, epochs=1, **settings)
        job.wait()
        np.testing.assert_array_equal(job.losses(), jobs[1].losses())


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A data directory of the commit before signatures, killed while it trained, and what that server had said."""
    with zipfile.ZipFile(BEFORE) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def test_a_data_directory_of_before_is_taken_over(older: Path) -> None:
    expected: dict[str, Any] = json.loads((older / "work/told.json").read_text())
    server = Server("127.0.0.1:0", older / "data")
    with handgrad.connect(server.address) as hg:
        data = {kind: np.load(older / f"work/{kind}.npz")["x_test"] for kind in ("bytes", "floats")}
        for model, kind in (("on-bytes", "bytes"), ("on-floats", "floats"), ("loaded", "bytes")):
            found, predicted = hg.evaluate(model, dataset=kind), hg.predict(model, data[kind][:4])
            assert found.version.params_sha256 == expected[model]["sha256"]
            assert found.loss == pytest.approx(expected[model]["loss"], rel=1e-5)
            assert found.confusion.tolist() == expected[model]["confusion"]
            np.testing.assert_allclose(predicted.probabilities, expected[model]["probabilities"], rtol=1e-4)
            assert found.notes == predicted.notes == ()
            other = data["floats" if kind == "bytes" else "bytes"]
            with pytest.raises(handgrad.InvalidArgumentError, match="the model takes"):
                hg.predict(model, other)
        signature = hg.get_version("on-bytes").signature
        assert list(signature.inputs.shape) == [3, 4, 1]
        assert signature.inputs.transform == signature_pb2.TRANSFORM_UNIT
        assert hg.get_version("on-bytes").epochs == 6
        assert hg.evaluate("squares", dataset="floats").loss_name == "squared_error"
        kept = next(checkpoint for checkpoint in hg.list_checkpoints() if checkpoint.checkpoint == "kept")
        assert kept.signature == signature
        assert hg.upload_params(older / "work/on-bytes.npz", "on-bytes").params_version.signature == signature
        # What was interrupted goes on with the transform, the orders and the losses that it had.
        interrupted = hg.job(expected["interrupted"])
        assert interrupted.wait().resumes == 1
        np.testing.assert_allclose(interrupted.losses()[-20:], expected["last_losses"], rtol=1e-3)
        assert hg.job(expected["waiting"]).wait().signature.inputs.data_type == tensor_pb2.DATA_TYPE_FLOAT32
        assert [sweep.sweep for sweep in hg.list_sweeps()] == ["sweep-1"]
        assert hg.get_sweep("sweep-1").members[0].rank == 1
    server.stop()
    # And once more, as any other.
    server = Server("127.0.0.1:0", older / "data")
    with handgrad.connect(server.address) as hg:
        assert hg.get_version("interrupted").epochs == 60
    server.stop()


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_files_of_before_say_less_and_it_is_told(older: Path, server: Server, ending: str) -> None:
    expected: dict[str, Any] = json.loads((older / "work/told.json").read_text())["on-bytes"]
    with handgrad.connect(server.address) as hg:
        hg.upload_dataset(older / "work/bytes.npz", "bytes")
        uploaded = hg.upload_params(older / f"work/on-bytes{ending}", transform="unit")
        assert list(uploaded.notes) == ["taken for 12-6-3, pixels 0 to 255 divided by 255: the file does not say"]
        found = hg.evaluate(uploaded.params_version.model, dataset="bytes")
        assert found.loss == pytest.approx(expected["loss"], rel=1e-5)
