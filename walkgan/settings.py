"""The training settings, and the range checks of all settings.

Imports nothing heavy: `--help` answers at once.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from walkgan.errors import SettingError

MAX_SEED = 2**32 - 1  # the largest that Keras accepts


@dataclass(frozen=True)
class TrainingSettings:
    """Training settings. The two training scripts differ by these values only."""

    frames: Path = Path("data/frames")
    """Folder of frames, as written by extract_frames.py. The generator generates frames of their size."""
    runs: Path = Path("saved_models")
    """Folder for the runs, each in a folder NNNN-NAME of its own."""
    name: str = "run"
    """Name of the run."""
    epochs: int = 500
    """Passes over the frames."""
    minutes: float | None = None
    """Stop and save after N minutes; --resume continues from there."""
    shuffle: bool = True
    """Shuffle the frames in each epoch; otherwise batches are consecutive frames in video order."""
    window: int = 1
    """Frames that the discriminator sees at once. From 2 on these are 1, 2 or 4 frames apart in the video, and the
    generator learns motion; with 1 it learns single frames."""
    batch_size: int = 16
    """Frames (or windows of frames) in a batch."""
    latent_dim: int = 128
    """Size of a latent vector."""
    width: int = 16
    """Width of the networks, not of the frames: channels of the layers at half the frame's size; the smallest layers
    have four times as many, the generator's last one half as many."""
    loss: Literal["non-saturating", "hinge", "least-squares", "wasserstein-gp", "relativistic"] = "relativistic"
    """Adversarial loss of all discriminators, see walkgan/losses.py."""
    augment: tuple[Literal["colour", "translation", "cutout"], ...] = ("translation",)
    """Augmentation of what the discriminator sees, real and fake alike, so that it does not memorise a short video
    (DiffAugment); --augment without a value turns it off."""
    grow: bool = True
    """Progressive growing: train on small frames first (for 160x320: 40x80, then 80x160), then on larger ones."""
    start_from: Path | None = None
    """Folder of a run, or of a shipped generator, whose networks this training starts with (warm start): on other
    frames of the same size, or on frames twice or four times as large."""
    learning_rate: float = 4e-4
    """Adam's learning rate, for all networks."""
    beta_1: float = 0.0
    """Adam's beta 1."""
    beta_2: float = 0.99
    """Adam's beta 2."""
    gamma: float = 0.1
    """Weight of the gradient penalty (gamma of R1 and R2, per 1,000 pixels of a frame); higher is more stable, and
    slower."""
    thumbnail_weight: float = 0.0
    """Weight of the thumbnail loss: the distance, at low resolution, from each real frame of the batch to the nearest
    fake. It teaches the layout of the scene and keeps fakes diverse; 0 turns it off."""
    feature_weight: float = 0.0
    """Weight of the feature discriminators, which see frames through an ImageNet network (the one that sees pixels has
    weight 1); 0 turns them off. Frames with a side below 64 pixels are trained without them."""
    feature_width: int = 32
    """Channels of these features at each of three scales."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average (EMA) of the generator, which generates all images."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Compute dtype; weights and the saved generator are float32 in any case. bfloat16 and float16 are faster on GPUs
    (bfloat16 from 2020 on) and on CPUs with AMX, and far slower on others."""
    devices: int = 1
    """GPUs to train on, each on its part of every batch; TensorFlow and JAX only. Counted over all hosts."""
    seed: int = 0
    """Seed of the initial weights, the latents and the order of the frames."""
    sample_every: int = 5
    """Write a grid of samples, always of the same latents, every N epochs, and check for divergence."""
    evaluate_every: int = 25
    """Score the generator every N epochs, and at the end of the epochs or minutes, into metrics.csv, and keep the best
    one."""
    features: Path | None = Path("lite2")
    """Network for KID: `lite2`, `InceptionV3` (96 MB, downloaded once), a Keras file, or None."""
    checkpoint_minutes: float = 5.0
    """Save a checkpoint and the generator every N minutes: the most work that a crash can cost."""
    keep_checkpoints: int = 3
    """Number of newest checkpoints to keep."""
    resume: bool = False
    """Continue the newest run (or the one named by --run) exactly where it stopped, with its own settings."""
    run: str | None = None
    """Run to continue with --resume: the name of its folder, such as 0001-shuffled, or its number."""

    CHANGEABLE_ON_RESUME = (
        "runs", "epochs", "minutes", "sample_every", "evaluate_every", "features",
        "checkpoint_minutes", "keep_checkpoints",
    )  # fmt: skip

    def check(self):
        """Raise SettingError for the first value out of its range."""
        check_range(self, 1, "epochs", "window", "latent_dim", "width", "feature_width", "devices")
        check_range(self, 1, "sample_every", "evaluate_every", "keep_checkpoints")
        check_range(self, 2, "batch_size")
        check_range(self, 0, "gamma", "thumbnail_weight", "feature_weight")
        check_range(self, 0, "seed", maximum=MAX_SEED)
        check_positive(self, "learning_rate", "checkpoint_minutes", "minutes")
        _check(self, ("beta_1", "beta_2", "ema_decay"), lambda value: 0 <= value < 1, "at least 0 and below 1")
        if self.batch_size % self.devices:
            raise SettingError(f"--batch-size {self.batch_size} cannot be divided evenly among {self.devices} devices.")
        if self.batch_size < 2 * self.devices:
            raise SettingError(f"--batch-size must be at least 2 for each of {self.devices} devices.")
        if self.window > 1 and self.latent_dim % 2:
            raise SettingError(f"--latent-dim must be even with a --window of {self.window}, not {self.latent_dim}.")
        if self.start_from and not self.resume and not (self.start_from / "settings.json").is_file():
            raise SettingError(f"there is no run {self.start_from}: --start-from takes the folder of one.")
        if self.run is not None and not self.resume:
            raise SettingError("--run names the run to continue: add --resume.")
        if not self.name or any(character in self.name for character in r'\/:*?"<>|'):
            raise SettingError(f"--name becomes part of the name of a folder, which {self.name!r} cannot be.")


def check_range(settings, minimum, *names, maximum=math.inf):
    """Raise SettingError for the first of these settings outside minimum to maximum, or infinite; None is allowed."""
    description = f"at least {minimum}" if maximum == math.inf else f"from {minimum} to {maximum}"
    _check(settings, names, lambda value: minimum <= value <= maximum and value < math.inf, description)


def check_positive(settings, *names):
    """Raise SettingError for the first of these settings that is not above 0 and finite; None is allowed."""
    _check(settings, names, lambda value: 0 < value < math.inf, "more than 0")


def option_name(name):
    """Return the command-line option of a setting."""
    return f"--{name.replace('_', '-')}"


def _check(settings, names, is_valid, description):
    for name in names:
        value = getattr(settings, name)
        if value is not None and not is_valid(value):
            raise SettingError(f"{option_name(name)} must be {description}, not {value}.")
