"""Draw from a saved generator: a grid of samples, single frames, and walks.

A generator that learned how a walk moves walks; any other moves through latent space from picture to picture.

The newest run in saved_models: python inference_unconditional_gan.py

Another: python inference_unconditional_gan.py --generator saved_models/0001-shuffled --seed 7
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from settings import SettingError, check_positive, check_range, command_line, find_generator

BATCH = 16  # frames drawn at once
SMOOTH = 15  # frames a second that look like motion
STARTS, STEPS = 8, 200  # latents that --project tries, and how often it moves them
SECONDS_PER_LATENT = 2.0  # at --speed 1, from one random latent to the next, without a walk


@dataclass(frozen=True)
class InferenceSettings:
    """Settings of the drawing."""

    generator: Path | None = None
    """Run folder or Keras file (.keras, or .h5 of Keras 2 too); by default the newest run in saved_models."""
    output: Path = Path("output")
    """Folder to write plot.png, frames/, walk.mp4, walks.mp4 and strip.png to. Files of these names are replaced."""
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
    walk_seconds: float = 8.0
    """Length of walk.mp4 and walks.mp4; 0 writes neither, and no strip.png."""
    walks: int = 3
    """Walks side by side in walks.mp4 and strip.png (12 frames, 4 apart), of the seeds from --seed on."""
    frame_rate: float | None = None
    """Frames a second of the videos; by default as many as the frames a walk was learned from, else 30."""
    speed: float = 1.0
    """Speed of the walks; 0.5 is slow motion."""
    project: Path | None = None
    """A picture, of which the nearest frame that the generator can draw is sought; both are written side by side into
    projected.png, and the walk of walk.mp4 starts there."""

    def check(self):
        """Raise SettingError for the first value out of its range."""
        check_range(self, 1, "rows", "columns", most=100)  # in one picture
        check_range(self, 1, "walks", most=16)  # in one video
        check_range(self, 0, "count", "seed", "truncation", "walk_seconds")
        check_range(self, 0.1, "frame_rate", most=1000)
        check_positive(self, "speed")
        if self.project and not self.project.is_file():
            raise SettingError(f"there is no picture {self.project}: --project takes a picture file.")


SETTINGS = InferenceSettings(
    output=Path("output"),
    rows=4,
    columns=4,
    count=16,
    seed=0,
    truncation=1.0,
    walk_seconds=8.0,
)


def infer(settings):
    """Write plot.png, frames/*.png, walk.mp4, walks.mp4 and strip.png as `settings` say."""
    settings.check()
    path = find_generator(settings.generator)
    from tqdm import tqdm  # late, as all that is heavy: --help should answer at once

    from frames import fit_frame, read_frame, replacing, tile, to_uint8, video_writer, write_frame
    from models import load_generator, steps_a_second

    picture = read_frame(settings.project) if settings.project else None
    generator = load_generator(path)
    latent_dim = generator.input_shape[-1]
    (settings.output / "frames").mkdir(parents=True, exist_ok=True)
    print(f"drawing from {path}")

    def draw(latent_of, total, doing):
        """Yield uint8 frames of latent_of(0), latent_of(1) and so on, holding one batch at a time."""
        for start in tqdm(range(0, total, BATCH), unit="batch", desc=doing):
            batch = np.zeros((BATCH, latent_dim), "float32")  # always full, so that a seed's picture never differs
            wanted = [latent_of(index) for index in range(start, min(start + BATCH, total))]
            batch[: len(wanted)] = wanted
            yield from to_uint8(generator.predict_on_batch(batch * settings.truncation))[: len(wanted)]

    def seeded(index):
        return latent(latent_dim, settings.seed + index)

    written = [settings.output / "plot.png", settings.output / "frames"]
    plot(written[0], list(draw(seeded, settings.rows * settings.columns, "plot")), settings)
    for index, frame in enumerate(draw(seeded, settings.count, "frames")):
        write_frame(written[1] / f"{settings.seed + index:06}.png", frame)
    starts = [seeded(number) for number in range(settings.walks)]
    if picture is not None:
        picture = fit_frame(picture, *generator.output_shape[1:3])
        starts[0] = project(generator, picture, settings.seed)
        pair = np.stack([picture, *draw(lambda index: starts[0], 1, "projected")])
        write_frame(settings.output / "projected.png", tile(pair, 2))
        written.append(settings.output / "projected.png")

    rate = steps_a_second(generator)
    frame_rate = settings.frame_rate or (rate if rate and rate > SMOOTH else 30.0)
    length, walks = round(settings.walk_seconds * frame_rate), settings.walks

    def on_walk(number, index):
        seconds = settings.speed * index / frame_rate
        if rate:
            return walk_latent(starts[number], seconds * rate)
        return wander_latent(starts[number], settings.seed + number, seconds / SECONDS_PER_LATENT)

    if length:
        together = draw(lambda index: on_walk(index % walks, index // walks), length * walks, "walks")
        with (
            replacing(settings.output / "walk.mp4") as first,
            replacing(settings.output / "walks.mp4") as beside,
            video_writer(first, frame_rate) as write_first,
            video_writer(beside, frame_rate) as write_beside,
        ):
            for row in zip(*[together] * walks, strict=True):
                write_first(row[0])
                write_beside(np.concatenate(row, 1))
        strip = list(draw(lambda index: on_walk(index // 12, index % 12 * 4), 12 * walks, "strip"))
        write_frame(settings.output / "strip.png", tile(np.stack(strip), 12))
        written += [settings.output / name for name in ("walk.mp4", "walks.mp4", "strip.png")]
    print(f"Pictures: {', '.join(map(str, written))}.")


def latent(latent_dim, *seed):
    """Return the latent of a seed: (latent_dim,) float32, standard normal."""
    return np.random.default_rng(seed).standard_normal(latent_dim, "float32")


def walk_latent(start, step):
    """Return where a latent (latent_dim,) stands after so many steps, or parts of steps, of its walk."""
    from models import rotate, step_angles

    angles = step * step_angles(len(start)) % (2 * np.pi)  # still exact after hours
    return np.asarray(rotate(start, angles.astype("float32")))


def wander_latent(start, seed, position):
    """Return the latent at a position of an endless path from `start` that meets a random latent at every whole number.

    Between two of them it follows the great circle, so no frame of it is less likely than they are
    (slerp; White 2016, arXiv:1609.04468).
    """
    number, part = int(position), position % 1
    start, end = (latent(len(start), seed, at) if at else start for at in (number, number + 1))
    cosine = np.dot(start, end) / (np.linalg.norm(start) * np.linalg.norm(end))
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-4:  # one number a latent: there is only the straight line
        return (1 - part) * start + part * end
    return (np.sin((1 - part) * angle) * start + np.sin(part * angle) * end) / np.sin(angle)


def project(generator, picture, seed):
    """Return the latent (latent_dim,) float32 whose frame is nearest to a picture of the generator's size, uint8.

    Gradient descent from several random latents at once, the best of which is taken (Creswell & Bharath 2016,
    arXiv:1611.05644). Near is the mean difference of pixels, and of their means over 8x8. No latent gets longer than
    a random one is, beyond which a generator has not learned to draw.
    """
    import keras
    from keras import layers, ops

    from frames import to_float

    latent_dim = generator.input_shape[-1]
    number = keras.Input((), dtype="int32")
    latents = layers.Embedding(
        STARTS, latent_dim, keras.initializers.RandomNormal(stddev=1, seed=seed),
        embeddings_constraint=keras.constraints.MaxNorm(latent_dim**0.5, axis=1),
    )  # fmt: skip
    generator.trainable = False
    search = keras.Model(number, generator(latents(number), training=False))
    target = to_float(picture)[None]
    blur = layers.AveragePooling2D(min(8, *picture.shape[:2]), padding="same")

    def distance(_, frames):
        apart = ops.subtract(frames, target)
        return ops.mean(ops.abs(apart), (1, 2, 3)) + ops.mean(ops.abs(blur(apart)), (1, 2, 3))

    search.compile(keras.optimizers.Adam(0.05), loss=distance)
    numbers = np.tile(np.arange(STARTS), STEPS)
    print("seeking the nearest frame")
    search.fit(numbers, np.zeros(len(numbers)), batch_size=STARTS, shuffle=False)
    found = search.predict(np.arange(STARTS), batch_size=STARTS, verbose=0)
    best = int(np.argmin(ops.convert_to_numpy(distance(None, found))))
    return ops.convert_to_numpy(latents.embeddings)[best]


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
