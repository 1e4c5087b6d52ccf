"""Assembles the server, and runs it until it is told to stop."""

import fcntl
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from grpc_reflection.v1alpha import reflection

from handgrad.core.errors import InvalidInputError
from handgrad.server.checkpoints import Checkpoints
from handgrad.server.datasets import Datasets
from handgrad.server.errors import ErrorInterceptor
from handgrad.server.jobs import Jobs
from handgrad.server.models import Models
from handgrad.server.service import State, TrainingService
from handgrad.server.storage import Storage
from handgrad.server.uploads import Uploads
from handgrad.server.worker import Worker
from handgrad.v1 import training_service_pb2
from handgrad.v1.training_service_pb2_grpc import add_TrainingServiceServicer_to_server

log = logging.getLogger(__name__)

SERVICE: Final = training_service_pb2.DESCRIPTOR.services_by_name["TrainingService"].full_name
MAX_STREAMS: Final = 48
SNAPSHOT_SECONDS: Final = 5.0
KEEP_VERSIONS: Final = 32
KEEP_EVERY: Final = 0
MAX_QUEUED_JOBS: Final = 256
MAX_DATASET_BYTES: Final = 512 * 2**20
MAX_DISK_BYTES: Final = 16 * 2**30
MAX_THREADS: Final = MAX_STREAMS + 16
MAX_CALLS: Final = 1024
"""Calls in work or waiting for a thread; gRPC answers those beyond with RESOURCE_EXHAUSTED."""

GRACE_SECONDS: Final = 5.0
_FOR_THIS_MACHINE = "127.0.0.1, ::1 or localhost"


class Server:
    """A handgrad server: listening once it is made, until `stop`."""

    def __init__(self, address: str, data_dir: Path, *, insecure: bool = False) -> None:
        """Takes the data directory, listens, and starts the device's thread.

        Args:
            address: "HOST:PORT"; port 0 for a free one.
            data_dir: Where everything is kept; made if it is not there.
            insecure: Whether it may listen on an address that other machines reach.

        Raises:
            InvalidInputError: The address cannot be used; its field is `address`.
            OSError: The data directory cannot be used.
        """
        host = _host(address)
        if not insecure and not _is_loopback(host):
            raise InvalidInputError(
                "address",
                f"{host} is reached by other machines, and whoever reaches the server may use it: "
                f"give {_FOR_THIS_MACHINE}, or --insecure to allow it",
            )
        _check_free(host, int(address.rpartition(":")[2]), address)
        self._lock = _lock(data_dir)
        self._storage = Storage(data_dir, MAX_DISK_BYTES)
        state = _open(self._storage)
        self._worker = state.worker
        self._server = grpc.server(
            ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="rpc"),
            interceptors=[ErrorInterceptor()],
            # Without this, a second server on the same port would silently take a part of the calls.
            options=[("grpc.so_reuseport", 0)],
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        add_TrainingServiceServicer_to_server(TrainingService(state), self._server)
        self._health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME), self._server
        )
        port = self._server.add_insecure_port(address)
        self.address = f"{host}:{port}" if ":" not in host else f"[{host}]:{port}"
        self._worker.start()
        self._server.start()
        for service in ("", SERVICE):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        log.info("listening on %s, data in %s", self.address, data_dir)

    def stop(self) -> None:
        """Ends every job, answers what is in flight, and closes."""
        log.info("stopping")
        self._health.enter_graceful_shutdown()
        # Nothing new is taken from here on; streams end by themselves once their jobs have.
        stopped = self._server.stop(GRACE_SECONDS)
        self._worker.stop()
        stopped.wait()
        self._storage.close()
        os.close(self._lock)
        log.info("stopped")


def _open(storage: Storage) -> State:
    """Puts together what the service serves."""
    models = Models(storage, keep_versions=KEEP_VERSIONS, keep_every=KEEP_EVERY)
    jobs = Jobs(storage, models, max_queued=MAX_QUEUED_JOBS)
    datasets = Datasets(storage)
    worker = Worker(storage, jobs, models, datasets, snapshot_seconds=SNAPSHOT_SECONDS)
    uploads = Uploads(storage, datasets, max_bytes=MAX_DATASET_BYTES)
    return State(jobs, models, datasets, uploads, Checkpoints(storage), storage.objects, worker, MAX_STREAMS)


def run(address: str, data_dir: Path, *, insecure: bool, private: bool) -> None:
    """Runs a server until SIGTERM or SIGINT comes, or, if it is private, until its standard input ends.

    Its first line on standard output is "listening on HOST:PORT".
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = Server(address, data_dir, insecure=insecure)
    print(f"listening on {server.address}", flush=True)
    if private:
        # Its parent holds the other end: however the parent ends, this server ends too.
        threading.Thread(target=_wait_for_end_of_input, args=(stop,), daemon=True).start()
    stop.wait()
    server.stop()


def _wait_for_end_of_input(stop: threading.Event) -> None:
    sys.stdin.buffer.read()
    stop.set()


def _host(address: str) -> str:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise InvalidInputError("address", f"HOST:PORT, with a port from 0 to 65535; got {address!r}")
    return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_free(host: str, port: int, address: str) -> None:
    """Binds the address for a moment: gRPC would only say that it failed, and not why."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise InvalidInputError("address", f"cannot listen on {address}: {error.strerror}") from error


def _lock(data_dir: Path) -> int:
    """Takes the data directory for this process; gives the descriptor that holds it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise InvalidInputError("data-dir", f"{data_dir} is in use by another handgrad server") from None
    return descriptor
