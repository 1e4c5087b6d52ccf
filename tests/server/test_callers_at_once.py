"""Many callers at once: each is answered as if it had called alone."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import handgrad

CALLERS = 8


def arrays(number: int) -> dict[str, Any]:
    return {"W_1": np.full((3, 12), number / 10), "b_1": np.zeros((3, 1))}


def test_of_those_who_save_under_one_name_one_wins(hg: handgrad.Client) -> None:
    hashes = [
        hg.upload_params(arrays(number), f"model-{number}").params_version.params_sha256 for number in range(CALLERS)
    ]
    assert len(set(hashes)) == CALLERS
    with ThreadPoolExecutor(CALLERS) as callers:
        saves = [callers.submit(hg.save_params, f"model-{number}", "one") for number in range(CALLERS)]
    errors = [save.exception() for save in saves]
    (winner,) = (number for number, error in enumerate(errors) if error is None)
    assert {type(error) for error in errors} == {type(None), handgrad.AlreadyExistsError}
    assert saves[winner].result().params_sha256 == hg.load_params("one").params_version.params_sha256 == hashes[winner]


def test_those_who_save_the_same_params_all_win(hg: handgrad.Client) -> None:
    hg.upload_params(arrays(1), "mine")
    with ThreadPoolExecutor(CALLERS) as callers:
        saves = [callers.submit(hg.save_params, "mine", "one") for _ in range(CALLERS)]
    first, *others = (save.result() for save in saves)
    assert others == [first] * (CALLERS - 1)


def test_each_upload_to_a_model_gets_a_version_of_its_own(hg: handgrad.Client) -> None:
    with ThreadPoolExecutor(CALLERS) as callers:
        uploads = [callers.submit(hg.upload_params, arrays(number), "mine") for number in range(CALLERS)]
    results = [upload.result().params_version for upload in uploads]
    versions = {version.version: version.params_sha256 for version in results}
    assert sorted(versions) == list(range(1, CALLERS + 1))
    for number, sha256 in versions.items():
        assert hg.get_params("mine", number).version.params_sha256 == sha256


def test_each_job_without_a_name_gets_a_model_of_its_own(hg: handgrad.Client, tiny: str) -> None:
    settings: dict[str, Any] = {"dataset": tiny, "hidden": [4], "batch_size": 10, "epochs": 2}
    with ThreadPoolExecutor(CALLERS) as callers:
        infos = list(callers.map(lambda seed: hg.train(**settings, seed=seed).wait(), range(CALLERS)))
    assert len({info.job for info in infos}) == CALLERS
    assert len({info.model for info in infos}) == CALLERS
    # None of them touched another.
    alone = [hg.train(**settings, seed=seed).wait().params_sha256 for seed in range(CALLERS)]
    assert [info.params_sha256 for info in infos] == alone
