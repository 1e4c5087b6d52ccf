"""Files as strangers have them: what is in them is told by its name, with what is accepted and how to get there."""

import gzip
import io
import json
import pickle
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from handgrad.core.datasets import (
    CIFAR10_FILES,
    IDX_FILES,
    NPZ,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    parse_files,
    parse_npz,
    role_of,
)
from handgrad.core.errors import InvalidInputError
from handgrad.core.file_kinds import kind_of
from handgrad.core.parameter_files import check_named_arrays, read

NAMES = ("cat", "dog", "Ünicorn")
IMAGES = np.random.default_rng(0).integers(0, 256, (39, 3, 4), np.uint8)


def idx(array: NDArray[Any], code: int = 8) -> bytes:
    return bytes((0, 0, code, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def idx_files(**changes: bytes) -> dict[str, bytes]:
    labels = np.arange(39, dtype=np.uint8) % 3
    contents = [idx(part) for part in (IMAGES[:30], labels[:30], IMAGES[30:], labels[30:])]
    return dict(zip(IDX_FILES, contents, strict=True)) | changes


def arrays(**changes: Any) -> dict[str, Any]:
    return {
        "x_train": IMAGES[:30],
        "y_train": np.arange(30) % 3,
        "x_test": IMAGES[30:],
        "y_test": np.arange(9) % 3,
    } | changes


def npz(**changes: Any) -> bytes:
    file = io.BytesIO()
    savez: Any = np.savez
    savez(file, **arrays(**changes))
    return file.getvalue()


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return file.getvalue()


def safetensors_of(dtype: str, itemsize: int) -> bytes:
    header = json.dumps({"W_1": {"dtype": dtype, "shape": [2, 2], "data_offsets": [0, 4 * itemsize]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * itemsize)


CSV = b"label,pixel0,pixel1,pixel2\n5,0,0,128\n0,0,255,0\n"
HTML = b"\n<!DOCTYPE html>\n<html><head><title>Moved</title>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9912422\n"
TORCH = archive(**{"mnist/data.pkl": b"\x80\x02}q\x00.", "mnist/data/0": bytes(8), "mnist/version": b"3"})
BATCH = pickle.dumps({b"data": b"\0" * 3073, b"labels": [0]}, protocol=2)

CONTENTS: dict[str, tuple[bytes, str]] = {
    "Kaggle's CSV": (CSV, "CSV text"),
    "semicolons": (b"a;b\n1;2\n3;4\n", "CSV text"),
    "tabs": (b"a\tb\n1\t2\n3\t4\n", "tab-separated text"),
    "an error page": (HTML, "an HTML page"),
    "an S3 error": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML text"),
    "an API's error": (b'{"message": "Not Found"}', "JSON text"),
    "git-lfs": (LFS, "a git-lfs pointer: `git lfs pull`"),
    "an .npy": (b"\x93NUMPY\x01\x00v\x00{}", r"a single array of numpy \(.npy\)"),
    "a pickle": (BATCH, "a Python pickle, which handgrad never runs"),
    "an old pickle": (pickle.dumps({"x": 1}, protocol=0), "a Python pickle, which handgrad never runs"),
    "an old PyTorch file": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.rest", "a PyTorch file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(50), r"an HDF5 \(.h5\) file"),
    "MATLAB": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(90), r"a MATLAB \(.mat\) file"),
    "ARFF": (b"% 1. Title\n%\n@RELATION mnist\n@ATTRIBUTE p REAL\n", "ARFF text"),
    "a tar": (b"data_batch_1.bin" + bytes(241) + b"ustar\x0000" + bytes(248), "a tar archive"),
    "7-Zip": (b"7z\xbc\xaf\x27\x1c" + bytes(30), "a 7-Zip archive"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(20), "a PNG picture"),
    "Parquet": (b"PAR1" + bytes(20), "a Parquet file"),
    "IDX of floats": (idx(IMAGES.astype(">f4"), 13), "an IDX file of float32 with 3 dimensions"),
    "IDX of integers": (idx(np.arange(3, dtype=">i4"), 12), "an IDX file of int32 with 1 dimension"),
    "safetensors": (safetensors_of("F32", 4), "a .safetensors file"),
    "any text": ("die Größe".encode(), "text: 'die Größe'"),
    "many comments": (b"% " * 2000, "text: '%"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_what_lies_in_the_place_of_a_file_is_told(kind: str) -> None:
    content, told = CONTENTS[kind]
    for packed in (content, gzip.compress(content)):
        with pytest.raises(InvalidInputError, match=f"this one with {content[:4].hex()}: it is {told}") as raised:
            parse_files(idx_files(**{TRAIN_IMAGES: packed}))
        assert raised.value.field == TRAIN_IMAGES
    with pytest.raises(InvalidInputError, match=f"not an .npz file: it is {told}"):
        parse_npz(content, "data.npz")
    if not kind.startswith("safetensors"):
        with pytest.raises(InvalidInputError, match=f"nor a whole .safetensors file: it is {told}"):
            read(content, "params.npz")


@pytest.mark.parametrize("noise", [b"", b"\0\0\0", bytes(range(200, 256)), b"\x00\xff" * 100])
def test_what_is_not_known_is_not_guessed(noise: bytes) -> None:
    assert not kind_of(noise)


ZIPS: dict[str, tuple[bytes, str]] = {
    "IDX files": (archive(**idx_files()), f"it is a zip archive of {TRAIN_IMAGES}"),
    "PyTorch": (TORCH, "it is a PyTorch file: a Python pickle, which handgrad never runs; safetensors.torch"),
    "many files": (archive(**{f"{k}.png": b"" for k in range(9)}), "a zip archive of 0.png, 1.png, 2.png, 3.png, ..."),
}


@pytest.mark.parametrize("kind", ZIPS)
def test_a_zip_that_is_no_npz_is_told(kind: str) -> None:
    content, told = ZIPS[kind]
    for reader in (parse_npz, read):
        with pytest.raises(InvalidInputError, match=told):
            reader(content, "data.npz")


def test_a_batch_of_cifar10s_pickles_is_told() -> None:
    files = dict.fromkeys(CIFAR10_FILES, bytes(3073)) | {CIFAR10_FILES[0]: BATCH}
    with pytest.raises(
        InvalidInputError, match=r"a Python pickle, .* never runs; expected a file of CIFAR-10's binary"
    ):
        parse_files(files)


@pytest.mark.parametrize("name", [*IDX_FILES, *CIFAR10_FILES])
def test_a_name_is_known_in_its_spellings(name: str) -> None:
    dotted = name.replace("-idx", ".idx")
    for spelling in (name, dotted, f"{dotted}.gz", name.upper(), f"{name}.GZ", f"{dotted.upper()}.Gz"):
        assert role_of(spelling) == name
    for other in (f"{name}.txt", f"my-{name}", f"{name} (1)", f"{name}.gz.gz"):
        assert not role_of(other)
    assert role_of("Data.NPZ") == NPZ
    assert not role_of("data.npz.gz")
    assert not role_of("data_batch_1")


N = 30
EYE = np.eye(3, dtype=np.float32)[np.arange(N) % 3]
TRAIN = IMAGES[:N]
WRONG_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "integers": ({"x_train": TRAIN.astype(int)}, r"int64; .*are 0 to 255: x_train.astype\('uint8'\) converts"),
    "large integers": ({"x_train": TRAIN.astype(np.int32) * 9}, r"int32; .* to 2295: x_train.astype\('float32'\)"),
    "booleans": ({"x_train": TRAIN > 99}, r"x_train is bool; .*x_train.astype\('uint8'\) \* 255"),
    "half": ({"x_test": (IMAGES[N:] / 255).astype(np.float16)}, r"x_test is float16; .*x_test.astype\('float32'\)"),
    "bfloat16": ({"x_train": TRAIN.astype(np.uint16).view("V2")}, r"x_train is \|V2; .*bfloat16"),
    "complex": ({"x_train": TRAIN.astype(complex)}, "x_train is complex128; expected uint8 or float32"),
    "channels first": ({"x_train": np.zeros((N, 3, 32, 32), np.uint8)}, r"numpy.moveaxis\(x_train, 1, -1\)"),
    "one channel first": ({"x_train": np.zeros((N, 1, 28, 28), np.uint8)}, r"numpy.moveaxis\(x_train, 1, -1\)"),
    "five dimensions": ({"x_train": np.zeros((N, 1, 1, 1, 1), np.uint8)}, r"\(images, rows, columns, channels\)"),
    "x and y": ({"x_train": np.arange(N) % 3, "y_train": TRAIN}, "images and labels seem to be swapped"),
    "one y of the other split": (
        {"y_train": np.arange(9) % 3, "y_test": np.arange(N) % 3},
        "x_train has 30 images, but y_train has 9 labels; .* are two arrays swapped",
    ),
    "one-hot labels": ({"y_train": EYE}, r"float32 of shape \(30, 3\).*one-hot: y_train.argmax\(axis=1\)"),
    "a column of labels": ({"y_train": arrays()["y_train"][:, None]}, r"shape \(30, 1\).*ravel\(\).astype\(int\)"),
    "float labels": ({"y_train": np.arange(N) % 3 / 1}, r"y_train is float64.*ravel\(\).astype\(int\)"),
    "labels between": ({"y_train": np.arange(N) / 2}, r"y_train is float64 of shape \(30,\); expected integers.*$"),
    "boolean labels": ({"y_train": np.arange(N) % 2 == 0}, r"y_train is bool.*ravel\(\).astype\(int\)"),
    "texts for labels": ({"y_train": np.array(["a", "b"] * 15)}, r"class_names, y_train = numpy.unique\(y_train"),
    "one class": ({"y_train": np.full(N, 3)}, "labels are all 3: a data set needs two classes or more"),
    "other names": ({"train_images": TRAIN}, "train_images is unknown; its arrays should be x_train"),
    "too few names": ({"class_names": np.array(["a", "b"])}, "2 class names, but labels up to 2"),
    "numbers for names": ({"class_names": np.arange(3)}, "class_names is int64 .*expected texts"),
    "bytes for names": ({"class_names": np.array([b"a", b"b", b"c"])}, r"class_names is \|S1 .*expected texts"),
    "a matrix of names": ({"class_names": np.array([["a", "b", "c"]])}, r"class_names is <U1 of shape \(1, 3\)"),
    "one name twice": ({"class_names": np.array(["a", "b", "a"])}, "class names 0 and 2 are both 'a'"),
    "an empty name": ({"class_names": np.array(["a", " ", "c"])}, "class name 1 is ' '"),
    "a name of a terminal": ({"class_names": np.array(["a", "\x1b[2J", "c"])}, r"class name 1 is '\\x1b\[2J'"),
    "a long name": ({"class_names": np.array(["a", "b", "c" * 101])}, "class name 2 .*1 to 100 printable"),
    "many names": ({"class_names": np.arange(257).astype(str)}, "257 class names; expected 1 to 256"),
    "names that are no text": (
        {"class_names": np.full(3, 2**31, np.uint32).view("U1")},
        "class_names holds texts of what are no",
    ),
    "half a letter": ({"class_names": np.array([0xD800, 97, 98], np.uint32).view("U1")}, "class name 0"),
}


@pytest.mark.parametrize("kind", WRONG_ARRAYS)
def test_arrays_that_cannot_be_used_say_how_they_can(kind: str) -> None:
    changes, told = WRONG_ARRAYS[kind]
    with pytest.raises(InvalidInputError, match=told) as raised:
        parse_npz(npz(**changes), "data.npz")
    assert raised.value.field == "data.npz"


def test_labels_between_classes_get_no_advice() -> None:
    with pytest.raises(InvalidInputError) as raised:
        parse_npz(npz(y_train=np.arange(N) / 2), "data.npz")
    assert "astype" not in str(raised.value)


def test_missing_arrays_are_told_with_those_that_are_there() -> None:
    file = io.BytesIO()
    np.savez(file, train_images=TRAIN, train_labels=np.arange(N))
    with pytest.raises(InvalidInputError, match="x_train is missing; it has train_images, train_labels; expected x_tr"):
        parse_npz(file.getvalue(), "data.npz")
    with pytest.raises(InvalidInputError, match="the file is empty"):
        parse_npz(b"", "data.npz")


def test_classes_have_their_names() -> None:
    assert parse_npz(npz(class_names=np.array(NAMES)), "data.npz").class_names == NAMES
    assert parse_npz(npz(class_names=np.array(NAMES, ">U7")), "data.npz").class_names == NAMES
    assert parse_npz(npz(), "data.npz").class_names == ()
    text = "\ufeffcat\r\ndog\r\nÜnicorn\r\n\r\n".encode()
    named = parse_files(idx_files(**{"class_names.txt": text}))
    assert (named.class_names, named.classes) == (NAMES, 3)
    more = parse_npz(npz(class_names=np.array([*NAMES, "fish"])), "data.npz")
    assert (more.classes, more.class_names[3]) == (4, "fish")
    cifar = b"".join(bytes([label]) + bytes(3072) for label in (0, 9))
    files = dict.fromkeys(CIFAR10_FILES, cifar) | {
        "class_names.txt": b"\n".join(b"%d" % k for k in range(10)) + b"\n\n"
    }
    assert parse_files(files).class_names == tuple(map(str, range(10)))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"cat\ndog\n", "2 class names, but labels up to 2"),
        (b"", "0 class names; expected 1 to 256"),
        (b"\n".join(b"%d" % (k % 10) for k in range(60_000)), "60000 class names"),
        (b"0\n1\n2\n0\n", "class names 0 and 3 are both '0'"),
        (b"\x80\x02\xff", "it is a Python pickle"),
        ("größe\n".encode("latin-1"), "no UTF-8 text; expected class names, one a line"),
    ],
)
def test_a_text_that_names_no_classes_is_told(content: bytes, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told) as raised:
        parse_files(idx_files(**{"class_names.txt": content}))
    assert raised.value.field == "class_names.txt"


