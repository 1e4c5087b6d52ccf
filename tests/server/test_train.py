"""Train, CancelJob, GetLoss: jobs through a real server and the real client."""

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import handgrad
from handgrad.client.network import fully_connected, network_to_proto, title
from handgrad.core import training
from handgrad.server import convert, service
from handgrad.server.app import Server
from handgrad.server.settings import Settings
from handgrad.v1 import job_pb2, signature_pb2
from handgrad.v1 import training_service_pb2 as pb

# On the data set `tiny`: 7 iterations an epoch, the last one of 5 images.
SETTINGS: dict[str, Any] = {"hidden": [4], "batch_size": 10, "learning_rate": 0.1, "transform": "unit"}
LONG: dict[str, Any] = SETTINGS | {"epochs": 100_000}


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within 30 s")


def test_the_stream_tells_everything_in_order(hg: handgrad.Client, tiny: str) -> None:
    request = pb.TrainRequest(
        dataset=tiny,
        config=job_pb2.TrainConfig(
            network=network_to_proto(fully_connected([4])), batch_size=10, epochs=3, learning_rate=0.1
        ),
    )
    responses = [response.event for response in hg._stub.Train(request)]
    kinds = [response.WhichOneof("event") for response in responses]
    assert kinds[0] == "accepted"
    assert kinds[-1] == "finished"
    history = [kind for kind in kinds if kind != "progress"]
    assert history == ["accepted", "started", "published", *["epoch", "published"] * 3, "finished"]
    assert [response.sequence for response in responses if response.sequence] == list(range(1, len(history) + 1))
    assert [response.epoch.epoch for response in responses if response.HasField("epoch")] == [1, 2, 3]
    iterations = [response.progress.iteration for response in responses if response.HasField("progress")]
    assert iterations == sorted(set(iterations))

    accepted, finished = responses[0].accepted, responses[-1].finished
    assert accepted.job == finished.job
    assert accepted.config == finished.config
    config = finished.config
    assert title(config.network) == "12-4-3"
    assert (config.batch_size, config.epochs, config.learning_rate, config.seed) == (10, 3, 0.1, 0)
    assert finished.signature.inputs.transform == signature_pb2.TRANSFORM_IDENTITY
    assert finished.state == job_pb2.JOB_STATE_SUCCEEDED
    assert (finished.iteration, finished.iterations, finished.iterations_per_epoch) == (21, 21, 7)
    assert finished.create_time.ToNanoseconds() <= finished.start_time.ToNanoseconds()
    assert finished.start_time.ToNanoseconds() < finished.end_time.ToNanoseconds()


def test_versions_are_published_before_the_first_iteration_and_at_each_epochs_end(
    hg: handgrad.Client, tiny: str
) -> None:
    job = hg.train(dataset=tiny, epochs=2, **SETTINGS)
    assert job.wait().version == 3
    versions = [hg.get_params(job.model, number).version for number in (1, 2, 3)]
    assert [version.iteration for version in versions] == [0, 7, 14]
    assert not versions[0].HasField("loss")
    losses = job.losses()
    assert [version.loss for version in versions[1:]] == pytest.approx([losses[6], losses[13]])
    assert {version.job for version in versions} == {job.name}
    assert job.info.params_sha256 == versions[2].params_sha256
    assert len({version.params_sha256 for version in versions}) == 3


def test_params_are_published_as_often_as_asked(hg: handgrad.Client, tiny: str) -> None:
    job = hg.train(dataset=tiny, epochs=2, publish_every_iterations=3, **SETTINGS)
    last = job.wait().version
    iterations = [hg.get_params(job.model, number).version.iteration for number in range(1, last + 1)]
    assert iterations == [0, 3, 6, 7, 9, 12, 14]


def test_two_servers_give_the_same_bits(hg: handgrad.Client, tiny: str, tmp_path: Any, tiny_folder: Any) -> None:
    first = hg.train(dataset=tiny, epochs=2, seed=3, **SETTINGS).wait()
    again = hg.train(dataset=tiny, epochs=2, seed=3, publish_every_iterations=2, **SETTINGS).wait()
    other = Server("127.0.0.1:0", tmp_path / "other")
    try:
        with handgrad.connect(other.address) as elsewhere:
            dataset = elsewhere.upload_dataset(tiny_folder).dataset
            second = elsewhere.train(dataset=dataset, epochs=2, seed=3, **SETTINGS).wait()
            different = elsewhere.train(dataset=dataset, epochs=2, seed=4, **SETTINGS).wait()
    finally:
        other.stop()
    assert first.params_sha256 == again.params_sha256 == second.params_sha256
    assert different.params_sha256 != first.params_sha256


