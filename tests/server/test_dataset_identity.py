"""Which data set is which: by what its files are, and by what its numbers mean."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import handgrad
from handgrad.core.datasets import CIFAR10_FILES, IDX_FILES, Dataset, Split
from handgrad.core.errors import InvalidInputError
from handgrad.server.app import Server
from handgrad.server.datasets import Datasets, Summary, summarize
from handgrad.server.storage import Storage
from handgrad.server.uploads import File, Upload
from tests.conftest import idx

NO_BOUND = 10**9


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[handgrad.Client]:
    """A client of a server that the tests here share; each uploads what no other does."""
    server = Server("127.0.0.1:0", tmp_path_factory.mktemp("data"))
    with handgrad.connect(server.address) as hg:
        yield hg
    server.stop()


def images(seed: int, count: int, *shape: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def write_idx(folder: Path, names: tuple[str, ...] = IDX_FILES, *, more: str = "") -> Path:
    folder.mkdir()
    parts = [(images(1, 30, 3, 4), np.arange(30) % 3), (images(2, 10, 3, 4), np.arange(10) % 3)]
    for name, array in zip(names, [array for part in parts for array in part], strict=True):
        (folder / name).write_bytes(idx(array.astype(np.uint8)))
    if more:
        (folder / more).write_text("cat\ndog\nhen\n")
    return folder


def test_files_whose_names_were_put_right_are_another_data_set(shared: handgrad.Client, tmp_path: Path) -> None:
    wrong = shared.upload_dataset(write_idx(tmp_path / "wrong", (*IDX_FILES[2:], *IDX_FILES[:2])), "wrong")
    right = shared.upload_dataset(write_idx(tmp_path / "right"), "right")
    assert (wrong.train_images, wrong.test_images) == (10, 30)
    assert (right.train_images, right.test_images) == (30, 10)
    assert wrong.sha256 != right.sha256
    assert shared.upload_dataset(tmp_path / "right").sha256 == right.sha256


def test_cifar10s_batches_have_an_order(shared: handgrad.Client, tmp_path: Path) -> None:
    orders = {"first": CIFAR10_FILES, "second": (*CIFAR10_FILES[1::-1], *CIFAR10_FILES[2:])}
    orders["third"] = (CIFAR10_FILES[5], *CIFAR10_FILES[1:5], CIFAR10_FILES[0])
    found = []
    for name, order in orders.items():
        (tmp_path / name).mkdir()
        for number, file in enumerate(order):
            content = b"".join(bytes([label]) + images(number, 1, 3072).tobytes() for label in (0, number, 9))
            (tmp_path / name / file).write_bytes(content[: 3073 * (2 + (number < 5))])
        found.append(shared.upload_dataset(tmp_path / name, f"cifar-{name}"))
    assert len({each.sha256 for each in found}) == 3
    assert [each.train_images for each in found] == [15, 15, 14]


def test_a_hash_of_files_says_which_is_which() -> None:
    def of(*names: str, hashes: str = "abcd") -> str:
        files = tuple(File(name, 1, each * 64) for name, each in zip(names, hashes, strict=True))
        return Upload("u", "", files).files_sha256

    first = of(*IDX_FILES)
    assert of(*IDX_FILES[::-1], hashes="dcba") == first
    assert of(*(f"{name.replace('-idx', '.idx')}.GZ" for name in IDX_FILES)) == first
    assert of(*IDX_FILES[2:], *IDX_FILES[:2]) != first
    assert of(*IDX_FILES, hashes="abce") != first
    assert of("a.npz", hashes="a") == of("B.NPZ", hashes="a")


def dataset(data: Any = None, shape: tuple[int, ...] = (3, 4), names: tuple[str, ...] = ()) -> Dataset:
    data = images(1, 36, 12) if data is None else data
    labels = (np.arange(36) % 3).astype(np.uint8)
    return Dataset(Split(data[:30], labels[:30]), Split(data[30:], labels[30:]), shape, names)


def test_the_same_bytes_mean_another_data_set() -> None:
    floats = images(3, 36, 48).view(np.float32) * 0 + np.float32(0.5)
    same_bytes = floats.view(np.uint8)
    found = [
        summarize(each).sha256
        for each in (
            dataset(),
            dataset(shape=(4, 3)),
            dataset(shape=(12,)),
            dataset(names=("a", "b", "c")),
            dataset(names=("a", "c", "b")),
            dataset(floats),
            dataset(same_bytes, (48,)),
        )
    ]
    assert len(set(found)) == len(found)
    each = dataset(names=("a", "b", "ç"))
    digest = hashlib.sha256('{"class_names":["a","b","ç"],"data_type":"uint8","image_shape":[3,4]}\n'.encode())
    for part in (each.train.images, each.train.labels, each.test.images, each.test.labels):
        digest.update(part.tobytes())
    assert summarize(each).sha256 == digest.hexdigest()


def test_a_summary_has_names_counts_and_numbers() -> None:
    data = np.full((36, 12), 7, np.uint8)
    data[0, 0], data[1, 0], data[35, 0] = 0, 90, 255
    summary = summarize(dataset(data, names=("a", "b", "c", "d")))
    assert (summary.low, summary.high, summary.mean) == (0, 90, (358 * 7 + 90) / 360)
    assert (summary.classes, summary.class_names) == (4, ("a", "b", "c", "d"))
    assert summary.train_images_per_class == (10, 10, 10, 0)
    assert summary.notes == ("no training image is of class 3 (d)",)
    assert summarize(dataset()).notes == ()


def test_a_note_names_classes_without_a_training_image() -> None:
    def notes(*counts: int) -> tuple[str, ...]:
        return Summary(1, 1, (1,), len(counts), "uint8", "", 1, train_images_per_class=counts).notes

    assert notes(0, *[5] * 10) == ("class 0 has no training image: do the labels begin at 1?",)
    assert notes(0, 1, 0, 1) == ("no training image is of class 0, class 2",)
    (many,) = notes(*[0] * 13, 1)
    assert many.endswith("class 9 and 3 more")


def test_names_come_with_idx_files_and_outlive_the_server(tmp_path: Path) -> None:
    server = Server("127.0.0.1:0", tmp_path / "data")
    with handgrad.connect(server.address) as hg:
        named = hg.upload_dataset(write_idx(tmp_path / "named", more="classes.txt"), "named")
        plain = hg.upload_dataset(write_idx(tmp_path / "plain"), "plain")
        assert named.sha256 != plain.sha256
    server.stop()
    storage = Storage(tmp_path / "data", NO_BOUND)
    datasets = Datasets(storage)
    summary = datasets.describe("named")
    assert (summary.class_names, summary.train_images_per_class) == (("cat", "dog", "hen"), (10, 10, 10))
    assert (summary.sha256, summary.mean) == (named.sha256, images(1, 30, 3, 4).mean())
    assert datasets.describe("plain").class_names == ()
    storage.close()


def test_a_data_set_of_one_class_is_refused(shared: handgrad.Client, tmp_path: Path) -> None:
    labels, savez = np.full(30, 3), np.savez
    savez(tmp_path / "one.npz", x_train=images(1, 30, 4), y_train=labels, x_test=images(2, 9, 4), y_test=labels[:9])
    with pytest.raises(handgrad.InvalidArgumentError, match="labels are all 3: a data set needs two classes or more"):
        shared.upload_dataset(tmp_path / "one.npz")


def test_examples_are_given_by_their_index(tmp_path: Path) -> None:
    tmp_path.joinpath("data").mkdir()
    storage = Storage(tmp_path / "data", NO_BOUND)
    datasets = Datasets(storage)
    datasets.add("mine", dataset(), "f" * 64)
    found, labels = datasets.examples("mine", "test", [5, 0, 5])
    np.testing.assert_array_equal(found, images(1, 36, 12)[[35, 30, 35]].reshape(3, 3, 4))
    np.testing.assert_array_equal(labels, [2, 0, 2])
    assert datasets.examples("mnist", "train", [59_999])[0].shape == (1, 28, 28)
    assert datasets.examples("mine", "train", [])[0].shape == (0, 3, 4)
    for index in (-1, 6, 2**70):
        with pytest.raises(
            InvalidInputError, match=f"from 0 to 5, the test images of data set mine; got {index}"
        ) as told:
            datasets.examples("mine", "test", [0, index])
        assert told.value.field == "indices"
    storage.close()


def test_an_older_data_directory_is_brought_up_to_date(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    server = Server("127.0.0.1:0", folder)
    with handgrad.connect(server.address) as hg:
        mine = hg.upload_dataset(write_idx(tmp_path / "mine"), "mine")
        np.savez(
            tmp_path / "o.npz", x_train=images(7, 30, 4), y_train=np.arange(30), x_test=images(8, 2, 4), y_test=[0, 1]
        )
        hg.upload_dataset(tmp_path / "o.npz", "damaged")
    server.stop()
    keys = {"train_images", "test_images", "image_shape", "classes", "data_type", "sha256", "size_bytes"}
    with sqlite3.connect(folder / "handgrad.sqlite3") as database:
        for name, text, key in database.execute("SELECT name, summary, object FROM datasets").fetchall():
            older = {each: value for each, value in json.loads(text).items() if each in keys} | {"sha256": "0" * 64}
            database.execute(
                "UPDATE datasets SET summary = ?, sha256 = ?, files_sha256 = ? WHERE name = ?",
                (json.dumps(older), "0" * 64, "1" * 64, name),
            )
            if name == "damaged":
                (folder / "objects" / key).write_bytes(b"gone")
    database.close()
    server = Server("127.0.0.1:0", folder)
    with handgrad.connect(server.address) as hg:
        assert hg.get_dataset("mine") == mine
        assert hg.get_dataset("damaged").sha256 == "0" * 64
        # Its files were hashed without their names: they are sent again, and known from then on.
        sent: list[int] = []
        for _ in range(2):
            again = hg.upload_dataset(tmp_path / "mine", "mine", progress=lambda done, _: sent.append(done))
            assert again == mine
        assert len(sent) == 4
    server.stop()
    storage = Storage(folder, NO_BOUND)
    assert Datasets(storage).describe("mine").train_images_per_class == (10, 10, 10)
    storage.close()