def test_idx_files_that_do_not_belong_together_are_told() -> None:
    files = idx_files()
    swapped = files | {TRAIN_LABELS: files[TEST_LABELS], TEST_LABELS: files[TRAIN_LABELS]}
    with pytest.raises(InvalidInputError, match=r"30 images, but .* has 9 labels; .* are two files swapped"):
        parse_files(swapped)
    with pytest.raises(
        InvalidInputError, match=r"it is an IDX file of uint8 with 1 dimension; expected .* 3 dimensions"
    ):
        parse_files(files | {TEST_IMAGES: files[TEST_LABELS]})
    with pytest.raises(InvalidInputError, match="it is a gzip file"):
        parse_files(files | {TEST_IMAGES: gzip.compress(gzip.compress(files[TEST_IMAGES]))})
    with pytest.raises(InvalidInputError, match=f"{TRAIN_LABELS}: labels are all 7"):
        parse_files(files | {TRAIN_LABELS: idx(np.full(30, 7, np.uint8))})


@pytest.mark.parametrize(("dtype", "itemsize"), [("BF16", 2), ("F8_E4M3", 1)])
def test_params_of_a_dtype_that_numpy_has_not_are_told(dtype: str, itemsize: int) -> None:
    with pytest.raises(InvalidInputError, match=f"arrays of {dtype}; expected F32 or F64"):
        read(safetensors_of(dtype, itemsize), "params.safetensors")


def test_params_of_half_precision_say_how_they_become_float32() -> None:
    half = {"W_1": np.ones((3, 4), np.float16), "b_1": np.ones((3, 1), np.float16)}
    with pytest.raises(InvalidInputError, match=r"float16; expected float32 or float64; .astype\('float32'\) converts"):
        check_named_arrays(half, "params.npz")
