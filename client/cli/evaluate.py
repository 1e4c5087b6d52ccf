"""`handgrad evaluate`: how well a model, or a parameter file, does."""

from pathlib import Path

import click

from handgrad.client.cli import events, options
from handgrad.client.cli.output import Output
from handgrad.client.client import Evaluation, Pixels, Split, connect


@click.command()
@click.argument("model", required=False)
@options.server
@options.version
@click.option("--params", type=click.Path(path_type=Path), metavar="FILE", help="Evaluate this file, not a model.")
@options.data
@click.option(
    "--split", type=click.Choice(["test", "train"]), default="test", show_default=True, help="Which images to take."
)
@options.pixels
@options.as_json
def evaluate(
    *,
    model: str | None,
    server: str | None,
    version: int,
    params: Path | None,
    data: Path | None,
    split: Split,
    pixels: Pixels | None,
    json_lines: bool,
) -> None:
    """Evaluate MODEL, or the params in a file: loss, accuracy, confusion matrix."""
    if (model is None) == (params is None):
        raise click.UsageError("name a MODEL, or a file with --params FILE")
    output = Output(json_lines=json_lines)
    with connect(server or None) if params else options.connect_to_server(server) as hg:
        dataset = hg.upload_dataset(data).dataset if data else ""
        if params:
            model = hg.upload_params(params).model
        evaluation = hg.evaluate(model or "", version, dataset=dataset, split=split, pixels=pixels)
    tell_evaluation(evaluation, split, output)
    output.say(_confusion_table(evaluation))


def tell_evaluation(evaluation: Evaluation, split: Split, output: Output) -> None:
    """Tells loss and accuracy."""
    output.say(f"{split} accuracy {evaluation.accuracy:.4f}, loss {evaluation.loss:.4f} ({evaluation.images:,} images)")
    output.emit(events.evaluation(evaluation, split))


def _confusion_table(evaluation: Evaluation) -> str:
    width = max(5, len(str(evaluation.confusion.max())) + 1)
    classes = range(len(evaluation.confusion))
    lines = ["label, and what it was taken for:", "     " + "".join(f"{c:{width}}" for c in classes)]
    lines += [f"{r:5}" + "".join(f"{count:{width}}" for count in evaluation.confusion[r]) for r in classes]
    return "\n".join(lines)
