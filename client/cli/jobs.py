"""`handgrad jobs`, `watch` and `cancel`: what a server trains, trained, and will train."""

import time

import click

from handgrad.client.cli import events, options
from handgrad.client.cli.events import state_of
from handgrad.client.cli.output import Output
from handgrad.client.cli.train import watch_events
from handgrad.client.client import State

STATES: tuple[State, ...] = ("queued", "running", "succeeded", "failed", "cancelled")


@click.command()
@options.server_needed
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="Only jobs in this state.")
@click.option("--model", default="", help="Only jobs on this model.")
@click.option("--client", default="", help="Only jobs of this client.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="The newest N.")
@options.as_json
def jobs(
    *, server: str | None, states: tuple[State, ...], model: str, client: str, limit: int, json_lines: bool
) -> None:
    """List the jobs of a server, the newest first."""
    output = Output(json_lines=json_lines)
    rows: list[list[str]] = []
    with options.connect_to_server(server) as hg:
        for _, job in zip(range(limit), hg.list_jobs(states=states, model=model, client=client), strict=False):
            rows.append(
                [
                    job.job,
                    state_of(job.state),
                    f"{job.iteration:,} / {job.iterations:,}",
                    job.model,
                    job.dataset,
                    job.client,
                    time.strftime("%Y-%m-%d %H:%M", time.localtime(job.create_time.seconds)),
                    job.error,
                ]
            )
            output.emit(events.job(job))
    output.table(["job", "state", "iterations", "model", "data set", "client", "created", "error"], rows)


@click.command()
@click.argument("job")
@options.server_needed
@options.as_json
def watch(*, job: str, server: str | None, json_lines: bool) -> None:
    """Show JOB from its first epoch, and what happens until it ends; Ctrl-C stops watching, not the job."""
    output = Output(json_lines=json_lines)
    with options.connect_to_server(server) as hg:
        watched = hg.job(job)
        failure = watch_events(watched, output, cancel=False)
        if failure:
            raise failure
        output.say(f"{job} {state_of(watched.info.state)}: model {watched.model} version {watched.info.version}")
        output.emit(events.done(watched.info))


@click.command()
@click.argument("job")
@options.server_needed
@options.as_json
def cancel(*, job: str, server: str | None, json_lines: bool) -> None:
    """Cancel JOB: at once if it waits, at its next pause if it runs. What it published is kept."""
    output = Output(json_lines=json_lines)
    with options.connect_to_server(server) as hg:
        found = hg.cancel_job(job)
    ended = found.HasField("end_time")
    output.say(f"{job} {state_of(found.state)}" if ended else f"{job} stops at its next pause")
    output.emit(events.cancel(found))