def test_a_model_that_exists_is_trained_on(hg: handgrad.Client, tiny: str) -> None:
    hg.train(dataset=tiny, model="digits", epochs=2, **SETTINGS).wait()
    # Without a network and a transform: those of the model.
    info = hg.train(dataset=tiny, model="digits", epochs=1, batch_size=10, learning_rate=0.1).wait()
    assert info.version == 4
    assert title(info.config.network) == "12-4-3"
    assert info.signature.inputs.transform == signature_pb2.TRANSFORM_UNIT
    before, after = hg.get_params("digits", 3), hg.get_params("digits", 4)
    assert not np.array_equal(before.arrays["W_1"], after.arrays["W_1"])
    np.testing.assert_allclose(before.arrays["W_1"], after.arrays["W_1"], atol=0.2)
    with pytest.raises(handgrad.PreconditionError, match="digits has another network, 12-4-3, not 12-5-3"):
        hg.train(dataset=tiny, model="digits", hidden=[5], batch_size=10)


def test_jobs_run_in_the_order_in_which_they_came(hg: handgrad.Client, tiny: str) -> None:
    jobs = [hg.train(dataset=tiny, epochs=50, **SETTINGS) for _ in range(3)]
    infos = [job.wait() for job in jobs]
    for earlier, later in pairwise(infos):
        assert earlier.end_time.ToNanoseconds() <= later.start_time.ToNanoseconds()


def test_a_run_that_diverges_fails_and_keeps_its_last_finite_params(hg: handgrad.Client, tiny: str) -> None:
    # The loss itself stays finite at any finite params; a step of this size leaves float32's range.
    job = hg.train(dataset=tiny, hidden=[], learning_rate=1e38, batch_size=10, publish_every_iterations=1, epochs=3)
    with pytest.raises(handgrad.JobFailedError, match=r"diverged.*iteration \d+.*smaller learning_rate") as raised:
        job.wait()
    info = raised.value.job
    assert info.state == job_pb2.JOB_STATE_FAILED
    assert f"version {info.version} holds the last finite params" in info.error
    assert all(np.isfinite(array).all() for array in job.params().arrays.values())
    assert hg.train(dataset=tiny, epochs=1, **SETTINGS).wait().state == job_pb2.JOB_STATE_SUCCEEDED


def test_a_running_job_is_cancelled_and_keeps_what_it_published(hg: handgrad.Client, tiny: str) -> None:
    job = hg.train(dataset=tiny, **LONG)
    next(event for event in job.events() if isinstance(event, job_pb2.Epoch))
    job.cancel()
    with pytest.raises(handgrad.JobCancelledError, match="CancelJob") as raised:
        job.wait()
    assert raised.value.job.state == job_pb2.JOB_STATE_CANCELLED
    assert job.params().version.version == raised.value.job.version >= 2
    # Once more, and after its end: nothing changes.
    assert hg.cancel_job(job.name).end_time == raised.value.job.end_time


def test_a_waiting_job_is_cancelled_at_once(hg: handgrad.Client, tiny: str) -> None:
    running, waiting = hg.train(dataset=tiny, **LONG), hg.train(dataset=tiny, **LONG)
    waiting.cancel()
    with pytest.raises(handgrad.JobCancelledError) as raised:
        waiting.wait()
    assert not raised.value.job.HasField("start_time")
    assert hg.get_loss(running.name).job.state == job_pb2.JOB_STATE_RUNNING
    running.cancel()


def test_a_job_goes_on_when_its_caller_goes_away(server: Server, hg: handgrad.Client, tiny: str) -> None:
    with handgrad.connect(server.address) as other:
        name = other.train(dataset=tiny, epochs=300, **SETTINGS).name
    wait_until(lambda: hg.get_loss(name).job.state == job_pb2.JOB_STATE_SUCCEEDED)
    assert len(hg.get_losses(name)) == 2100


def test_a_full_queue_is_told(tmp_path: Path, tiny_folder: Path) -> None:
    server = Server("127.0.0.1:0", tmp_path / "data", max_queued_jobs=1)
    with handgrad.connect(server.address) as hg:
        hg.upload_dataset(tiny_folder, "tiny")
        running = hg.train(dataset="tiny", **LONG)
        wait_until(lambda: hg.get_job(running.name).state == job_pb2.JOB_STATE_RUNNING)
        hg.train(dataset="tiny", **LONG)
        with pytest.raises(handgrad.ExhaustedError, match="waiting already"):
            hg.train(dataset="tiny", **LONG)
    server.stop()


