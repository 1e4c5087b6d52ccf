"""Assembles the server, and runs it until it is told to stop."""

import errno
import fcntl
import logging
import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from grpc_reflection.v1alpha import reflection

from handgrad.core.compilation import choose_platform, keep_compiled
from handgrad.core.errors import InvalidInputError
from handgrad.server.auth import read_tokens
from handgrad.server.certificates import Certificates
from handgrad.server.checkpoints import Checkpoints
from handgrad.server.datasets import Datasets
from handgrad.server.interceptors import CallInterceptor
from handgrad.server.jobs import Jobs
from handgrad.server.metrics import Metrics
from handgrad.server.models import Models
from handgrad.server.service import State, TrainingService
from handgrad.server.settings import Settings, join_address, split_address
from handgrad.server.storage import Storage
from handgrad.server.streams import Streams
from handgrad.server.sweeps import Sweeps
from handgrad.server.tls import server_credentials
from handgrad.server.uploads import Uploads
from handgrad.server.worker import Worker
from handgrad.v1 import training_service_pb2
from handgrad.v1.training_service_pb2_grpc import add_TrainingServiceServicer_to_server

log = logging.getLogger(__name__)

SERVICE: Final = training_service_pb2.DESCRIPTOR.services_by_name["TrainingService"].full_name
SPARE_THREADS: Final = 16
"""Threads besides one for each stream, so that a call finds one."""

MAX_CALLS: Final = 1024
"""Calls in work or waiting for a thread; gRPC answers those beyond with RESOURCE_EXHAUSTED."""

KEEPALIVE_SECONDS: Final = 20.0
"""Silence after which a connection is asked whether its caller is still there: one that went away without a word would
keep its streams."""

KEEPALIVE_ANSWER_SECONDS: Final = 10.0
"""Without an answer for so long the caller is gone, and its calls end."""

MIN_SECONDS_BETWEEN_PINGS: Final = 5.0
"""Callers may ask as often, with a call open or without. gRPC's own five minutes would close the connections of those
who ask each 10 s, which is the least that Go and Java allow."""

GRACE_SECONDS: Final = 5.0
PRIVATE_STOP_SECONDS: Final = 1.0
"""A private server has stopped by then, whatever it does."""

SECONDS_BETWEEN_LOOKS: Final = 0.5
"""From one look at who a private server's parent is to the next."""

SWITCH_SECONDS: Final = 0.0005
"""After which Python lets the device's thread go on while another runs. Its own 5 ms cost the report's run 2%."""


class Server:
    """A handgrad server: listening once it is made, until `stop`."""

    def __init__(self, address: str, data_dir: Path, **settings: Any) -> None:
        """Takes the data directory, listens, and starts the device's thread, which takes up the job that was running.

        Args:
            address: "HOST:PORT"; port 0 for a free one.
            data_dir: Where everything is kept; made if it is not there.
            settings: The other attributes of Settings.

        Raises:
            InvalidInputError: A setting is out of its range, or the address or the data directory cannot be used.
            OSError: The data directory cannot be used.
        """
        chosen = Settings(address, data_dir, **settings)
        chosen.check()
        host, port = split_address(address, "address")
        tokens = read_tokens(chosen.tokens) if chosen.tokens else None
        credentials = None
        if chosen.tls_certificate and chosen.tls_key:
            credentials = server_credentials(chosen.tls_certificate, chosen.tls_key, chosen.tls_client_ca)
        _check_free(host, port, address)
        metrics = Metrics()
        self._lock = _lock(data_dir)
        try:
            self._storage = Storage(data_dir, chosen.max_disk_bytes)
            state = _open(self._storage, chosen, metrics)
            self._stop_metrics = metrics.serve(chosen.metrics_address) if chosen.metrics_address else None
        except BaseException:
            if hasattr(self, "_storage"):
                self._storage.close()
            os.close(self._lock)
            raise
        self._worker = state.worker
        self._server = grpc.server(
            ThreadPoolExecutor(chosen.max_streams + SPARE_THREADS, thread_name_prefix="rpc"),
            interceptors=[CallInterceptor(tokens, metrics)],
            options=_options(),
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        add_TrainingServiceServicer_to_server(TrainingService(state), self._server)
        self._health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME), self._server
        )
        try:
            if credentials:
                port = self._server.add_secure_port(address, credentials)
            else:
                port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            # Somebody else has taken it since it was free.
            self._close()
            raise InvalidInputError("address", f"cannot listen on {address}: {error}") from error
        self.address = join_address(host, port)
        self._worker.start()
        self._server.start()
        for service in ("", SERVICE):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        log.info("listening on %s, data in %s", self.address, data_dir)

    def stop(self, grace_seconds: float | None = None) -> None:
        """Takes a snapshot of the running job, answers what is in flight, and closes. The next start goes on.

        Args:
            grace_seconds: For calls in flight, which end with an error after it; None for GRACE_SECONDS.
        """
        log.info("stopping")
        self._health.enter_graceful_shutdown()
        # Nothing new is taken from here on; streams end by themselves once their jobs have.
        stopped = self._server.stop(GRACE_SECONDS if grace_seconds is None else grace_seconds)
        self._worker.stop()
        stopped.wait()
        self._close()
        log.info("stopped")

    def _close(self) -> None:
        if self._stop_metrics:
            self._stop_metrics()
        self._storage.close()
        os.close(self._lock)


