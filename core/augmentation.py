"""Augmentation: other images of the same class, as pure functions of a key."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax


@dataclass(frozen=True)
class Augmentation:
    """What is done to each image of a mini-batch while training, in this order.

    Attributes:
        flip: Whether half of the images, at random, have their left and right exchanged.
        crop: Pixels that an image is moved at most, each way; mirrored pixels come in.
        shift: Pixels that an image is moved at most, each way; zeros come in.
    """

    flip: bool = False
    crop: int = 0
    shift: int = 0

    def __bool__(self) -> bool:
        """Says whether anything is done."""
        return self.flip or self.crop > 0 or self.shift > 0

    def __call__(self, key: Array, images: Array) -> Array:
        """Gives other images `[B, R, S, C]` of the same shape."""
        flip_key, crop_key, shift_key = jax.random.split(key, 3)
        if self.flip:
            images = flipped(flip_key, images)
        if self.crop:
            images = cropped(crop_key, images, self.crop)
        if self.shift:
            images = shifted(shift_key, images, self.shift)
        return images


NONE = Augmentation()


def flipped(key: Array, images: Array) -> Array:
    """Exchanges left and right of each image `[B, R, S, C]` with probability 1/2."""
    chosen = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(chosen, images[:, :, ::-1], images)


def shifted(key: Array, images: Array, pixels: int) -> Array:
    """Moves each image `[B, R, S, C]` by -pixels to pixels rows and columns, each as likely; zeros come in."""
    return _windows(key, jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))), images.shape)


def cropped(key: Array, images: Array, pixels: int) -> Array:
    """Moves each image `[B, R, S, C]` by -pixels to pixels rows and columns; mirrored pixels come in.

    It is a random window of the image with a border of the pixels inside its edge, mirrored, of which there must be
    `pixels` rows and columns.
    """
    around = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
    return _windows(key, jnp.pad(images, around, mode="reflect"), images.shape)


def _windows(key: Array, images: Array, shape: tuple[int, ...]) -> Array:
    most = images.shape[1] - shape[1] + 1
    corners = jax.random.randint(key, (len(images), 2), 0, most)

    def window(image: Array, corner: Array) -> Array:
        return lax.dynamic_slice(image, (corner[0], corner[1], 0), shape[1:])

    return jax.vmap(window)(images, corners)
