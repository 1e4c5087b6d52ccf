"""Brings what older servers wrote up to date where SQL alone cannot, in the transaction that opens a database."""

import json
import math
import sqlite3
from collections.abc import Mapping
from typing import Any, Final

from handgrad.core.signature import DataType, Numbers, Signature, Transform, to_json

_MNIST: Final = {"image_shape": [28, 28], "data_type": "uint8"}
"""Of the data set that ships with the server, which no table holds."""

_TRANSFORMS: Final[dict[str | None, Transform]] = {None: "identity", "raw": "identity", "unit": "unit"}


def write_signatures(writer: sqlite3.Connection) -> None:
    """Writes the signature of each job, model, version and checkpoint of schema 3, which had `pixels` instead.

    What a version was trained on is found by its job. Of params that no job made, or whose job was forgotten, it is not
    known; the range of floats never is.
    """
    summaries = {row["name"]: json.loads(row["summary"]) for row in writer.execute("SELECT * FROM datasets")}
    summaries["mnist"] = _MNIST
    jobs: dict[str, dict[str, Any]] = {}
    for row in writer.execute("SELECT number, name, dataset, request FROM jobs").fetchall():
        asked = json.loads(row["request"])
        pixels = asked["config"].pop("pixels")
        told = _signature(asked["network"], pixels, asked["config"]["loss"], summaries.get(row["dataset"]))
        asked["signature"] = json.loads(told)
        jobs[row["name"]] = asked
        writer.execute("UPDATE jobs SET request = ? WHERE number = ?", (json.dumps(asked), row["number"]))
    networks = {row["name"]: row["network"] for row in writer.execute("SELECT name, network FROM models")}
    made_by = {row["params"]: row["job"] for row in writer.execute("SELECT params, job FROM versions WHERE job != ''")}
    for row in writer.execute("SELECT model, number, params, pixels, iteration, job FROM versions").fetchall():
        job = jobs.get(row["job"] or made_by.get(row["params"], ""))
        told, epochs = _of_params(json.loads(networks[row["model"]]), row, job)
        where = (told, epochs, row["model"], row["number"])
        writer.execute("UPDATE versions SET signature = ?, epochs = ? WHERE model = ? AND number = ?", where)
    for row in writer.execute("SELECT name, network, params, pixels, iteration FROM checkpoints").fetchall():
        told, epochs = _of_params(json.loads(row["network"]), row, jobs.get(made_by.get(row["params"], "")))
        writer.execute("UPDATE checkpoints SET signature = ?, epochs = ? WHERE name = ?", (told, epochs, row["name"]))
    for name, network in networks.items():
        newest = writer.execute(
            "SELECT signature FROM versions WHERE model = ? ORDER BY number DESC LIMIT 1", (name,)
        ).fetchone()
        on_it = writer.execute("SELECT name FROM jobs WHERE model = ? ORDER BY number LIMIT 1", (name,)).fetchone()
        if network:
            if newest:
                told = newest["signature"]
            elif on_it:
                told = json.dumps(jobs[on_it["name"]]["signature"])
            else:
                told = _signature(json.loads(network), None, None, None)
            writer.execute("UPDATE models SET signature = ? WHERE name = ?", (told, name))


def _of_params(network: dict[str, Any] | list[int], row: sqlite3.Row, job: Mapping[str, Any] | None) -> tuple[str, int]:
    """Returns the signature and the epochs of a version or a checkpoint, by the job that made its params."""
    if job is None:
        return _signature(network, row["pixels"], None, None), 0
    config = job["config"]
    per_epoch = math.ceil((job["train_images"] - config.get("validation_images", 0)) / config["batch_size"])
    return json.dumps(job["signature"]), math.ceil(row["iteration"] / per_epoch)


def _signature(
    network: dict[str, Any] | list[int], pixels: str | None, loss: str | None, summary: Mapping[str, Any] | None
) -> str:
    # Up to schema 1 a network was its widths.
    shape = tuple(network["input_shape"]) if isinstance(network, dict) else (network[0],)
    numbers: Numbers | None = None
    if summary:
        data_type: DataType = "uint8" if summary["data_type"] == "uint8" else "float32"
        numbers = Numbers(data_type, 0.0, 255.0) if data_type == "uint8" else Numbers(data_type)
        if math.prod(summary["image_shape"]) == math.prod(shape):
            image_shape = tuple(summary["image_shape"])
            shape = (*image_shape, 1) if len(image_shape) == 2 else image_shape
    signature = Signature(shape, numbers, _TRANSFORMS[pixels])
    return to_json(signature if loss is None else Signature(shape, numbers, signature.transform, loss))
