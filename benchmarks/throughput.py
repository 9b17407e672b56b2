"""Measure speed and memory: training against the original recipe, extraction against plain decoding, generation.

For example: python benchmarks/throughput.py --video walk.mp4 --minutes 4

Prints a table and writes throughput.csv. Everything is measured in this one run, each row in a process of its own.
"""

import csv
import math
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

from benchmarks import video_speed
from walkgan.cli import run_script
from walkgan.errors import SettingError
from walkgan.settings import TrainingSettings

TRAININGS = ("original", "dcgan", "default", "default, bfloat16")
RECIPES = (*TRAININGS, "extraction", "generation")


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of the benchmark."""

    video: Path = Path("data/built_in_walk.mp4")
    """Video to take 160x320 frames from."""
    minutes: float = 4.0
    """Time to spend on all training recipes together."""
    batch_size: int = 16
    """Frames in a batch."""
    recipes: tuple[str, ...] = RECIPES
    """What to measure: any of RECIPES at the top of this file."""
    output: Path = Path("throughput.csv")
    """File for the table."""


def measure(settings):
    """Measure every recipe and print and write the table."""
    from extract_frames import ExtractionSettings
    from walkgan.extraction import extract

    if unknown := [name for name in settings.recipes if name not in RECIPES]:
        raise SettingError(f"--recipes knows no {unknown[0]!r}; it knows {', '.join(map(repr, RECIPES))}.")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        trainings = [name for name in TRAININGS if name in settings.recipes]
        if trainings:
            extract(ExtractionSettings(video=str(settings.video), frames=folder / "frames"))
            peak = run_in_subprocess(matrix_multiply_peak)[0]
        for name in trainings:
            (speed, flops), memory = run_in_subprocess(training_speed, name, folder / "frames", settings)
            share = f"{flops * speed / peak:.0%} of the matrix-multiply peak, {peak / 1e9:.0f} GFLOP/s"
            rows.append((f"training, {name}", f"{speed:.1f}", "images/s", share, memory))
            print_row(rows[-1])
        if "extraction" in settings.recipes:
            for height in (360, 1080):
                rows += extraction_rows(settings.video, folder, height)
        if "generation" in settings.recipes:
            speed, memory = run_in_subprocess(generation_speed, folder)
            rows.append(("generation into mp4", f"{speed:.0f}", "frames/s", "", memory))
            print_row(rows[-1])
    with open(settings.output, "w", newline="") as file:
        csv.writer(file).writerows([("what", "value", "unit", "compared", "peak memory, MB"), *rows])


def extraction_rows(video, folder, height):
    """Measure extraction from a video of a height against plain decoding; print and return the rows."""
    looped = run_in_subprocess(video_speed.loop_video, video, folder, height)[0]
    plain, memory = run_in_subprocess(video_speed.decode, looped)
    rows = [(f"plain decoding, {height} lines", f"{12_000 / plain:.0f}", "frames/s", "", memory)]
    ours, memory = run_in_subprocess(video_speed.extract_sixth, looped, folder / f"ours-{height}")
    times = f"{ours / plain:.2f} times as long as plain decoding"
    rows.append((f"extraction, {height} lines", f"{12_000 / ours:.0f}", "frames/s", times, memory))
    ffmpeg = run_in_subprocess(video_speed.extract_sixth_by_ffmpeg, looped, folder / f"ffmpeg-{height}")[0]
    rows.append((f"the ffmpeg command, {height} lines", f"{12_000 / ffmpeg:.0f}", "frames/s", "", ""))
    for row in rows:
        print_row(row)
    looped.unlink()
    return rows


def print_row(row):
    """Print a row of the table as soon as it is there."""
    print("{:32}{:>8} {:9} {:55} {:>8}".format(*row), "MB" if row[-1] else "", flush=True)


def run_in_subprocess(function, *arguments):
    """Return what a function returns in a process of its own, and the most memory it held, in MB."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(with_memory, function, *arguments).result()


def with_memory(function, *arguments):
    """Return what a function returns, and the most memory that this process has held, in MB."""
    result = function(*arguments)
    try:
        import resource
    except ImportError:  # on Windows
        return result, ""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return result, round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def matrix_multiply_peak():
    """Return the float32 operations per second of a large matrix product on the installed backend."""
    import keras

    def products_per_second(size):
        matrix = keras.random.normal((size, size))

        def multiply():
            keras.ops.convert_to_numpy(keras.ops.matmul(matrix, matrix)[0, 0])

        return max(calls_per_second(multiply, 1) for _ in range(3))

    size = 2000
    while (rate := products_per_second(size)) > 10:  # until the transfer to a GPU and back no longer counts
        size *= 2
    return 2 * size**3 * rate


