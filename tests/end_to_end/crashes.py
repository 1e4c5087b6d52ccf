"""A server that is killed again and again, and what its callers keep account of meanwhile."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc

from handgrad.v1 import job_pb2
from handgrad.v1 import training_service_pb2 as pb
from handgrad.v1.training_service_pb2_grpc import TrainingServiceStub

CALL_SECONDS = 20.0
LISTENING = "listening on "

T = TypeVar("T")


class Killable:
    """A server as a process of its own, in a data directory that outlives it."""

    def __init__(self, data_dir: Path, *flags: str) -> None:
        self._command = [
            *(sys.executable, "-P", "-m", "handgrad.server", "--address", "127.0.0.1:0", "--data-dir", str(data_dir)),
            *flags,
        ]
        self._log = data_dir.with_suffix(".log")
        self._process: subprocess.Popen[str] | None = None
        self._channel: grpc.Channel | None = None
        self.stub: TrainingServiceStub | None = None
        self.address = ""

    def start(self) -> None:
        with self._log.open("a") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith(LISTENING), self._log.read_text()
        self.address = line.removeprefix(LISTENING).strip()
        self._channel = grpc.insecure_channel(self.address)
        self.stub = TrainingServiceStub(self._channel)

    def end(self, number: int) -> int:
        """Sends a signal, and waits for the end; gives the exit status."""
        assert self._process is not None
        os.kill(self._process.pid, number)
        status = self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        assert self._channel is not None
        self.stub = None
        self._channel.close()
        return status

    @contextmanager
    def running(self) -> Iterator[TrainingServiceStub]:
        """A server until the block ends; killed then, if it has not ended."""
        self.start()
        assert self.stub is not None
        try:
            yield self.stub
        finally:
            if self._process is not None and self._process.poll() is None:
                self.end(signal.SIGKILL)


@dataclass
class Watcher:
    """Watches one job through every crash, each time from the last event that it saw."""

    server: Killable
    job: str
    events: list[job_pb2.JobEvent] = field(default_factory=list)

    def watch(self, stopped: threading.Event) -> None:
        while not stopped.is_set() and not self.finished():
            stub, after = self.server.stub, self.events[-1].sequence if self.events else 0
            if stub is None:
                time.sleep(0.02)
                continue
            try:
                request = pb.WatchJobRequest(job=self.job, after_sequence=after)
                for response in stub.WatchJob(request):
                    if response.event.sequence:
                        self.events.append(response.event)
            except (grpc.RpcError, ValueError):
                # A ValueError: the channel was closed between the look and the call.
                time.sleep(0.02)

    def finished(self) -> bool:
        return bool(self.events) and self.events[-1].HasField("finished")

    def check(self) -> None:
        """No gap and no repeat."""
        assert [event.sequence for event in self.events] == list(range(1, len(self.events) + 1)), self.job


@dataclass
class Saver:
    """Saves the newest version of a model under ever new names, and keeps account of what was answered."""

    server: Killable
    model: Callable[[], str]
    answered: dict[str, str] = field(default_factory=dict)

    def save(self, stopped: threading.Event) -> None:
        number = 0
        while not stopped.wait(0.05):
            stub, model = self.server.stub, self.model()
            if stub is None or not model:
                continue
            number += 1
            request = pb.SaveParamsRequest(model=model, checkpoint=f"save-{number}")
            try:
                saved = stub.SaveParams(request, timeout=CALL_SECONDS).checkpoint
            except (grpc.RpcError, ValueError):
                continue
            self.answered[saved.checkpoint] = saved.params_sha256

    def check(self, stub: TrainingServiceStub) -> None:
        """Everything that was answered is there, with its hash."""
        for number, (name, sha256) in enumerate(self.answered.items()):
            loaded = stub.LoadParams(pb.LoadParamsRequest(checkpoint=name, model=f"check-{number % 8}"))
            assert loaded.params_version.params_sha256 == sha256
            params = stub.GetParams(pb.GetParamsRequest(model=loaded.params_version.model))
            data = b"".join(tensor.data for tensor in params.tensors)
            assert hashlib.sha256(data).hexdigest() == sha256


def told(events: list[job_pb2.JobEvent]) -> list[tuple[Any, ...]]:
    """Gives a history without what a clock decides."""
    told: list[tuple[Any, ...]] = []
    for event in events:
        kind = event.WhichOneof("event")
        if kind == "epoch":
            told.append((kind, event.epoch.epoch, event.epoch.mean_loss))
        elif kind == "published":
            made = event.published
            told.append((kind, made.version, made.params_sha256, made.iteration, made.loss))
        elif kind == "finished":
            told.append((kind, event.finished.state, event.finished.params_sha256, event.finished.iteration))
        else:
            told.append((kind,))
    return told


def losses(stub: TrainingServiceStub, job: str) -> list[float]:
    """Gives all losses of a job of at most 300,000 iterations."""
    return list(stub.GetLoss(pb.GetLossRequest(job=job)).losses)
