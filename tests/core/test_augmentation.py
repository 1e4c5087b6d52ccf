"""Augmentation: what moves, by how much, what comes in, and that a key decides it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from handgrad.core.augmentation import NONE, Augmentation, cropped, flipped, shifted

IMAGES = jnp.asarray(np.random.default_rng(3).integers(1, 256, (200, 4, 5, 2)), jnp.float32)


def moves(pixels: int, mode: str) -> list[np.ndarray]:
    """All that moving the images by at most so many pixels may give, one array a move."""
    around = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
    padded = np.pad(np.asarray(IMAGES), around, mode=mode)  # type: ignore[call-overload]
    most = 2 * pixels + 1
    return [padded[:, r : r + 4, c : c + 5] for r in range(most) for c in range(most)]


@pytest.mark.parametrize(("function", "mode"), [(shifted, "constant"), (cropped, "reflect")])
@pytest.mark.parametrize("pixels", [1, 2])
def test_every_image_is_moved_some_way_and_every_way_is_taken(function: object, mode: str, pixels: int) -> None:
    assert callable(function)
    found = np.asarray(function(jax.random.key(0), IMAGES, pixels))
    ways = np.stack([(found == moved).all(axis=(1, 2, 3)) for moved in moves(pixels, mode)])
    assert ways.any(axis=0).all()
    assert ways.any(axis=1).all()


def test_half_of_the_images_are_mirrored() -> None:
    found = np.asarray(flipped(jax.random.key(1), IMAGES))
    mirrored = (found == np.asarray(IMAGES)[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (found == np.asarray(IMAGES)).all(axis=(1, 2, 3))
    assert (mirrored | same).all()
    assert 60 < mirrored.sum() < 140


def test_a_key_decides_it() -> None:
    augment = Augmentation(flip=True, crop=1, shift=1)
    first, same, other = (np.asarray(augment(jax.random.key(seed), IMAGES)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    assert augment
    assert not NONE
    np.testing.assert_array_equal(NONE(jax.random.key(0), IMAGES), IMAGES)
