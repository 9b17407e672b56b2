"""How the camera of a video moves: it walks, it turns, and it has a horizon. Its optical flow tells."""

import cv2
import numpy as np
from keras import ops

from walkgan.keyframes import keyframe_pair
from walkgan.latents import rotation_periods, step_angles
from walkgan.motion_metrics import speed_and_expansion
from walkgan.street import parts_of_sides, positions

ROWS = 40  # of the optical flow that is looked at; that of 160x320 is 40x80 then
MAX_HORIZON = 0.3  # frame heights from the middle; beyond, there would be hardly any ground, or sky
MIN_BACKWARD = 0.75  # share of the pairs of frames of a video that goes backward
MIN_WALKED = 0.001  # from frame to frame: nothing stands still for good
SHORTEST_TURN, WIDEST_TURN = 64, 256  # steps: see camera_kernel


class Camera:
    """Moves the camera of generators of walks as it moves in a video."""

    def __init__(self, flows):
        """flows: of each scene, those of some runs of pairs of frames, as for `motion_of`; or none."""
        measured = [motion_of(each) if len(each) else None for each in flows]
        longest = measured[np.argmax([np.size(each) for each in flows])]  # tells of those that are too short to tell
        known = [motion or longest for motion in measured]
        self.walked, self.horizons = (np.stack([motion[number] for motion in known]) for number in range(2))
        turned = [motion[2] for motion in measured if motion]
        # Of a normal distribution, the median deviation is 0.67 times the root mean square; that of turns would tell
        # of the few moments at which a walk turns a corner.
        self.turning = np.median(np.abs(np.concatenate(turned)), 0) / 0.67

    def set(self, generator):
        """Set those weights of a generator that the video tells: see street.py."""
        latent_dim = generator.input_shape[-1]
        _, period = keyframe_pair(latent_dim)
        generator.get_layer("distances").kernel.assign(period * self.walked)
        generator.get_layer("horizon").kernel.assign(self.horizons)
        generator.get_layer("camera").kernel.assign(camera_kernel(self.turning, latent_dim))


def motion_of(flows):
    """Return of a scene how far one walks from frame to frame, its horizon, and turns, without what is usual of them.

    flows: (runs, pairs, ROWS, columns, 2) of consecutive pairs of frames, see `shrink`. Returns (4,), (1,) and (runs,
    2), of each run the mean: see walked_and_turned. A camera that shakes is back where it was after a run.
    """
    runs, flows = len(flows), np.concatenate(flows)
    backward = np.mean([speed_and_expansion(flow)[1] < 0 for flow in flows]) > MIN_BACKWARD
    sign = -1 if backward else 1
    horizon = horizon_of(sign * flows)
    walked, turned = walked_and_turned(flows, horizon)
    walked = sign * np.maximum(sign * np.median(walked, 0), MIN_WALKED)
    turned = turned.reshape(runs, -1, 2).mean(1)
    return walked, np.array([horizon]), turned - np.median(turned, 0)


def shrink(flow):
    """Return an optical flow (height, width, 2) in pixels as one of ROWS, in frame heights."""
    height, width = flow.shape[:2]
    return cv2.resize(flow / height, (max(round(ROWS * width / height), 1), ROWS), interpolation=cv2.INTER_AREA)


def horizon_of(flows):
    """Return how far below the middle the horizon of a walk forward is, in frame heights: negative above the middle.

    flows: (pairs, ROWS, columns, 2), see `shrink`. It is where things move neither up nor down: as far as possible,
    what is below moves down, and what is above up.
    """
    down = np.median(flows[..., 1].mean(2), 0)
    downward = [down[row:].sum() - down[:row].sum() for row in range(ROWS + 1)]
    return float(np.clip(np.argmax(downward) / ROWS - 0.5, -MAX_HORIZON, MAX_HORIZON))


def walked_and_turned(flows, horizon):
    """Return, of each flow, how far one walks, (pairs, 4), and how far a turn moves the frame, (pairs, 2).

    flows: (pairs, ROWS, columns, 2), see `shrink`. By least squares: what is walked is relative to how far away ground,
    sky and walls are, as of walked_by_side in street.py; when the camera turns, everything moves alike, down and right,
    in frame heights.
    """
    down, right = positions(*flows.shape[1:3])
    down, right = np.meshgrid(down - np.float32(horizon), right, indexing="ij")
    parts = np.stack([ops.convert_to_numpy(part) for part in parts_of_sides(down, right)], -1)
    one, zero = np.ones_like(parts[..., :1]), np.zeros_like(parts[..., :1])
    moved_right = np.dstack([right[..., None] * parts, zero, one])
    moved_down = np.dstack([down[..., None] * parts, one, zero])
    equations = np.stack([moved_right, moved_down], 2).reshape(-1, 6)
    solutions = np.linalg.lstsq(equations, flows.reshape(len(flows), -1).T, rcond=None)[0].T
    return solutions[:, :4], solutions[:, 4:]


def camera_kernel(speeds, latent_dim):
    """Return the kernel (latent_dim, 2) from latents to how far down and right the camera's turns move the frame.

    speeds: (2,), how fast they move it, in frame heights per step, as a root mean square over random latents. They
    depend on the pairs that take SHORTEST_TURN steps or more for a rotation (or on the slowest one): faster ones would
    shake the camera. All these turn it equally fast, up to WIDEST_TURN; slower ones as far as that one, or the frame
    would leave the street.
    """
    periods = rotation_periods(latent_dim)
    amplitudes = np.where((periods < SHORTEST_TURN) & (periods < periods[-1]), 0, np.minimum(periods, WIDEST_TURN))
    amplitudes /= np.linalg.norm(amplitudes * step_angles(latent_dim))
    none = 0 * amplitudes
    return np.stack([np.append(speeds[0] * amplitudes, none), np.append(none, speeds[1] * amplitudes)], -1)