def test_a_repeated_request_starts_one_job(hg: handgrad.Client, tiny: str) -> None:
    first, second = (hg.train(dataset=tiny, epochs=2, request_id="the one", **SETTINGS) for _ in range(2))
    assert first.name == second.name
    assert first.wait() == second.wait()
    # Also after its end; and another request with the same id is another's.
    assert hg.train(dataset=tiny, epochs=2, request_id="the one", **SETTINGS).wait() == first.info
    with pytest.raises(handgrad.AlreadyExistsError, match="'the one' was used for another request, job-1"):
        hg.train(dataset=tiny, epochs=3, request_id="the one", **SETTINGS)
    # An id is its client's alone.
    other = hg.train(dataset=tiny, epochs=2, request_id="the one", client="other", **SETTINGS)
    assert other.name != first.name
    assert other.wait().client == "other"
    assert len(list(hg.list_jobs())) == 2
    with pytest.raises(handgrad.InvalidArgumentError, match="at most 128 bytes") as raised:
        hg.train(dataset=tiny, request_id="x" * 129)
    assert raised.value.field == "request_id"


def test_a_job_is_watched_from_any_point_of_its_history(hg: handgrad.Client, tiny: str) -> None:
    job = hg.train(dataset=tiny, epochs=3, **SETTINGS)
    job.wait()
    whole = [event for event in hg.watch_job(job.name) if event.sequence]
    assert [event.sequence for event in whole] == list(range(1, 11))
    for after in range(10):
        assert list(hg.watch_job(job.name, after)) == whole[after:]
    assert list(hg.watch_job(job.name, 10)) == []
    for wrong in (-1, 11):
        with pytest.raises(handgrad.InvalidArgumentError, match="from 0 to 10") as raised:
            list(hg.watch_job(job.name, wrong))
        assert raised.value.field == "after_sequence"
    assert [type(event) for event in hg.job(job.name).events()] == [type(event) for event in job_events(whole)]


def job_events(history: list[job_pb2.JobEvent]) -> list[object]:
    return [getattr(event, kind) for event in history if (kind := event.WhichOneof("event")) in ("epoch", "published")]


def test_jobs_are_listed_in_pages(monkeypatch: pytest.MonkeyPatch, hg: handgrad.Client, tiny: str) -> None:
    names = [
        hg.train(dataset=tiny, epochs=1, model=f"model-{n % 2}", client=f"client-{n % 3}", **SETTINGS).wait().job
        for n in range(6)
    ]
    last = hg.train(dataset=tiny, **LONG)
    names.append(last.name)
    monkeypatch.setattr(convert, "MAX_PAGE", 2)
    assert [job.job for job in hg.list_jobs()] == names[::-1]
    assert [job.job for job in hg.list_jobs(states=["queued", "running"])] == [last.name]
    assert [job.job for job in hg.list_jobs(states=["succeeded"], model="model-1", client="client-2")] == [names[5]]
    assert [job.job for job in hg.list_jobs(model="model-0")] == [names[4], names[2], names[0]]
    unknown: dict[str, Any] = {"states": [99]}
    first = hg._stub.ListJobs(pb.ListJobsRequest(page_size=1))
    assert [job.job for job in first.jobs] == [last.name]
    for request, field in (
        (pb.ListJobsRequest(page_size=-1), "page_size"),
        (pb.ListJobsRequest(page_token="x"), "page_token"),
        (pb.ListJobsRequest(page_token="9" * 30), "page_token"),
        (pb.ListJobsRequest(states=[job_pb2.JOB_STATE_UNSPECIFIED]), "states"),
        (pb.ListJobsRequest(**unknown), "states"),
    ):
        with pytest.raises(handgrad.InvalidArgumentError) as raised, hg._errors():
            hg._stub.ListJobs(request)
        assert raised.value.field == field
    last.cancel()


def test_a_job_may_end_with_the_call_that_asked_for_it(server: Server, hg: handgrad.Client, tiny: str) -> None:
    with handgrad.connect(server.address) as other:
        job = other.train(dataset=tiny, cancel_on_disconnect=True, **LONG)
        next(job.events())
    wait_until(lambda: hg.get_job(job.name).state == job_pb2.JOB_STATE_CANCELLED)
    assert hg.get_job(job.name).error == "its caller went away"
    # One that ended before its call did stays as it ended.
    with handgrad.connect(server.address) as other:
        done = other.train(dataset=tiny, cancel_on_disconnect=True, epochs=1, **SETTINGS).wait()
    assert hg.get_job(done.job).state == job_pb2.JOB_STATE_SUCCEEDED


