"""`handgrad train`: one job, from its start to its plot and its parameter file."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import click

from handgrad.client.cli import events, options
from handgrad.client.cli.evaluate import tell_evaluation
from handgrad.client.cli.output import Output
from handgrad.client.cli.progress import display
from handgrad.client.client import Client, connect
from handgrad.client.errors import HandgradError, JobCancelledError, JobError
from handgrad.client.job import Event, Job
from handgrad.client.network import title
from handgrad.client.plot import plot_losses
from handgrad.client.signature import Transform, takes
from handgrad.v1 import job_pb2

T = TypeVar("T")


@click.command()
@options.server
@click.option(
    "--preset",
    default="report",
    show_default=True,
    help="report, mlp, lenet, cnn, resnet; the other options replace its.",
)
@click.option("--model", default="", help="Model to train: continued if the server has it. Default: a new one.")
@click.option("--network", type=click.Path(path_type=Path), metavar="FILE", help="A network's TOML file.")
@click.option("--hidden", type=options.Widths(), metavar="N,...", help="Widths of hidden layers of sigmoids, or none.")
@options.transform
@options.settings
@click.option("--publish-every", type=int, metavar="N", help="Publish params every N iterations, not each epoch alone.")
@click.option("--fresh-optimizer", is_flag=True, help="Forget the optimizer's state that the model keeps.")
@click.option("--detach", is_flag=True, help="Start the job on a server, and do not wait for it.")
@options.data
@click.option("--params", type=click.Path(path_type=Path), metavar="FILE", help="Start from these params.")
@click.option("--save", type=options.parameter_file, metavar="FILE", help="Save the params: .npz or .safetensors.")
@click.option("--plot", type=options.plot_file, metavar="FILE", help="Plot the losses: .png or .svg.")
@click.option("--interactive", is_flag=True, help="Ask which params to start from, and whether to save them.")
@options.as_json
def train(
    *,
    server: str | None,
    preset: str,
    model: str,
    network: Path | None,
    hidden: tuple[int, ...] | None,
    transform: Transform | None,
    publish_every: int | None,
    fresh_optimizer: bool,
    detach: bool,
    data: Path | None,
    params: Path | None,
    save: Path | None,
    plot: Path | None,
    interactive: bool,
    json_lines: bool,
    **settings: Any,
) -> None:
    """Train a network, and watch its loss fall."""
    output = Output(json_lines=json_lines)
    if detach:
        _check_detach(server, waits_for=save or plot or interactive)
    if not server:
        output.say_at_once("starting a private server")
    with connect(server or None) as hg:
        dataset = hg.upload_dataset(data).dataset if data else ""
        if params:
            model = options.upload_params(
                hg, output, params, model, network=network, dataset=dataset, transform=transform
            )
        elif interactive:
            model = _ask_for_params(hg, model, output)
        job = hg.train(
            preset,
            model=model,
            dataset=dataset,
            network=network,
            hidden=hidden,
            transform=transform,
            publish_every_iterations=publish_every,
            fresh_optimizer=fresh_optimizer,
            **settings,
        )
        _tell_job(job, output)
        if detach:
            output.say(f"{job.name} is in the queue; `handgrad watch {job.name}` shows it")
            return
        failure = watch_events(job, output, list(job.info.notes))
        # Also after a failure: what was trained until then is the caller's.
        _keep(hg, job, plot, save, output, interactive=interactive)
        if failure:
            raise failure
        tell_evaluation(hg.evaluate(job.model, job.info.version, dataset=dataset), "test", output)
        if server:
            output.say(f"{job.name} trained model {job.model} to version {job.info.version}")
        output.emit(events.done(job.info))


def _check_detach(server: str | None, *, waits_for: object) -> None:
    if not server:
        raise click.UsageError("--detach needs a server that stays: --server HOST:PORT")
    if waits_for:
        raise click.UsageError("--detach does not wait for what --save, --plot and --interactive need")


def watch_events(job: Job, output: Output, told: Sequence[str] = (), *, cancel: bool = True) -> JobError | None:
    """Shows a job until it ends. Gives the error that it ended with.

    Args:
        job: The job.
        output: Where it is shown.
        told: Notes of the job's that were told before.
        cancel: Whether Ctrl-C cancels it; otherwise it ends the watching.
    """
    seconds = 0.0
    with display(output, job.info) as shown, _events(job) as happened:
        while (event := happened.get()) is not None:
            if isinstance(event, HandgradError):
                raise event
            if isinstance(event, Interrupt):
                if not cancel:
                    raise KeyboardInterrupt
                job.cancel()
            elif isinstance(event, job_pb2.Epoch):
                seconds += event.seconds
                shown.epoch(event)
                output.emit(events.epoch(event))
            elif isinstance(event, job_pb2.Progress):
                shown.progress(event)
    return _end(job, output, told, seconds)


def _end(job: Job, output: Output, told: Sequence[str], seconds: float) -> JobError | None:
    """Tells how a job ended, which took so many seconds of training. Returns the error that it ended with."""
    failure: JobError | None = None
    try:
        job.wait()
    except JobError as error:
        failure = error
    for note in job.info.notes:
        if note not in told:
            output.note(note)
    if failure:
        event = events.cancelled if isinstance(failure, JobCancelledError) else events.failed
        output.emit(event(job.info))
        return failure
    output.say(f"trained {job.info.iteration:,} iterations in {seconds:.2f} s")
    if job.info.best_epoch:
        early = ", after which its patience was over" if job.info.stopped_early else ""
        output.say(f"the smallest validation loss was that of epoch {job.info.best_epoch}{early}")
    return None


class Interrupt:
    """A Ctrl-C, among the events of a job."""


@contextmanager
def _events(job: Job) -> Iterator[SimpleQueue[Event | HandgradError | Interrupt | None]]:
    """Gives a job's events as they come, and a Ctrl-C as one of them, until None.

    A thread reads them, for gRPC's own wait does not survive a KeyboardInterrupt; nor would a half-drawn bar.
    """
    events: SimpleQueue[Event | HandgradError | Interrupt | None] = SimpleQueue()

    def read() -> None:
        try:
            for event in job.events():
                events.put(event)
        except HandgradError as error:
            events.put(error)
        events.put(None)

    def interrupt(*_: object) -> None:
        events.put(Interrupt())
        # Whoever presses it again does not want to wait for the server.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.getsignal(signal.SIGINT)
    # A shell starts its background commands with Ctrl-C ignored.
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)
    Thread(target=read, name="events", daemon=True).start()
    try:
        yield events
    finally:
        signal.signal(signal.SIGINT, before)


def _tell_job(job: Job, output: Output) -> None:
    config = job.info.config
    output.say(
        f"training {title(config.network)} on {job.info.dataset}, {takes(job.info.signature)}: "
        f"{_counted(config.epochs, 'epoch')} of {_counted(job.info.iterations_per_epoch, 'iteration')}, "
        f"batch size {config.batch_size}, {events.optimizer_of(config)}, learning rate {config.learning_rate:g}, "
        f"seed {config.seed}"
    )
    for note in job.info.notes:
        output.note(note)
    output.emit(events.job(job.info))


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _keep(hg: Client, job: Job, plot: Path | None, save: Path | None, output: Output, *, interactive: bool) -> None:
    if plot and job.info.iteration:
        _plot(hg, job, plot, output)
    if job.info.version:
        if save:
            _save(job, save, output)
        elif interactive:
            _ask_to_save(job, output)


def _plot(hg: Client, job: Job, file: Path, output: Output) -> None:
    epochs = hg.get_loss(job.name, limit=1).epochs
    plot_losses(
        *(file, job.losses(), epochs),
        iterations_per_epoch=job.info.iterations_per_epoch,
        loss=job.info.config.loss,
    )
    output.say(f"plot: {file}")
    output.emit(events.plot(file))


def _save(job: Job, file: Path, output: Output) -> None:
    params = job.params(job.info.version)
    params.save(file)
    output.say(f"parameter file: {file}")
    output.emit(events.save(file, params.version))


def _ask_for_params(hg: Client, model: str, output: Output) -> str:
    """Asks the report's first question; gives the model to train."""
    if not _yes("use parameter file?", output):
        return model
    return _until_it_works("the file's name", output, lambda name: options.upload_params(hg, output, Path(name), model))


def _ask_to_save(job: Job, output: Output) -> None:
    """Asks the report's last question."""
    if _yes("save the parameter?", output):
        _until_it_works("the file's name", output, lambda name: _save(job, Path(name), output))


def _yes(question: str, output: Output) -> bool:
    answer: str = click.prompt(question, type=click.Choice(["yes", "no"]), err=output.json_lines)
    return answer == "yes"


def _until_it_works(question: str, output: Output, use: Callable[[str], T]) -> T:
    """Asks for a file until it can be used: what was trained must not be lost to a slip of the keyboard."""
    while True:
        try:
            return use(click.prompt(question, err=output.json_lines))
        except (HandgradError, OSError) as error:
            output.say(str(error))
