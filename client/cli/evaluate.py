"""`handgrad evaluate`: how well a model, or a parameter file, does."""

from pathlib import Path

import click

from handgrad.client.cli import events, options
from handgrad.client.cli.output import Output
from handgrad.client.client import Evaluation, Split, connect
from handgrad.client.signature import Transform, loss_told


@click.command()
@click.argument("model", required=False)
@options.server
@options.version
@click.option("--params", type=click.Path(path_type=Path), metavar="FILE", help="Evaluate this file, not a model.")
@click.option("--network", type=click.Path(path_type=Path), metavar="FILE", help="The network of --params, as TOML.")
@options.data
@click.option(
    "--split", type=click.Choice(["test", "train"]), default="test", show_default=True, help="Which images to take."
)
@options.transform
@options.as_json
def evaluate(
    *,
    model: str | None,
    server: str | None,
    version: int,
    params: Path | None,
    network: Path | None,
    data: Path | None,
    split: Split,
    transform: Transform | None,
    json_lines: bool,
) -> None:
    """Evaluate MODEL, or the params in a file: loss, accuracy, confusion matrix."""
    if (model is None) == (params is None):
        raise click.UsageError("name a MODEL, or a file with --params FILE")
    if params is None and (network or transform):
        raise click.UsageError("--network and --transform are of --params; a model has its own")
    output = Output(json_lines=json_lines)
    with connect(server or None) if params else options.connect_to_server(server) as hg:
        dataset = hg.upload_dataset(data).dataset if data else ""
        if params:
            model = options.upload_params(hg, output, params, network=network, dataset=dataset, transform=transform)
        evaluation = hg.evaluate(model or "", version, dataset=dataset, split=split)
    tell_evaluation(evaluation, split, output)
    output.say(_confusion_table(evaluation))


def tell_evaluation(evaluation: Evaluation, split: Split, output: Output) -> None:
    """Tells loss and accuracy."""
    for note in evaluation.notes:
        output.note(note)
    measured = loss_told(evaluation.loss_name, evaluation.loss)
    output.say(f"{split} accuracy {evaluation.accuracy:.4f}, {measured} ({evaluation.images:,} images)")
    output.emit(events.evaluation(evaluation, split))


def _confusion_table(evaluation: Evaluation) -> str:
    width = max(5, len(str(evaluation.confusion.max())) + 1)
    classes = range(len(evaluation.confusion))
    lines = ["label, and what it was taken for:", "     " + "".join(f"{c:{width}}" for c in classes)]
    lines += [f"{r:5}" + "".join(f"{count:{width}}" for count in evaluation.confusion[r]) for r in classes]
    return "\n".join(lines)
