"""The pace of walks: how many steps a second takes, so that a walk is as fast as the video."""

import math

import numpy as np
from keras import ops

from walkgan.camera import Camera, shrink
from walkgan.generators import generate
from walkgan.images import read_frame, to_grey
from walkgan.latents import rotate, step_angles
from walkgan.motion_metrics import optical_flow, speed_and_expansion, speeds_and_expansions
from walkgan.sampling import evenly_spaced

MIN_FRAME_RATE = 15  # below, frames do not look like motion
NUM_PAIRS = 256  # of frames of walks, whose speed is measured to about 5%
NUM_RUNS, RUN = 32, 16  # of consecutive pairs of frames of each scene of the video
ROUNDS = 3  # of measuring, at first; later one is enough, and it takes a while to generate so many frames
MIN_STEPS, MAX_STEPS = 0.25, 3.0  # per frame of the video: early in a training, speeds mean little


class Pace:
    """Sets the walking speed of a GAN's averaged generator, which its name holds, to that of the video.

    One step of a walk should be one frame of the video. But optical flow finds less motion in blurred frames, early in
    a training about half, and a second of a walk takes as many steps more.
    """

    def __init__(self, paths, timeline, seed, scenes=(1.0,)):
        self.speed, self.camera, self.seed = None, None, seed
        self.steps = None  # for a frame of the video, as measured last: where the next measurement begins
        if not timeline or timeline.frame_interval > 1.01 / MIN_FRAME_RATE:  # frames.json rounds times
            return
        self.frame_rate = 1 / timeline.frame_interval
        intervals = np.diff(timeline.times, append=np.inf)  # which differ: every frame, then every second one
        without_cut = np.arange(len(paths)) + 1 < timeline.scene_ends
        firsts = np.flatnonzero(without_cut & (abs(intervals * self.frame_rate - 1) < 0.4))
        if len(firsts):
            scene_of_pair = np.searchsorted(scenes, firsts / len(paths), "right")
            measured = [measure_pairs(paths, firsts[scene_of_pair == scene]) for scene in range(len(scenes))]
            self.speed = float(np.median(np.concatenate([speeds for speeds, _ in measured])))
            self.camera = Camera([flows for _, flows in measured])

    def set_camera(self, gan):
        """Let the camera of a GAN that is to be trained walk, turn and have its horizon as in the video."""
        if self.camera:
            for generator in (gan.generator, gan.ema_generator):
                self.camera.set(generator)

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

        self.steps = steps_per_frame(speed_at, self.speed, self.steps)
        gan.ema_generator.name = f"walker_{self.steps * self.frame_rate:.6g}"

    def forget(self):
        """Let the next measurement begin from scratch, so that it depends on the weights alone."""
        self.steps = None


def measure_pairs(paths, firsts):
    """Return speeds (runs * pairs,), in frame heights per frame, and optical flows (runs, pairs, ...) of some frames.

    firsts: the index in paths of each pair's first frame. Of many, NUM_RUNS runs of RUN are measured. The flows are
    those of `shrink` in camera.py.
    """
    length = max(min(RUN, len(firsts)), 1)
    runs = firsts[: len(firsts) // length * length].reshape(-1, length)
    runs = runs[evenly_spaced(len(runs), min(NUM_RUNS, len(runs)))]
    pairs = (to_grey([read_frame(paths[i]) for i in (first, first + 1)]) for first in runs.ravel())
    measured = [(speed_and_expansion(flow)[0], shrink(flow)) for flow in optical_flow(pairs)]
    speeds, flows = (np.array([each[part] for each in measured]) for part in range(2))
    return speeds, flows.reshape(*runs.shape, *flows.shape[1:])


def steps_per_frame(speed_at, target, before=None):
    """Return the number of steps, from MIN_STEPS to MAX_STEPS, whose speed is `target`.

    speed_at(steps) is the speed, which rises with the steps, about like a power of them: found by the secant method, on
    logarithms. From what was found before, there is one round, which takes the speed for proportional to the steps.
    """
    steps, rounds = (before, 1) if before else (1.0, ROUNDS)
    power, known = 1.0, None
    for _ in range(rounds):
        error = math.log(max(speed_at(steps), 1e-9) / target)
        if known and known[0] != steps:
            power = max((error - known[1]) / math.log(steps / known[0]), 0.25)  # measured, so not exact
        known = steps, error
        steps = min(max(steps * math.exp(-error / power), MIN_STEPS), MAX_STEPS)
    return steps


def median_speed(before, after):
    """Return the median speed of pairs of frames (count, height, width, 3) uint8, in frame heights per pair."""
    return float(np.median(speeds_and_expansions(before, after)[0]))
