"""Windows of frames, from which motion is learned: which frames, stacked on channels, with their length."""

import math

import numpy as np
from keras import ops

from walkgan.keyframes import keyframe_pair

FRAME_STRIDES = 1, 2, 4  # steps between the frames of a window; single frames among the windows slowed the walks


def choose_windows(firsts, window, timeline, rng):
    """Return the indices (count, window) of windows that begin with the frames `firsts` (count,).

    Their frames are one of FRAME_STRIDES apart, drawn at rng, or fewer in a scene too short for it: in one shorter
    than a window, all are the same frame. Near the end of a scene, windows begin a little earlier.
    """
    ends, starts = timeline.scene_ends[firsts], timeline.scene_starts[firsts]
    strides = np.minimum(rng.choice(FRAME_STRIDES, len(firsts)), (ends - 1 - starts) // (window - 1))
    firsts = np.minimum(firsts, ends - 1 - strides * (window - 1))
    return firsts[:, None] + strides[:, None] * np.arange(window)


def longest_window(latent_dim):
    """Return the most frames of a window: all of them must be between two keyframes, see keyframes.py."""
    _, period = keyframe_pair(latent_dim)
    return math.ceil(period / max(FRAME_STRIDES))


def append_time_channel(parts, offsets):
    """Concatenate batches of windows, with a channel for how long each window is (none without offsets)."""
    frames = ops.concatenate(parts)
    if offsets is None:
        return frames
    longest = max(FRAME_STRIDES) * (offsets.shape[1] - 1)
    length = ops.concatenate([offsets[: ops.shape(part)[0], -1] for part in parts]) / longest
    return ops.concatenate([frames, ops.reshape(length, (-1, 1, 1, 1)) * ops.ones_like(frames[..., :1])], -1)
