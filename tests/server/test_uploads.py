"""Uploads of data sets: in chunks, checked, resumable, kept once, bounded."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import handgrad
from handgrad.core.datasets import IDX_FILES
from handgrad.server.app import Server
from handgrad.server.uploads import CHUNK_BYTES
from handgrad.v1 import dataset_pb2, tensor_pb2
from handgrad.v1 import training_service_pb2 as pb


def arrays(images: int = 30) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        "x_train": generator.integers(0, 256, (images, 3, 4), np.uint8),
        "y_train": np.arange(images) % 3,
        "x_test": generator.integers(0, 256, (9, 3, 4), np.uint8),
        "y_test": np.arange(9) % 3,
    }


def save(path: Path, **changes: Any) -> Path:
    savez: Any = np.savez_compressed
    savez(path, **arrays() | changes)
    return path


def test_an_npz_is_a_data_set(hg: handgrad.Client, tmp_path: Path) -> None:
    dataset = hg.upload_dataset(save(tmp_path / "mine.npz"), "mine")
    assert (dataset.train_images, dataset.test_images, list(dataset.image_shape), dataset.classes) == (30, 9, [3, 4], 3)
    digest = hashlib.sha256(b'{"class_names":[],"data_type":"uint8","image_shape":[3,4]}\n')
    for name, array in arrays().items():
        digest.update(array.astype(np.uint8).tobytes() if name.startswith("y") else array.tobytes())
    assert dataset.sha256 == digest.hexdigest()
    assert hg.get_dataset("mine") == dataset
    assert [each.dataset for each in hg.list_datasets()] == ["mine", "mnist"]
    assert hg.train(dataset="mine", hidden=[4], batch_size=10, epochs=1).wait().iteration == 3


def test_float_images_are_taken_as_they_are(hg: handgrad.Client, tmp_path: Path) -> None:
    data = {name: (arrays()[name] / 255).astype(np.float32) for name in ("x_train", "x_test")}
    dataset = hg.upload_dataset(save(tmp_path / "floats.npz", **data), "floats")
    assert dataset.data_type == tensor_pb2.DATA_TYPE_FLOAT32
    bytes_dataset = hg.upload_dataset(save(tmp_path / "bytes.npz"), "bytes")
    settings: dict[str, Any] = {"hidden": [4], "batch_size": 10, "epochs": 2}
    floats = hg.train(dataset="floats", transform="identity", **settings)
    unit = hg.train(dataset=bytes_dataset.dataset, transform="unit", **settings)
    floats.wait()
    unit.wait()
    # XLA multiplies by 1 / 255 where numpy divides, which may round otherwise.
    for name, array in floats.params().arrays.items():
        np.testing.assert_allclose(array, unit.params().arrays[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"x_train": np.zeros((30, 3, 4), np.int32)}, "x_train is int32; expected uint8 or float32"),
        ({"x_train": np.zeros(30, np.uint8)}, r"x_train has shape \(30,\)"),
        ({"x_train": np.zeros((0, 3, 4), np.uint8)}, "x_train has shape"),
        ({"x_test": np.zeros((9, 4, 3), np.uint8)}, r"x_test has uint8 images of \(4, 3\)"),
        ({"x_test": np.full((9, 3, 4), np.nan)}, "not finite"),
        ({"y_train": np.zeros(29, np.int64)}, "x_train has 30 images, but y_train has 29 labels"),
        ({"y_train": np.full(30, -1)}, "y_train has labels from -1 to -1; expected 0 to 255"),
        ({"y_train": np.full(30, 256)}, "labels from 256"),
        ({"y_train": np.zeros(30)}, "y_train is float64"),
        ({"y_test": np.array([{}] * 9)}, "pickled objects"),
        ({"more": np.zeros(3)}, "the array more is unknown"),
    ],
)
def test_an_npz_that_cannot_be_used_is_told(
    hg: handgrad.Client, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(handgrad.InvalidArgumentError, match=told) as raised:
        hg.upload_dataset(save(tmp_path / "mine.npz", **changes))
    assert raised.value.field == "mine.npz"


def test_a_data_set_outlives_the_server_and_is_kept_once(tmp_path: Path, tiny_folder: Path) -> None:
    server = Server("127.0.0.1:0", tmp_path / "data")
    with handgrad.connect(server.address) as hg:
        first, second = (hg.upload_dataset(tiny_folder, name) for name in ("first", "second"))
        unnamed = hg.upload_dataset(tiny_folder)
        assert first.sha256 == second.sha256
        assert unnamed.dataset == f"dataset-{first.sha256[:12]}"
    assert len(list((tmp_path / "data/objects").iterdir())) == 1
    server.stop()
    server = Server("127.0.0.1:0", tmp_path / "data")
    with handgrad.connect(server.address) as hg:
        assert hg.get_dataset("first") == first
        job = hg.train(dataset="first", hidden=[4], batch_size=10, epochs=100_000)
        with pytest.raises(handgrad.PreconditionError, match="job-1 needs data set first"):
            hg.delete_dataset("first")
        job.cancel()
        with pytest.raises(handgrad.JobCancelledError):
            job.wait()
        for name in ("first", "second", unnamed.dataset):
            hg.delete_dataset(name)
        with pytest.raises(handgrad.NotFoundError):
            hg.get_dataset("first")
        with pytest.raises(handgrad.PreconditionError, match="ships with the server"):
            hg.delete_dataset("mnist")
    server.stop()


def start(hg: handgrad.Client, *files: tuple[str, bytes]) -> pb.StartDatasetUploadResponse:
    described = [
        dataset_pb2.UploadFile(file=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in files
    ]
    with hg._errors():
        return hg._stub.StartDatasetUpload(pb.StartDatasetUploadRequest(dataset="mine", files=described))


def chunk(hg: handgrad.Client, upload: str, offset: int, content: bytes, sha256: str = "", index: int = 0) -> int:
    request = pb.UploadDatasetChunkRequest(
        upload=upload,
        file_index=index,
        offset_bytes=offset,
        chunk=content,
        sha256=sha256 or hashlib.sha256(content).hexdigest(),
    )
    with hg._errors():
        return hg._stub.UploadDatasetChunk(request).received_bytes


def test_an_upload_survives_a_restart_and_takes_no_byte_twice(tmp_path: Path) -> None:
    content = save(tmp_path / "mine.npz").read_bytes()
    server = Server("127.0.0.1:0", tmp_path / "data")
    with handgrad.connect(server.address) as hg:
        upload = start(hg, ("mine.npz", content)).upload
        assert chunk(hg, upload, 0, content[:100]) == 100
        assert chunk(hg, upload, 0, content[:100]) == 100
        assert chunk(hg, upload, 50, content[50:150]) == 150
        assert chunk(hg, upload, 0, content[:20]) == 150
    server.stop()
    server = Server("127.0.0.1:0", tmp_path / "data")
    with handgrad.connect(server.address) as hg:
        again = start(hg, ("mine.npz", content))
        assert (again.upload, list(again.received_bytes)) == (upload, [150])
        with pytest.raises(handgrad.PreconditionError, match=rf"150 of its {len(content)} bytes"), hg._errors():
            hg._stub.FinishDatasetUpload(pb.FinishDatasetUploadRequest(upload=upload))
        chunk(hg, upload, 150, content[150:])
        finished = hg._stub.FinishDatasetUpload(pb.FinishDatasetUploadRequest(upload=upload)).dataset
        assert finished == hg.get_dataset("mine")
        assert list((tmp_path / "data/uploads").iterdir()) == []
        assert start(hg, ("mine.npz", content)).dataset == finished
        with pytest.raises(handgrad.NotFoundError, match="no upload"):
            chunk(hg, upload, 0, b"x")
    server.stop()


def test_a_chunk_that_does_not_fit_is_refused(hg: handgrad.Client) -> None:
    upload = start(hg, ("mine.npz", bytes(1000))).upload
    chunk(hg, upload, 0, bytes(10))
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((11, b"x"), "offset_bytes"),
        ((-1, b"x"), "offset_bytes"),
        ((10, bytes(991)), "chunk"),
        ((10, b""), "chunk"),
        ((10, bytes(CHUNK_BYTES + 1)), "chunk"),
        ((10, b"x", "0" * 64), "sha256"),
        ((10, b"x", "", 1), "file_index"),
        ((10, b"x", "", -1), "file_index"),
    ]
    for arguments, field in wrong:
        with pytest.raises(handgrad.InvalidArgumentError) as raised:
            chunk(hg, upload, *arguments)
        assert raised.value.field == field
    for name in ("../mine", "", "x" * 500):
        with pytest.raises(handgrad.NotFoundError):
            chunk(hg, name, 0, b"x")


def test_what_is_not_what_it_promised_is_forgotten(hg: handgrad.Client, tmp_path: Path) -> None:
    upload = start(hg, ("mine.npz", bytes(10))).upload
    chunk(hg, upload, 0, b"0123456789")
    with pytest.raises(handgrad.InvalidArgumentError, match="what arrived has SHA-256") as raised, hg._errors():
        hg._stub.FinishDatasetUpload(pb.FinishDatasetUploadRequest(upload=upload))
    assert raised.value.field == "mine.npz"
    assert list((tmp_path / "data/uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("files", "field"),
    [
        ([], IDX_FILES[0]),
        ([("mine.txt", b"x")], "files[0].file"),
        ([("../../etc/passwd", b"x")], "files[0].file"),
        ([(name, b"x") for name in IDX_FILES[:3]], IDX_FILES[3]),
        ([(IDX_FILES[0], b"x"), (f"{IDX_FILES[0]}.gz", b"x")], "files[1].file"),
        ([("a.npz", b"x"), ("b.npz", b"x")], "files[0].file"),
    ],
)
def test_files_that_are_no_data_set_are_refused(
    hg: handgrad.Client, files: list[tuple[str, bytes]], field: str
) -> None:
    with pytest.raises(handgrad.InvalidArgumentError) as raised:
        start(hg, *files)
    assert raised.value.field == field


def test_wrong_sizes_and_hashes_are_refused(hg: handgrad.Client) -> None:
    for changes, field in (({"size_bytes": -1}, "files[0].size_bytes"), ({"sha256": "A" * 64}, "files[0].sha256")):
        described: dict[str, Any] = {"file": "a.npz", "size_bytes": 1, "sha256": "0" * 64} | changes
        request = pb.StartDatasetUploadRequest(files=[dataset_pb2.UploadFile(**described)])
        with pytest.raises(handgrad.InvalidArgumentError) as raised, hg._errors():
            hg._stub.StartDatasetUpload(request)
        assert raised.value.field == field


def test_the_bounds_are_settings(tmp_path: Path, tiny_folder: Path) -> None:
    server = Server("127.0.0.1:0", tmp_path / "data", max_dataset_bytes=100)
    with handgrad.connect(server.address) as hg, pytest.raises(handgrad.ExhaustedError, match="at most 100"):
        hg.upload_dataset(tiny_folder)
    server.stop()
    server = Server("127.0.0.1:0", tmp_path / "data", max_disk_bytes=3000)
    with handgrad.connect(server.address) as hg:
        hg.upload_dataset(tiny_folder, "tiny")
        with pytest.raises(handgrad.ExhaustedError, match="delete models, checkpoints or data sets"):
            hg.upload_params({"W_1": np.ones((100, 12)), "b_1": np.ones((100, 1))})
        hg.delete_dataset("tiny")
        hg.upload_params({"W_1": np.ones((10, 12)), "b_1": np.ones((10, 1))})
    server.stop()


def test_a_bomb_is_refused(hg: handgrad.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from handgrad.core import datasets  # noqa: PLC0415 - patched here alone

    monkeypatch.setattr(datasets, "MAX_FILE_BYTES", 10_000)
    bomb = io.BytesIO()
    np.savez_compressed(bomb, x_train=np.zeros((10**6, 4), np.uint8))
    assert len(bomb.getvalue()) < 10_000
    (tmp_path / "bomb.npz").write_bytes(bomb.getvalue())
    with pytest.raises(handgrad.InvalidArgumentError, match="more than 10000 bytes when decompressed"):
        hg.upload_dataset(tmp_path / "bomb.npz")
