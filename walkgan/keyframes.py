"""Walks past keyframes: what is drawn once comes nearer and passes the camera, until the next keyframe is reached.

A generator that draws each frame anew draws posts that bend and places that melt, however well its discriminator sees
motion. So an ordered generator draws features of two keyframes, the one before a frame and the one after, and
moves them as a walk along a street would: ground, walls and sky are planes along the way, on which something at a
position p from the vanishing point is at p / (1 - passed) later; passed is how far one has walked, relative to how far
it was. What is straight on one of them stays straight. How near the ground, a wall or the sky is, is learned.

The keyframe after has to show what is left of the one before, nearer: see latents_ahead.py, and ConsistencyLoss.

A generator of single frames is made of Keras operations, without layers of our own: its file can be shared.
"""

import math

import numpy as np
from keras import layers, ops

from walkgan.directions import passed_at, passed_on, positions
from walkgan.latents import rotate, rotation_periods, step_angles
from walkgan.layers import ConsistencyLoss, normal

KEYFRAME_STEPS = 32  # about a second
SLOW_STEPS = 128  # what is drawn on keyframes takes as long for a turn, or longer: places last
MAX_SCALE = 20  # of a distance from the middle; what is so far outside a keyframe is not drawn from it
SWAY = 0.1  # frame heights for each unit of its layer's output, which is about 0.2 at first
TURN = 0.1  # frame heights from keyframe to keyframe for each unit


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


def pass_between(x, latents, keyframes, fraction, walked):
    """Return the features (batch * window, height, width, channels) of frames between keyframes.

    x: (2 * batch, height, width, channels) features of the keyframes; latents: (batch, window, latent_dim) of the
    frames; keyframes, fraction: see keyframes_around; walked: see walked_by_side. How the camera turns depends on
    the latents of the keyframes, how it sways on that of the frame. With a window of several frames, as in training, it
    adds a loss: see ConsistencyLoss.
    """
    (height, width), window = x.shape[1:3], latents.shape[1]
    (before, after), turning = ops.split(x, 2, 0), turning_at(keyframes)
    walked, _ = ops.split(walked, 2, 0)
    if window > 1:
        before = with_consistency_loss(before, after, walked, turning)
    fraction = ops.reshape(fraction, (-1, 1, 1))
    sway = ops.reshape(SWAY * _dense(2, "sway")(latents), (-1, 1, 1, 2))
    down, right = positions(height, width)
    down, right = ops.subtract(down[:, None], sway[..., 0]), ops.subtract(right, sway[..., 1])
    passed = passed_at(down, right, ops.repeat(walked, window, 0))
    turned = turned_since([ops.repeat(each, window, 0) for each in turning], fraction)
    before, inside_before = seen(before, fraction, turned[0], down, right, passed, window)
    after, inside_after = seen(after, fraction - 1, turned[1], down, right, passed, window)
    # How late each position is drawn from the keyframe after: it changes over in a third of the steps between them.
    late = layers.Conv2D(1, 1, activation="sigmoid", kernel_initializer=normal(), dtype="float32", name="late")(before)
    # What is outside one of them is drawn from the other.
    share = ops.clip(3 * fraction[..., None] - 2 * late, 0, 1) * inside_after
    share = 1 - (1 - share) * inside_before
    return before + ops.cast(share, x.dtype) * (after - before)


def with_consistency_loss(before, after, walked, turning):
    """Return `before`, with the loss for how unlike two keyframes are as seen from half way between them.

    It has gradients for what is drawn, not for how one moves: large steps would leave little that both show.
    """
    turned = [ops.stop_gradient(each) for each in turned_since(turning, 0.5)]
    down, right = positions(*before.shape[1:3])
    passed = passed_on(walked, *before.shape[1:3])
    seen_before, inside_before = seen(before, 0.5, turned[0], down[:, None], right, passed)
    seen_after, inside_after = seen(after, -0.5, turned[1], down[:, None], right, passed)
    inside = ops.minimum(inside_before, inside_after)
    return ConsistencyLoss(name="consistency")([before, seen_before, seen_after, inside])


