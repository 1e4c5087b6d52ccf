"""Networks of every kind through the service: described, checked, trained, stopped, resumed, kept and loaded."""

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import handgrad
from handgrad.core import verification
from handgrad.core.operations import affine
from handgrad.server.app import Server
from handgrad.v1 import job_pb2, signature_pb2
from handgrad.v1 import training_service_pb2 as pb

CONVOLUTIONAL: list[dict[str, Any]] = [
    {"kind": "convolution", "channels": 3, "kernel": 3, "padding": "same", "bias": False},
    {"kind": "batch_norm"},
    {"kind": "relu"},
    {
        "kind": "residual",
        "layers": [{"kind": "convolution", "channels": 4, "kernel": 3, "padding": 1, "stride": 2}],
        "shortcut": [{"kind": "convolution", "channels": 4, "kernel": 1, "stride": 2}],
    },
    {"kind": "flatten"},
    {"kind": "dropout", "rate": 0.2},
    {"kind": "layer_norm"},
    {"kind": "affine"},
]
NAMES = [
    *("W_1", "gamma_2", "beta_2", "mean_2", "variance_2", "W_3", "b_3", "W_4", "b_4"),
    *("gamma_5", "beta_5", "W_6", "b_6"),
]


def test_any_network_trains_and_comes_back_from_a_file(hg: handgrad.Client, tiny: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"batch_size": 10, "epochs": 2, "optimizer": "adam", "learning_rate": 0.01, "shift": 1}
    job = hg.train(dataset=tiny, model="mine", network=CONVOLUTIONAL, **settings)
    info = job.wait()
    params = hg.get_params("mine")
    assert sorted(params.arrays) == sorted(NAMES)
    assert params.arrays["W_1"].shape == (3, 3, 3, 1)
    assert params.arrays["b_6"].shape == (3, 1)
    assert not np.array_equal(params.arrays["mean_2"], np.zeros(3))
    for file in (tmp_path / "p.npz", tmp_path / "p.safetensors"):
        params.save(file)
        uploaded = hg.upload_params(file).params_version
        assert uploaded.params_sha256 == info.params_sha256
        assert uploaded.network == params.version.network
        found, expected = hg.evaluate(uploaded.model, dataset=tiny), hg.evaluate("mine", dataset=tiny)
        np.testing.assert_array_equal(found.confusion, expected.confusion)
    again = hg.upload_params(params.arrays, "mine").params_version
    assert again.params_sha256 == info.params_sha256
    with pytest.raises(handgrad.InvalidArgumentError, match="W_3 has shape"):
        hg.upload_params({**params.arrays, "W_3": np.ones((4, 3, 3, 2))}, "mine")
    with pytest.raises(handgrad.InvalidArgumentError, match="a variance is 0 or more"):
        hg.upload_params({**params.arrays, "variance_2": -np.ones(3)}, "mine")


def test_a_file_that_lies_about_its_network_is_refused(hg: handgrad.Client) -> None:
    for told in ("[]", "{", '{"inputShape": ["x"], "layers": []}', '{"inputShape": [2], "layers": [{"kind": "??"}]}'):
        with pytest.raises(handgrad.InvalidArgumentError, match="arrays: "):
            hg.upload_params({"W_1": np.ones((2, 2)), "b_1": np.ones((2, 1)), "network": np.array(told)})


