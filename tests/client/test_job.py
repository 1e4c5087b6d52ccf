"""A job as the one who started it sees it."""

from typing import Any

import numpy as np
import pytest

import handgrad
from handgrad.v1 import job_pb2, params_pb2

SETTINGS: dict[str, Any] = {"hidden": [4], "batch_size": 10, "learning_rate": 0.1, "transform": "unit"}


def test_its_events_are_epochs_and_progress(hg: handgrad.Client, tiny: str) -> None:
    job = hg.train(dataset=tiny, model="digits", epochs=3, **SETTINGS)
    assert (job.model, job.info.version, job.info.iterations) == ("digits", 0, 21)
    assert job.info.state == job_pb2.JOB_STATE_QUEUED
    events = list(job.events())
    assert [event.epoch for event in events if isinstance(event, job_pb2.Epoch)] == [1, 2, 3]
    assert [event.version for event in events if isinstance(event, params_pb2.ParamsVersion)] == [1, 2, 3, 4]
    assert job.info.state == job_pb2.JOB_STATE_SUCCEEDED
    assert job.info.version == 4


def test_waiting_after_the_end_gives_the_same(hg: handgrad.Client, tiny: str) -> None:
    job = hg.train(dataset=tiny, epochs=1, **SETTINGS)
    first = job.wait()
    assert job.wait() == first == job.info
    assert list(job.events()) == []


def test_waiting_goes_on_where_the_events_were_left(hg: handgrad.Client, tiny: str) -> None:
    job = hg.train(dataset=tiny, epochs=3, **SETTINGS)
    next(job.events())
    assert job.wait().state == job_pb2.JOB_STATE_SUCCEEDED


def test_its_losses_and_params_are_those_of_its_model(hg: handgrad.Client, tiny: str) -> None:
    job = hg.train(dataset=tiny, epochs=2, **SETTINGS)
    info = job.wait()
    losses = job.losses()
    assert losses.shape == (14,)
    assert losses.dtype == np.float32
    np.testing.assert_array_equal(losses, hg.get_losses(job.name))
    params = job.params()
    assert params.version.params_sha256 == info.params_sha256
    assert params.version.job == job.name
    assert params.version.loss == losses[-1]
    assert job.params(1).version.iteration == 0


@pytest.mark.parametrize("kind", [handgrad.JobFailedError, handgrad.JobCancelledError])
def test_one_that_does_not_succeed_raises_its_end(
    hg: handgrad.Client, tiny: str, kind: type[handgrad.JobError]
) -> None:
    if kind is handgrad.JobFailedError:
        job = hg.train(dataset=tiny, hidden=[], batch_size=10, learning_rate=1e38)
    else:
        job = hg.train(dataset=tiny, epochs=100_000, **SETTINGS)
        job.cancel()
    # Each time that it is asked.
    for _ in range(2):
        with pytest.raises(kind, match=f"^{job.name} ") as raised:
            job.wait()
        assert raised.value.job == job.info
        assert raised.value.job.error in str(raised.value)
        assert isinstance(raised.value, handgrad.JobError)


def test_cancelling_after_the_end_changes_nothing(hg: handgrad.Client, tiny: str) -> None:
    job = hg.train(dataset=tiny, epochs=1, **SETTINGS)
    info = job.wait()
    job.cancel()
    assert job.wait() == info
    assert hg.get_loss(job.name).job == info
