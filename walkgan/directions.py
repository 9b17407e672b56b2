"""Where things are in a frame: how far from the vanishing point, and in which direction."""

import numpy as np
from keras import ops

ASPECT = 1.2  # the edge between ground and wall runs so far sideways for each frame height down
DIRECTIONS = 16  # around the vanishing point


def positions(height, width):
    """Return how far below the middle each row is (height,), and how far right each column (width,), in heights."""
    return [((np.arange(side) + 0.5 - side / 2) / height).astype("float32") for side in (height, width)]


def passed_at(down, right, walked):
    """Return how far one walks to the next keyframe, relative to how far away what is at each position is.

    down: (batch, height, 1), right: (batch, 1, width), in frame heights; walked: (batch, 4), see walked_by_side in
    keyframes.py. Returns (batch, height, width). To the right and left there are walls, on which it is the same at all
    heights, so that what stands on them stays upright. Below and above, ground and sky are planes between the walls.
    """
    aside = ops.abs(right) / ASPECT
    parts = ops.relu(down - aside), ops.relu(0 - down - aside), ops.relu(right) / ASPECT, ops.relu(0 - right) / ASPECT
    return sum(part * walked[:, side, None, None] for side, part in enumerate(parts))


def passed_on(walked, height, width):
    """Return passed_at of all positions of an image, (batch, height, width), without gradients."""
    down, right = positions(height, width)
    none = 0 * walked[:, :1, None]
    return passed_at(ops.add(down[:, None], none), ops.add(right, none), ops.stop_gradient(walked))


def shares_of_directions(height, width):
    """Return each position's share in each direction, (height, width, DIRECTIONS): the two beside it share it."""
    down, right = positions(height, width)
    turned = np.arctan2(down[:, None], right / ASPECT) / (2 * np.pi) * DIRECTIONS
    apart = np.abs((turned[..., None] - np.arange(DIRECTIONS) + DIRECTIONS / 2) % DIRECTIONS - DIRECTIONS / 2)
    return np.maximum(1 - apart, 0).astype("float32")