def seen(keyframe, since, turned, down, right, passed, window=1):
    """Return a keyframe as seen some of the way after it, and how far inside it each position is, 0 to 1.

    since: the fraction of the way from keyframe to keyframe; turned: see turned_since; down, right, passed: of the
    positions, see passed_at. Returns (batch * window, height, width, channels) and (batch * window, height, width, 1).
    """
    height, width = keyframe.shape[1:3]
    nearer = since * passed
    scale = 1 / ops.maximum(1 + nearer, 1 / MAX_SCALE)  # 1 + nearer, as passed is at positions of now
    smaller = ops.relu(0 - nearer)
    inside = 1.0
    for position, moved, half in ((down, 0 * turned, 0.5), (right, turned, width / height / 2)):
        margin = half - ops.abs(moved + scale * ops.clip(position, -half, half))
        uncovered = ops.abs(moved) + smaller  # about the share of the view that it does not show
        inside = ops.minimum(inside, (margin + 0.001) / (0.5 * uncovered + 0.001))
    # (batch, 1, 1) has to be added first: on TensorFlow, Keras takes it for a bias if batch is a side of the other.
    return sample(keyframe, scale * down, turned + scale * right, window), ops.relu(inside)[..., None]


def walked_by_side(keyframes):
    """Return how far one walks from each keyframe to the next, relative to how far away ground, sky and walls are.

    keyframes: (2 * batch, latent_dim). Returns (2 * batch, 4), of what is below, above, right and left, in 1 / frame
    heights, of the last two in 1 / (ASPECT frame heights). It is learned from the slow part of the latent, but not
    whether one walks forward (1) or backward (-1): the discriminator tells them apart so badly that a training can
    change its mind.
    """
    walked = _dense(4, "walked", kernel_initializer="zeros")(slow_part(keyframes))
    walked = ops.softplus(10 * walked)  # times 10, so that it is learned in hundreds of steps
    direction = _dense(1, "direction", kernel_initializer="ones", use_bias=False, trainable=False)
    return direction(walked[..., None])[..., 0]


def turning_at(keyframes):
    """Return how fast the camera turns right at the keyframes before, and at those after: (batch, 1, 1) each.

    In frame heights from keyframe to keyframe. It is learned from their latents: mostly hardly, at times fast.
    """
    turning = ops.softplus(10 * _dense(2, "turning")(keyframes))  # right and left
    return ops.split(ops.reshape(TURN * (turning[:, :1] - turning[:, 1:]), (-1, 1, 1)), 2, 0)


def turned_since(turning, fraction):
    """Return how far right the camera has turned since the keyframe before, and since the one after, which is to come.

    Both as `turning`, of turning_at, in frame heights. From one keyframe to the next, how fast it turns changes evenly.
    """
    before, after = turning
    turned = fraction * before + fraction**2 / 2 * (after - before)
    return turned, turned - (before + after) / 2


def sample(x, down, right, window):
    """Return x (batch, height, width, channels) at other positions, between its pixels by bilinear interpolation.

    down, right: (batch * window, height, width) float32, for a window of times each of x, from the middle, in heights
    of x. Outside, x is as at its edge.
    """
    height, width, channels = x.shape[1:]
    row = ops.clip(down * height + (height - 1) / 2, 0, height - 1.001)
    column = ops.clip(right * height + (width - 1) / 2, 0, width - 1.001)
    top, left = ops.floor(row), ops.floor(column)
    below, beside = row - top, column - left
    number = ops.cumsum(ops.ones_like(top[:, :1, :1]), 0) - 1  # of the image in its batch, whose size is not known
    first = ops.cast(number, "int32") // window * (height * width) + ops.cast(top * width + left, "int32")
    pixels = ops.reshape(x, (-1, channels))
    # A sum of four products was a quarter faster than one product of stacked pixels, with its gradient.
    weights = [(1 - below) * (1 - beside), (1 - below) * beside, below * (1 - beside), below * beside]
    return sum(
        ops.cast(weight[..., None], x.dtype) * ops.take(pixels, first + offset, 0)
        for weight, offset in zip(weights, (0, 1, width, width + 1), strict=True)
    )


def stack_windows(frames, window):
    """Stack frames (batch * window, height, width, channels) on channels: (batch, height, width, window * channels)."""
    height, width, channels = frames.shape[1:]
    frames = ops.transpose(ops.reshape(frames, (-1, window, height, width, channels)), (0, 2, 3, 1, 4))
    return ops.reshape(frames, (-1, height, width, window * channels))


def _dense(units, name, **options):
    return layers.Dense(units, dtype="float32", name=name, **{"kernel_initializer": normal()} | options)
