"""Latents ahead: what comes nearer on a walk is drawn from the same latent on every keyframe that shows it.

Keyframes that are each drawn from a latent of their own have much the same layout: what has come nearer on one of them
is far away again on the next, and walks get on slowly. So what is at a position is drawn from the latent that the walk
will have when it passes the camera. That time stays the same as it comes nearer.
"""

import numpy as np
from keras import layers, ops

from walkgan.directions import ASPECT, passed_on, positions, shares_of_directions
from walkgan.keyframes import keyframe_pair
from walkgan.latents import rotate, step_angles
from walkgan.layers import normal

FAR = 0.03  # what is passed by less than this before the next keyframe is far away


def near_and_far(far, keyframes, walked):
    """Return features (2 * batch, height, width, channels) of keyframes: from latents ahead, and far away from `far`.

    far: such features, which may differ from position to position. Near the camera, where they would stand still while
    everything comes nearer, features differ only from direction to direction, and by their latents ahead.
    keyframes, walked: see latents_ahead.
    """
    height, width, channels = far.shape[1:]
    near = drawn_ahead(keyframes, walked, height, width, channels, level=0)
    return far * is_far(passed_on(walked, height, width)[..., None]) + near


def is_far(passed):
    """Return how far away what is passed by so much is: 1 for what is never passed, 0 for what is near."""
    return ops.exp(-ops.square(passed / FAR))


def drawn_ahead(keyframes, walked, height, width, channels, level):
    """Return features (2 * batch, height, width, channels) of a level of keyframes, drawn from latents ahead alone.

    keyframes, walked: see latents_ahead. Above 10x20, whose levels know from below what is in which direction, they
    are drawn alike in all.
    """
    ahead, name = latents_ahead(keyframes, walked, height, width), f"ahead_{level}"
    if level <= 1:
        return by_direction(ahead, channels, name)
    return layers.Conv2D(channels, 1, use_bias=False, kernel_initializer=normal(), name=name)(ahead)


def latents_ahead(keyframes, walked, height, width):
    """Return at each position the latent of the walk at the time when what is there passes the camera.

    keyframes: (2 * batch, latent_dim) float32; walked: see walked_by_side. Returns (2 * batch, height, width,
    latent_dim). Something keeps its latent as it comes nearer. What is far away has none: 0. Pairs fade out near the
    vanishing point, where their angle differs by more than about 2 from position to position. After the time to contact
    of Lee 1976, doi:10.1068/p050437.
    """
    _, period = keyframe_pair(keyframes.shape[-1])
    down, right = positions(height, width)
    from_middle = height * np.maximum(abs(down[:, None]), abs(right) / ASPECT)[..., None]
    passed = passed_on(walked, height, width)[..., None]
    steps = period * passed / (passed**2 + 1e-4)  # period / passed; what is far away is not shown
    angles = steps * step_angles(keyframes.shape[-1]).astype("float32")
    shown = (1 - is_far(passed)) * ops.exp(-0.5 * ops.square(angles / (2 * np.maximum(from_middle, 0.5))))
    return rotate(keyframes[:, None, None], angles) * ops.concatenate([shown, shown], -1)


def by_direction(ahead, channels, name):
    """Return features (2 * batch, height, width, channels) of latents ahead, with weights for each direction."""
    height, width, latent_dim = ahead.shape[1:]
    ahead = ops.concatenate([ahead, ops.ones_like(ahead[..., :1])], -1)
    # A layer's input has to depend on the model's.
    shares = ops.add(shares_of_directions(height, width), 0 * ops.mean(ahead))
    units = (latent_dim + 1) * channels
    kernels = layers.Dense(units, use_bias=False, kernel_initializer=normal(), name=name)(shares)
    kernels = ops.reshape(kernels, (height, width, latent_dim + 1, channels))
    return ops.einsum("bhwl,hwlc->bhwc", ops.cast(ahead, kernels.dtype), kernels)
