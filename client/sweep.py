"""A sweep as a caller sees it: many networks that are trained in one call."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from handgrad.client.errors import SweepError
from handgrad.client.job import reconnecting
from handgrad.v1 import job_pb2, sweep_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from handgrad.client.params import Params
    from handgrad.v1 import training_service_pb2

Measure = Literal["mean_loss", "validation_loss", "validation_accuracy"]
"""What members are ranked by."""

MEASURES: Final[dict[Measure | None, sweep_pb2.Measure.ValueType]] = {
    None: sweep_pb2.MEASURE_UNSPECIFIED,
    "mean_loss": sweep_pb2.MEASURE_MEAN_LOSS,
    "validation_loss": sweep_pb2.MEASURE_VALIDATION_LOSS,
    "validation_accuracy": sweep_pb2.MEASURE_VALIDATION_ACCURACY,
}


def measure_of(info: sweep_pb2.Sweep) -> Measure:
    """Returns what a sweep's members are ranked by."""
    return next(name for name, value in MEASURES.items() if name and value == info.measure)


@dataclass(frozen=True)
class Halving:
    """When hopeless members of a sweep are stopped.

    Attributes:
        first_epochs: Epochs after which that happens first.
        factor: One in so many members goes on, and has so many times the epochs until the next time.
    """

    first_epochs: int = 1
    factor: int = 3


def grid(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """Gives the settings of each combination of values, by name: `grid(learning_rate=(0.01, 0.1), seed=range(3))`."""
    names = list(values)
    return [dict(zip(names, each, strict=True)) for each in itertools.product(*values.values())]


class Calls(Protocol):
    """What a sweep asks of its client."""

    reconnect_seconds: float

    def watch_sweep(self, sweep: str) -> Iterator[sweep_pb2.Sweep]:
        """Gives how it stands."""
        ...

    def cancel_sweep(self, sweep: str) -> sweep_pb2.Sweep:
        """Asks its members to stop."""
        ...

    def get_loss(self, job: str, *, skip: int = 0, limit: int = 0) -> training_service_pb2.GetLossResponse:
        """Gives losses and epochs of a job."""
        ...

    def get_params(self, model: str, version: int = 0) -> Params:
        """Gives a model's params."""
        ...


class Sweep:
    """A sweep of a server's. It goes on when this object is dropped.

    Attributes:
        info: The sweep as it was last heard of.
    """

    def __init__(self, client: Calls, info: sweep_pb2.Sweep) -> None:
        self.info = info
        self._client = client

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.info.sweep

    @property
    def measure(self) -> Measure:
        """What the members are ranked by."""
        return measure_of(self.info)

    @property
    def ranked(self) -> Sequence[sweep_pb2.SweepMember]:
        """The members, the best first; those without a rank last."""
        return sorted(self.info.members, key=lambda member: member.rank or len(self.info.members) + 1)

    def standings(self) -> Iterator[sweep_pb2.Sweep]:
        """Gives how the sweep stands, whenever that changed, until it ends; a server that goes away is waited for.

        Raises:
            UnavailableError: The server did not come back within the client's `reconnect_seconds`.
        """
        return reconnecting(self._follow, lambda: self.info.HasField("end_time"), self._client.reconnect_seconds)

    def wait(self) -> sweep_pb2.Sweep:
        """Waits until the sweep ends, and gives it as it ended.

        Raises:
            SweepError: There is no best member to publish, or it was cancelled before there was one.
        """
        for _ in self.standings():
            pass
        if self.info.state != job_pb2.JOB_STATE_SUCCEEDED:
            raise SweepError(f"{self.name} has no best network: {self.info.error}")
        return self.info

    def cancel(self) -> None:
        """Asks all members to stop at their next pause."""
        self._client.cancel_sweep(self.name)

    def epochs(self, member: sweep_pb2.SweepMember) -> Sequence[job_pb2.Epoch]:
        """Gives the epochs that a member has ended."""
        return self._client.get_loss(member.job, limit=1).epochs

    def params(self) -> Params:
        """Gives the params of the best member, once the sweep has ended."""
        return self._client.get_params(self.info.model, self.info.version)

    def _follow(self) -> Iterator[sweep_pb2.Sweep]:
        for info in self._client.watch_sweep(self.name):
            self.info = info
            yield info
