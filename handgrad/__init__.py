"""Trains small neural networks with gradients derived by hand, as a gRPC service.

import handgrad

with handgrad.connect() as hg:
    job = hg.train("report", epochs=1)
    job.wait()
    params = job.params()
"""

from handgrad.client.client import Client, Evaluation, Prediction, connect
from handgrad.client.errors import (
    AlreadyExistsError,
    DamagedError,
    DeadlineError,
    ExhaustedError,
    HandgradError,
    InvalidArgumentError,
    JobCancelledError,
    JobError,
    JobFailedError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    ServerError,
    SweepError,
    UnauthenticatedError,
    UnavailableError,
)
from handgrad.client.job import Job
from handgrad.client.params import Params
from handgrad.client.sweep import Halving, Sweep, grid

__version__ = "0.1.0"

__all__ = [
    "AlreadyExistsError",
    "Client",
    "DamagedError",
    "DeadlineError",
    "Evaluation",
    "ExhaustedError",
    "Halving",
    "HandgradError",
    "InvalidArgumentError",
    "Job",
    "JobCancelledError",
    "JobError",
    "JobFailedError",
    "NotFoundError",
    "Params",
    "PermissionDeniedError",
    "PreconditionError",
    "Prediction",
    "ServerError",
    "Sweep",
    "SweepError",
    "UnauthenticatedError",
    "UnavailableError",
    "__version__",
    "connect",
    "grid",
]
