"""The streams that are open: bounded in all and for each caller, so that no caller takes all of them."""

import threading
from collections import Counter
from collections.abc import Callable

from handgrad.server.errors import ExhaustedError


class Streams:
    """Counts open streams, each of which holds a thread of the server's. Every method may be called by any thread."""

    def __init__(self, most: int, most_per_caller: int) -> None:
        """Takes how many may be open at once: in all, and of one caller."""
        self._most = most
        self._most_per_caller = most_per_caller
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()

    def open(self, caller: str) -> Callable[[], None]:
        """Counts a stream of a caller.

        Returns:
            The function that takes it off the count; only its first call does.

        Raises:
            ExhaustedError: The caller has as many open as one may have, or all callers together have.
        """
        with self._lock:
            if self._open[caller] >= self._most_per_caller:
                raise ExhaustedError(
                    f"{self._most_per_caller} streams are open already for this caller, as many as one caller may have "
                    "(--max-streams-per-caller of the server); end one of them first"
                )
            if self._open.total() >= self._most:
                raise ExhaustedError(
                    f"{self._most} streams are open already, as many as all callers together may have "
                    "(--max-streams of the server); try again when some have ended"
                )
            self._open[caller] += 1
        closed = threading.Event()

        def close() -> None:
            with self._lock:
                if closed.is_set():
                    return
                closed.set()
                self._open[caller] -= 1
                if not self._open[caller]:
                    del self._open[caller]

        return close
