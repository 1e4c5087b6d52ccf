"""SaveParams and LoadParams: what is saved outlives the server, whole, or is told to be damaged."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import handgrad
from handgrad.core.errors import InvalidInputError
from handgrad.server.app import Server
from handgrad.v1 import signature_pb2

ARRAYS: dict[str, Any] = {"W_1": np.arange(36.0).reshape(3, 12), "b_1": np.ones((3, 1))}
OTHERS: dict[str, Any] = ARRAYS | {"b_1": np.zeros((3, 1))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data/objects"


def test_a_checkpoint_outlives_the_server(tmp_path: Path, tiny_folder: Path) -> None:
    server = Server("127.0.0.1:0", tmp_path / "data")
    with handgrad.connect(server.address) as hg:
        dataset = hg.upload_dataset(tiny_folder).dataset
        job = hg.train(dataset=dataset, hidden=[4], transform="unit", batch_size=10, epochs=1)
        info = job.wait()
        saved = hg.save_params(job.model, "my.best_one-1")
        first = hg.save_params(job.model, "first", version=1)
    server.stop()
    assert saved.params_sha256 == info.params_sha256 != first.params_sha256

    server = Server("127.0.0.1:0", tmp_path / "data")
    with handgrad.connect(server.address) as hg:
        loaded = hg.load_params("my.best_one-1", "again").params_version
        assert (loaded.model, loaded.version, loaded.params_sha256) == ("again", 1, info.params_sha256)
        assert loaded.signature == info.signature
        assert loaded.signature.inputs.transform == signature_pb2.TRANSFORM_UNIT
        assert loaded.epochs == 1
        assert list(hg.get_params("again").arrays) == ["W_1", "b_1", "W_2", "b_2"]
        assert hg.load_params("first", "again").params_version.version == 2
        assert hg.load_params("first").params_version.model not in ("", "again")
    server.stop()


def test_saving_again_changes_nothing_and_other_params_are_refused(hg: handgrad.Client) -> None:
    hg.upload_params(ARRAYS, "mine")
    saved = hg.save_params("mine", "one")
    assert hg.save_params("mine", "one") == saved
    hg.upload_params(OTHERS, "mine")
    with pytest.raises(handgrad.AlreadyExistsError, match="checkpoint one holds other params"):
        hg.save_params("mine", "one")
    assert hg.load_params("one", "again").params_version.params_sha256 == saved.params_sha256


def test_a_checkpoint_of_another_network_is_not_loaded(hg: handgrad.Client) -> None:
    hg.upload_params(ARRAYS, "mine")
    hg.save_params("mine", "one")
    hg.upload_params({"W_1": np.ones((2, 12)), "b_1": np.ones((2, 1))}, "other")
    with pytest.raises(handgrad.PreconditionError, match="other has another network, 12-2, not 12-3"):
        hg.load_params("one", "other")


def test_what_does_not_exist_is_told(hg: handgrad.Client) -> None:
    with pytest.raises(handgrad.NotFoundError, match="no checkpoint 'nothing'"):
        hg.load_params("nothing")
    with pytest.raises(handgrad.NotFoundError, match="no model 'nothing'"):
        hg.save_params("nothing", "one")


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a changed byte": lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
    "a cut file": lambda content: content[:-10],
    "an empty file": lambda _: b"",
    "noise": lambda content: os.urandom(len(content)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told(hg: handgrad.Client, folder: Path, damage: str) -> None:
    hg.upload_params(ARRAYS, "mine")
    hg.save_params("mine", "one")
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(DAMAGES[damage](whole))
    with pytest.raises(handgrad.DamagedError, match=f"the file {file.name} in the server's data directory is damaged"):
        hg.load_params("one")
    with pytest.raises(handgrad.DamagedError):
        hg.save_params("mine", "two")
    # The same params, given again, mend it.
    hg.upload_params(ARRAYS, "again")
    assert file.read_bytes() == whole
    assert hg.load_params("one").params_version.version == 1


def test_a_checkpoint_whose_file_is_gone_is_told(hg: handgrad.Client, folder: Path) -> None:
    hg.upload_params(ARRAYS, "mine")
    hg.save_params("mine", "one")
    (file,) = folder.iterdir()
    file.unlink()
    with pytest.raises(handgrad.DamagedError, match=f"the file {file.name} is missing"):
        hg.load_params("one")


def test_the_same_params_are_kept_once(hg: handgrad.Client, folder: Path) -> None:
    for name in ("mine", "yours"):
        hg.upload_params(ARRAYS, name)
        hg.save_params(name, name)
    assert len(list(folder.iterdir())) == 1
    hg.delete_model("mine")
    hg.delete_model("yours")
    hg.delete_checkpoint("mine")
    assert len(list(folder.iterdir())) == 1
    hg.delete_checkpoint("yours")
    assert list(folder.iterdir()) == []
    with pytest.raises(handgrad.NotFoundError):
        hg.delete_checkpoint("yours")


def test_what_a_crash_left_is_removed(tmp_path: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "partial-abc").write_bytes(b"half")
    (folder / ("0" * 64)).write_bytes(b"whole, but nobody's")
    Server("127.0.0.1:0", tmp_path / "data").stop()
    assert list(folder.iterdir()) == []


def test_the_optimizers_state_is_saved_and_loaded_where_it_is_asked_for(hg: handgrad.Client, tiny: str) -> None:
    settings: dict[str, Any] = {"dataset": tiny, "hidden": [4], "batch_size": 10, "momentum": 0.9, "epochs": 1}
    job = hg.train(model="mine", **settings)
    job.wait()
    saved = hg.save_params("mine", "one")
    assert saved.optimizer_state
    goes_on = hg.train(model="mine", **settings).wait()
    assert goes_on.continued_optimizer_state
    assert hg.load_params("one", "with", with_optimizer_state=True).params_version.optimizer_state
    assert not hg.load_params("one", "without").params_version.optimizer_state
    ends = {name: hg.train(model=name, **settings).wait() for name in ("with", "without")}
    hg.load_params("one", "fresh", with_optimizer_state=True)
    ends["fresh"] = hg.train(model="fresh", fresh_optimizer=True, **settings).wait()
    assert ends["with"].params_sha256 == goes_on.params_sha256
    assert ends["without"].params_sha256 == ends["fresh"].params_sha256 != goes_on.params_sha256
    assert [ends[name].continued_optimizer_state for name in ("with", "without", "fresh")] == [True, False, False]


def test_a_checkpoint_without_optimizer_state_is_not_loaded_with_it(hg: handgrad.Client) -> None:
    hg.upload_params(ARRAYS, "mine")
    assert not hg.save_params("mine", "one").optimizer_state
    with pytest.raises(handgrad.PreconditionError, match="checkpoint one has no optimizer state"):
        hg.load_params("one", with_optimizer_state=True)


def test_a_data_directory_has_one_server(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="in use by another handgrad server"):
        Server("127.0.0.1:0", tmp_path / "data")
    assert server.address


BAD_NAMES = ["a/b", "../a", ".a", "-a", "A", "a b", "a\n", "ä", "a" * 64, "a\0b", "/etc/passwd"]


@pytest.mark.parametrize("name", [*BAD_NAMES, ""])
def test_a_name_is_never_a_path(hg: handgrad.Client, tmp_path: Path, name: str) -> None:
    hg.upload_params(ARRAYS, "mine")
    before = set(tmp_path.rglob("*"))
    for call in (lambda: hg.save_params("mine", name), lambda: hg.load_params(name)):
        with pytest.raises(handgrad.InvalidArgumentError, match="a name has 1 to 63 characters") as raised:
            call()
        assert raised.value.field == "checkpoint"
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", BAD_NAMES)
def test_every_name_is_checked(hg: handgrad.Client, tiny_folder: Path, name: str) -> None:
    calls: list[tuple[str, Callable[[], object]]] = [
        ("model", lambda: hg.train(model=name)),
        ("dataset", lambda: hg.train(dataset=name)),
        ("job", lambda: hg.get_loss(name)),
        ("job", lambda: hg.cancel_job(name)),
        ("model", lambda: hg.get_params(name)),
        ("model", lambda: hg.save_params(name, "one")),
        ("model", lambda: hg.upload_params(ARRAYS, name)),
        ("dataset", lambda: hg.upload_dataset(tiny_folder, name)),
        ("model", lambda: hg.evaluate(name)),
        ("model", lambda: hg.delete_model(name)),
        ("checkpoint", lambda: hg.delete_checkpoint(name)),
        ("dataset", lambda: hg.delete_dataset(name)),
        ("job", lambda: hg.get_job(name)),
        ("client", lambda: hg.train(client=name)),
    ]
    for field, call in calls:
        with pytest.raises(handgrad.InvalidArgumentError) as raised:
            call()
        assert raised.value.field == field
