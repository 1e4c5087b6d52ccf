"""`handgrad loss`: the losses of a job, as numbers or as a plot."""

from pathlib import Path

import click
import numpy as np

from handgrad.client.cli import events, options
from handgrad.client.cli.output import Output
from handgrad.client.cli.progress import epoch_line
from handgrad.client.plot import plot_losses


@click.command()
@click.argument("job")
@options.server_needed
@click.option("--iterations", is_flag=True, help="List the loss of each iteration, not the epochs' means alone.")
@click.option("--skip", default=0, metavar="N", help="Leave out the first N iterations.")
@click.option("--limit", type=int, metavar="N", help="Take N iterations at most.")
@click.option("--plot", type=options.plot_file, metavar="FILE", help="Plot the losses: .png or .svg.")
@options.as_json
def loss(
    *,
    job: str,
    server: str | None,
    iterations: bool,
    skip: int,
    limit: int | None,
    plot: Path | None,
    json_lines: bool,
) -> None:
    """Show the losses of JOB, running or ended."""
    if limit is not None and limit < 1:
        raise click.BadParameter(f"1 or more; got {limit}", param_hint="--limit")
    output = Output(json_lines=json_lines)
    with options.connect_to_server(server) as hg:
        losses = hg.get_losses(job, skip=skip, limit=limit) if iterations or plot else np.empty(0, np.float32)
        reply = hg.get_loss(job, limit=1)
    for epoch in reply.epochs:
        output.say(epoch_line(reply.job, epoch))
        output.emit(events.epoch(epoch))
    if iterations:
        for iteration, value in enumerate(losses.tolist(), start=skip + 1):
            if not json_lines:
                output.say(f"{iteration}\t{value}")
            output.emit(events.iteration(iteration, value))
    if plot:
        per_epoch = reply.job.iterations_per_epoch
        plot_losses(plot, losses, reply.epochs, iterations_per_epoch=per_epoch, skip=skip, loss=reply.job.config.loss)
        output.say(f"plot: {plot}")
        output.emit(events.plot(plot))
