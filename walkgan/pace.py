"""The pace of walks: which way they go, and how many steps a second takes, so that a walk is as fast as the video."""

import math

import numpy as np
from keras import ops

from walkgan.generators import generate
from walkgan.images import read_frame, to_grey
from walkgan.keyframes import keyframe_pair
from walkgan.latents import rotate, step_angles
from walkgan.motion_metrics import optical_flow, speed_and_expansion, speeds_and_expansions
from walkgan.sampling import evenly_spaced
from walkgan.street import parts_of_sides, positions

MIN_FRAME_RATE = 15  # below, frames do not look like motion
NUM_PAIRS = 256  # pairs of frames of each scene whose speed is measured, to about 5%
ROUNDS = 3  # of the secant method; the speed is not proportional to the steps
MIN_BACKWARD = 0.75  # share of the pairs of a video that goes backward
MIN_WALKED = 0.001  # from frame to frame: nothing stands still for good
MIN_STEPS, MAX_STEPS = 0.25, 3.0  # per frame of the video: early in a training, speeds mean little


class Pace:
    """Sets the walking speed of a GAN's averaged generator, which its name holds, to that of the video.

    One step of a walk should be one frame of the video. But generators learn to move more slowly than the video, at
    about 0.6 times its speed here, or faster, and a second of a walk takes as many steps more or fewer.
    """

    def __init__(self, paths, timeline, seed, scenes=(1.0,)):
        self.speed, self.walked, self.seed = None, None, seed
        if not timeline or timeline.frame_interval > 1.01 / MIN_FRAME_RATE:  # frames.json rounds times
            return
        self.frame_rate = 1 / timeline.frame_interval
        intervals = np.diff(timeline.times, append=np.inf)  # which differ: every frame, then every second one
        without_cut = np.arange(len(paths)) + 1 < timeline.scene_ends
        firsts = np.flatnonzero(without_cut & (abs(intervals * self.frame_rate - 1) < 0.4))
        scene_of_pair = np.searchsorted(scenes, firsts / len(paths), "right")
        measured = {scene: measure_pairs(paths, firsts[scene_of_pair == scene]) for scene in np.unique(scene_of_pair)}
        if measured:
            speeds, walked = zip(*measured.values(), strict=True)
            self.speed = float(np.median(np.concatenate(speeds)))
            self.walked = np.tile(np.mean(walked, 0), (len(scenes), 1))
            self.walked[list(measured)] = walked

    def set_distances(self, gan):
        """Let the walks of a GAN that is to be trained go as far, and in the direction, as the video does."""
        if self.speed:
            _, period = keyframe_pair(gan.generator.input_shape[-1])
            for generator in (gan.generator, gan.ema_generator):
                generator.get_layer("distances").kernel.assign(period * self.walked)

    def set(self, gan):
        """Measure the speed of walks and set the steps per second that make it the video's."""
        if not self.speed or not gan.steps:
            return
        latent_dim = gan.generator.input_shape[-1]
        latents = np.random.default_rng((self.seed, 4)).standard_normal((NUM_PAIRS, latent_dim), "float32")
        before = generate(gan, latents)

        def speed_at(steps):
            angles = (steps * step_angles(latent_dim)).astype("float32")
            return median_speed(before, generate(gan, ops.convert_to_numpy(rotate(latents, angles))))

        gan.ema_generator.name = f"walker_{steps_per_frame(speed_at, self.speed) * self.frame_rate:.6g}"


def measure_pairs(paths, firsts):
    """Return speeds (pairs,) in frame heights per frame, and how far one walks from frame to frame, see walked_by_flow.

    firsts: the index in paths of each pair's first frame. Of many, NUM_PAIRS are measured.
    """
    firsts = firsts[evenly_spaced(len(firsts), min(NUM_PAIRS, len(firsts)))]
    pairs = [to_grey([read_frame(paths[i]) for i in (first, first + 1)]) for first in firsts]
    measured, mean_flow = [], 0
    for flow in optical_flow(pairs, pairs[0][0].shape[0]):
        measured.append(speed_and_expansion(flow))
        mean_flow = mean_flow + flow / len(pairs)
    speeds, expansions = np.transpose(measured)
    sign = -1 if (expansions < 0).mean() > MIN_BACKWARD else 1
    return speeds, sign * walked_by_flow(mean_flow, sign)


def steps_per_frame(speed_at, target):
    """Return the number of steps, from MIN_STEPS to MAX_STEPS, whose speed is `target`.

    speed_at(steps) is the speed, which rises with the steps, about like a power of them: found by the secant method, on
    logarithms.
    """
    steps, power, known = 1.0, 1.0, None
    for _ in range(ROUNDS):
        error = math.log(max(speed_at(steps), 1e-9) / target)
        if known and known[0] != steps:
            power = max((error - known[1]) / math.log(steps / known[0]), 0.25)  # measured, so not exact
        known = steps, error
        steps = min(max(steps * math.exp(-error / power), MIN_STEPS), MAX_STEPS)
    return steps


def median_speed(before, after):
    """Return the median speed of pairs of frames (count, height, width, 3) uint8, in frame heights per pair."""
    return float(np.median(speeds_and_expansions(before, after)[0]))


def walked_by_flow(flow, sign):
    """Return how far one walks from frame to frame, relative to how far away ground, sky and walls are: (4,).

    flow: the mean optical flow (height, width, 2) of a video, x and y in pixels; sign: 1 forward, -1 backward. In the
    units of walked_by_side. By least squares, with a turn of the camera, which moves everything alike.
    """
    height, width = flow.shape[:2]
    down, right = positions(height, width)
    down, right = np.meshgrid(down, right, indexing="ij")
    parts = np.stack([ops.convert_to_numpy(part) for part in parts_of_sides(down, right)], -1)
    one = np.ones_like(down)[..., None]
    rows = np.dstack([right[..., None] * parts, one, 0 * one]), np.dstack([down[..., None] * parts, 0 * one, one])
    moved = np.moveaxis(flow, -1, 0).reshape(-1) / height
    walked = np.linalg.lstsq(np.stack(rows).reshape(-1, 6), moved, rcond=None)[0][:4]
    return np.maximum(sign * walked, MIN_WALKED)
