"""CIFAR-10's binary format: planes become pixels, and what is wrong is named."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import handgrad
from handgrad.core.datasets import CIFAR10_FILES, parse_cifar10, parse_files
from handgrad.core.errors import InvalidInputError

GENERATOR = np.random.default_rng(0)
PLANES = GENERATOR.integers(0, 256, (6, 4, 3, 32, 32), np.uint8)
LABELS = GENERATOR.integers(0, 10, (6, 4)).astype(np.uint8)


def content(file: int) -> bytes:
    return b"".join(bytes([label]) + planes.tobytes() for label, planes in zip(LABELS[file], PLANES[file], strict=True))


def files() -> dict[str, bytes]:
    return {name: content(number) for number, name in enumerate(CIFAR10_FILES)}


def test_the_six_files_make_a_data_set() -> None:
    dataset = parse_files(files() | {CIFAR10_FILES[1]: gzip.compress(content(1))})
    assert (dataset.image_shape, dataset.inputs) == ((32, 32, 3), 3072)
    images = dataset.train.images.reshape(-1, 32, 32, 3)
    assert images.shape[0] == 20
    np.testing.assert_array_equal(images[5, 7, 9], PLANES[1, 1, :, 7, 9])
    np.testing.assert_array_equal(dataset.train.labels, LABELS[:5].ravel())
    np.testing.assert_array_equal(dataset.test.labels, LABELS[5])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data_batch_3.bin": b""}, "data_batch_3.bin: the file is empty"),
        ({"data_batch_2.bin": content(1)[:-1]}, "data_batch_2.bin: the file is truncated: 12291 bytes"),
        ({"test_batch.bin": bytes([10]) + content(5)[1:]}, "test_batch.bin: image 0 has label 10; expected 0 to 9"),
        ({"data_batch_1.bin": gzip.compress(content(0))[:-4]}, "data_batch_1.bin: the gzip file is truncated"),
    ],
)
def test_a_wrong_file_is_named(change: dict[str, bytes], told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        parse_files(files() | change)


def test_a_missing_file_is_named() -> None:
    there = files()
    del there["data_batch_4.bin"]
    with pytest.raises(InvalidInputError, match=r"data_batch_4\.bin: the file is missing"):
        parse_files(there)
    assert len(parse_cifar10(content(0), "any").labels) == 4


def test_a_folder_is_uploaded_and_a_residual_network_trains_on_it(hg: handgrad.Client, tmp_path: Path) -> None:
    for name, data in files().items():
        (tmp_path / name).write_bytes(data)
    dataset = hg.upload_dataset(tmp_path, "cifar")
    assert (list(dataset.image_shape), dataset.train_images, dataset.test_images) == ([32, 32, 3], 20, 4)
    layers: list[dict[str, Any]] = [
        {"kind": "residual", "layers": [{"kind": "convolution", "channels": 3, "kernel": 3, "padding": "same"}]},
        {"kind": "average_pool"},
        {"kind": "flatten"},
        {"kind": "affine"},
    ]
    job = hg.train(network=layers, dataset="cifar", batch_size=5, epochs=1, flip=True, crop=4, learning_rate=0.001)
    assert job.wait().iteration == 4
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(handgrad.InvalidArgumentError, match=r"test_batch\.bin: the file is missing"):
        hg.upload_dataset(tmp_path, "other")
