"""No message of the server is over 4 MB, which is what gRPC receives, whatever is asked for."""

import numpy as np
import pytest

import handgrad
from handgrad.client.network import network_to_proto
from handgrad.core.config import MAX_EPOCHS, TrainConfig
from handgrad.core.network import MAX_OUTPUTS, fully_connected
from handgrad.core.signature import unknown
from handgrad.server import jobs as jobs_module
from handgrad.server.app import Server
from handgrad.server.jobs import Caller, Epoch, JobRequest, JobState
from handgrad.v1 import job_pb2
from handgrad.v1 import training_service_pb2 as pb


def test_the_losses_of_the_longest_job_fit(server: Server, hg: handgrad.Client) -> None:
    # As it stands after MAX_EPOCHS epochs of 10 iterations; training it would take minutes.
    config = TrainConfig(batch_size=10, epochs=MAX_EPOCHS, learning_rate=0.1)
    losses = np.linspace(2, 1, 10 * MAX_EPOCHS, dtype=np.float32)
    network, jobs = fully_connected(12, (), 3), server._worker._jobs
    with jobs._database.transaction() as writer:
        number = jobs_module.insert(
            writer, JobRequest("mine", "tiny", network, config, 100, unknown(network)), "mine", Caller("somebody")
        )
        job = jobs_module.job_of(writer.execute("SELECT * FROM jobs WHERE number = ?", (number,)).fetchone())
        jobs_module.advance(writer, job, len(losses), losses)
        for epoch in range(1, MAX_EPOCHS + 1):
            jobs_module.epoch_ended(writer, job, Epoch(epoch, 1.5, 0.01, 1.25, 0.5))
        jobs_module.end(writer, job, JobState.SUCCEEDED, "")
    reply = hg.get_loss(job.name)
    assert len(reply.epochs) == MAX_EPOCHS
    assert len(reply.losses) > 0
    np.testing.assert_array_equal(hg.get_losses(job.name), losses)


def test_an_evaluation_of_as_many_outputs_as_are_allowed_fits(hg: handgrad.Client, tiny: str) -> None:
    hg.upload_params({"W_1": np.zeros((MAX_OUTPUTS, 12)), "b_1": np.zeros((MAX_OUTPUTS, 1))}, "wide")
    assert hg.evaluate("wide", dataset=tiny).confusion.shape == (MAX_OUTPUTS, MAX_OUTPUTS)


def test_more_outputs_are_refused(hg: handgrad.Client, tiny: str) -> None:
    # The confusion matrix of 65,536 would have 4,294,967,296 counts.
    with pytest.raises(handgrad.InvalidArgumentError, match=r"network\.layers\[0\]\.outputs") as raised:
        hg.upload_params({"W_1": np.zeros((MAX_OUTPUTS + 1, 12)), "b_1": np.zeros((MAX_OUTPUTS + 1, 1))})
    assert raised.value.field == "arrays"
    config = job_pb2.TrainConfig(network=network_to_proto([{"kind": "affine", "outputs": 65_536}]), batch_size=10)
    with pytest.raises(handgrad.InvalidArgumentError) as raised, hg._errors():
        list(hg._stub.Train(pb.TrainRequest(dataset=tiny, config=config)))
    assert raised.value.field == "network.layers[0].outputs"


def test_a_network_may_have_more_outputs_than_the_data_set_has_classes(hg: handgrad.Client, tiny: str) -> None:
    hg.upload_params({"W_1": np.zeros((10, 12)), "b_1": np.zeros((10, 1))}, "ten")
    assert hg.evaluate("ten", dataset=tiny).confusion.shape == (10, 10)
    hg.train(dataset=tiny, model="ten", batch_size=10, epochs=1).wait()
