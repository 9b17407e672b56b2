"""Where things are in a frame: around the vanishing point, at a distance of its own on each of four sides."""

import numpy as np
from keras import ops

SIDES = 4  # down, up, right and left
SIDE_OF_DIRECTION = 0, 1, 2, 3, 2, 3, 2, 3  # of these and the corners between them
DIRECTIONS = len(SIDE_OF_DIRECTION)
CORNER_ASPECT = 1.2  # the corners are so far to the side for each frame height up or down


def positions(height, width):
    """Return how far below the middle each row is (height,), and how far right each column (width,), in heights."""
    return [((np.arange(side) + 0.5 - side / 2) / height).astype("float32") for side in (height, width)]


def passed_at(down, right, walked):
    """Return how far one walks to the next keyframe, relative to how far away what is at each position is.

    down: (batch, height, 1), right: (batch, 1, width), in frame heights; walked: (batch, DIRECTIONS, 1), see
    walked_by_direction in keyframes.py. Returns (batch, height, width).
    """
    return ops.matmul(parts_by_direction(down, right), walked[:, None])[..., 0]


def parts_by_direction(down, right):
    """Return how far each position is along the two directions around it, and 0 for the others.

    down: (batch, height, 1), right: (batch, 1, width), in frame heights. Returns (batch, height, width, DIRECTIONS), to
    the right and left in CORNER_ASPECT frame heights. Weighted sums of it are continuous, and planes between two
    directions.
    """
    right = right / CORNER_ASPECT
    sides = [ops.relu(a - ops.abs(b)) for a, b in ((down, right), (-down, right), (right, down), (-right, down))]
    corners = [ops.relu(ops.minimum(a, b)) for a in (down, -down) for b in (right, -right)]
    return ops.stack(sides + corners, -1)