WRONG: dict[str, tuple[list[Any], str, str]] = {
    "an unknown kind": ([{"kind": "afine"}], "network.layers[0].kind", "one of affine, convolution"),
    "an unknown setting": ([{"kind": "affine", "width": 3}], "network.layers[0].width", "no setting of affine"),
    "a missing setting": ([{"kind": "dropout"}], "network.layers[0].rate", "dropout needs it"),
    "a text for a number": ([{"kind": "affine", "outputs": "3"}], "network.layers[0].outputs", "int; got '3'"),
    "half an output": ([{"kind": "affine", "outputs": 3.5}], "network.layers[0].outputs", "int; got 3.5"),
    "a number for a truth": (
        [{"kind": "convolution", "channels": 1, "kernel": 1, "bias": 1}],
        *("network.layers[0].bias", "bool; got 1"),
    ),
    "an initializer": ([{"kind": "affine", "initializer": "xavier"}], "network.layers[0].initializer", "one of report"),
    "an image for an affine layer": (
        [{"kind": "relu"}, {"kind": "affine"}],
        *("network.layers[1]", "layer 2, affine, needs (inputs,), a vector"),
    ),
    "a vector for a convolution": (
        [{"kind": "affine", "outputs": 4}, {"kind": "convolution", "channels": 2, "kernel": 1}],
        *("network.layers[1]", "layer 2, convolution, needs (rows, columns, channels), an image; got (4,)"),
    ),
    "a kernel larger than the image": (
        [{"kind": "convolution", "channels": 2, "kernel": 5}],
        *("network.layers[0]", "needs 5 rows and columns or more, for a kernel of 5; got (3, 4, 1)"),
    ),
    "a branch that ends otherwise": (
        [{"kind": "residual", "layers": [{"kind": "convolution", "channels": 2, "kernel": 1}]}],
        *("network.layers[0]", "branch and a shortcut that end alike, not in (3, 4, 2) and (3, 4, 1)"),
    ),
    "a wrong layer in a branch": (
        [{"kind": "residual", "layers": [{"kind": "dropout", "rate": 1.0}]}],
        *("network.layers[0].layers[0].rate", "from 0 to less than 1; got 1.0"),
    ),
    "no layers": ([], "network.layers", "1 layer or more"),
    "an image at the end": ([{"kind": "relu"}], "network.layers[0]", "ends in a vector"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_network_is_told_with_its_layer(hg: handgrad.Client, tiny: str, kind: str) -> None:
    layers, field, problem = WRONG[kind]
    calls: list[Callable[[], object]] = [
        lambda: hg.describe_network(layers, dataset=tiny),
        lambda: hg.check_gradients(layers, dataset=tiny),
        lambda: hg.train(network=layers, dataset=tiny, batch_size=10),
    ]
    for call in calls:
        with pytest.raises(handgrad.InvalidArgumentError) as raised:
            call()
        assert raised.value.field == field
        assert problem in str(raised.value)


def test_what_names_no_network_is_refused(hg: handgrad.Client) -> None:
    for choice in (pb.NetworkChoice(), pb.NetworkChoice(preset="report", model="mine")):
        with pytest.raises(handgrad.InvalidArgumentError, match="one of network, preset and model"), hg._errors():
            hg._stub.CheckGradients(pb.CheckGradientsRequest(choice=choice))
    with pytest.raises(handgrad.InvalidArgumentError, match="preset: one of report, mlp"):
        hg.check_gradients(preset="rapport")
    with pytest.raises(handgrad.InvalidArgumentError, match="seed: from 0"):
        hg.check_gradients(preset="report", seed=-1)
    with pytest.raises(handgrad.NotFoundError):
        hg.check_gradients(model="nothing")
    with pytest.raises(handgrad.InvalidArgumentError, match="at most 3000000 parameters"):
        hg.check_gradients([{"kind": "affine", "outputs": 5000}, {"kind": "affine"}])


def test_a_description_tells_each_layer(hg: handgrad.Client, tiny: str) -> None:
    found = hg.describe_network(CONVOLUTIONAL, dataset=tiny)
    assert [(row.position, list(row.output_shape), row.parameters) for row in found.layers] == [
        ("1", [3, 4, 3], 27),
        ("2", [3, 4, 3], 6),
        ("3", [3, 4, 3], 0),
        ("4", [2, 2, 4], 0),
        ("4.1", [2, 2, 4], 112),
        ("4.shortcut.1", [2, 2, 4], 16),
        ("5", [16], 0),
        ("6", [16], 0),
        ("7", [16], 32),
        ("8", [3], 51),
    ]
    assert found.parameters == 244
    assert found.layers[0].flops == 2 * 3 * 4 * 27
    assert found.flops == sum(row.flops for row in found.layers)


def test_the_certificate_is_saved_with_a_checkpoint(hg: handgrad.Client, tiny: str) -> None:
    hg.train(dataset=tiny, model="mine", network=CONVOLUTIONAL, batch_size=10, epochs=1, learning_rate=0.01).wait()
    saved = hg.save_params("mine", "kept")
    assert saved.certificate.passed
    learned = [name for name in NAMES if name not in ("mean_2", "variance_2")]
    assert [check.name for check in saved.certificate.checks] == sorted(learned, key=lambda name: (name[-1], name))
    assert hg.load_params("kept", "again").certificate == saved.certificate
    found = hg.check_gradients(model="again", dataset=tiny, images=True)
    assert found.passed
    assert (found.data, found.batch_size) == (tiny, verification.BATCH_SIZE)


def test_a_wrong_gradient_fails_the_certificate(
    hg: handgrad.Client, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = affine.affine_bwd

    def wrong(residuals: Any, g: Any) -> Any:
        inputs_grad, W_grad, b_grad = right(residuals, g)
        return inputs_grad, W_grad, 2 * b_grad

    monkeypatch.setattr(affine, "affine_bwd", wrong)
    hg.upload_params({"W_1": np.ones((3, 12)), "b_1": np.ones((3, 1))}, "mine")
    certificate = hg.save_params("mine", "kept").certificate
    assert not certificate.passed
    assert {check.name: check.passed for check in certificate.checks} == {"W_1": True, "b_1": False}
    assert not hg.check_gradients([{"kind": "affine"}], dataset=tiny).passed


def test_a_checkpoint_of_a_network_too_large_has_no_certificate(
    hg: handgrad.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handgrad.server.certificates.MAX_PARAMETERS", 10)
    hg.upload_params({"W_1": np.ones((3, 12)), "b_1": np.ones((3, 1))}, "mine")
    assert not hg.save_params("mine", "kept").HasField("certificate")
    assert not hg.load_params("kept").HasField("certificate")


def test_validation_is_told_and_the_best_epoch_kept(hg: handgrad.Client, tiny: str) -> None:
    # So fast that it overfits the few images and then gets worse.
    settings: dict[str, Any] = {"batch_size": 5, "learning_rate": 0.05, "transform": "unit", "optimizer": "adam"}
    job = hg.train(
        dataset=tiny, model="mine", hidden=[32], epochs=40, validation_images=20, keep_best=True, patience=3, **settings
    )
    info = job.wait()
    epochs = hg.get_loss(job.name).epochs
    losses = [epoch.validation_loss for epoch in epochs]
    best = int(np.argmin(losses)) + 1
    assert info.best_epoch == best
    assert info.stopped_early
    assert len(epochs) == best + 3 < 40
    assert info.iteration == 9 * len(epochs)
    assert info.version == len(epochs) + 2
    newest, kept = hg.get_params("mine"), hg.get_params("mine", best + 1)
    assert newest.version.params_sha256 == kept.version.params_sha256 == info.params_sha256
    assert newest.version.iteration == 9 * best
    assert 0 <= epochs[-1].validation_accuracy <= 1


def test_validation_images_are_never_trained_on(hg: handgrad.Client, tiny: str) -> None:
    job = hg.train(dataset=tiny, hidden=[4], batch_size=5, epochs=1, validation_images=60, learning_rate=0.1)
    assert job.wait().iterations_per_epoch == 1
    base: dict[str, Any] = {"dataset": tiny, "hidden": [4], "batch_size": 5}
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("validation_images", {"validation_images": 65}),
        ("patience", {"patience": 2}),
        ("keep_best", {"keep_best": True}),
        ("batch_size", {"validation_images": 60, "batch_size": 6}),
        ("optimizer", {"optimizer": "adamm"}),
        ("schedule", {"schedule": "linear"}),
        ("shift", {"shift": 2}),
        ("loss", {"loss": "hinge"}),
        ("beta2", {"beta2": 1.0}),
    ]
    for field, settings in wrong:
        with pytest.raises(handgrad.InvalidArgumentError) as raised:
            hg.train(**base | settings)
        assert raised.value.field == field


def test_a_job_goes_on_with_another_learning_rate(hg: handgrad.Client, tiny: str) -> None:
    settings: dict[str, Any] = {"dataset": tiny, "model": "mine", "batch_size": 10, "epochs": 1, "optimizer": "adam"}
    hg.train(network=CONVOLUTIONAL, learning_rate=0.01, **settings).wait()
    job = hg.train(learning_rate=0.001, **settings)
    info = job.wait()
    assert info.continued_optimizer_state
    assert info.config.learning_rate == 0.001


REQUEST = pb.TrainRequest(
    dataset="tiny",
    model="mine",
    request_id="one",
    config=job_pb2.TrainConfig(
        batch_size=10,
        epochs=60,
        learning_rate=0.01,
        optimizer="adamw",
        schedule="cosine",
        validation_images=15,
        keep_best=True,
        shift=1,
    ),
    transform=signature_pb2.TRANSFORM_UNIT,
)


def run(folder: Path, tiny_folder: Path, *, stops: int) -> tuple[str, list[float]]:
    """Trains a network with dropout, batch normalization and augmentation, in as many lives of the server."""
    for life in range(stops + 1):
        server = Server("127.0.0.1:0", folder, snapshot_seconds=0)
        try:
            with handgrad.connect(server.address) as hg:
                if life == 0:
                    hg.upload_dataset(tiny_folder, "tiny")
                    request = pb.TrainRequest()
                    request.CopyFrom(REQUEST)
                    request.config.network.CopyFrom(hg.describe_network(CONVOLUTIONAL, dataset="tiny").network)
                    next(iter(hg._stub.Train(request)))
                if life == stops:
                    list(hg.watch_job("job-1"))
                    info = hg.get_job("job-1")
                    assert info.state == job_pb2.JOB_STATE_SUCCEEDED, info.error
                    assert info.resumes == stops
                    return info.params_sha256, [epoch.validation_loss for epoch in hg.get_loss("job-1").epochs]
                began = hg.get_job("job-1").iteration
                while hg.get_job("job-1").iteration < began + 60:
                    time.sleep(0.001)
        finally:
            server.stop()
    raise AssertionError("unreachable")


def test_every_network_goes_on_after_a_stop_bit_for_bit(tmp_path: Path, tiny_folder: Path) -> None:
    expected = run(tmp_path / "undisturbed", tiny_folder, stops=0)
    assert run(tmp_path / "stopped", tiny_folder, stops=2) == expected


def test_a_database_of_the_schema_before_is_taken_over(tmp_path: Path) -> None:
    server = Server("127.0.0.1:0", tmp_path)
    with handgrad.connect(server.address) as hg:
        hg.upload_params({"W_1": np.ones((3, 12)), "b_1": np.ones((3, 1))}, "mine")
        hg.save_params("mine", "kept")
    server.stop()
    with closing(sqlite3.connect(tmp_path / "handgrad.sqlite3")) as database, database:
        for column in ("best_epoch", "best_loss", "best_version", "stopped_early"):
            database.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
        database.execute("ALTER TABLE checkpoints DROP COLUMN certificate")
        for table, columns in {
            "jobs": ("epochs_before", "notes", "end_notes"),
            "models": ("signature",),
            "versions": ("signature", "epochs"),
            "checkpoints": ("signature", "epochs"),
        }.items():
            for column in columns:
                database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        for table in ("versions", "checkpoints"):
            database.execute(f"ALTER TABLE {table} ADD COLUMN pixels TEXT")
        database.execute("DROP TABLE certificates")
        database.execute("DROP INDEX jobs_by_sweep")
        database.execute("ALTER TABLE jobs DROP COLUMN sweep")
        database.execute("DROP TABLE sweeps")
        for table in ("models", "checkpoints"):
            database.execute(f"UPDATE {table} SET network = ?", (json.dumps([12, 3]),))  # noqa: S608
        database.execute("PRAGMA user_version = 1")
    server = Server("127.0.0.1:0", tmp_path)
    with handgrad.connect(server.address) as hg:
        assert hg.get_params("mine").arrays["W_1"].shape == (3, 12)
        loaded = hg.load_params("kept", "mine")
        assert loaded.params_version.version == 2
        assert not loaded.HasField("certificate")
    server.stop()
