"""A server that is killed at random moments loses nothing: `make crash-test` kills it 100 times."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crashes import Killable, Saver, Watcher, losses, told

import handgrad
from handgrad.v1 import job_pb2, params_pb2
from handgrad.v1 import training_service_pb2 as pb

SNAPSHOTS = ("--snapshot-seconds", "0.05")
# A batch size that does not divide the images, an optimizer with state, publications between the epochs' ends.
REQUEST = pb.TrainRequest(
    config=job_pb2.TrainConfig(
        batch_size=128, epochs=4, learning_rate=0.005, momentum=0.9, publish_every_iterations=200
    )
)
LONGEST_LIFE_SECONDS = 2.0


def undisturbed_run(data_dir: Path) -> tuple[list[tuple[Any, ...]], list[float]]:
    """Gives the history and the losses of a run that nothing disturbs."""
    watcher = Watcher(Killable(data_dir, *SNAPSHOTS), "job-1")
    with watcher.server.running() as stub:
        watcher.events = [response.event for response in stub.Train(REQUEST) if response.event.sequence]
        watcher.check()
        assert watcher.events[-1].finished.state == job_pb2.JOB_STATE_SUCCEEDED
        return told(watcher.events), losses(stub, "job-1")


def submit(server: Killable, number: int) -> Watcher:
    """Starts a job, twice: the id makes it safe, for the answer to the first try may be what a kill took."""
    asked = pb.TrainRequest(model=f"model-{number}", request_id=f"request-{number}")
    asked.MergeFrom(REQUEST)
    assert server.stub is not None
    names = {next(iter(server.stub.Train(asked, timeout=60))).event.accepted.job for _ in range(2)}
    assert names == {f"job-{number}"}
    return Watcher(server, f"job-{number}")


def test_a_server_that_is_killed_loses_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kills, seed = (int(str(request.config.getoption(name))) for name in ("--crashes", "--crash-seed"))
    moments = np.random.default_rng(seed).uniform(0, LONGEST_LIFE_SECONDS, kills)
    history, all_losses = undisturbed_run(tmp_path / "undisturbed")

    server = Killable(tmp_path / "killed", *SNAPSHOTS)
    watchers: list[Watcher] = []
    saver = Saver(server, lambda: f"model-{len(watchers)}" if watchers else "")
    stopped = threading.Event()
    with ThreadPoolExecutor(max_workers=kills + 2) as threads:
        threads.submit(saver.save, stopped)
        try:
            for moment in moments:
                with server.running():
                    if not watchers or watchers[-1].finished():
                        watchers.append(submit(server, len(watchers) + 1))
                        threads.submit(watchers[-1].watch, stopped)
                    time.sleep(moment)
                    server.end(signal.SIGKILL)
            with server.running() as stub:
                deadline = time.monotonic() + 120
                while not all(watcher.finished() for watcher in watchers) and time.monotonic() < deadline:
                    time.sleep(0.05)
                stopped.set()
                resumes = 0
                for watcher in watchers:
                    watcher.check()
                    # The same epochs, versions, hashes and losses, in the same order, as if nothing had happened.
                    assert told(watcher.events) == history
                    assert losses(stub, watcher.job) == all_losses
                    resumes += stub.GetJob(pb.GetJobRequest(job=watcher.job)).job.resumes
                assert resumes > 0
                assert saver.answered
                saver.check(stub)
        finally:
            stopped.set()
    print(
        f"{kills} kills (--crash-seed {seed}): {len(watchers)} jobs, resumed {resumes} times, each to the same bits; "
        f"{sum(len(watcher.events) for watcher in watchers)} events without a gap or a repeat; "
        f"{len(saver.answered)} saves, all there"
    )


def test_the_client_goes_on_where_it_was_when_its_server_was_killed(tmp_path: Path, free_port: int) -> None:
    server = Killable(tmp_path / "data", *SNAPSHOTS, "--address", f"127.0.0.1:{free_port}")
    versions: list[int] = []
    epochs: list[int] = []
    with server.running(), handgrad.connect(f"127.0.0.1:{free_port}") as hg:
        job = hg.train(batch_size=128, epochs=6, momentum=0.9, learning_rate=0.005)
        for event in job.events():
            if isinstance(event, job_pb2.Epoch):
                epochs.append(event.epoch)
                if event.epoch == 2:
                    server.end(signal.SIGKILL)
                    threading.Thread(target=server.start).start()
            elif isinstance(event, params_pb2.ParamsVersion):
                versions.append(event.version)
        assert epochs == [1, 2, 3, 4, 5, 6]
        assert versions == [1, 2, 3, 4, 5, 6, 7]
        assert job.wait().resumes == 1
        server.end(signal.SIGTERM)
