"""Measure speed: training against the original recipe, extraction against plain decoding, drawing into mp4.

For example: python benchmarks/throughput.py --video walk.mp4 --minutes 4

Prints a table and writes throughput.csv. Both sides of every ratio are measured in this one run.
"""

import csv
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

from settings import command_line

RECIPES = ("original", "dcgan", "extraction", "drawing")


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of the benchmark."""

    video: Path = Path("data/drawn_walk.mp4")
    """Video to take frames of 160x320 from."""
    minutes: float = 4.0
    """Time to spend on the two trainings together."""
    batch_size: int = 16
    """Frames in a batch, for both."""
    recipes: tuple[Literal["original", "dcgan", "extraction", "drawing"], ...] = RECIPES
    """What to measure."""
    output: Path = Path("throughput.csv")
    """File for the table."""


def measure(settings):
    """Measure every recipe and print and write the table."""
    from extract_frames import ExtractionSettings, extract
    from frames import list_frames, read_frame

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        extract(ExtractionSettings(video=str(settings.video), frames=folder / "frames"))
        paths = list_frames(folder / "frames")
        frames = np.stack([read_frame(path) for path in paths])
        if "original" in settings.recipes:
            rows.append(("training, original recipe", original_speed(frames, settings), "images/s"))
        if "dcgan" in settings.recipes:
            rows.append(
                ("training, this project's defaults", dcgan_speed(paths, frames.shape[1:], settings), "images/s")
            )
            if "original" in settings.recipes:
                rows.append(("    times the original", rows[-1][1] / rows[-2][1], "x"))
        if "extraction" in settings.recipes:
            rows += extraction_times(settings.video, folder)
        if "drawing" in settings.recipes:
            rows.append(("drawing into mp4", drawing_speed(folder), "frames/s"))
    with open(settings.output, "w", newline="") as file:
        csv.writer(file).writerows([("what", "value", "unit"), *rows])
    for what, value, unit in rows:
        print(f"{what:40} {value:9.2f} {unit}")


def original_speed(frames, settings):
    """Return the images a second of the original's loop, counting a whole batch a step."""
    from benchmarks.original import Original
    from frames import to_float

    frames = to_float(frames)  # as the original held them
    original = Original(frames.shape[1:], settings.batch_size)
    return settings.batch_size * steps_a_second(lambda: original.step(frames), 30 * settings.minutes)


def dcgan_speed(paths, frame_shape, settings):
    """Return the images a second of `fit` as train_unconditional_gan.py runs it, reading frames included."""
    import keras

    from gan import build_gan
    from train_unconditional_gan import SETTINGS
    from training import add_up_in_order, batches

    seconds = 30 * settings.minutes

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.began, self.first = time.perf_counter(), batch
            if batch > 2 and time.perf_counter() - self.began > seconds:
                self.speed = (batch - self.first) / (time.perf_counter() - self.began)
                self.model.stop_training = True

    add_up_in_order()
    run = replace(SETTINGS, batch_size=settings.batch_size)
    clock = Clock()
    build_gan(run, frame_shape).fit(
        batches(paths, run, 0, frame_shape), steps_per_epoch=10**6, shuffle=False, verbose=0, callbacks=[clock]
    )
    return settings.batch_size * clock.speed


def steps_a_second(step, seconds):
    """Return how often step() runs in a second, after three calls to warm up."""
    for _ in range(3):
        step()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        step()
        count += 1
    return count / (time.perf_counter() - began)


def extraction_times(video, folder, repeats=3):
    """Time taking 10,000 frames from the video looped to ten minutes, and plain decoding of it, in turns."""
    import cv2
    import imageio_ffmpeg

    from extract_frames import ExtractionSettings, extract

    seconds = imageio_ffmpeg.count_frames_and_secs(str(video))[1]
    looped = folder / "ten_minutes.mp4"
    loop = ["-stream_loop", str(int(600 / seconds)), "-i", video, "-c", "copy", "-an", "-t", "600", looped]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *loop], check=True)
    plain, ours = [], []
    for number in range(repeats):
        began = time.perf_counter()
        capture = cv2.VideoCapture(str(looped))
        while capture.read()[0]:
            pass
        plain.append(time.perf_counter() - began)
        began = time.perf_counter()
        extract(ExtractionSettings(video=str(looped), frames=folder / f"extracted-{number}"))
        ours.append(time.perf_counter() - began)
    return [
        ("plain decoding of ten minutes", np.median(plain), "s"),
        ("extraction of 10,000 frames from it", np.median(ours), "s"),
        ("    times plain decoding", np.median(np.array(ours) / plain), "x"),
    ]


def drawing_speed(folder):
    """Return the frames a second that the default generator draws into a walk.mp4, start-up left out."""
    from frames import to_uint8, write_video
    from models import build_generator
    from train_unconditional_gan import SETTINGS

    generator = build_generator(SETTINGS.latent_dim, (160, 320, 3), SETTINGS.width)
    latents = np.random.default_rng(0).standard_normal((16, SETTINGS.latent_dim), "float32")
    generator.predict_on_batch(latents)
    began = time.perf_counter()
    batches = (to_uint8(generator.predict_on_batch(latents)) for _ in range(40))
    write_video(folder / "walk.mp4", (frame for batch in batches for frame in batch), 30)
    return 640 / (time.perf_counter() - began)


if __name__ == "__main__":
    command_line(measure, BenchmarkSettings(), __doc__)
