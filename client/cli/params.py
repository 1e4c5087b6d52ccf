"""`handgrad params`, `save` and `load`: params to a file here, and to and from the server's checkpoints."""

from pathlib import Path

import click

from handgrad.client.cli import events, options
from handgrad.client.cli.output import Output
from handgrad.v1 import params_pb2, training_service_pb2


@click.command()
@click.argument("model")
@click.argument("file", type=options.parameter_file)
@options.server_needed
@options.version
@options.as_json
def params(*, model: str, file: Path, server: str | None, version: int, json_lines: bool) -> None:
    """Fetch the params of MODEL to FILE, .npz or .safetensors, also while it is being trained."""
    output = Output(json_lines=json_lines)
    with options.connect_to_server(server) as hg:
        fetched = hg.get_params(model, version)
    fetched.save(file)
    found = fetched.version
    output.say(f"{model} version {found.version}, after {found.iteration:,} iterations: {file}")
    output.emit(events.save(file, found))


@click.command()
@click.argument("model")
@click.argument("checkpoint")
@options.server_needed
@options.version
@options.as_json
def save(*, model: str, checkpoint: str, server: str | None, version: int, json_lines: bool) -> None:
    """Save the params of MODEL on the server as CHECKPOINT, which outlives it."""
    output = Output(json_lines=json_lines)
    with options.connect_to_server(server) as hg:
        saved = hg.save_params(model, checkpoint, version)
    output.say(f"{model} saved as checkpoint {checkpoint}, SHA-256 {saved.params_sha256}")
    output.say(_verdict(saved))
    output.emit(events.checkpoint(saved))


@click.command()
@click.argument("checkpoint")
@click.option("--model", default="", help="Model to load it into. Default: a new one.")
@click.option("--with-optimizer-state", is_flag=True, help="So that the next job goes on as if it had never stopped.")
@options.server_needed
@options.as_json
def load(*, checkpoint: str, model: str, with_optimizer_state: bool, server: str | None, json_lines: bool) -> None:
    """Load CHECKPOINT as the next version of a model."""
    output = Output(json_lines=json_lines)
    with options.connect_to_server(server) as hg:
        loaded = hg.load_params(checkpoint, model, with_optimizer_state=with_optimizer_state)
    version = loaded.params_version
    output.say(f"checkpoint {checkpoint} is model {version.model} version {version.version}")
    output.say(_verdict(loaded))
    output.emit(events.load(loaded))


def _verdict(kept: params_pb2.Checkpoint | training_service_pb2.LoadParamsResponse) -> str:
    """Tells the certificate in a line."""
    if not kept.HasField("certificate"):
        return "its gradients have no certificate: the network is too large for one"
    found = kept.certificate
    verdict = "certified" if found.passed else "NOT certified"
    worst = max((check.autodiff_max for check in found.checks), default=0.0)
    return f"its gradients are {verdict}: {len(found.checks)} arrays, at most {worst:.0e} from autodiff"
