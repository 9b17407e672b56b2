"""Draw from a saved generator: a grid of samples, single frames, and a walk through latent space.

The newest run in saved_models: python inference_unconditional_gan.py

Another: python inference_unconditional_gan.py --generator saved_models/0001-shuffled --seed 7
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from settings import SettingError, command_line, find_generator

BATCH = 16  # frames drawn at once
SECONDS_PER_LATENT = 2.0  # of a walk at --speed 1, from one random latent to the next


@dataclass(frozen=True)
class InferenceSettings:
    """Settings of the drawing."""

    generator: Path | None = None
    """Run folder or Keras file (.keras, or .h5 of Keras 2 too); by default the newest run in saved_models."""
    output: Path = Path("output")
    """Folder to write plot.png, frames/ and walk.mp4 to. Files of the same names there are replaced."""
    rows: int = 4
    """Rows of plot.png."""
    columns: int = 4
    """Columns of plot.png."""
    count: int = 16
    """Frames to write into frames/, one a seed, from --seed on; a file is named after its seed."""
    seed: int = 0
    """First seed of plot.png and frames/, and the seed of the walk."""
    truncation: float = 1.0
    """Below 1, latents are drawn nearer to the average: likelier frames, but more alike."""
    walk_seconds: float = 10.0
    """Length of walk.mp4; 0 writes none."""
    frame_rate: float = 30.0
    """Frames a second of walk.mp4."""
    speed: float = 1.0
    """Speed of the walk; 0.5 is slow motion."""

    def check(self):
        """Raise SettingError for the first value out of its range."""
        ranges = {"rows": 1, "columns": 1, "count": 0, "seed": 0, "truncation": 0, "walk_seconds": 0}
        for name, least in ranges.items():
            if not least <= getattr(self, name) < float("inf"):
                raise SettingError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(self, name)}.")
        for name in ("frame_rate", "speed"):
            if not 0 < getattr(self, name) < float("inf"):
                raise SettingError(f"--{name.replace('_', '-')} must be more than 0, not {getattr(self, name)}.")


SETTINGS = InferenceSettings(
    output=Path("output"),
    rows=4,
    columns=4,
    count=16,
    seed=0,
    truncation=1.0,
    walk_seconds=10.0,
)


def infer(settings):
    """Write plot.png, frames/*.png and walk.mp4 as `settings` say."""
    settings.check()
    path = find_generator(settings.generator)
    from tqdm import tqdm  # late, as all that is heavy: --help should answer at once

    from frames import replacing, to_uint8, write_frame, write_video
    from models import load_generator

    generator = load_generator(path)
    latent_dim = generator.input_shape[-1]
    (settings.output / "frames").mkdir(parents=True, exist_ok=True)
    print(f"drawing from {path}")

    def draw(latents, total, doing):
        """Yield uint8 frames of the latents, holding one batch at a time."""
        for start in tqdm(range(0, total, BATCH), unit="batch", desc=doing):
            batch = np.zeros((BATCH, latent_dim), "float32")  # always full, so that a seed's picture never differs
            wanted = [latents(index) for index in range(start, min(start + BATCH, total))]
            batch[: len(wanted)] = wanted
            yield from to_uint8(generator.predict_on_batch(batch * settings.truncation))[: len(wanted)]

    def seeded(index):
        return latent(latent_dim, settings.seed + index)

    written = [settings.output / "plot.png", settings.output / "frames"]
    plot(written[0], list(draw(seeded, settings.rows * settings.columns, "plot")), settings)
    for index, frame in enumerate(draw(seeded, settings.count, "frames")):
        write_frame(written[1] / f"{settings.seed + index:06}.png", frame)
    length = round(settings.walk_seconds * settings.frame_rate)
    if length:
        step = settings.speed / settings.frame_rate / SECONDS_PER_LATENT
        written.append(settings.output / "walk.mp4")
        with replacing(written[-1]) as partial:
            walk = draw(lambda index: walk_latent(latent_dim, settings.seed, index * step), length, "walk")
            write_video(partial, walk, settings.frame_rate)
    print(f"Pictures: {', '.join(map(str, written))}.")


def latent(latent_dim, *seed):
    """Return the latent of a seed: (latent_dim,) float32, standard normal."""
    return np.random.default_rng(seed).standard_normal(latent_dim, "float32")


def walk_latent(latent_dim, seed, position):
    """Return the latent at a position of an endless walk that meets a random latent at every whole number.

    Between two of them it follows the great circle, so no frame of it is less likely than they are
    (slerp; White 2016, arXiv:1609.04468).
    """
    number, part = int(position), position % 1
    start, end = (latent(latent_dim, seed, number + ahead) for ahead in (0, 1))
    cosine = np.dot(start, end) / (np.linalg.norm(start) * np.linalg.norm(end))
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-4:  # one number a latent: there is only the straight line
        return (1 - part) * start + part * end
    return (np.sin((1 - part) * angle) * start + np.sin(part * angle) * end) / np.sin(angle)


def plot(path, frames, settings):
    """Write a grid of frames with no margins but thin lines between, one picture pixel a frame pixel."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot

    from frames import replacing

    height, width = frames[0].shape[:2]
    dots = 100
    size = settings.columns * width / dots, settings.rows * height / dots
    figure, axes = pyplot.subplots(settings.rows, settings.columns, figsize=size, dpi=dots, squeeze=False)
    figure.subplots_adjust(0, 0, 1, 1, wspace=2 / width, hspace=2 / height)
    for axis, frame in zip(axes.flat, frames, strict=True):
        axis.imshow(frame, aspect="auto", interpolation="none")
        axis.axis("off")
    with replacing(path) as partial:
        figure.savefig(partial)
    pyplot.close(figure)


if __name__ == "__main__":
    command_line(infer, SETTINGS, __doc__)
