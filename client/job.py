"""A job as the one who started it sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

from handgrad.client.errors import JobCancelledError, JobFailedError
from handgrad.v1 import job_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from handgrad.client.params import Params
    from handgrad.v1 import training_service_pb2

Event: TypeAlias = job_pb2.Progress | job_pb2.Epoch


class Calls(Protocol):
    """What a job asks of its client."""

    def cancel_job(self, job: str) -> job_pb2.Job:
        """Asks the job to stop."""
        ...

    def get_losses(self, job: str) -> NDArray[np.float32]:
        """Gives its losses."""
        ...

    def get_params(self, model: str, version: int = 0) -> Params:
        """Gives its model's params."""
        ...


class Job:
    """A job that was started, and the stream of its progress.

    Attributes:
        info: The job as it was last heard of: its name, model, settings, state, version.
    """

    def __init__(
        self,
        client: Calls,
        accepted: job_pb2.Job,
        responses: Iterator[training_service_pb2.TrainResponse],
        translate_errors: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Takes over the stream after its first message."""
        self.info = accepted
        self._client = client
        self._responses = responses
        self._translate_errors = translate_errors

    @property
    def name(self) -> str:
        """The job's name."""
        return self.info.job

    @property
    def model(self) -> str:
        """Name of the model that it trains."""
        return self.info.model

    def events(self) -> Iterator[Event]:
        """Gives what happens as it happens, until the job ends: each epoch once, and progress a few times a second.

        Raises:
            UnavailableError: The connection to the server broke. The job goes on without it.
        """
        with self._translate_errors():
            for response in self._responses:
                if response.HasField("progress"):
                    yield response.progress
                elif response.HasField("epoch"):
                    yield response.epoch
                elif response.HasField("finished"):
                    self.info = response.finished

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
