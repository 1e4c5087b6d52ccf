"""A job as a caller sees it: its history, which outlives every connection to its server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, TypeVar

from handgrad.client.errors import JobCancelledError, JobFailedError, UnavailableError
from handgrad.v1 import job_pb2, params_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from handgrad.client.params import Params

T = TypeVar("T")

Event: TypeAlias = job_pb2.Progress | job_pb2.Epoch | params_pb2.ParamsVersion

SECONDS_BETWEEN_TRIES: Final = 0.2
MAX_SECONDS_BETWEEN_TRIES: Final = 2.0


class Calls(Protocol):
    """What a job asks of its client."""

    reconnect_seconds: float

    def watch_job(self, job: str, after_sequence: int = 0) -> Iterator[job_pb2.JobEvent]:
        """Gives its history."""
        ...

    def cancel_job(self, job: str) -> job_pb2.Job:
        """Asks the job to stop."""
        ...

    def get_losses(self, job: str) -> NDArray[np.float32]:
        """Gives its losses."""
        ...

    def get_params(self, model: str, version: int = 0) -> Params:
        """Gives its model's params."""
        ...


def reconnecting(follow: Callable[[], Iterator[T]], ended: Callable[[], bool], reconnect_seconds: float) -> Iterator[T]:
    """Gives what a stream gives until it has told the end, and follows it anew where its server went away.

    Raises:
        UnavailableError: The server did not come back within `reconnect_seconds`.
    """
    lost: float | None = None
    pause = SECONDS_BETWEEN_TRIES
    while not ended():
        try:
            for message in follow():
                lost, pause = None, SECONDS_BETWEEN_TRIES
                yield message
        except UnavailableError:
            lost = time.monotonic() if lost is None else lost
            if time.monotonic() + pause - lost > reconnect_seconds:
                raise
            time.sleep(pause)
            pause = min(2 * pause, MAX_SECONDS_BETWEEN_TRIES)


class Job:
    """A job of a server's. It goes on when this object is dropped.

    Attributes:
        info: The job as it was last heard of: its name, model, settings, state, version.
    """

    def __init__(self, client: Calls, info: job_pb2.Job, stream: Iterator[job_pb2.JobEvent] | None = None) -> None:
        """Takes a job; with the stream that it is to end with, after its `accepted` event, where there is one."""
        self.info = info
        self._client = client
        self._stream = stream
        self._sequence = 1 if stream is not None else 0
        self._ended = False

    @property
    def name(self) -> str:
        """The job's name."""
        return self.info.job

    @property
    def model(self) -> str:
        """Name of the model that it trains."""
        return self.info.model

    def events(self) -> Iterator[Event]:
        """Gives what happens as it happens, until the job ends; a second call goes on where the first was left.

        Each epoch and each published version comes once, in order, and progress a few times a second. A server that
        goes away is waited for: what happens is then told from where it broke off, with no gap and no repeat.

        Raises:
            UnavailableError: The server did not come back within the client's `reconnect_seconds`.
        """
        return reconnecting(self._follow, lambda: self._ended, self._client.reconnect_seconds)

    def wait(self) -> job_pb2.Job:
        """Waits until the job ends, and gives it as it ended.

        Raises:
            JobFailedError: It stopped by an error.
            JobCancelledError: It was cancelled.
        """
        for _ in self.events():
            pass
        if self.info.state == job_pb2.JOB_STATE_FAILED:
            raise JobFailedError(f"{self.name} failed: {self.info.error}", self.info)
        if self.info.state == job_pb2.JOB_STATE_CANCELLED:
            raise JobCancelledError(f"{self.name} was cancelled: {self.info.error}", self.info)
        return self.info

    def cancel(self) -> None:
        """Asks the job to stop at its next pause. `wait` then tells that it did."""
        self._client.cancel_job(self.name)

    def losses(self) -> NDArray[np.float32]:
        """Gives the loss of every iteration so far, `[iterations]`."""
        return self._client.get_losses(self.name)

    def params(self, version: int = 0) -> Params:
        """Gives a version of the model's params, the newest for 0."""
        return self._client.get_params(self.model, version)

    def _follow(self) -> Iterator[Event]:
        stream, self._stream = self._stream, None
        try:
            for event in stream or self._client.watch_job(self.name, self._sequence):
                self._sequence = event.sequence or self._sequence
                if event.HasField("progress"):
                    yield event.progress
                elif event.HasField("epoch"):
                    yield event.epoch
                elif event.HasField("published"):
                    yield event.published
                elif event.HasField("started"):
                    self.info = event.started
                elif event.HasField("finished"):
                    self.info, self._ended = event.finished, True
        except GeneratorExit:
            # Somebody left the events in the middle: a job that ends with its stream does not end for that.
            self._stream = stream
            raise
