"""Params in a caller's file: which network they are of, what their model takes, and what is assumed of it."""

import re
from dataclasses import dataclass

from handgrad.core.description import difference
from handgrad.core.errors import InvalidInputError
from handgrad.core.network import Network, make_network
from handgrad.core.operations.affine import Affine
from handgrad.core.parameter_files import ParameterFile, check_named_arrays
from handgrad.core.signature import Transform, from_json, unknown
from handgrad.server.errors import PreconditionError
from handgrad.server.models import Draft, Models
from handgrad.server.planning import NetworkRequest


@dataclass(frozen=True)
class Upload:
    """Params of a caller's file: what is to be published, their network, and what was assumed, a sentence each."""

    draft: Draft
    network: Network
    notes: list[str]


def plan_upload(
    content: ParameterFile,
    file: str,
    model: str,
    models: Models,
    *,
    asked: NetworkRequest | None = None,
    transform: Transform | None = None,
) -> Upload:
    """Finds the network and the signature of params in a caller's file.

    Args:
        content: What the file holds.
        file: Its name, for errors.
        model: The model that they are for; empty for a new one.
        models: The models.
        asked: The network that the caller says they are of; None where nothing is said.
        transform: From numbers to inputs, where the file does not say it.

    Raises:
        InvalidInputError: The arrays are not those of the network.
        PreconditionError: The model has another signature than the file.
    """
    held, told = models.network(model), content.network
    if asked:
        told = _network_of(asked, content, file)
    # A file that does not say what it holds is held against the model it is for, unless its arrays tell all.
    network, arrays = check_named_arrays(
        content.arrays, file, told or (None if held is None or held.is_fully_connected else held)
    )
    signature = from_json(content.signature, network, file) if content.signature else None
    notes: list[str] = []
    if signature and transform and transform != signature.transform:
        raise InvalidInputError("transform", f"the file says {signature.transform}; got {transform}")
    kept = models.signature(model)
    if signature and kept and not (kept.agrees(signature) and kept.loss == signature.loss):
        raise PreconditionError(
            f"model {model} takes {kept.takes} ({kept.transform}, {kept.loss}), and the params of {file} take "
            f"{signature.takes} ({signature.transform}, {signature.loss}); choose another name"
        )
    if signature is None and kept is None:
        signature = unknown(network, transform or "identity")
        kind = " with sigmoids" if content.network is None and network.is_fully_connected else ""
        divided = " divided by 255" if transform == "unit" else ""
        notes = [f"taken for {network.title}{kind}, pixels 0 to 255{divided}: the file does not say"]
    elif signature is None and kept:
        notes = [f"taken as model {model} takes them, {kept.takes} ({kept.transform}): the file does not say"]
    newest = models.newest(model)
    epochs = content.epochs or (newest.epochs if newest else 0)
    # The model's own, where it has one: it may say more than the file does.
    draft = Draft(model, arrays, kept or signature or unknown(network), epochs=epochs)
    return Upload(draft, network, notes)


def _network_of(asked: NetworkRequest, content: ParameterFile, file: str) -> Network:
    """Makes the network that a caller says a file's params are of, and holds it against what the file says."""
    arrays, told = content.arrays, content.network
    shape = asked.input_shape or (told.input_shape if told else ())
    if not shape and isinstance(asked.layers[0] if asked.layers else None, Affine) and "W_1" in arrays:
        shape = arrays["W_1"].shape[1:]
    if not shape:
        raise InvalidInputError("network.input_shape", f"the shape of an example, which {file} does not say")
    last = max((int(name[2:]) for name in arrays if re.fullmatch(r"b_[0-9]{1,9}", name)), default=0)
    classes = len(arrays[f"b_{last}"]) if last and arrays[f"b_{last}"].ndim else 0
    network = make_network(asked.layers, shape, classes)
    if told and told != network:
        raise InvalidInputError(file, f"its params are of another network, {difference(told, network)}")
    return network
