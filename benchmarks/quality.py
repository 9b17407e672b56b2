"""Train recipes for equal times on the frames of a video, and score each against them.

python benchmarks/quality.py --video walk.mp4 --minutes 60

Each recipe is scored twice, after a twelfth of the time and at the end, by its generator's average if it has one.
The folder of --output then holds scores.csv, an image of the first sixteen latents for each, and the runs.
"""

import csv
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

from walkgan.cli import run_script
from walkgan.errors import InputError, SettingError
from walkgan.run_folder import load_settings

REPO = Path(__file__).parent.parent
DEFAULT_RECIPES = (
    "original", "dcgan", "dcgan, penalty", "relativistic", "relativistic, augment", "relativistic, grow", "pixels",
    "default",
)  # fmt: skip
PIXELS = ("--feature-weight", "0")
RECIPES = {  # options of train_unconditional_gan.py; each step of this project on top of those before it
    "original": None,  # the recipe of 2019
    "lightweight-gan": None,  # another project's package
    "dcgan": ("--loss", "non-saturating", "--gamma", "0", "--augment", "--no-grow", *PIXELS, "--thumbnail-weight", "0"),
    "dcgan, penalty": ("--loss", "non-saturating", "--augment", "--no-grow", *PIXELS, "--thumbnail-weight", "0"),
    "relativistic": ("--augment", "--no-grow", *PIXELS, "--thumbnail-weight", "0"),
    "relativistic, augment": ("--no-grow", *PIXELS, "--thumbnail-weight", "0"),
    "relativistic, grow": (*PIXELS, "--thumbnail-weight", "0"),
    "pixels": PIXELS,
    "default": (),
    "default, no augment": ("--augment",),
    "default, augment more": ("--augment", "colour", "translation", "cutout"),
    "default, non-saturating": ("--loss", "non-saturating"),
    "default, hinge": ("--loss", "hinge"),
    "default, least-squares": ("--loss", "least-squares"),
    "default, wasserstein-gp": ("--loss", "wasserstein-gp"),
}


@dataclass(frozen=True)
class QualitySettings:
    """Settings of the benchmark."""

    video: str = "data/built_in_walk.mp4"
    """Video to take 160x320 frames from."""
    minutes: float = 60.0
    """Time to train each recipe."""
    recipes: tuple[str, ...] = DEFAULT_RECIPES
    """What to compare: the default ones, or any of RECIPES at the top of this file."""
    features: Path = Path("lite2")
    """Network for KID and FID, as in evaluate_unconditional_gan.py."""
    seed: int = 0
    """Seed of training and of the scored fakes."""
    output: Path = Path("quality")
    """Folder for the table, the images and the runs."""


