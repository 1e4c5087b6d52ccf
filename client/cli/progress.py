"""How a running job is shown: two bars on a terminal, plain lines in a pipe."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from handgrad.client.cli.output import Output
from handgrad.v1 import job_pb2


class Display(Protocol):
    """Shows what happens to a job."""

    def progress(self, progress: job_pb2.Progress) -> None:
        """Shows how far it is."""

    def epoch(self, epoch: job_pb2.Epoch) -> None:
        """Shows the sum of an epoch."""


@contextmanager
def display(output: Output, job: job_pb2.Job) -> Iterator[Display]:
    """Gives the display that fits where the output goes."""
    if output.is_terminal():
        with _bars(output, job) as bars:
            yield bars
    else:
        yield _Lines(output, job)


def epoch_line(job: job_pb2.Job, epoch: job_pb2.Epoch) -> str:
    """Gives the sum of an epoch in words."""
    width = len(str(job.config.epochs))
    rate = job.iterations_per_epoch / epoch.seconds if epoch.seconds else 0
    return (
        f"epoch {epoch.epoch:{width}}/{job.config.epochs}  mean loss {epoch.mean_loss:.4f}  "
        f"{epoch.seconds:.2f} s  {rate:,.0f} iterations/s" + _validation(epoch)
    )


def _validation(epoch: job_pb2.Epoch) -> str:
    if not epoch.HasField("validation_loss"):
        return ""
    return f"  validation loss {epoch.validation_loss:.4f}, accuracy {epoch.validation_accuracy:.4f}"


class _Lines:
    def __init__(self, output: Output, job: job_pb2.Job) -> None:
        self._output = output
        self._job = job

    def progress(self, progress: job_pb2.Progress) -> None:
        """Shows nothing: a pipe gets whole lines."""

    def epoch(self, epoch: job_pb2.Epoch) -> None:
        """Writes a line."""
        self._output.say(epoch_line(self._job, epoch))


@contextmanager
def _bars(output: Output, job: job_pb2.Job) -> Iterator[Display]:
    # Imported here, for a pipe and the other commands need none of it.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=output.console(),
    )
    # Both count iterations; the columns of numbers then line up.
    run = bars.add_task("run", total=job.iterations, note="")
    part = bars.add_task("epoch 1", total=job.iterations_per_epoch, note="waiting for the device")

    class Bars:
        def progress(self, progress: job_pb2.Progress) -> None:
            before = (progress.epoch - 1) * job.iterations_per_epoch
            note = f"{progress.iterations_per_second:,.0f} iterations/s  loss {progress.loss:.4f}"
            bars.update(run, completed=progress.iteration)
            description = f"epoch {progress.epoch}"
            bars.update(part, completed=progress.iteration - before, description=description, note=note)

        def epoch(self, epoch: job_pb2.Epoch) -> None:
            bars.console.print(epoch_line(job, epoch))

    with bars:
        yield Bars()
