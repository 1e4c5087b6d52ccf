"""`handgrad predict`: pictures and test images go by the model's signature, and are told by its words."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import handgrad
from handgrad.client.cli.main import cli
from handgrad.server.app import Server

NAMES = ["left", "middle", "right", "far"]
Run = Callable[..., Result]


def splits(*, floats: bool = False, flat: bool = False) -> dict[str, Any]:
    """Images of 3x4 pixels, dark, with a bright column that tells their class of four."""
    generator = np.random.default_rng(0)
    found: dict[str, Any] = {"class_names": np.array(NAMES)}
    for split, count in (("train", 80), ("test", 20)):
        labels = np.arange(count) % 4
        images = generator.integers(0, 60, (count, 3, 4)).astype(np.uint8)
        images[np.arange(count), :, labels] = 250
        shaped = images.reshape(count, 12) if flat else images
        found |= {f"x_{split}": (shaped / 255).astype(np.float32) if floats else shaped, f"y_{split}": labels}
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("predict")


@pytest.fixture(scope="module")
def hg(folder: Path) -> Iterator[handgrad.Client]:
    """A client of a server whose models were trained on bytes, on floats, on vectors, and by squared errors."""
    server = Server("127.0.0.1:0", folder / "data")
    settings: dict[str, Any] = {"hidden": (), "batch_size": 10, "learning_rate": 0.5, "epochs": 10}
    with handgrad.connect(server.address) as client:
        for name, data in {
            "on-bytes": splits(),
            "on-floats": splits(floats=True),
            "on-vectors": splits(flat=True),
            "by-squares": splits(),
        }.items():
            np.savez(folder / f"{name}.npz", **data)
            dataset = client.upload_dataset(folder / f"{name}.npz").dataset
            loss = "squared_error" if name == "by-squares" else "softmax_cross_entropy"
            client.train("mlp", dataset=dataset, model=name, optimizer="sgd", loss=loss, **settings).wait()
        yield client
    server.stop()


@pytest.fixture
def run(hg: handgrad.Client) -> Run:
    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(cli, ["predict", *map(str, arguments), "--server", hg.address])

    return invoke


@pytest.fixture
def pictures(folder: Path) -> list[Path]:
    """The first four test images, one of each class, as a person has them: ten times as large, in a file."""
    found: list[Path] = []
    for index, image in enumerate(splits()["x_test"][:4]):
        found.append(folder / f"{index}.png")
        Image.fromarray(image).resize((40, 30), Image.Resampling.NEAREST).save(found[-1])
    return found


def events(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("model", ["on-bytes", "on-floats"])
def test_pictures_are_read_as_the_model_takes_them(
    hg: handgrad.Client, run: Run, pictures: list[Path], model: str
) -> None:
    found = [event for event in events(run(model, *pictures, "--json")) if event["event"] == "prediction"]
    assert [event["label"] for event in found] == [0, 1, 2, 3]
    assert [event["class_name"] for event in found] == NAMES
    images = splits(floats=model == "on-floats")["x_test"][:4]
    expected = hg.predict(model, images)
    np.testing.assert_allclose([event["probabilities"] for event in found], expected.probabilities, atol=1e-5)
    assert {event["scores"] for event in found} == {None}


def test_a_float_model_says_how_a_picture_became_floats(run: Run, pictures: list[Path]) -> None:
    result = run("on-floats", *pictures)
    told = "note: pictures are brought to the model's scale, as it takes 3x4x1 floats from 0 to"
    assert result.stderr.count(told) == 1


def test_classes_are_told_by_their_names(run: Run, pictures: list[Path]) -> None:
    (line,) = run("on-bytes", pictures[2]).stdout.splitlines()
    assert line.startswith(f"{pictures[2]}: right   right ")
    assert line.count("%") == 3


def test_what_is_no_probability_is_not_called_one(run: Run, pictures: list[Path]) -> None:
    (line,) = run("by-squares", pictures[1]).stdout.splitlines()
    assert "middle   scores: middle " in line
    assert "%" not in line
    (event,) = events(run("by-squares", pictures[1], "--json"))
    assert event["probabilities"] is None
    assert int(np.argmax(event["scores"])) == 1


def test_test_images_of_any_data_set_come_by_its_own_reader(run: Run, folder: Path) -> None:
    for model in ("on-bytes", "on-floats"):
        found = events(run(model, "--data", folder / f"{model}.npz", "--index", 7, "--index", 2, "--json"))
        assert [(event["image"], event["label"]) for event in found] == [("test image 7", 3), ("test image 2", 2)]
    result = run("on-bytes", "--data", folder / "on-bytes.npz", "--index", 20)
    assert result.exception is not None
    assert "indices" in str(result.exception)


def test_a_model_of_vectors_is_told_the_pictures_shape(run: Run, pictures: list[Path]) -> None:
    refused = run("on-vectors", pictures[0])
    assert "the model takes 12 numbers, and it is not known of which rows and columns" in str(refused.exception)
    found = [event["label"] for event in events(run("on-vectors", *pictures, "--shape", "3x4", "--json"))]
    assert found == [0, 1, 2, 3]
    for shape, told in (
        ("4x4", "takes 12 numbers; 4x4x1 are 16"),
        ("3x4x1x1", "rows and columns"),
        ("0x4", "1 or more"),
    ):
        result = run("on-vectors", pictures[0], "--shape", shape)
        assert told in f"{result.exception}{result.output}"
    assert "the model takes 3x4x1" in str(run("on-bytes", pictures[0], "--shape", "4x3").exception)


def test_a_picture_that_is_light_on_dark_is_told(run: Run, pictures: list[Path], folder: Path) -> None:
    with Image.open(pictures[0]) as image:
        Image.fromarray(255 - np.asarray(image)).save(folder / "paper.png")
    result = run("on-bytes", folder / "paper.png")
    assert "--invert" in result.stderr
    assert events(run("on-bytes", folder / "paper.png", "--invert", "--json"))[-1]["label"] == 0


def test_a_picture_without_a_model_that_takes_one_is_refused(
    hg: handgrad.Client, run: Run, pictures: list[Path], folder: Path
) -> None:
    data = splits(floats=True)
    data |= {name: (data[name] - 0.3) / 0.4 for name in ("x_train", "x_test")}
    np.savez(folder / "standardized.npz", **data)
    dataset = hg.upload_dataset(folder / "standardized.npz").dataset
    hg.train(dataset=dataset, model="standardized", hidden=(), batch_size=10, epochs=1).wait()
    result = run("standardized", pictures[0])
    assert "the model takes 3x4x1 floats from -0.75 to 1.7" in str(result.exception)