def _options() -> list[tuple[str, Any]]:
    return [
        # Without this, a second server on the same port would silently take a part of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", _milliseconds(KEEPALIVE_SECONDS)),
        ("grpc.keepalive_timeout_ms", _milliseconds(KEEPALIVE_ANSWER_SECONDS)),
        # What counts in grpcio 1.85, which never starts the timer of the one above; its default is a minute.
        ("grpc.http2.ping_timeout_ms", _milliseconds(KEEPALIVE_ANSWER_SECONDS)),
        # Otherwise gRPC asks twice, and then no more while a call sends nothing.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(MIN_SECONDS_BETWEEN_PINGS)),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _open(storage: Storage, settings: Settings, metrics: Metrics) -> State:
    """Puts together what the service serves."""
    models = Models(
        storage, keep_versions=settings.keep_versions, keep_every=settings.keep_every, published=metrics.published
    )
    jobs = Jobs(storage, models, max_queued=settings.max_queued_jobs)
    datasets = Datasets(storage)
    metrics.count_jobs(jobs.counts)
    sweeps = Sweeps(storage, jobs, models)
    worker = Worker(
        storage,
        jobs,
        sweeps,
        models,
        datasets,
        snapshot_seconds=settings.snapshot_seconds,
        storage_failed=metrics.storage_failed,
        trained=metrics.trained,
        paused=metrics.paused,
    )
    uploads = Uploads(storage, datasets, max_bytes=settings.max_dataset_bytes)
    checkpoints, certificates = Checkpoints(storage), Certificates(storage)
    kept = (jobs, sweeps, models, datasets, uploads, checkpoints, certificates, storage.objects)
    return State(*kept, worker, Streams(settings.max_streams, settings.max_streams_per_caller))


def run(settings: Settings, *, private: bool, parent: int | None = None) -> None:
    """Runs a server until SIGTERM or SIGINT comes. Its first line on standard output is "listening on HOST:PORT".

    Args:
        settings: Its settings.
        private: Whether it also stops when its standard input ends.
        parent: Number of the process that started it, and with which it ends; None for any.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sys.setswitchinterval(SWITCH_SECONDS)
    device = choose_platform(settings.platform)
    # A private server's folder goes away with it.
    if cache := _user_cache() if private else settings.data_dir:
        keep_compiled(cache / "compiled")
    server = Server(**vars(settings))
    log.info("computing on %s", device)
    print(f"listening on {server.address}", flush=True)
    if private:
        # Its parent holds the other end, and drops it when its client is dropped.
        threading.Thread(target=_wait_for_end_of_input, args=(stop,), daemon=True).start()
    # A forked child of the parent's holds the other end too, and outlives it: what tells then is who the parent is.
    while not stop.wait(SECONDS_BETWEEN_LOOKS) and parent in (None, os.getppid()):
        pass
    if private:
        # Whoever was answered has gone, and nothing is kept: it does not wait for what is being compiled either.
        end = threading.Timer(PRIVATE_STOP_SECONDS, os._exit, (0,))
        end.daemon = True
        end.start()
    server.stop(0 if private else None)


def _user_cache() -> Path | None:
    """Returns the folder of what this user's programs keep; None where the user has no home, as in some containers."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "handgrad"
    except RuntimeError:
        return None


def _wait_for_end_of_input(stop: threading.Event) -> None:
    # Not by sys.stdin, whose lock a thread that waits for it holds: Python would abort at its end.
    while os.read(0, 4096):
        pass
    stop.set()


def _check_free(host: str, port: int, address: str) -> None:
    """Binds the address for a moment: gRPC would only say that it failed, and not why."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except (OSError, UnicodeError) as error:
        # A UnicodeError: a name that is too long to be looked up.
        told = getattr(error, "strerror", error)
        raise InvalidInputError("address", f"cannot listen on {address}: {told}") from error


def _lock(data_dir: Path) -> int:
    """Takes the data directory for this process; returns the descriptor that holds it.

    Raises:
        InvalidInputError: Another server holds it, or its file system has no locks; its field is `data_dir`.
        OSError: It cannot be made or written.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            raise InvalidInputError("data_dir", f"{data_dir} is in use by another handgrad server") from None
        raise InvalidInputError(
            "data_dir",
            f"{data_dir} cannot be locked: {error.strerror}; choose a folder of a local disk, or a network's that "
            "has locks",
        ) from error
    return descriptor
