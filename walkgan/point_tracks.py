"""Points followed through walks: whether they can be followed, how straight they move, and how rigid the scene is.

Bending posts and melting places look right to scores of single steps: they move at the right speed, frame by frame. So
do walks on the spot, in which what has come nearer fades back.
"""

import cv2
import numpy as np

from walkgan.images import to_grey

STEPS = 16  # that a point is followed for: half a second of a usual video
GROWTH_STEPS = 40  # after which what has come nearer must still be there
MAX_POINTS, MIN_POINTS = 200, 16  # to begin with; that must be left to judge a stretch of a walk
WINDOW = 11  # pixels around a point that are matched


def follow_points(walk, steps=STEPS):
    """Follow points through stretches of so many steps of a walk (length, height, width, 3) uint8 RGB, in order.

    Corners are followed by the method of Lucas and Kanade, and lost where following them back does not lead to where
    they came from. Returns, for each stretch, the paths (points, steps + 1, 2) of x and y in pixels of the points that
    were never lost, and the share that they are of all points.
    """
    grey = to_grey(walk)
    height = len(grey[0])
    stretches = []
    for start in range(0, len(walk) - steps, steps // 2):
        corners = cv2.goodFeaturesToTrack(grey[start], MAX_POINTS, 0.01, height / 20)
        if corners is None:  # a frame without any contrast
            stretches.append((np.zeros((0, steps + 1, 2), "float32"), 0.0))
            continue
        points, followed = [corners], np.ones(len(corners), bool)
        for step in range(start, start + steps):
            found, forwards = _follow(grey[step], grey[step + 1], points[-1])
            returned, backwards = _follow(grey[step + 1], grey[step], found)
            errors = np.linalg.norm(returned - points[-1], axis=-1)[:, 0]
            followed &= forwards & backwards & (errors < height / 160)
            points.append(found)
        paths = np.concatenate(points, 1)[followed]
        stretches.append((paths, len(paths) / len(corners)))
    return stretches


def tracked_motion(walks):
    """Return scores of walks by points that are followed: each (length, height, width, 3) uint8 RGB, in order.

    "points followed": the share of points that can be followed for STEPS steps.
    "straightness": how far a point gets for the length of its path, relative to the motion that all points share; 1 on
    a straight line. The median over all points that move.
    "bending": how far points are from where a rigid scene would have them, relative to their motion: the distances from
    their epipolar lines. The median over all stretches. 0 for a camera among things that stand still.
    "growth": the factor by which points move apart within GROWTH_STEPS steps: things grow as they come nearer. About 1
    on the spot. The median over all stretches.
    A score that cannot be measured is NaN: no point is followed, none moves, or walks do not have the steps.
    """
    stretches = [stretch for walk in walks for stretch in follow_points(walk)]
    height = walks[0].shape[1]
    long = [paths for walk in walks for paths, _ in follow_points(walk, GROWTH_STEPS)]
    growth = [_growth(each) for each in long if len(each) >= MIN_POINTS / 2]
    paths = [paths for paths, _ in stretches if len(paths) >= MIN_POINTS]
    straight = np.concatenate([_straightness(each, height) for each in paths]) if paths else np.zeros(0)
    bending = [number for number in (_bending(each) for each in paths) if number is not None]
    return {
        "points followed": float(np.mean([share for _, share in stretches])) if stretches else np.nan,
        "straightness": float(np.median(straight)) if len(straight) else np.nan,
        "bending": float(np.median(bending)) if bending else np.nan,
        "growth": float(np.median(growth)) if growth else np.nan,
    }


def _follow(before, after, points):
    """Return where points (count, 1, 2) of a grey image are in the next one, and which of them were found."""
    found, status, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, winSize=(WINDOW, WINDOW), maxLevel=2)
    return found, status[:, 0] > 0


def _straightness(paths, height):
    """Return how straight each path is that is longer than 3% of the frame's height."""
    own = paths - np.median(paths, 0)  # without the sway of the camera
    corners = own[:, :: STEPS // 4]  # few, since errors of a tenth of a pixel bend the path of a slow point
    lengths = np.linalg.norm(np.diff(corners, axis=1), axis=-1).sum(1)
    distances = np.linalg.norm(corners[:, -1] - corners[:, 0], axis=-1)
    moving = lengths > 0.03 * height
    return distances[moving] / lengths[moving]


def _bending(paths):
    """Return the median distance of points from their epipolar lines, relative to their median motion, or None."""
    first, last = paths[:, 0], paths[:, -1]
    motion = np.median(np.linalg.norm(last - first, axis=1))
    matrix, _ = cv2.findFundamentalMat(first, last, cv2.FM_LMEDS, confidence=0.999)
    if matrix is None or matrix.shape != (3, 3) or motion == 0:
        return None
    first, last = (np.pad(points, ((0, 0), (0, 1)), constant_values=1) for points in (first, last))
    lines, lines_back = first @ matrix.T, last @ matrix
    # Sampson's approximation of the distance.
    norm = np.sqrt((lines[:, :2] ** 2).sum(1) + (lines_back[:, :2] ** 2).sum(1))
    return float(np.median(np.abs((last * lines).sum(1)) / norm) / motion)


def _growth(paths):
    """Return the median factor by which the distances between all points grow."""
    one, other = np.triu_indices(len(paths), 1)
    first, last = (np.linalg.norm(points[one] - points[other], axis=1) for points in (paths[:, 0], paths[:, -1]))
    return float(np.median(last / first))
