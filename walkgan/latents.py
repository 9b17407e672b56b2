"""Latents: from a seed, along a walk (by rotation), and along a path between random latents (by slerp)."""

import numpy as np
from keras import ops

ROTATION_PERIODS = 16, 3000  # steps in which a pair of a latent makes a full turn, from the fastest to the slow ones
SCENE_PERIOD = 20_000  # and the slowest, whose direction tells the scene: about twice as many as frames of a long video


def latent_from_seed(latent_dim, *seed):
    """Return the latent of a seed: (latent_dim,) float32, standard normal."""
    return np.random.default_rng(seed).standard_normal(latent_dim, "float32")


def step_angles(latent_dim):
    """Return the angles (latent_dim / 2,), in radians, by which one step of a walk rotates the pairs of a latent."""
    return 2 * np.pi / rotation_periods(latent_dim)


def rotation_periods(latent_dim):
    """Return in how many steps each pair of a latent makes a full turn: (latent_dim / 2,), rising."""
    periods = np.geomspace(*ROTATION_PERIODS, latent_dim // 2)
    if len(periods) > 1:
        periods[-1] = SCENE_PERIOD
    return periods


def slowest_pair(latent_dim):
    """Return the indices of the pair of numbers that rotates the slowest, whose direction tells the scene."""
    return [latent_dim // 2 - 1, latent_dim - 1]


def rotate(latents, angles):
    """Rotate the pairs of a latent, each by its own angle.

    latents: (..., latent_dim), latent_dim even; angles: (..., latent_dim / 2) in radians. A rotation leaves the normal
    distribution unchanged, so every frame of a walk is drawn from the latents the generator was trained on.
    """
    first, second = ops.split(latents, 2, -1)
    cosine, sine = ops.cos(angles), ops.sin(angles)
    return ops.concatenate([first * cosine - second * sine, first * sine + second * cosine], -1)


def rotated_latent(start, steps):
    """Return the latent (latent_dim,) of a walk from `start` after some steps, which may be a fraction."""
    # As `rotate`, in a tenth of the time that Keras takes for single latents; and still exact after hours.
    first, second = np.split(start, 2)
    pairs = (first + 1j * second) * np.exp(1j * steps * step_angles(len(start)))
    return np.concatenate([pairs.real, pairs.imag]).astype("float32")


def slerp_latent(start, seed, position, truncation=1.0, keep_scene=False):
    """Return the latent at a position of an endless path from `start` that meets a random latent at every whole number.

    Between two of them it follows the great circle, so no frame on it is less likely than they are (slerp; White 2016,
    arXiv:1609.04468). The random latents are multiplied by `truncation`. With `keep_scene`, the two numbers that tell
    the scene stay those of `start`.
    """
    index, fraction = int(position), position % 1
    first, second = (
        truncation * latent_from_seed(len(start), seed, each) if each else start for each in (index, index + 1)
    )
    cosine = np.dot(first, second) / max(np.linalg.norm(first) * np.linalg.norm(second), 1e-30)  # truncated to 0
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-4:  # latents of size 1 have only the straight line
        latent = (1 - fraction) * first + fraction * second
    else:
        latent = (np.sin((1 - fraction) * angle) * first + np.sin(fraction * angle) * second) / np.sin(angle)
    if keep_scene:
        latent[slowest_pair(len(start))] = start[slowest_pair(len(start))]
    return latent
