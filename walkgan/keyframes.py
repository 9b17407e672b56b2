"""Keyframes: moments of a walk, about one in a second, from which what frames between them have in common is drawn.

Which keyframes a frame is between is in its latent: one of its pairs turns once from keyframe to keyframe.
"""

import math

import numpy as np
from keras import ops

from walkgan.latents import rotate, rotation_periods, step_angles

KEYFRAME_STEPS = 32  # about a second
SLOW_STEPS = 128  # what is far away is drawn from what takes as long for a turn, or longer: places last


def keyframes_around(latents):
    """Return the latents of the keyframes before and after those of some frames, and the time since the former.

    latents: (batch, window, latent_dim) float32, each window between two keyframes, as of between_keyframes. A keyframe
    is where the pair that turns once in about KEYFRAME_STEPS has angle 0. Returns (2 * batch, latent_dim), first all
    keyframes before, then all after, and (batch * window, 1) the fraction, from 0 to 1, of the steps between the two.
    """
    latent_dim, (_, period) = latents.shape[-1], keyframe_pair(latents.shape[-1])
    first, turned = latents[:, 0], turns(latents)
    fraction = ops.mod(turned[:, :1], 1.0)
    # How far the window's frames are after its first one: below 0 only by rounding.
    since = ops.mod(turned - turned[:, :1] + 0.01, 1.0) - 0.01
    angles = period * step_angles(latent_dim).astype("float32")
    keyframes = [rotate(first, steps * angles) for steps in (-fraction, 1 - fraction)]
    return ops.concatenate(keyframes, 0), ops.reshape(fraction + since, (-1, 1))


def slow_part(latents):
    """Return those pairs of latents (..., latent_dim) that turn once in SLOW_STEPS or more, or the slowest one."""
    half = latents.shape[-1] // 2
    first = min(int(np.searchsorted(rotation_periods(2 * half), SLOW_STEPS)), half - 1)
    return ops.concatenate([latents[..., first:half], latents[..., half + first :]], -1)


def of_keyframes(scene, window):
    """Return the scene of the keyframes of windows, (2 * batch, scenes), from that of frames, (batch * window, scenes).

    It is that of the first frame: nothing is drawn across a cut.
    """
    first = ops.reshape(scene, (-1, window, scene.shape[1]))[:, 0]
    return ops.concatenate([first, first], 0)


def between_keyframes(latents, offsets):
    """Return the latents (batch, window, latent_dim) of windows of a walk, each of them between two keyframes.

    latents: (batch, latent_dim) float32, whose pair that tells the time since a keyframe is turned back, so that the
    window ends before the next; offsets: (batch, window) float32, the steps from its first frame to each.
    """
    latent_dim, (pair, period) = latents.shape[-1], keyframe_pair(latents.shape[-1])
    share = ops.minimum(offsets[:, -1:] / period, 1)
    back = 2 * math.pi * share * ops.mod(turns(latents), 1.0)[:, None]
    latents = rotate(latents, -back * np.eye(latent_dim // 2, dtype="float32")[pair])
    return rotate(latents[:, None], offsets[..., None] * step_angles(latent_dim).astype("float32"))


def turns(latents):
    """Return the angle (...) of the pair of latents (..., latent_dim) that turns between keyframes, in turns."""
    pair, _ = keyframe_pair(latents.shape[-1])
    return ops.arctan2(latents[..., latents.shape[-1] // 2 + pair], latents[..., pair]) / (2 * math.pi)


def keyframe_pair(latent_dim):
    """Return the number of the pair that turns once from keyframe to keyframe, and in how many steps."""
    periods = rotation_periods(latent_dim)
    pair = int(np.argmin(np.abs(np.log(periods / KEYFRAME_STEPS))))
    return pair, float(periods[pair])


def stack_windows(frames, window):
    """Stack frames (batch * window, height, width, channels) on channels: (batch, height, width, window * channels)."""
    height, width, channels = frames.shape[1:]
    frames = ops.transpose(ops.reshape(frames, (-1, window, height, width, channels)), (0, 2, 3, 1, 4))
    return ops.reshape(frames, (-1, height, width, window * channels))