def compare(settings):
    """Train and score every recipe; print a row for each as soon as it is there."""
    if unknown := [name for name in settings.recipes if name not in RECIPES]:
        raise SettingError(f"--recipes knows no {unknown[0]!r}; it knows {', '.join(map(repr, RECIPES))}.")
    if "lightweight-gan" in settings.recipes:  # first: its torchvision crashes Python where TensorFlow was before it
        from benchmarks.peer import import_on_cpu

        import_on_cpu()
    from extract_frames import ExtractionSettings
    from walkgan.dataset import list_frames, read_timeline
    from walkgan.evaluation import real_frames, score
    from walkgan.extraction import extract
    from walkgan.images import image_grid, write_frame
    from walkgan.scoring_network import extract_features, load_network

    folder = settings.output / "frames"
    extract(ExtractionSettings(video=settings.video, frames=folder))
    paths = list_frames(folder)
    count = min(500, len(paths) // 2)
    frames, times, second_half = real_frames(paths, read_timeline(paths), 2 * count)
    network = load_network(settings.features, frames.shape[1:])
    features = extract_features(frames, network)
    write_frame(settings.output / "real.png", image_grid(frames[:: len(frames) // 16][:16], 4))

    rows = []
    for name in settings.recipes:
        train = train_other if RECIPES[name] is None else train_project
        for minutes, images, fakes in train(name, paths, count, settings):
            write_frame(settings.output / f"{name} {minutes:.3g} min.png", image_grid(fakes[:16], 4))
            scores = score(frames, fakes, features, extract_features(fakes, network), times, second_half)
            if not rows:
                rows.append(["recipe", "minutes", "images", *scores])
                for column, title in ((1, "unseen real"), (2, "even/odd real")):
                    rows.append([title, "", "", *(f"{numbers[column]:.2f}" for numbers in scores.values())])
                print(*map(format_row, rows), sep="\n")
            rows.append([name, f"{minutes:.3g}", str(images), *(f"{numbers[0]:.2f}" for numbers in scores.values())])
            print(format_row(rows[-1]), flush=True)
            with open(settings.output / "scores.csv", "w", newline="") as file:
                csv.writer(file).writerows(rows)


def format_row(row):
    """Return a row of the table as a line of the screen."""
    return f"{row[0]:24.24}" + "".join(f"{cell:>12.11}" for cell in row[1:])


def train_project(name, paths, count, settings):
    """Train with this project's script; yield (minutes, images seen, fakes) at a twelfth of the time and at the end."""
    from walkgan.evaluation import seeded_fakes
    from walkgan.generators import load_generator

    runs = settings.output / "runs"
    command = [sys.executable, REPO / "train_unconditional_gan.py", "--runs", runs]
    run_name = name.replace(", ", "-").replace(" ", "-")
    # So many epochs that the minutes end the training; no scoring on the way, which would take of them.
    first = ["--frames", paths[0].parent, "--name", run_name, "--seed", settings.seed, *RECIPES[name]]
    first += ["--epochs", 10**6, "--evaluate-every", 10**6, "--sample-every", 10**6]
    minutes = 0.0
    for more, options in ((settings.minutes / 12, first), (settings.minutes * 11 / 12, ["--resume"])):
        done = subprocess.run(
            [*map(str, command), *map(str, options), "--minutes", str(more)], capture_output=True, text=True
        )
        if done.returncode or "time limit reached" not in done.stdout:
            raise InputError(f"{name} failed, or was interrupted:\n{done.stdout[-500:]}{done.stderr[-2000:]}")
        minutes += more
        run_dir = sorted(runs.glob(f"[0-9]*-{run_name}"))[-1]
        with open(run_dir / "metrics.csv", newline="") as file:
            step = int(list(csv.DictReader(file))[-1]["step"])
        fakes = seeded_fakes(load_generator(run_dir / "generator.keras"), count, settings.seed)
        yield minutes, load_settings(run_dir).batch_size * step, fakes


def train_other(name, paths, count, settings):
    """Train another project's GAN; yield (minutes, images seen, fakes) at a twelfth of the time and at the end."""
    start = start_original if name == "original" else start_peer
    step, generate, images_per_step = start(paths, settings)
    spent, steps = 0.0, 0
    for minutes in (settings.minutes / 12, settings.minutes):
        while spent < 60 * minutes:
            began = time.monotonic()
            step()
            spent, steps = spent + time.monotonic() - began, steps + 1
        yield minutes, images_per_step * steps, generate(count, settings.seed)


def start_original(paths, settings):
    """Return what trains a step of the recipe of 2019, what generates frames, and how many images a step sees."""
    from benchmarks.original import Original
    from walkgan.evaluation import seeded_fakes
    from walkgan.images import read_frame, to_float

    frames = to_float(np.stack([read_frame(path) for path in paths]))
    gan = Original(frames.shape[1:], seed=settings.seed)
    return partial(gan.step, frames), partial(seeded_fakes, gan.generator), gan.batch_size


def start_peer(paths, settings):
    """Return the same for lightweight-gan."""
    from benchmarks.peer import BATCH_SIZE, LightweightGAN

    gan = LightweightGAN(paths, settings.output / "lightweight-gan", settings.seed)
    return gan.step, gan.generate, BATCH_SIZE


if __name__ == "__main__":
    run_script(compare, QualitySettings(), __doc__)
