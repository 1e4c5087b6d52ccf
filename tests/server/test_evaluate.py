"""Evaluate, and the data sets that it takes."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import handgrad
from handgrad.core.datasets import IDX_FILES
from handgrad.server import datasets, service
from handgrad.v1 import tensor_pb2
from handgrad.v1 import training_service_pb2 as pb

W, B = np.random.default_rng(1).normal(size=(3, 12)), np.random.default_rng(2).normal(size=(3, 1))


def by_hand(folder: Path, files: tuple[str, str], divisor: float) -> tuple[float, Any]:
    """Gives loss and confusion matrix of the affine network above."""
    images = np.frombuffer((folder / files[0]).read_bytes(), np.uint8, offset=16).reshape(-1, 12) / divisor
    labels = np.frombuffer((folder / files[1]).read_bytes(), np.uint8, offset=8)
    logits = images @ W.astype(np.float32).T + B.astype(np.float32).T
    logits -= logits.max(axis=1, keepdims=True)
    log_y = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    return -log_y[np.arange(len(labels)), labels].mean(), confusion


@pytest.mark.parametrize(("transform", "divisor"), [("identity", 1), ("unit", 255), (None, 1)])
@pytest.mark.parametrize(("split", "files"), [("train", IDX_FILES[:2]), ("test", IDX_FILES[2:])])
def test_it_is_what_numpy_computes(
    hg: handgrad.Client, tiny: str, tiny_folder: Path, split: Any, files: Any, transform: Any, divisor: float
) -> None:
    hg.upload_params({"W_1": W, "b_1": B}, "mine", transform=transform)
    found = hg.evaluate("mine", dataset=tiny, split=split)
    assert found.loss_name == "softmax_cross_entropy"
    assert ["it is not known which numbers" in note for note in found.notes] == [True]
    loss, confusion = by_hand(tiny_folder, files, divisor)
    assert found.loss == pytest.approx(loss, rel=1e-4)
    np.testing.assert_array_equal(found.confusion, confusion)
    assert found.images == confusion.sum()
    assert found.accuracy == pytest.approx(np.trace(confusion) / confusion.sum())
    assert (found.version.model, found.version.version) == ("mine", 1)


def test_a_job_goes_on_while_it_is_evaluated(hg: handgrad.Client, tiny: str) -> None:
    job = hg.train(dataset=tiny, hidden=[4], batch_size=10, epochs=100_000)
    next(job.events())
    hg.upload_params({"W_1": W, "b_1": B}, "mine")
    during = [hg.evaluate("mine", dataset=tiny).loss for _ in range(20)]
    first = len(hg.get_losses(job.name))
    hg.evaluate(job.model, dataset=tiny)
    job.cancel()
    list(job.events())
    assert job.info.iteration >= first > 0
    assert set(during) == {hg.evaluate("mine", dataset=tiny).loss}


def test_what_does_not_fit_or_exist_is_told(hg: handgrad.Client, tiny: str) -> None:
    hg.upload_params({"W_1": W, "b_1": B}, "mine")
    hg.upload_params({"W_1": W[:2], "b_1": B[:2]}, "narrow")
    with pytest.raises(handgrad.InvalidArgumentError, match="the model takes 12 numbers; got 28x28x1 bytes"):
        hg.evaluate("mine")
    with pytest.raises(handgrad.InvalidArgumentError, match="3 outputs or more, the classes of data set tiny"):
        hg.evaluate("narrow", dataset=tiny)
    with pytest.raises(handgrad.NotFoundError, match="no data set 'nothing'; there are mnist, tiny"):
        hg.evaluate("mine", dataset="nothing")
    with pytest.raises(handgrad.NotFoundError, match="no version 7"):
        hg.evaluate("mine", 7, dataset=tiny)
    unknown: dict[str, Any] = {"split": 9}
    with pytest.raises(handgrad.InvalidArgumentError) as raised, hg._errors():
        hg._stub.Evaluate(pb.EvaluateRequest(model="mine", dataset=tiny, **unknown))
    assert raised.value.field == "split"


def test_a_fault_in_a_call_is_answered_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, hg: handgrad.Client, tiny: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a secret of the server")

    hg.upload_params({"W_1": W, "b_1": B}, "mine")
    with monkeypatch.context() as patch:
        patch.setattr(service, "evaluate", fail)
        with pytest.raises(handgrad.ServerError, match="the server has a fault") as raised:
            hg.evaluate("mine", dataset=tiny)
    assert "secret" not in str(raised.value)
    assert hg.evaluate("mine", dataset=tiny).images == 20


def test_a_data_set_is_described_and_named_by_its_content(hg: handgrad.Client, tiny_folder: Path) -> None:
    named = hg.upload_dataset(tiny_folder, "tiny")
    assert (named.dataset, named.train_images, named.test_images, named.classes) == ("tiny", 65, 20, 3)
    assert (list(named.image_shape), named.data_type, named.size_bytes) == ([3, 4], tensor_pb2.DATA_TYPE_UINT8, 1105)
    assert hg.upload_dataset(tiny_folder, "tiny") == named
    unnamed = hg.upload_dataset(tiny_folder).dataset
    assert unnamed == hg.upload_dataset(tiny_folder).dataset
    assert unnamed.startswith("dataset-")


def test_gzipped_files_are_the_same_to_training(hg: handgrad.Client, tiny: str, tiny_folder: Path) -> None:
    folder = tiny_folder.parent / "gzipped"
    folder.mkdir()
    for name in IDX_FILES:
        (folder / f"{name}.gz").write_bytes(gzip.compress((tiny_folder / name).read_bytes()))
    gzipped = hg.upload_dataset(folder, "gzipped").dataset
    hashes = {hg.train(dataset=name, hidden=[4], batch_size=10).wait().params_sha256 for name in (tiny, gzipped)}
    assert len(hashes) == 1


def test_a_name_holds_one_data_set(hg: handgrad.Client, tiny: str, tiny_folder: Path) -> None:
    labels = tiny_folder / IDX_FILES[1]
    labels.write_bytes(labels.read_bytes()[:-1] + b"\0")
    for name in (tiny, "mnist"):
        with pytest.raises(handgrad.AlreadyExistsError, match=f"the name {name} holds another data set"):
            hg.upload_dataset(tiny_folder, name)


def test_a_wrong_file_is_named(hg: handgrad.Client, tiny_folder: Path) -> None:
    file = tiny_folder / IDX_FILES[2]
    content = file.read_bytes()
    for wrong, told in ((b"", "empty"), (content[:-1], "truncated"), (content[:7], "truncated")):
        file.write_bytes(wrong)
        with pytest.raises(handgrad.InvalidArgumentError, match=told) as raised:
            hg.upload_dataset(tiny_folder)
        assert raised.value.field == IDX_FILES[2]
    file.unlink()
    with pytest.raises(handgrad.InvalidArgumentError, match="missing") as raised:
        hg.upload_dataset(tiny_folder)
    assert raised.value.field == IDX_FILES[2]


def test_the_device_keeps_the_splits_used_last(
    monkeypatch: pytest.MonkeyPatch, hg: handgrad.Client, tiny: str, tiny_folder: Path
) -> None:
    monkeypatch.setattr(datasets, "SPLITS_ON_DEVICE", 1)
    other = hg.upload_dataset(tiny_folder).dataset
    hg.upload_params({"W_1": W, "b_1": B}, "mine")
    losses = {hg.evaluate("mine", dataset=name).loss for name in (tiny, other, tiny, other)}
    assert len(losses) == 1