def test_more_streams_than_there_are_threads_for_are_refused(server: Server, hg: handgrad.Client, tiny: str) -> None:
    bounds = Settings()
    with handgrad.connect(server.address) as other:
        # Such jobs keep their streams.
        jobs = [hg.train(dataset=tiny, cancel_on_disconnect=True, **LONG) for _ in range(bounds.max_streams_per_caller)]
        rest = bounds.max_streams - bounds.max_streams_per_caller
        jobs += [other.train(dataset=tiny, cancel_on_disconnect=True, **LONG) for _ in range(rest)]
        with pytest.raises(
            handgrad.ExhaustedError, match="48 streams are open already, as many as all callers together"
        ):
            other.train(dataset=tiny, **LONG)
        # Calls without a stream are still answered.
        assert hg.get_loss(jobs[0].name).job.job == jobs[0].name
        for job in reversed(jobs):
            job.cancel()
        for job in jobs:
            list(job.events())
            assert job.info.state == job_pb2.JOB_STATE_CANCELLED
    hg.train(dataset=tiny, epochs=1, **SETTINGS).wait()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"preset": "rapport"}, "preset"),
        ({"model": "a/b"}, "model"),
        ({"dataset": "../tiny"}, "dataset"),
        ({"hidden": [0]}, "network.layers[0].outputs"),
        ({"hidden": [5, 10**9]}, "network.layers[2].outputs"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 66}, "batch_size"),
        ({"epochs": -1}, "epochs"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": -0.5}, "learning_rate"),
        ({"seed": -1}, "seed"),
        ({"publish_every_iterations": -1}, "publish_every_iterations"),
    ],
)
def test_a_wrong_setting_is_named(hg: handgrad.Client, tiny: str, settings: dict[str, Any], field: str) -> None:
    arguments: dict[str, Any] = {"dataset": tiny, "batch_size": 10} | settings
    with pytest.raises(handgrad.InvalidArgumentError) as raised:
        hg.train(**arguments)
    assert raised.value.field == field
    assert str(raised.value).startswith(f"{field}: ")


def test_a_network_that_does_not_fit_the_data_set_is_refused(hg: handgrad.Client, tiny: str) -> None:
    for network, field in (
        (network_to_proto(fully_connected([4]), [13]), "network.input_shape"),
        (network_to_proto([{"kind": "affine", "outputs": 2}]), "network.layers"),
    ):
        with pytest.raises(handgrad.InvalidArgumentError) as raised, hg._errors():
            list(
                hg._stub.Train(
                    pb.TrainRequest(dataset=tiny, config=job_pb2.TrainConfig(network=network, batch_size=10))
                )
            )
        assert raised.value.field == field


def test_what_does_not_exist_is_told(hg: handgrad.Client) -> None:
    with pytest.raises(handgrad.NotFoundError, match=r"no data set 'nothing'; there are mnist"):
        hg.train(dataset="nothing")
    for call in (hg.get_loss, hg.cancel_job):
        with pytest.raises(handgrad.NotFoundError, match="no job 'job-9'"):
            call("job-9")


def test_losses_are_given_for_any_range(monkeypatch: pytest.MonkeyPatch, hg: handgrad.Client, tiny: str) -> None:
    job = hg.train(dataset=tiny, epochs=3, **SETTINGS)
    job.wait()
    losses = job.losses()
    assert losses.shape == (21,)
    for skip, limit in ((0, 0), (0, 5), (5, 5), (20, 5), (21, 1), (10**12, 1), (3, 10**12)):
        reply = hg.get_loss(job.name, skip=skip, limit=limit)
        np.testing.assert_array_equal(np.array(reply.losses, np.float32), losses[skip:][: limit or None])
        np.testing.assert_array_equal(hg.get_losses(job.name, skip=skip, limit=limit), losses[skip:][:limit])
    epochs = hg.get_loss(job.name, limit=1).epochs
    # Six mini-batches of ten images and one of five.
    weights = np.array([10] * 6 + [5])
    means = [np.average(part, weights=weights) for part in losses.reshape(3, 7)]
    assert [epoch.mean_loss for epoch in epochs] == pytest.approx(means, rel=1e-6)
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    monkeypatch.setattr(service, "LOSSES_PER_REPLY", 4)
    np.testing.assert_array_equal(job.losses(), losses)
    np.testing.assert_array_equal(hg.get_losses(job.name, skip=2, limit=9), losses[2:11])
    for field in ("skip", "limit"):
        with pytest.raises(handgrad.InvalidArgumentError) as raised:
            hg.get_loss(job.name, **{field: -1})
        assert raised.value.field == field


def test_a_fault_of_the_server_fails_the_job_and_not_the_server(
    monkeypatch: pytest.MonkeyPatch, hg: handgrad.Client, tiny: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a secret of the server")

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_together", fail)
        with pytest.raises(handgrad.JobFailedError, match="the server has a fault") as raised:
            hg.train(dataset=tiny, epochs=1, **SETTINGS).wait()
        assert "secret" not in raised.value.job.error
    hg.train(dataset=tiny, epochs=1, **SETTINGS).wait()
