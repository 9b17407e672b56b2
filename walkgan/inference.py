"""Generate with a saved generator: a grid of samples, single frames, and walks."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import matplotlib
import numpy as np
from tqdm import tqdm

from walkgan.errors import SettingError
from walkgan.files import atomic_write
from walkgan.generators import frame_drawer, load_generator, project, scenes_of, steps_per_second
from walkgan.images import crop_and_resize, image_grid, read_frame, write_frame
from walkgan.latents import latent_from_seed, rotated_latent, slerp_latent
from walkgan.run_folder import find_generator
from walkgan.video_writer import video_writer

BATCH_SIZE = 32
SECONDS_PER_LATENT = 2.0  # at --speed 1, between two random latents of a generator that has not learned motion
STRIP_FRAMES, STRIP_STRIDE = 12, 4


def infer(settings):
    """Write plot.png, frames/*.png, walk.mp4, walks.mp4 and strip.png as `settings` say, and print where they are."""
    settings.check()
    path = find_generator(settings.generator)
    image = read_frame(settings.project, "convert it to PNG or JPEG") if settings.project else None
    generator = load_generator(path)
    draw = frame_drawer(generator)
    output = settings.output
    remove_stale_frames(output, path)
    print(f"generating with {path}")

    def seeded_latent(index):
        latent = latent_from_seed(generator.input_shape[-1], settings.seed + index)
        return latent * np.float32(settings.truncation)

    plot(
        output / "plot.png",
        list(generate_batches(draw, seeded_latent, settings.rows * settings.columns, "plot")),
        settings,
    )
    for index, frame in enumerate(generate_batches(draw, seeded_latent, settings.count, "frames")):
        write_frame(output / "frames" / f"{settings.seed + index:06}.png", frame)
    written = ["plot.png", "frames"]
    starts = [seeded_latent(index) for index in range(settings.walks)]
    if image is not None:
        image = crop_and_resize(image, *generator.output_shape[1:3])
        starts[0] = project(generator, image, settings.seed)
        projected = generate_batches(draw, lambda _: starts[0], 1, "projected")
        write_frame(output / "projected.png", image_grid(np.stack([image, *projected]), 2))
        written.append("projected.png")
    if settings.walk_seconds:
        written += write_walks(generator, draw, starts, settings)
    for name in {"projected.png", "walk.mp4", "walks.mp4", "strip.png"} - set(written):
        (output / name).unlink(missing_ok=True)  # of an earlier inference, perhaps with another generator
    print(f"Images: {', '.join(str(output / name) for name in written)}.")


def remove_stale_frames(output, path):
    """Make the output folder; delete the images in it of another generator file than `path`.

    Raises SettingError where its frames/ holds files that no inference has written.
    """
    folder, marker = output / "frames", output / ".generator.sha256"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    before = marker.read_text().strip() if marker.exists() else None
    if before is None and any(folder.glob("[!.]*")):
        raise SettingError(f"{folder} holds files that this script did not write: choose another --output.")
    folder.mkdir(parents=True, exist_ok=True)
    if before != digest:
        for frame in folder.glob("*.png"):
            if re.fullmatch(r"\d{6,}", frame.stem):
                frame.unlink()
        marker.write_text(digest + "\n")


def generate_batches(draw, latent_of, total, description):
    """Yield the uint8 frames that `draw`, of frame_drawer, draws from latent_of(0), latent_of(1) and so on.

    The next batch is drawn meanwhile.
    """

    def make(start):
        latents = [latent_of(index) for index in range(start, min(start + BATCH_SIZE, total))]
        if not latents:
            return []
        batch = np.zeros((BATCH_SIZE, len(latents[0])), "float32")  # always full, so that a seed's frame never differs
        batch[: len(latents)] = latents
        return draw(batch)[: len(latents)]

    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(make, 0)
        for start in tqdm(range(0, total, BATCH_SIZE), unit="batch", desc=description):
            frames, following = following.result(), pool.submit(make, start + BATCH_SIZE)
            yield from frames


def write_walks(generator, draw, starts, settings):
    """Write walk.mp4 from the first of the latents `starts`, walks.mp4 and strip.png from all of them side by side.

    Of a single walk, walks.mp4 would be the same as walk.mp4, and is not written. Returns the names of the files.
    """
    rate = steps_per_second(generator)
    frame_rate = settings.frame_rate
    keep_scene = len(scenes_of(generator)) > 1
    num_frames, num_walks = max(1, round(settings.walk_seconds * frame_rate)), len(starts)

    def walk_latent(walk, frame):
        seconds = settings.speed * frame / frame_rate
        if rate:
            return rotated_latent(starts[walk], seconds * rate)
        return slerp_latent(
            starts[walk], settings.seed + walk, seconds / SECONDS_PER_LATENT, settings.truncation, keep_scene
        )

    def frames_latent(index):
        return walk_latent(index % num_walks, index // num_walks)

    frames = generate_batches(draw, frames_latent, num_frames * num_walks, "walks")
    with ExitStack() as stack:
        names = ["walk.mp4", "walks.mp4"] if num_walks > 1 else ["walk.mp4"]
        paths = [stack.enter_context(atomic_write(settings.output / name)) for name in names]
        writers = [stack.enter_context(video_writer(path, frame_rate)) for path in paths]
        for row in zip(*[frames] * num_walks, strict=True):
            for write, frame in zip(writers, (row[0], np.concatenate(row, 1)), strict=False):
                write(frame)

    def strip_latent(index):
        return walk_latent(index // STRIP_FRAMES, index % STRIP_FRAMES * STRIP_STRIDE)

    strip = generate_batches(draw, strip_latent, STRIP_FRAMES * num_walks, "strip")
    write_frame(settings.output / "strip.png", image_grid(np.stack(list(strip)), STRIP_FRAMES))
    return [*names, "strip.png"]


def plot(path, frames, settings):
    """Write a grid of frames with lines of 2 pixels between them, pixel by pixel."""
    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot

    line, dpi = 2, 100
    height, width = frames[0].shape[:2]
    pixels = settings.columns * (width + line) - line, settings.rows * (height + line) - line
    size = [side / dpi for side in pixels]
    figure, axes = pyplot.subplots(settings.rows, settings.columns, figsize=size, dpi=dpi, squeeze=False)
    figure.subplots_adjust(0, 0, 1, 1, wspace=line / width, hspace=line / height)
    for axis, frame in zip(axes.flat, frames, strict=True):
        axis.imshow(frame, aspect="auto", interpolation="none")
        axis.axis("off")
    with atomic_write(path) as partial:
        figure.savefig(partial)
    pyplot.close(figure)
