"""`handgrad describe` and `verify`: what a network is, and whether its gradients are right."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import click

from handgrad.client.cli import events, options
from handgrad.client.cli.output import Output
from handgrad.client.client import connect
from handgrad.client.errors import InvalidArgumentError, NotFoundError
from handgrad.client.network import title
from handgrad.v1 import certificate_pb2
from handgrad.v1 import training_service_pb2 as pb

T = TypeVar("T")


@click.command()
@click.argument("network")
@options.server
@options.data
@options.as_json
def describe(*, network: str, server: str | None, data: Path | None, json_lines: bool) -> None:
    """Describe NETWORK, a TOML file, a preset, or a model of the server: its layers, shapes, parameters and FLOPs."""
    output = Output(json_lines=json_lines)
    with connect(server or None) as hg:
        dataset = hg.upload_dataset(data).dataset if data else ""
        found = _chosen(
            *(network, bool(server)),
            by_file=lambda file: hg.describe_network(file, dataset=dataset),
            by_model=lambda model: hg.describe_network(model=model, dataset=dataset),
            by_preset=lambda preset: hg.describe_network(preset=preset, dataset=dataset),
        )
    _tell_network(found, output)


def _tell_network(found: pb.DescribeNetworkResponse, output: Output) -> None:
    rows: list[list[str]] = []
    for layer in found.layers:
        before, after = _shape(layer.input_shape), _shape(layer.output_shape)
        rows.append([layer.position, layer.kind, before, after, f"{layer.parameters:,}", f"{layer.flops:,}"])
        output.emit(events.layer(layer))
    output.table(["layer", "kind", "input", "output", "parameters", "FLOPs"], rows)
    output.say(f"{title(found.network)}: {found.parameters:,} parameters, {found.flops:,} FLOPs an image, forward")
    output.emit(events.network(found))


@click.command()
@click.argument("network", required=False)
@click.option("--all-operations", is_flag=True, help="Check every operation, one by one.")
@options.server
@options.version
@click.option("--images", is_flag=True, help="Take images of the data set, not random numbers.")
@options.data
@click.option("--seed", default=0, metavar="N", help="Of what is random.")
@options.as_json
@click.pass_context
def verify(
    context: click.Context,
    *,
    network: str | None,
    all_operations: bool,
    server: str | None,
    version: int,
    images: bool,
    data: Path | None,
    seed: int,
    json_lines: bool,
) -> None:
    """Check the gradients of NETWORK, a TOML file, a preset, or a model of the server, against autodiff.

    Exit status: 1 where a gradient is wrong.
    """
    if (network is None) != all_operations:
        raise click.UsageError("name a NETWORK, or --all-operations")
    output = Output(json_lines=json_lines)
    with connect(server or None) as hg:
        dataset = hg.upload_dataset(data).dataset if data else ""
        with_images = images or data is not None
        if network is None:
            found = hg.check_gradients(seed=seed)
        else:
            found = _chosen(
                *(network, bool(server)),
                by_file=lambda file: hg.check_gradients(file, dataset=dataset, images=with_images, seed=seed),
                by_model=lambda model: hg.check_gradients(
                    model=model, version=version, dataset=dataset, images=with_images, seed=seed
                ),
                by_preset=lambda preset: hg.check_gradients(
                    preset=preset, dataset=dataset, images=with_images, seed=seed
                ),
            )
    _tell_certificate(found, output)
    if not found.passed:
        context.exit(1)


def _chosen(
    name: str,
    has_server: bool,  # noqa: FBT001 - as the caller has it
    *,
    by_file: Callable[[Path], T],
    by_model: Callable[[str], T],
    by_preset: Callable[[str], T],
) -> T:
    """Takes a name for a TOML file's, otherwise for a model's of a server that stays, otherwise for a preset's."""
    if name.endswith(".toml"):
        return by_file(Path(name))
    if has_server:
        try:
            return by_model(name)
        except NotFoundError:
            pass
    try:
        return by_preset(name)
    except InvalidArgumentError as error:
        if error.field != "preset":
            raise
        there = "no model of the server, " if has_server else ""
        raise InvalidArgumentError(f"{name} is {there}no .toml file, and no preset: {error}", "network") from error


def _tell_certificate(found: certificate_pb2.Certificate, output: Output) -> None:
    rows: list[list[str]] = []
    for check in found.checks:
        errors = (
            *(check.autodiff_max, check.autodiff_typical, check.differences_max),
            *(check.float32_max, check.float32_typical),
        )
        verdict = "ok" if check.passed else "WRONG"
        rows.append([check.part, check.name, _shape(check.shape), *(f"{error:.0e}" for error in errors), verdict])
        output.emit(events.check(check))
    headers = ["part", "array", "shape", "autodiff", "typical", "differences", "float32", "typical", "verdict"]
    output.table(headers, rows)
    wrong = sum(not check.passed for check in found.checks)
    verdict = f"{wrong} of them WRONG" if wrong else "all right"
    loss = f"loss {found.loss}, " if found.loss else ""
    output.say(
        f"{len(found.checks)} gradients, {verdict}. Relative errors: float64 against autodiff (allowed "
        f"{found.autodiff_tolerance:.0e}) and central differences ({found.differences_tolerance:.0e}), float32 against "
        f"float64 ({found.float32_tolerance:.0e}); {loss}data {found.data}, seed {found.seed}"
    )
    output.emit(events.certificate(found))


def _shape(lengths: Iterable[int]) -> str:
    return "x".join(map(str, lengths)) or "scalar"
