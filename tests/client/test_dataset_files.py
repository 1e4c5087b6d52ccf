"""Which files of a folder are a data set, and what is told where none are."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from handgrad.client.errors import InvalidArgumentError
from handgrad.client.upload import FORMATS, dataset_files
from handgrad.core import datasets

MNIST, CIFAR10 = FORMATS


def write(folder: Path, *names: str, content: bytes = b"x") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(content)
    return folder


def names_of(folder: Path) -> list[str]:
    return [path.name for path in dataset_files(folder)]


def test_client_and_server_know_the_same_names() -> None:
    assert tuple(datasets.FORMATS) == FORMATS


SPELLINGS: dict[str, Callable[[str], str]] = {
    "as published": lambda name: name,
    "gzipped": lambda name: f"{name}.gz",
    "with a dot": lambda name: name.replace("-idx", ".idx"),
    "with a dot, gzipped": lambda name: name.replace("-idx", ".idx") + ".gz",
    "in capitals": lambda name: f"{name}.gz".upper(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("group", FORMATS)
def test_files_are_known_in_their_spellings(tmp_path: Path, group: tuple[str, ...], spelling: str) -> None:
    names = [SPELLINGS[spelling](name) for name in group]
    assert names_of(write(tmp_path, *reversed(names), "readme.html")) == names


@pytest.mark.parametrize("name", ["class_names.txt", "classes.txt", "labels.txt", "batches.meta.txt"])
def test_names_of_classes_go_with_the_files(tmp_path: Path, name: str) -> None:
    assert names_of(write(tmp_path, *MNIST, name)) == [*MNIST, name]


def test_an_npz_is_known_in_any_case(tmp_path: Path) -> None:
    write(tmp_path, "DATA.NPZ")
    assert dataset_files(tmp_path / "DATA.NPZ") == [tmp_path / "DATA.NPZ"]


def test_two_spellings_of_one_file_must_hold_the_same(tmp_path: Path) -> None:
    write(tmp_path, *MNIST)
    write(tmp_path, f"{MNIST[0]}.gz", content=gzip.compress(b"x"))
    write(tmp_path, MNIST[1].replace("-idx", ".idx"))
    assert names_of(tmp_path) == [MNIST[0], MNIST[1], MNIST[2], MNIST[3]]
    for other in (gzip.compress(b"y"), gzip.compress(b"x")[:-3], b""):
        write(tmp_path, f"{MNIST[0]}.gz", content=other)
        with pytest.raises(InvalidArgumentError, match=rf"{MNIST[0]}, {MNIST[0]}\.gz differ; which is it") as raised:
            dataset_files(tmp_path)
        assert raised.value.field == MNIST[0]


def test_kaggles_folders_of_the_same_names_are_no_files(tmp_path: Path) -> None:
    dotted = [name.replace("-idx", ".idx") for name in MNIST]
    write(tmp_path, *dotted)
    for name in MNIST:
        write(tmp_path / name, name)
    assert names_of(tmp_path) == dotted


ONE_FILE: dict[str, str] = {
    "train.csv": "the file is text, which is not read as images",
    "data.npy": "the file is a single array",
    "mnist.pkl.gz": "the file is a Python pickle by its name, which is never run",
    "model.pt": "the file is a Python pickle by its name, which is never run",
    "digits.mat": "the file is in another format",
    "mnist_784.arff": "the file is text",
    "archive.zip": "the file is an archive: unpack it",
    "cifar-10-binary.tar.gz": "the file is an archive: unpack it",
    "data.npz.gz": "the file is compressed once more: gunzip it",
    "data": "the file has a name that is not known",
    "train-images.idx3-ubyte": "it is one file of a data set: give the folder that holds them all",
    "data_batch_1.bin": "it is one file of a data set: give the folder that holds them all",
}


@pytest.mark.parametrize("name", ONE_FILE)
def test_a_file_that_is_no_data_set_is_told(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    with pytest.raises(InvalidArgumentError) as raised:
        dataset_files(tmp_path / name)
    assert f"{name}: {ONE_FILE[name]}" in str(raised.value)
    assert "; a data set is an .npz file with x_train, y_train, x_test and y_test" in str(raised.value)
    assert "Errno" not in str(raised.value)
    assert raised.value.field == name


FOLDERS: dict[str, tuple[tuple[str, ...], str]] = {
    "empty": ((), "the folder is empty; a data set is an .npz file"),
    "of an .npz": (("notes.txt", "mnist.npz"), r"holds mnist\.npz: give that file itself"),
    "of pickles": (
        ("batches.meta", "data_batch_1", "test_batch"),
        "Python version is pickles, which are never run; its b",
    ),
    "of an archive": (("cifar-10-binary.tar.gz",), r"holds cifar-10-binary\.tar\.gz: unpack it"),
    "of pictures": (
        tuple(f"{k}.png" for k in range(12)),
        r"holds 0\.png, 1\.png, 10\.png, .* and 4 more; a data set is",
    ),
    "of other names": (("train-images-idx3-ubyte.txt",), r"holds train-images-idx3-ubyte\.txt; a data set is .*10k"),
    "of some files": ((MNIST[0], f"{MNIST[1]}.gz", "x (1).gz"), rf"{MNIST[2]}: the file is missing; .* x \(1\)\.gz"),
    "of CIFAR-10 without a file": (CIFAR10[1:], r"data_batch_1\.bin: the file is missing; .* holds data_batch_2\.bin"),
    "of CIFAR-100": (("train.bin", "test.bin"), r"holds test\.bin, train\.bin; a data set is"),
    "of two data sets": ((*MNIST, *CIFAR10), "the files of MNIST and those of CIFAR-10; expected one"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_that_is_no_data_set_says_what_it_holds(tmp_path: Path, kind: str) -> None:
    names, told = FOLDERS[kind]
    with pytest.raises(InvalidArgumentError, match=told):
        dataset_files(write(tmp_path / "data", *names))


def test_a_folder_within_is_named(tmp_path: Path) -> None:
    write(tmp_path / "MNIST" / "raw", *MNIST)
    with pytest.raises(InvalidArgumentError, match=r"holds raw/: give .*MNIST/raw"):
        dataset_files(tmp_path / "MNIST")


def test_what_is_not_there_is_told_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "link.npz").symlink_to(tmp_path / "gone")
    write(tmp_path, "file")
    for name in ("nowhere", "nowhere.npz", "link.npz", "file/data.npz"):
        with pytest.raises(FileNotFoundError, match=rf"{name}: there is no such file or folder; a data set is"):
            dataset_files(tmp_path / name)
    with pytest.raises(OSError, match=r"aaa: File name too long"):
        dataset_files(tmp_path / ("a" * 300))
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(InvalidArgumentError, match=r"pipe\.npz: neither a file nor a folder"):
        dataset_files(tmp_path / "pipe.npz")


def test_names_that_no_terminal_can_show_are_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", os.fsdecode(b"daten_\xe4\x1b[2J"))
    with pytest.raises(InvalidArgumentError, match=r"holds daten_\\udce4\\x1b\[2J") as raised:
        dataset_files(folder)
    str(raised.value).encode()
