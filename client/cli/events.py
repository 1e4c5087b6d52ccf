"""What commands tell programs: a function for each kind of event, so that a kind has the same fields everywhere.

A field that does not apply is null, as `sweep` in the end of a job that was asked for alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handgrad.client.client import Evaluation, Prediction
from handgrad.client.network import title
from handgrad.client.signature import takes
from handgrad.client.sweep import measure_of
from handgrad.client.text import encodable
from handgrad.v1 import certificate_pb2, dataset_pb2, job_pb2, network_pb2, params_pb2, sweep_pb2, tensor_pb2
from handgrad.v1 import training_service_pb2 as pb

Event = dict[str, Any]


def state_of(state: job_pb2.JobState.ValueType) -> str:
    """Returns a state as a word."""
    return job_pb2.JobState.Name(state).removeprefix("JOB_STATE_").lower()


def optimizer_of(config: job_pb2.TrainConfig) -> str:
    """Returns the optimizer's name as people say it."""
    return "momentum" if config.optimizer == "sgd" and config.momentum else config.optimizer


def note(text: str) -> Event:
    """What was assumed, or looks wrong."""
    return {"event": "note", "text": text}


def job(info: job_pb2.Job) -> Event:
    """A job as it stands."""
    config = info.config
    return {
        "event": "job",
        "job": info.job,
        "model": info.model,
        "dataset": info.dataset,
        "network": title(config.network),
        "epochs": config.epochs,
        "iterations": info.iterations,
        "batch_size": config.batch_size,
        "optimizer": optimizer_of(config),
        "learning_rate": config.learning_rate,
        "loss": config.loss,
        "seed": config.seed,
        "takes": takes(info.signature),
        "state": state_of(info.state),
        "iteration": info.iteration,
        "version": info.version,
        "params_sha256": info.params_sha256,
        "client": info.client,
        "resumes": info.resumes,
        "error": info.error,
    }


def epoch(found: job_pb2.Epoch) -> Event:
    """An epoch that ended."""
    validated = found.HasField("validation_loss")
    return {
        "event": "epoch",
        "epoch": found.epoch,
        "mean_loss": found.mean_loss,
        "seconds": found.seconds,
        "validation_loss": found.validation_loss if validated else None,
        "validation_accuracy": found.validation_accuracy if validated else None,
    }


def iteration(number: int, loss: float) -> Event:
    """The loss of an iteration."""
    return {"event": "iteration", "iteration": number, "loss": loss}


def done(info: job_pb2.Job) -> Event:
    """A job that succeeded."""
    return _end("done", info)


def failed(info: job_pb2.Job) -> Event:
    """A job that failed."""
    return _end("failed", info) | {"error": info.error}


def cancelled(info: job_pb2.Job) -> Event:
    """A job that was cancelled."""
    return _end("cancelled", info) | {"error": info.error}


def _end(kind: str, info: job_pb2.Job) -> Event:
    made = {"model": info.model, "version": info.version, "params_sha256": info.params_sha256}
    return {"event": kind, "job": info.job, "sweep": None, **made}


def sweep_done(info: sweep_pb2.Sweep, version: params_pb2.ParamsVersion) -> Event:
    """A sweep that succeeded; its job is the best member's."""
    best = next((member.job for member in info.members if member.rank == 1), None)
    made = {"model": info.model, "version": info.version, "params_sha256": version.params_sha256}
    return {"event": "done", "job": best, "sweep": info.sweep, **made}


def sweep_without_best(info: sweep_pb2.Sweep) -> Event:
    """A sweep that failed, or was cancelled before it had a best member."""
    made = {"model": info.model, "version": info.version, "params_sha256": ""}
    return {"event": state_of(info.state), "job": None, "sweep": info.sweep, **made, "error": info.error}


def cancel(info: job_pb2.Job) -> Event:
    """A job that was asked to stop."""
    return {"event": "cancel", "job": info.job, "sweep": None, "state": state_of(info.state)}


def cancel_sweep(info: sweep_pb2.Sweep) -> Event:
    """A sweep whose members were asked to stop."""
    return {"event": "cancel", "job": None, "sweep": info.sweep, "state": state_of(info.state)}


def sweep(info: sweep_pb2.Sweep) -> Event:
    """A sweep as it stands; a list of sweeps does not have their members."""
    return {
        "event": "sweep",
        "sweep": info.sweep,
        "members": len(info.members) or None,
        "model": info.model,
        "version": info.version,
        "dataset": info.dataset,
        "client": info.client,
        "state": state_of(info.state),
        "error": info.error,
    }


def member(info: sweep_pb2.Sweep, found: sweep_pb2.SweepMember, settings: Mapping[str, str]) -> Event:
    """A member of a sweep, with the settings that it has of its own."""
    newest = found.epoch
    has_epoch, validated = found.HasField("epoch"), newest.HasField("validation_loss")
    return {
        "event": "member",
        "rank": found.rank or None,
        "job": found.job,
        "model": found.model,
        "state": state_of(found.state),
        "settings": dict(settings),
        "epochs": newest.epoch,
        "mean_loss": newest.mean_loss if has_epoch else None,
        "validation_loss": newest.validation_loss if validated else None,
        "validation_accuracy": newest.validation_accuracy if validated else None,
        "measure": measure_of(info),
        "mean_of_seeds": info.mean_of_seeds,
        "measured": found.measured if found.HasField("measured") else None,
        "error": found.error,
    }


