"""Certificates that a server keeps: one for each network and loss, made once."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from handgrad.core.network import CROSS_ENTROPY, LOSSES, Loss, make_network
from handgrad.core.operations.affine import Affine
from handgrad.core.operations.base import Operation
from handgrad.core.verification import Certificate, certify
from handgrad.server.certificates import VERSION, Certificates, certificate_to_json
from handgrad.server.convert import certificate_to_proto
from handgrad.server.storage import Storage, network_to_json

NETWORK = make_network([Affine()], (4,), 3)
SQUARED = Loss("squared_error")
SMOOTHED = Loss(smoothing=0.1)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    storage = Storage(tmp_path, 2**20)
    yield storage
    storage.close()


def scaled(operation: Operation) -> Operation:
    """Returns a loss whose gradient is twice what it should be."""

    def bwd(residuals: Any, g: Any, **settings: Any) -> Any:
        right = operation.bwd(residuals, g, **settings)[0]
        assert right is not None
        return 2 * right, None

    return replace(operation, bwd=bwd)


def test_a_certificate_is_of_the_gradients_of_its_loss(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, SQUARED.name, scaled(LOSSES[SQUARED.name]))
    certificates = Certificates(storage)
    found = {loss: certificates.of(NETWORK, loss) for loss in (CROSS_ENTROPY, SMOOTHED, SQUARED)}
    told = {loss: (each.passed, each.loss) for loss, each in found.items() if each}
    assert told == {
        CROSS_ENTROPY: (True, "softmax_cross_entropy"),
        SMOOTHED: (True, "softmax_cross_entropy, label_smoothing 0.1"),
        SQUARED: (False, "squared_error"),
    }
    for loss, certificate in found.items():
        proto = certificate_to_proto(certificate)
        assert proto
        assert proto.loss == loss.title


def test_each_is_made_once_and_kept(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Loss] = []

    def counted(network: Any, *, loss: Loss) -> Certificate:
        made.append(loss)
        return certify(network, loss=loss)

    monkeypatch.setattr("handgrad.server.certificates.certify", counted)
    losses = (CROSS_ENTROPY, SMOOTHED, SQUARED)
    first = [Certificates(storage).of(NETWORK, loss) for loss in losses]
    assert [Certificates(storage).of(NETWORK, loss) for loss in losses] == first
    assert made == list(losses)
    assert Certificates(storage).of(NETWORK) == first[0]


def test_one_from_before_losses_were_told_is_of_the_plain_cross_entropy(storage: Storage) -> None:
    body = asdict(certify(NETWORK, seed=5))
    del body["loss"]
    with storage.database.transaction() as writer:
        writer.execute(
            "INSERT INTO certificates VALUES (?, ?, ?)", (network_to_json(NETWORK), VERSION, json.dumps(body))
        )
    kept, other = Certificates(storage).of(NETWORK), Certificates(storage).of(NETWORK, SQUARED)
    assert kept
    assert (kept.seed, kept.loss) == (5, "softmax_cross_entropy")
    assert other
    assert (other.seed, other.loss) == (0, "squared_error")
    assert json.loads(certificate_to_json(other))["loss"] == "squared_error"