def training_speed(name, folder, settings):
    """Return the images per second of a recipe's training loop, and the operations that an image needs."""
    from walkgan.dataset import list_frames

    paths = list_frames(folder)
    seconds = 60 * settings.minutes / sum(recipe in TRAININGS for recipe in settings.recipes)
    if name == "original":
        return original_speed(paths, settings, seconds)
    from train_unconditional_gan import SETTINGS

    pixels = {"thumbnail_weight": 0.0, "feature_weight": 0.0}
    changes = {
        "dcgan": pixels | {"loss": "non-saturating", "gamma": 0.0, "augment": ()},
        "default": {},
        "default, bfloat16": {"precision": "bfloat16"},
    }
    return gan_speed(paths, replace(SETTINGS, batch_size=settings.batch_size, **changes[name]), seconds)


def original_speed(paths, settings, seconds):
    """Measure the original's loop, counting a whole batch a step."""
    from benchmarks.original import Original
    from walkgan.images import read_frame, to_float

    frames = to_float(np.stack([read_frame(path) for path in paths]))  # as the original held them
    original = Original(frames.shape[1:], settings.batch_size)
    speed = settings.batch_size * calls_per_second(lambda: original.step(frames), seconds)
    generator, discriminator = forward_flops(original.generator), forward_flops(original.discriminator)
    # Half a batch of fakes, the discriminator's step on a whole one, the generator's through both networks.
    return speed, 0.5 * generator + 3 * discriminator + 3 * generator + 2 * discriminator


def gan_speed(paths, run: TrainingSettings, seconds):
    """Measure `fit` at full size as train_unconditional_gan.py runs it, reading frames included."""
    import keras

    from walkgan.dataset import batches
    from walkgan.distribution import enable_determinism
    from walkgan.gan import PENALTY_BATCH_SIZE
    from walkgan.gan_builder import build_gan
    from walkgan.images import read_frame

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                float(logs["d_loss"])  # waits for the device
                self.start, self.first = time.perf_counter(), batch
            if batch > 2 and time.perf_counter() - self.start > seconds:
                float(logs["d_loss"])
                self.speed = (batch - self.first) / (time.perf_counter() - self.start)
                self.model.stop_training = True

    frame_shape = read_frame(paths[0]).shape
    enable_determinism()
    clock, gan = Clock(), build_gan(run, frame_shape)
    gan.fit(batches(paths, run, 0, frame_shape), steps_per_epoch=10**6, shuffle=False, verbose=0, callbacks=[clock])
    generator, discriminator = forward_flops(gan.generator), forward_flops(gan.discriminator)
    num_discriminated = 2 + len(gan.penalty_inputs) * (PENALTY_BATCH_SIZE / run.batch_size) if run.gamma else 2
    # Forward, and backward to weights and inputs but not to frames, of all that is scored; once more backward, to the
    # generator.
    unneeded = forward_flops(gan.discriminator, channels=frame_shape[2])
    flops = 3 * generator + num_discriminated * (3 * discriminator - unneeded) + discriminator
    if gan.projector:  # real and fake, the fake ones backward too; as the discriminator above, each by one view
        flops += 3 * forward_flops(gan.projector) + 8 * forward_flops(gan.feature_discriminators[0])
    return run.batch_size * clock.speed, flops


def forward_flops(network, channels=None):
    """Return the operations of a network's convolutions and dense layers for one frame; an addition is one.

    With `channels`, only those of layers that see so many.
    """
    from keras import layers

    from walkgan.layers import UpConv2D

    total = 0
    for layer in network.layers:
        counted = isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.Dense)
        if counted and channels in (None, layer.kernel.shape[-2]):
            places = math.prod(layer.output.shape[1:-1])
            taps = 4 / 9 if isinstance(layer, UpConv2D) else 1  # 3x3 of pixels that repeat are 2x2
            total += 2 * places * math.prod(layer.kernel.shape) * taps
    return total


def calls_per_second(step, seconds):
    """Return how often step() runs per second, after three calls to warm up."""
    for _ in range(3):
        step()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        count += 1
    return count / (time.perf_counter() - start)


def generation_speed(folder):
    """Return the frames per second that a default generator of walks draws into a walk.mp4, start-up left out."""
    from models import build_generator
    from train_unconditional_gan import SETTINGS
    from walkgan.images import to_uint8
    from walkgan.video_writer import write_video

    generator = build_generator(SETTINGS.latent_dim, (160, 320, 3), SETTINGS.width, walks=True)
    latents = np.random.default_rng(0).standard_normal((16, SETTINGS.latent_dim), "float32")
    generator.predict_on_batch(latents)
    start = time.perf_counter()
    batches = (to_uint8(generator.predict_on_batch(latents)) for _ in range(40))
    write_video(folder / "walk.mp4", (frame for batch in batches for frame in batch), 30)
    return 640 / (time.perf_counter() - start)


if __name__ == "__main__":
    run_script(measure, BenchmarkSettings(), __doc__)
