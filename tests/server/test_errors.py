"""Errors on their way from the server to the client; test_surface holds the two tables against each other."""

import threading

import numpy as np
import pytest

import handgrad
from handgrad.client import client
from handgrad.server import service


def test_a_deadline_that_passes_is_told(monkeypatch: pytest.MonkeyPatch, hg: handgrad.Client, tiny: str) -> None:
    hg.upload_params({"W_1": np.ones((3, 12)), "b_1": np.ones((3, 1))}, "mine")
    answer = threading.Event()
    monkeypatch.setattr(service, "evaluate", lambda *_: answer.wait(30))
    monkeypatch.setattr(client, "CALL_SECONDS", 0.1)
    with pytest.raises(handgrad.DeadlineError):
        hg.evaluate("mine", dataset=tiny)
    answer.set()
