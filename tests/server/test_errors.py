"""One table maps errors to status codes, and the client's is its mirror."""

import threading

import grpc
import numpy as np
import pytest

import handgrad
from handgrad.client import client
from handgrad.client.errors import ERRORS
from handgrad.server import errors, service


def test_the_clients_table_mirrors_the_servers() -> None:
    # The deadline is gRPC's own: no server sends it.
    assert set(ERRORS) == set(errors.STATUS_CODES.values()) | {grpc.StatusCode.DEADLINE_EXCEEDED}


def test_every_error_of_the_service_is_in_the_table() -> None:
    assert set(errors.ServiceError.__subclasses__()) <= set(errors.STATUS_CODES)


def test_names_that_are_equal_mean_the_same() -> None:
    for kind, code in errors.STATUS_CODES.items():
        if same := getattr(handgrad, kind.__name__, None):
            assert ERRORS[code] is same


def test_a_deadline_that_passes_is_told(monkeypatch: pytest.MonkeyPatch, hg: handgrad.Client, tiny: str) -> None:
    hg.upload_params({"W_1": np.ones((3, 12)), "b_1": np.ones((3, 1))}, "mine")
    answer = threading.Event()
    monkeypatch.setattr(service, "evaluate", lambda *_: answer.wait(30))
    monkeypatch.setattr(client, "CALL_SECONDS", 0.1)
    with pytest.raises(handgrad.DeadlineError):
        hg.evaluate("mine", dataset=tiny)
    answer.set()
