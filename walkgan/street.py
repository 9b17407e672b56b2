"""The street of a walk: what stands along it is drawn where it is, and seen from where one is.

A generator that draws each frame anew draws posts that bend and places that melt, however well its discriminator sees
motion. So what is beside the way is drawn on strips: their rows are places along the way, their columns directions
around it. A place is drawn from the latent that the walk has when it passes the place, so it is the same for as long as
it can be seen, and a strip one keyframe later is the same strip, moved by whole rows. Each frame sees the strips in
perspective: ground, sky and walls are planes along the way, at distances that the video tells (see camera.py). Only
what is far away is drawn as an image, on keyframes.

A generator of single frames is made of Keras operations, without layers of our own: its file can be shared.
"""

import math

import keras
import numpy as np
from keras import layers, ops

from walkgan.interpolation import Sampling, sample
from walkgan.keyframes import keyframe_pair
from walkgan.latents import rotate, step_angles

# Of each strip: rows from keyframe to keyframe, columns, and how many keyframes it reaches ahead. Finer ones are for
# what is nearer.
STRIPS = (1, 16, 24), (4, 32, 12), (8, 64, 8)
MEASURED = "distances", "horizon", "camera"  # layers whose weights the video tells, see camera.py
STRIP_NAMES = tuple(f"strip_{number}" for number in range(len(STRIPS)))  # of the layers that draw them
ASPECT = 1.2  # the edge between ground and wall runs so far sideways for each frame height down
FARTHEST = 64  # keyframes ahead; all that is farther away is the same to a strip


def told_by_video(inputs, name, units, initial):
    """Return numbers (batch, units) that are linear in the inputs, and not trained: the video tells, see camera.py."""
    options = {"kernel_initializer": keras.initializers.Constant(initial), "use_bias": False, "trainable": False}
    return layers.Dense(units, dtype="float32", name=name, **options)(inputs)


def walked_by_side(scene):
    """Return how far one walks from keyframe to keyframe, divided by how far away ground, sky and walls are.

    scene: (batch, scenes), one-hot. Returns (batch, 4), of what is below, above, right and left, in 1 / frame heights,
    of the last two in 1 / (ASPECT frame heights); negative where one walks backward.
    """
    return told_by_video(scene, "distances", 4, 0.5)


def latents_along(keyframes, walked):
    """Return the latents that a walk has when it passes each row of the coarsest strip: (batch, rows, latent_dim).

    keyframes: (batch, latent_dim) float32; walked: see walked_by_side.
    """
    (rows, _, reach), (_, period) = STRIPS[0], keyframe_pair(keyframes.shape[-1])
    steps = period / rows * (np.arange(rows * reach, dtype="float32") + 0.5)
    angles = steps[:, None] * step_angles(keyframes.shape[-1]).astype("float32")
    return rotate(keyframes[:, None], ops.sign(walked[:, :1, None]) * angles)


def enlarged(strip, number):
    """Return the strip before that of a number, cut and enlarged to the size of that one, with edges."""
    (rows, columns, _), (new_rows, new_columns, reach) = STRIPS[number - 1 : number + 1]
    return with_edges(layers.UpSampling2D((new_rows // rows, new_columns // columns))(strip[:, : reach * rows]))


def with_edges(strip):
    """Return a strip (batch, rows, columns, channels) with one more on each side: directions go all around."""
    strip = ops.concatenate([strip[:, :, -1:], strip, strip[:, :, :1]], 2)
    return ops.concatenate([strip[:, :1], strip, strip[:, -1:]], 1)


def street_seen(strips, far, latents, fraction, walked, scene, window, fused=False):
    """Return features of frames of a street, with one more on each side: (batch * window, height + 2, width + 2, ...).

    strips: each (batch, rows, columns, channels), at the keyframe before; far: (2 * batch, height, width, channels),
    what is far away at the keyframes before and after; latents: (batch * window, latent_dim) of the frames, which tell
    how the camera turns; fraction: (batch * window, 1), of the way between these keyframes; walked: see walked_by_side;
    scene: (batch, scenes), one-hot; fused: see build_generators in models.py.
    """
    # How far down and right the camera turns everything, and how far below the middle of that the horizon is.
    turned, horizon = told_by_video(latents, "camera", 2, 0.0), told_by_video(scene, "horizon", 1, 0.0)
    walked, horizon, before, after = (ops.repeat(each, window, 0) for each in (walked, horizon, *ops.split(far, 2, 0)))
    (height, width), (down, right) = far.shape[1:3], positions(*far.shape[1:3], margin=1)
    # What has one number for each frame comes first: on TensorFlow, Keras takes what it adds for a bias otherwise, if
    # there are as many frames as rows or columns.
    down, right = 0 - turned[:, :1, None] + down[:, None], 0 - turned[:, 1:, None] + right
    x = before + ops.cast(fraction[..., None, None], far.dtype) * (after - before)
    sampled = Sampling() if fused else sample
    x = sampled(x, height * down + (height - 1) / 2, height * right + (width - 1) / 2, window=1)
    down = 0 - horizon[..., None] + down
    ahead = 1 / ops.maximum(ops.abs(passed_at(down, right, walked)), 1 / FARTHEST)  # in keyframes
    # About how many pixels it moves from keyframe to keyframe.
    moves = height * ops.maximum(ops.abs(down), ops.abs(right) / ASPECT) / ahead
    place = ops.sign(walked[:, :1, None]) * fraction[..., None] + ahead  # seen from the keyframe before
    around = ops.mod(ops.arctan2(down, right / ASPECT) / (2 * math.pi), 1.0)
    for strip, (rows, columns, reach) in zip(strips, STRIPS, strict=True):
        # All of it is shown for two thirds of its reach, and then less and less; but none of it where its rows are
        # less than half a pixel high, between which it would flicker.
        shown = ops.clip(ops.minimum(3 - 3 * ahead / (reach - 1), 2 * moves / rows - 1), 0, 1)
        shown = ops.cast(shown[..., None], far.dtype)
        x = (1 - shown) * x if rows == STRIPS[0][0] else x
        x = x + shown * sampled(with_edges(strip), rows * place + 0.5, columns * around + 0.5, window=window)
    return x


def positions(height, width, margin=0):
    """Return how far below the middle each row is (height,), and how far right each column (width,), in heights.

    With a margin, there are as many more on each side.
    """
    sides = [np.arange(-margin, side + margin) + 0.5 - side / 2 for side in (height, width)]
    return [(side / height).astype("float32") for side in sides]


def passed_at(down, right, walked):
    """Return how far one walks from keyframe to keyframe, divided by how far ahead what is at each position is.

    down: (batch, height, 1), right: (batch, 1, width), in frame heights; walked: (batch, 4), see walked_by_side.
    Returns (batch, height, width). To the right and left there are walls, on which it is the same at all heights, so
    that what stands on them stays upright. Below and above, ground and sky are planes between the walls.
    """
    return sum(part * walked[:, side, None, None] for side, part in enumerate(parts_of_sides(down, right)))


def parts_of_sides(down, right):
    """Return what each side's distance counts at each position: below, above, right and left, see passed_at."""
    aside = ops.abs(right) / ASPECT
    return ops.relu(down - aside), ops.relu(0 - down - aside), ops.relu(right) / ASPECT, ops.relu(0 - right) / ASPECT
