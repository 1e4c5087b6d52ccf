"""`handgrad sweep` and `sweeps`: many networks in one call, ranked."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from handgrad.client.cli import events, options
from handgrad.client.cli.evaluate import tell_evaluation
from handgrad.client.cli.events import state_of
from handgrad.client.cli.output import Output
from handgrad.client.client import Client, connect
from handgrad.client.network import title
from handgrad.client.plot import plot_sweep
from handgrad.client.signature import Transform
from handgrad.client.sweep import MEASURES, Halving, Measure, Sweep, grid, measure_of
from handgrad.v1 import job_pb2, sweep_pb2

SHOWN = 10


@click.command()
@options.server
@click.option("--preset", default="report", show_default=True, help="report, mlp, lenet, cnn, resnet.")
@click.option("--model", default="", help="Model that the best member becomes. Default: one named as the sweep.")
@click.option("--network", type=click.Path(path_type=Path), metavar="FILE", help="A network's TOML file, for all.")
@click.option("--hidden", type=options.Networks(), metavar="N,...", help="Hidden layers: 50,300x100 are two networks.")
@options.transform
@options.settings_of_many
@click.option("--seeds", type=click.IntRange(min=1), metavar="N", help="Seeds 0 to N - 1, for each of the others.")
@click.option("--halving", is_flag=True, help="Stop hopeless members: after an epoch, one in three goes on, and so on.")
@click.option("--halving-epochs", type=int, metavar="N", help="Epochs before members are stopped first. Default: 1.")
@click.option("--halving-factor", type=int, metavar="N", help="One member in N goes on. Default: 3.")
@click.option(
    "--rank-by",
    type=click.Choice([measure.replace("_", "-") for measure in MEASURES if measure]),
    callback=lambda _context, _option, value: value and value.replace("-", "_"),
    help="What members are ranked by. Default: the validation loss, the accuracy where --loss has several values, the "
    "mean loss without validation images.",
)
@click.option("--rank-mean-of-seeds", is_flag=True, help="Rank members that differ in their seed alone by their mean.")
@options.data
@click.option("--save", type=options.parameter_file, metavar="FILE", help="Save the best member's params.")
@click.option("--plot", type=options.plot_file, metavar="FILE", help="Plot the loss of all members: .png or .svg.")
@click.option("--show", type=click.IntRange(min=1), default=SHOWN, show_default=True, metavar="N", help="Rows to show.")
@click.option("--detach", is_flag=True, help="Start the sweep on a server, and do not wait for it.")
@options.as_json
def sweep(
    *,
    server: str | None,
    preset: str,
    model: str,
    network: Path | None,
    hidden: tuple[tuple[int, ...], ...] | None,
    transform: Transform | None,
    seeds: int | None,
    halving: bool,
    halving_epochs: int | None,
    halving_factor: int | None,
    rank_by: Measure | None,
    rank_mean_of_seeds: bool,
    data: Path | None,
    save: Path | None,
    plot: Path | None,
    show: int,
    detach: bool,
    json_lines: bool,
    **settings: Any,
) -> None:
    """Train many networks in one call, and rank them.

    Each setting takes several values, and each combination is a network: 0.01,0.1 are two; 0.001..0.1:log:16 are 16,
    each so many times the one before; 1..8 are whole numbers.
    """
    output = Output(json_lines=json_lines)
    if detach and (not server or save or plot):
        raise click.UsageError("--detach needs a server that stays, --server HOST:PORT, and waits for no file")
    if seeds and settings["seed"]:
        raise click.UsageError("--seed or --seeds, not both")
    axes, shared = _axes({"hidden": hidden, "seed": tuple(range(seeds)) if seeds else None} | _given(settings))
    shared |= {} if network is None else {"network": network}
    chosen = Halving(halving_epochs or 1, halving_factor or 3) if halving or halving_epochs or halving_factor else None
    if not server:
        output.say_at_once("starting a private server")
    with connect(server or None) as hg:
        dataset = hg.upload_dataset(data).dataset if data else ""
        started = hg.train_sweep(
            *(grid(**axes), preset),
            model=model,
            dataset=dataset,
            config=shared,
            transform=transform,
            halving=chosen,
            measure=rank_by,
            mean_of_seeds=rank_mean_of_seeds,
        )
        members = len(started.info.members)
        told = ", ".join(f"{len(values)} values of {name}" for name, values in axes.items()) or "as the preset"
        output.say(f"{started.name}: {members} networks on {started.info.dataset}: {told}")
        output.emit(events.sweep(started.info))
        if detach:
            output.say(f"{started.name} is in the queue; `handgrad sweeps {started.name}` shows it")
            return
        _follow(started, output)
        _tell_members(started, show, output)
        if plot:
            _plot(started, plot, output)
        if started.info.state != job_pb2.JOB_STATE_SUCCEEDED:
            output.emit(events.sweep_without_best(started.info))
        info = started.wait()
        output.say(f"the best is model {info.model}, version {info.version}")
        if save:
            best = started.params()
            best.save(save)
            output.say(f"parameter file: {save}")
            output.emit(events.save(save, best.version))
        evaluation = hg.evaluate(info.model, info.version, dataset=dataset)
        tell_evaluation(evaluation, "test", output)
        output.emit(events.sweep_done(info, evaluation.version))


@click.command()
@click.argument("name", default="", metavar="[SWEEP]")
@options.server_needed
@click.option("--cancel", is_flag=True, help="Stop all members of SWEEP at their next pause.")
@click.option("--plot", type=options.plot_file, metavar="FILE", help="Plot the loss of SWEEP's members.")
@click.option("--show", type=click.IntRange(min=1), default=SHOWN, show_default=True, metavar="N", help="Rows to show.")
@options.as_json
def sweeps(*, name: str, server: str | None, cancel: bool, plot: Path | None, show: int, json_lines: bool) -> None:
    """List the sweeps of a server, the newest first, or show how SWEEP stands."""
    output = Output(json_lines=json_lines)
    if (cancel or plot) and not name:
        raise click.UsageError("--cancel and --plot need a sweep")
    with options.connect_to_server(server) as hg:
        if not name:
            _list(hg, output)
            return
        found = hg.sweep(name)
        if cancel:
            stopped = hg.cancel_sweep(name)
            output.say(f"{name} stops at its members' next pause")
            output.emit(events.cancel_sweep(stopped))
            return
        output.say(_standing(found.info))
        _tell_members(found, show, output)
        if plot:
            _plot(found, plot, output)


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _axes(settings: Mapping[str, Any]) -> tuple[dict[str, tuple[Any, ...]], dict[str, Any]]:
    """Gives the settings with several values, and those with one."""
    axes: dict[str, tuple[Any, ...]] = {}
    shared: dict[str, Any] = {}
    for name, value in settings.items():
        values = value if isinstance(value, tuple) else (value,)
        if len(values) > 1:
            axes[name] = values
        elif value is not None:
            shared[name] = next(iter(values))
    return axes, shared


def _list(hg: Client, output: Output) -> None:
    rows: list[list[str]] = []
    for found in hg.list_sweeps():
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.create_time.seconds))
        rows.append(
            [found.sweep, state_of(found.state), found.model, found.dataset, found.client, created, found.error]
        )
        output.emit(events.sweep(found))
    output.table(["sweep", "state", "model", "data set", "client", "created", "error"], rows)


def _follow(started: Sweep, output: Output) -> None:
    """Shows a sweep until it ends. Ctrl-C cancels it."""
    try:
        with _display(output, started.info) as show:
            for info in started.standings():
                show(info)
    except KeyboardInterrupt:
        output.say(f"{started.name} is cancelled")
        started.cancel()
        for _ in started.standings():
            pass


@contextmanager
def _display(output: Output, info: sweep_pb2.Sweep) -> Iterator[Any]:
    iterations = sum(member.iterations for member in info.members)
    if not output.is_terminal():
        told = -1

        def line(info: sweep_pb2.Sweep) -> None:
            nonlocal told
            ended = _ended(info)
            # A pipe gets a line for each sixteenth, and not for each of hundreds.
            if ended * 16 // len(info.members) > told:
                told = ended * 16 // len(info.members)
                output.say(_standing(info))

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    ends = (
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, *ends, console=output.console()) as bars:
        whole = bars.add_task("iterations", total=iterations, note="waiting for the device")
        networks = bars.add_task("networks", total=len(info.members), note="")

        def draw(info: sweep_pb2.Sweep) -> None:
            # Those of a member that was stopped are no longer to be done.
            total = sum(
                each.iterations if each.state != job_pb2.JOB_STATE_CANCELLED else each.iteration
                for each in info.members
            )
            bars.update(whole, completed=sum(each.iteration for each in info.members), total=total, note="")
            bars.update(networks, completed=_ended(info), note=_best(info))

        yield draw


def _ended(info: sweep_pb2.Sweep) -> int:
    going = (job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING)
    return sum(member.state not in going for member in info.members)


def _standing(info: sweep_pb2.Sweep) -> str:
    best = _best(info)
    return f"{info.sweep} {state_of(info.state)}: {_ended(info)} of {len(info.members)} ended" + (best and f", {best}")


def _best(info: sweep_pb2.Sweep) -> str:
    best = next((member for member in info.members if member.rank == 1), None)
    if best is None:
        return ""
    return f"the best so far {_label(best)}: {_title(info)} {_measured(info, best)}"


def _title(info: sweep_pb2.Sweep) -> str:
    """Returns what members are ranked by, as text."""
    return measure_of(info).replace("_", " ") + (", mean of seeds" if info.mean_of_seeds else "")


def _measured(info: sweep_pb2.Sweep, member: sweep_pb2.SweepMember) -> str:
    if not member.HasField("measured"):
        return ""
    return format(member.measured, ".2%" if measure_of(info) == "validation_accuracy" else ".4f")


def _label(member: sweep_pb2.SweepMember) -> str:
    return ", ".join(f"{name} {value}" for name, value in _own(member).items()) or "as the preset"


def _own(member: sweep_pb2.SweepMember) -> dict[str, str]:
    """Gives the settings that a member has of its own, as text."""
    found: dict[str, str] = {}
    for field, value in member.config.ListFields():
        name = field.name.replace("_", " ")
        found[name] = (
            title(value) if field.name == "network" else f"{value:g}" if isinstance(value, float) else str(value)
        )
    return found


def _tell_members(found: Sweep, show: int, output: Output) -> None:
    info = found.info
    names = list(dict.fromkeys(name for member in info.members for name in _own(member)))
    any_validated = any(member.epoch.HasField("validation_loss") for member in info.members)
    rows: list[list[str]] = []
    for member in found.ranked:
        own, epoch = _own(member), member.epoch
        has_epoch, validated = member.HasField("epoch"), epoch.HasField("validation_loss")
        numbers = [str(epoch.epoch), f"{epoch.mean_loss:.4f}"] if has_epoch else ["0", ""]
        validation = [f"{epoch.validation_loss:.4f}", f"{epoch.validation_accuracy:.2%}"] if validated else ["", ""]
        rows.append(
            [
                str(member.rank or ""),
                *(own.get(name, "") for name in names),
                *numbers,
                *(validation if any_validated else ()),
                _measured(info, member),
                member.job,
                state_of(member.state),
                member.error,
            ]
        )
        output.emit(events.member(info, member, {name.replace(" ", "_"): value for name, value in own.items()}))
    validation = ["validation loss", "accuracy"] if any_validated else []
    headers = ["epochs", "mean loss", *validation, f"ranked by {_title(info)}", "job", "state", "error"]
    output.table(["rank", *names, *headers], rows[:show])
    if len(rows) > show:
        output.say(f"and {len(rows) - show} more; --show {len(rows)} shows them all")


def _plot(found: Sweep, file: Path, output: Output) -> None:
    ranked = [member for member in found.ranked if member.HasField("epoch")]
    curves = [found.epochs(member) for member in ranked]
    best = next((_label(member) for member in ranked), "")
    plot_sweep(file, curves, best, measure=found.measure, mean_of_seeds=found.info.mean_of_seeds)
    output.say(f"plot: {file}")
    output.emit(events.plot(file))
