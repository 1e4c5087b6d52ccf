"""Predict: the classes of images, by any version."""

from typing import Any

import numpy as np
import pytest

import handgrad
from handgrad.v1 import tensor_pb2
from handgrad.v1 import training_service_pb2 as pb

GENERATOR = np.random.default_rng(0)
W, B = GENERATOR.normal(size=(3, 12)).astype(np.float32), GENERATOR.normal(size=(3, 1)).astype(np.float32)
IMAGES = GENERATOR.integers(0, 256, (37, 3, 4), np.uint8)


def by_hand(images: Any) -> Any:
    logits = np.asarray(images, np.float64).reshape(len(images), 12) @ W.T + B.T
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.fixture
def model(hg: handgrad.Client) -> str:
    return hg.upload_params({"W_1": W, "b_1": B}, "mine", transform="unit").params_version.model


@pytest.mark.parametrize("count", [1, 2, 3, 37])
def test_probabilities_are_those_of_the_network(hg: handgrad.Client, model: str, count: int) -> None:
    found = hg.predict(model, IMAGES[:count])
    expected = by_hand(IMAGES[:count] / 255)
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.labels, expected.argmax(axis=1))
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-5)
    assert found.version.version == 1
    assert found.kind == "probabilities"
    flat = hg.predict(model, IMAGES[:count].reshape(count, 12))
    np.testing.assert_array_equal(flat.probabilities, found.probabilities)
    with pytest.raises(handgrad.InvalidArgumentError, match="unit divides bytes by 255, and these are floats from"):
        hg.predict(model, IMAGES[:count] / 255)


def test_many_images_are_told_by_one_version(monkeypatch: pytest.MonkeyPatch, hg: handgrad.Client, model: str) -> None:
    from handgrad.client import client  # noqa: PLC0415 - patched here alone

    monkeypatch.setattr(client, "IMAGE_BYTES_PER_CALL", 120)
    predict = hg._stub.Predict
    versions: list[int] = []

    def meanwhile(request: pb.PredictRequest, **options: Any) -> pb.PredictResponse:
        response = predict(request, **options)
        versions.append(response.params_version.version)
        hg.upload_params({"W_1": -W, "b_1": B}, model)
        return response

    monkeypatch.setattr(hg._stub, "Predict", meanwhile)
    found = hg.predict(model, IMAGES)
    assert versions == [1] * 4
    np.testing.assert_allclose(found.probabilities, by_hand(IMAGES / 255), rtol=1e-4, atol=1e-6)


def test_a_version_is_asked_by_its_number(hg: handgrad.Client, tiny: str) -> None:
    job = hg.train(dataset=tiny, hidden=[4], batch_size=10, epochs=1, transform="unit")
    job.wait()
    plain = hg.predict(job.model, IMAGES)
    first = hg.predict(job.model, IMAGES, 1)
    assert first.version.version == 1
    assert not np.array_equal(first.probabilities, plain.probabilities)


TENSOR: dict[str, Any] = {"data_type": tensor_pb2.DATA_TYPE_UINT8, "shape": [2, 12], "data": bytes(24)}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"data_type": 0}, "images.data_type"),
        ({"data_type": tensor_pb2.DATA_TYPE_FLOAT64}, "images.data_type"),
        ({"shape": []}, "images.shape"),
        ({"shape": [24]}, "images.shape"),
        ({"shape": [0, 12]}, "images.shape"),
        ({"shape": [2, 13]}, "images.shape"),
        ({"shape": [-2, -12]}, "images.shape"),
        ({"shape": [2**62, 12]}, "images.data"),
        ({"shape": [1] * 100}, "images.shape"),
        ({"data": bytes(23)}, "images.data"),
        ({"data": b""}, "images.data"),
        (
            {"data_type": tensor_pb2.DATA_TYPE_FLOAT32, "shape": [1, 12], "data": np.full(12, np.nan, "<f4").tobytes()},
            "images.data",
        ),
    ],
)
def test_images_that_cannot_be_used_are_told(
    hg: handgrad.Client, model: str, changes: dict[str, Any], field: str
) -> None:
    request = pb.PredictRequest(model=model, images=tensor_pb2.Tensor(**TENSOR | changes))
    with pytest.raises(handgrad.InvalidArgumentError) as raised, hg._errors():
        hg._stub.Predict(request)
    assert raised.value.field == field


@pytest.mark.parametrize("images", [np.zeros((0, 12), np.uint8), np.zeros(12, np.uint8), np.zeros((1, 12), np.int64)])
def test_the_client_tells_what_it_cannot_send(hg: handgrad.Client, model: str, images: Any) -> None:
    with pytest.raises(handgrad.InvalidArgumentError) as raised:
        hg.predict(model, images)
    assert raised.value.field == "images"
