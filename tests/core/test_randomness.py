"""What is drawn on the host: keys, orders of images, and which are kept for validation."""

import jax
import numpy as np
import pytest

from handgrad.core import randomness


def test_each_epoch_takes_every_image_once_in_an_order_of_its_own() -> None:
    key = randomness.keys_of_run(3)[1]
    first = randomness.epoch_permutation(key, 1, 1000)
    assert first.dtype == np.int32
    np.testing.assert_array_equal(np.sort(first), np.arange(1000))
    np.testing.assert_array_equal(first, randomness.epoch_permutation(key, 1, 1000))
    assert not np.array_equal(first, randomness.epoch_permutation(key, 2, 1000))
    assert not np.array_equal(first, randomness.epoch_permutation(randomness.keys_of_run(4)[1], 1, 1000))
    assert not np.array_equal(first, np.arange(1000))


def test_networks_of_one_seed_share_the_order_that_is_drawn_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [randomness.keys_of_run(seed)[1] for seed in (1, 2, 1)]
    trained = np.array([9, 7, 5, 3, 1], np.int32)
    drawn: list[int] = []
    permutation = randomness.epoch_permutation

    def counted(key: jax.Array, epoch: int, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
        drawn.append(epoch)
        return permutation(key, epoch, size)

    monkeypatch.setattr(randomness, "epoch_permutation", counted)
    found = list(randomness.epoch_orders(keys, trained, range(3, 6)))
    assert sorted(drawn) == [3, 3, 4, 4, 5, 5]
    for epoch, orders in zip(range(3, 6), found, strict=True):
        for key, order in zip(keys, orders, strict=True):
            np.testing.assert_array_equal(order, trained[permutation(key, epoch, 5)])
    assert list(randomness.epoch_orders(keys, trained, range(6, 6))) == []


def test_keys_of_runs_and_epochs_are_all_different() -> None:
    keys = [key for seed in range(20) for key in randomness.keys_of_run(seed)]
    words = [randomness.derived_keys(keys, *numbers) for numbers in ((), (1,), (2,), (1, 600))]
    assert words[0].shape == (40, 2)
    assert words[0].dtype == np.uint32
    assert len({tuple(own) for of_all in words for own in of_all.tolist()}) == 160
    np.testing.assert_array_equal(words[1][7:8], randomness.derived_keys(keys[7:8], 1))
    again = randomness.key_of(words[1])
    np.testing.assert_array_equal(jax.random.key_data(again), words[1])


def test_the_numbers_of_a_seed_stay_the_same() -> None:
    # Of numpy 2.4: another version that drew others would change every run.
    init_key, key = randomness.keys_of_run(0)
    assert np.asarray(jax.random.key_data(init_key)).tolist() == [2968811710, 3677149159]
    assert randomness.epoch_permutation(key, 1, 10).tolist() == [1, 8, 3, 6, 0, 7, 2, 4, 9, 5]
    drawn = randomness.generator_of(init_key, 0).standard_normal(3, np.float32)
    np.testing.assert_allclose(drawn, [1.4836001, -0.1531653, 0.0923656], rtol=1e-6)


def test_validation_images_are_the_same_in_every_run() -> None:
    trained, kept = randomness.split_indices(100, 30)
    assert (len(trained), len(kept)) == (70, 30)
    assert trained.dtype == np.int32
    np.testing.assert_array_equal(np.sort(np.concatenate([trained, kept])), np.arange(100))
    assert (np.diff(trained) > 0).all()
    np.testing.assert_array_equal(randomness.split_indices(100, 30)[1], kept)
    assert not np.array_equal(kept, np.arange(70, 100))
    everything, nothing = randomness.split_indices(5, 0)
    assert (everything.tolist(), nothing.tolist()) == ([0, 1, 2, 3, 4], [])
