"""`handgrad models`, `checkpoints`, `datasets` and `upload`: what a server keeps."""

import time
from pathlib import Path

import click

from handgrad.client.cli import events, options
from handgrad.client.cli.output import Output
from handgrad.client.network import title
from handgrad.client.text import printable
from handgrad.v1 import dataset_pb2, params_pb2, tensor_pb2

SHOWN_NAMES = 10


@click.command()
@options.server_needed
@click.option("--delete", metavar="NAME", help="Delete a model and all its versions.")
@options.as_json
def models(*, server: str | None, delete: str | None, json_lines: bool) -> None:
    """List the models of a server."""
    output = Output(json_lines=json_lines)
    with options.connect_to_server(server) as hg:
        if delete:
            hg.delete_model(delete)
            _tell_deleted(output, "model", delete)
            return
        rows: list[list[str]] = []
        for model in hg.list_models():
            newest = model.newest
            rows.append(
                [
                    model.model,
                    title(model.network),
                    str(newest.version or ""),
                    f"{newest.loss:.4f}" if newest.HasField("loss") else "",
                    _size(newest.size_bytes),
                    model.job,
                ]
            )
            output.emit(events.model(model))
    output.table(["model", "network", "version", "loss", "size", "job"], rows)


@click.command()
@options.server_needed
@click.option("--delete", metavar="NAME", help="Delete a checkpoint.")
@options.as_json
def checkpoints(*, server: str | None, delete: str | None, json_lines: bool) -> None:
    """List the checkpoints of a server."""
    output = Output(json_lines=json_lines)
    with options.connect_to_server(server) as hg:
        if delete:
            hg.delete_checkpoint(delete)
            _tell_deleted(output, "checkpoint", delete)
            return
        rows: list[list[str]] = []
        for saved in hg.list_checkpoints():
            rows.append(
                [
                    saved.checkpoint,
                    title(saved.network),
                    _origin(saved),
                    _size(saved.size_bytes),
                    "yes" if saved.optimizer_state else "no",
                    _verdict(saved),
                    _time(saved.save_time.seconds),
                    saved.params_sha256[:12],
                ]
            )
            output.emit(events.checkpoint(saved))
    output.table(
        ["checkpoint", "network", "saved from", "size", "optimizer state", "gradients", "saved", "SHA-256"], rows
    )


@click.command()
@options.server_needed
@click.option("--delete", metavar="NAME", help="Delete a data set.")
@options.as_json
def datasets(*, server: str | None, delete: str | None, json_lines: bool) -> None:
    """List the data sets of a server."""
    output = Output(json_lines=json_lines)
    with options.connect_to_server(server) as hg:
        if delete:
            hg.delete_dataset(delete)
            _tell_deleted(output, "data set", delete)
            return
        rows: list[list[str]] = []
        for dataset in hg.list_datasets():
            rows.append(
                [
                    dataset.dataset,
                    f"{dataset.train_images:,}",
                    f"{dataset.test_images:,}",
                    _shape(dataset),
                    str(dataset.classes),
                    _size(dataset.size_bytes),
                    dataset.sha256[:12],
                ]
            )
            output.emit(events.dataset(dataset))
    output.table(["data set", "train", "test", "image", "classes", "size", "SHA-256"], rows)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", default="", help="Its name. Default: one made from its SHA-256.")
@options.server_needed
@options.as_json
def upload(*, path: Path, name: str, server: str | None, json_lines: bool) -> None:
    """Upload a data set: an .npz file, or a folder with MNIST's or CIFAR-10's files.

    An .npz file has the arrays x_train, y_train, x_test and y_test.
    An upload that broke off goes on where it stopped when it is started again.
    """
    output = Output(json_lines=json_lines)
    with options.connect_to_server(server) as hg:
        if output.is_terminal():
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415 - a pipe needs none

            columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
            with Progress(*columns, console=output.console()) as bars:
                bar = bars.add_task(f"uploading {printable(path.name)}")
                dataset = hg.upload_dataset(
                    path, name, progress=lambda sent, total: bars.update(bar, completed=sent, total=total)
                )
        else:
            dataset = hg.upload_dataset(path, name)
    output.say(
        f"data set {dataset.dataset}: {dataset.train_images:,} training and {dataset.test_images:,} test images of "
        f"{_shape(dataset)} {_numbers(dataset)}, {_classes(dataset)}"
    )
    for note in dataset.notes:
        output.note(note)
    output.emit(events.dataset(dataset))


def _numbers(dataset: dataset_pb2.Dataset) -> str:
    kind = "bytes" if dataset.data_type == tensor_pb2.DATA_TYPE_UINT8 else "floats"
    return f"{kind} from {dataset.low:g} to {dataset.high:g}"


def _classes(dataset: dataset_pb2.Dataset) -> str:
    names = ", ".join(dataset.class_names[:SHOWN_NAMES]) + (", ..." if len(dataset.class_names) > SHOWN_NAMES else "")
    return f"{dataset.classes} classes" + (f": {names}" if names else "")


def _tell_deleted(output: Output, what: str, name: str) -> None:
    output.say(f"{what} {name} is deleted")
    output.emit(events.deleted(name))


def _shape(dataset: dataset_pb2.Dataset) -> str:
    return "x".join(map(str, dataset.image_shape))


def _origin(saved: params_pb2.Checkpoint) -> str:
    return f"{saved.model} version {saved.version}"


def _verdict(saved: params_pb2.Checkpoint) -> str:
    if not saved.HasField("certificate"):
        return ""
    return "certified" if saved.certificate.passed else "NOT certified"


def _time(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _size(size_bytes: int) -> str:
    kilo = 1000
    for unit in ("B", "kB", "MB"):
        if size_bytes < kilo:
            return f"{size_bytes:,} {unit}"
        size_bytes //= kilo
    return f"{size_bytes:,} GB"
