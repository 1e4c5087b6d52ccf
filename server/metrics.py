"""Prometheus metrics, over HTTP: https://prometheus.io/docs/instrumenting/exposition_formats/."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from handgrad.core.errors import InvalidInputError
from handgrad.server.settings import join_address, split_address

log = logging.getLogger(__name__)

M = TypeVar("M", Counter, Histogram)

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """What a server counts. Every method may be called by any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._children: dict[tuple[int | str, ...], Any] = {}
        self._iterations = Counter("handgrad_iterations", "Iterations trained.", registry=self.registry)
        self._lock = threading.Lock()
        self._rates: dict[str, float] = {}
        self._rate = Gauge("handgrad_iterations_per_second", "Of all running jobs together.", registry=self.registry)
        self._loss = Gauge(
            "handgrad_loss", "Of the newest iterations of whichever job trained last.", registry=self.registry
        )
        self._versions = Counter("handgrad_versions_published", "Versions published.", registry=self.registry)
        self._failures = Counter("handgrad_storage_errors", "Writes that the disk refused.", registry=self.registry)
        self._calls = Counter("handgrad_rpcs", "Calls that ended.", ["method", "code"], registry=self.registry)
        self._seconds = Histogram(
            "handgrad_rpc_seconds", "How long calls took.", ["method"], buckets=SECONDS, registry=self.registry
        )
        self._sent = Counter("handgrad_rpc_sent_bytes", "Bytes of the answers.", ["method"], registry=self.registry)

    def count_jobs(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Takes the function that gives the number of jobs in each state, called at each scrape."""
        self.registry.register(_Jobs(counts))

    def trained(self, job: str, iterations: int, rate: float, loss: float) -> None:
        """Counts iterations of a job, and takes its iterations a second and its newest loss."""
        self._iterations.inc(iterations)
        self._loss.set(loss)
        with self._lock:
            self._rates[job] = rate
            self._rate.set(sum(self._rates.values()))

    def paused(self, job: str) -> None:
        """Takes note that a job does not run any more, or not now; others may."""
        with self._lock:
            self._rates.pop(job, None)
            self._rate.set(sum(self._rates.values()))

    def published(self) -> None:
        """Counts a version."""
        self._versions.inc()

    def storage_failed(self) -> None:
        """Counts a write that the disk refused."""
        self._failures.inc()

    def sent(self, method: str, size_bytes: int) -> None:
        """Counts the bytes of an answer."""
        self._child(self._sent, method).inc(size_bytes)

    def ended(self, method: str, code: str, seconds: float) -> None:
        """Counts a call that ended."""
        self._child(self._calls, method, code).inc()
        self._child(self._seconds, method).observe(seconds)

    def _child(self, family: M, *labels: str) -> M:
        """Gives a family's metric of these labels, without the lock that the family takes to find it."""
        key: tuple[int | str, ...] = (id(family), *labels)
        if key not in self._children:
            self._children[key] = family.labels(*labels)
        child: M = self._children[key]
        return child

    def serve(self, address: str) -> Callable[[], None]:
        """Serves them at an address; gives the function that ends it.

        Raises:
            InvalidInputError: The address cannot be used; its field is `metrics_address`.
        """
        host, port = split_address(address, "metrics_address")
        try:
            server, thread = start_http_server(port, host, self.registry)
        except (OSError, UnicodeError) as error:
            # A UnicodeError: a name that is too long to be looked up.
            told = getattr(error, "strerror", error)
            raise InvalidInputError("metrics_address", f"cannot listen on {address}: {told}") from error
        log.info("metrics on http://%s/metrics", join_address(host, server.server_port))

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop


class _Jobs(Collector):
    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Gives the number of jobs in each state."""
        family = GaugeMetricFamily("handgrad_jobs", "Jobs by state.", labels=["state"])
        for state, count in self._counts().items():
            family.add_metric([state], count)
        yield family