def evaluation(found: Evaluation, split: str) -> Event:
    """How well a model does on a split."""
    return {
        "event": "evaluation",
        "split": split,
        "model": found.version.model,
        "version": found.version.version,
        "loss": found.loss,
        "loss_name": found.loss_name,
        "accuracy": found.accuracy,
        "images": found.images,
        "confusion": found.confusion.tolist(),
    }


def prediction(image: str, found: Prediction, index: int) -> Event:
    """What a model takes an image for: one of a prediction's."""
    outputs, label = found.outputs[index].tolist(), int(found.labels[index])
    return {
        "event": "prediction",
        "image": encodable(image),
        "label": label,
        "class_name": found.class_name(label),
        "probabilities": outputs if found.kind == "probabilities" else None,
        "scores": outputs if found.kind == "scores" else None,
        "model": found.version.model,
        "version": found.version.version,
    }


def save(file: Path, version: params_pb2.ParamsVersion) -> Event:
    """A parameter file that was written here."""
    return {
        "event": "save",
        "file": encodable(str(file)),
        "model": version.model,
        "version": version.version,
        "params_sha256": version.params_sha256,
    }


def plot(file: Path) -> Event:
    """A plot that was written here."""
    return {"event": "plot", "file": encodable(str(file))}


def model(found: params_pb2.Model) -> Event:
    """A model, and its newest version."""
    newest = found.newest
    return {
        "event": "model",
        "model": found.model,
        "network": title(found.network),
        "takes": takes(newest.signature) if newest.version else None,
        "version": newest.version,
        "params_sha256": newest.params_sha256,
        "loss": newest.loss if newest.HasField("loss") else None,
        "versions": list(found.versions),
        "job": found.job,
    }


def checkpoint(saved: params_pb2.Checkpoint) -> Event:
    """A checkpoint of the server's."""
    return {
        "event": "checkpoint",
        "checkpoint": saved.checkpoint,
        "network": title(saved.network),
        "takes": takes(saved.signature),
        "model": saved.model,
        "version": saved.version,
        "params_sha256": saved.params_sha256,
        "optimizer_state": saved.optimizer_state,
        "certified": saved.certificate.passed if saved.HasField("certificate") else None,
        "size_bytes": saved.size_bytes,
    }


def load(loaded: pb.LoadParamsResponse) -> Event:
    """A checkpoint that became a version of a model."""
    version = loaded.params_version
    return {
        "event": "load",
        "model": version.model,
        "version": version.version,
        "params_sha256": version.params_sha256,
        "certified": loaded.certificate.passed if loaded.HasField("certificate") else None,
    }


def dataset(found: dataset_pb2.Dataset) -> Event:
    """A data set of the server's."""
    return {
        "event": "dataset",
        "dataset": found.dataset,
        "train_images": found.train_images,
        "test_images": found.test_images,
        "image_shape": list(found.image_shape),
        "classes": found.classes,
        "class_names": list(found.class_names),
        "data_type": "uint8" if found.data_type == tensor_pb2.DATA_TYPE_UINT8 else "float32",
        "low": found.low,
        "high": found.high,
        "sha256": found.sha256,
        "size_bytes": found.size_bytes,
    }


def deleted(name: str) -> Event:
    """A model, a checkpoint or a data set that was deleted."""
    return {"event": "deleted", "name": name}


def layer(found: network_pb2.LayerDescription) -> Event:
    """A layer of a network."""
    return {
        "event": "layer",
        "position": found.position,
        "kind": found.kind,
        "input_shape": list(found.input_shape),
        "output_shape": list(found.output_shape),
        "parameters": found.parameters,
        "flops": found.flops,
    }


def network(found: pb.DescribeNetworkResponse) -> Event:
    """A network."""
    return {
        "event": "network",
        "network": title(found.network),
        "parameters": found.parameters,
        "flops": found.flops,
    }


def check(found: certificate_pb2.ArrayCheck) -> Event:
    """The check of one gradient."""
    return {
        "event": "check",
        "part": found.part,
        "array": found.name,
        "shape": list(found.shape),
        "passed": found.passed,
        "autodiff_max": found.autodiff_max,
        "autodiff_typical": found.autodiff_typical,
        "differences_max": found.differences_max,
        "float32_max": found.float32_max,
        "float32_typical": found.float32_typical,
    }


def certificate(found: certificate_pb2.Certificate) -> Event:
    """The verdict on all gradients that were checked."""
    return {
        "event": "certificate",
        "passed": found.passed,
        "checks": len(found.checks),
        "loss": found.loss,
        "data": found.data,
        "seed": found.seed,
    }
