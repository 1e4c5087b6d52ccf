"""What the tests of core share: float64, random params and images, the report's formulas and the builders of files."""

import gzip
import io
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from numpy.typing import NDArray

from handgrad.core import datasets
from handgrad.core.network import Affine, Network, Params


@pytest.fixture
def float64() -> Iterator[None]:
    """Lets one test use float64."""
    with jax.enable_x64(new_val=True):
        yield


@pytest.fixture(params=["jit", "no jit"])
def with_and_without_jit(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs a test twice: its `jax.jit` compiles, then does nothing."""
    with jax.disable_jit(request.param == "no jit"):
        yield


@pytest.fixture(scope="session")
def draw_params() -> Callable[..., Params]:
    def draw(network: Network, seed: int, dtype: type = np.float32) -> Params:
        generator = np.random.default_rng(seed)
        return tuple(
            {
                "W": jnp.asarray(generator.normal(size=(layer.outputs, layer.inputs)).astype(dtype)),
                "b": jnp.asarray(generator.normal(size=layer.outputs).astype(dtype)),
            }
            if isinstance(layer, Affine)
            else {}
            for layer in network.layers
        )

    return draw


@pytest.fixture(scope="session")
def draw_images() -> Callable[..., tuple[Array, Array]]:
    def draw(size: int, inputs: int, classes: int, seed: int = 0) -> tuple[Array, Array]:
        generator = np.random.default_rng(seed)
        images = generator.integers(0, 256, (size, inputs), np.uint8)
        return jnp.asarray(images), jnp.asarray(generator.integers(0, classes, size, np.uint8))

    return draw


@pytest.fixture(scope="session")
def report_logits() -> Callable[[Params, NDArray[Any]], NDArray[np.float64]]:
    """Gives the report's forward pass in float64: an example a column, `[C, B]` from `[D, B]`."""

    def logits(params: Params, X: NDArray[Any]) -> NDArray[np.float64]:
        return _report_forward(params, X)[-1]

    return logits


@pytest.fixture(scope="session")
def report_loss_and_grads() -> Callable[[Params, NDArray[Any], NDArray[Any]], tuple[float, Params]]:
    """Gives the report's formulas in float64, literally: an example a column, a one-hot matrix, a column of biases."""

    def loss_and_grads(params: Params, X: NDArray[Any], labels: NDArray[Any]) -> tuple[float, Params]:
        *layer_inputs, logits = _report_forward(params, X)
        size = X.shape[1]
        y = np.exp(logits - logits.max(axis=0))
        y /= y.sum(axis=0)
        one_hot = np.zeros_like(y)
        one_hot[labels, range(size)] = 1
        loss = -float(np.sum(one_hot * np.log(y))) / size
        g = (y - one_hot) / size
        grads: list[dict[str, Any]] = []
        affine = [layer for layer in params if layer]
        for layer, inputs in zip(reversed(affine), reversed(layer_inputs), strict=True):
            grads.append({"W": g @ inputs.T, "b": g.sum(axis=1)})
            g = np.asarray(layer["W"], np.float64).T @ g * (1 - inputs) * inputs
        mirrored = iter(reversed(grads))
        return loss, tuple(next(mirrored) if layer else {} for layer in params)

    return loss_and_grads


def _report_forward(params: Params, X: NDArray[Any]) -> list[NDArray[np.float64]]:
    """Gives the input of each affine layer, and the logits."""
    affine = [layer for layer in params if layer]
    values = [np.asarray(X, np.float64)]
    for k, layer in enumerate(affine):
        Y = np.asarray(layer["W"], np.float64) @ values[-1] + np.asarray(layer["b"], np.float64)[:, None]
        values.append(Y if k == len(affine) - 1 else 1 / (1 + np.exp(-Y)))
    return values


@pytest.fixture(scope="session")
def idx_file() -> Callable[[NDArray[np.uint8]], bytes]:
    def build(array: NDArray[np.uint8]) -> bytes:
        return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()

    return build


@pytest.fixture(scope="session")
def idx_files(idx_file: Callable[[NDArray[np.uint8]], bytes]) -> Callable[..., dict[str, bytes]]:
    """Gives the four files of a small data set: 3 images to train on and 2 to test on, of 4 rows and 5 columns."""

    def build(*, compressed: bool = False) -> dict[str, bytes]:
        arrays = {
            datasets.TRAIN_IMAGES: np.arange(60, dtype=np.uint8).reshape(3, 4, 5),
            datasets.TRAIN_LABELS: np.array([0, 2, 1], np.uint8),
            datasets.TEST_IMAGES: np.arange(100, 140, dtype=np.uint8).reshape(2, 4, 5),
            datasets.TEST_LABELS: np.array([4, 3], np.uint8),
        }
        plain = {name: idx_file(array) for name, array in arrays.items()}
        return {name: gzip.compress(content) for name, content in plain.items()} if compressed else plain

    return build


@pytest.fixture(scope="session")
def named_arrays() -> dict[str, NDArray[np.float64]]:
    """Gives arrays in the report's layout, of a network 4-3-2, float64 with digits that float32 cannot keep."""
    generator = np.random.default_rng(0)
    shapes = {"W_1": (3, 4), "b_1": (3, 1), "W_2": (2, 3), "b_2": (2, 1)}
    return {name: generator.normal(size=shape) for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def npz() -> Callable[[Mapping[str, NDArray[Any]]], bytes]:
    def build(arrays: Mapping[str, NDArray[Any]]) -> bytes:
        file = io.BytesIO()
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for allow_pickle
        return file.getvalue()

    return build


@pytest.fixture(scope="session")
def zip_of() -> Callable[..., bytes]:
    def build(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, content in members:
                archive.writestr(name, content)
        return file.getvalue()

    return build


@pytest.fixture(scope="session")
def npy_with_header() -> Callable[[str, bytes], bytes]:
    """Gives an .npy file whose header is whatever one writes into it."""

    def build(header: str, data: bytes) -> bytes:
        padded = header.ljust(117) + "\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode() + data

    return build
