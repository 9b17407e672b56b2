"""The settings of a training, and how every script reads its settings and tells its errors.

Imports nothing heavy: `--help` answers at once.
"""

import json
import math
import os
import re
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import tyro
from filelock import FileLock, Timeout

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow: its notes would hide what matters

MOST_SEED = 2**32 - 1  # that Keras takes
# As the backends and OpenCV put it.
OUT_OF_MEMORY = "out of memory|OOM|RESOURCE_EXHAUSTED|Insufficient memory|can't allocate memory"


class SettingError(ValueError):
    """A setting that cannot work. The message says which, why and what to do; the script exits with 2."""


class InputError(RuntimeError):
    """A file or an address that cannot be used. The message names it and the remedy; the script exits with 1."""


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training. The two training scripts differ by these values only."""

    frames: Path = Path("data/frames")
    """Folder of frames, as written by extract_frames.py. The generator draws frames of their size."""
    runs: Path = Path("saved_models")
    """Folder that holds the runs, each in a folder NNNN-NAME of its own."""
    name: str = "run"
    """Name of the run."""
    epochs: int = 500
    """Passes over the frames."""
    minutes: float | None = None
    """End cleanly after so many minutes, wherever the training stands then. --resume goes on from there."""
    shuffle: bool = True
    """Draw each epoch's frames in a random order; else batches are consecutive frames in video order."""
    window: int = 1
    """Frames that the discriminator judges at once. From 2 on these are consecutive frames of the video, and the
    generator learns how a walk moves; with 1 it learns single frames."""
    batch_size: int = 16
    """Frames in a batch, or windows of them."""
    latent_dim: int = 128
    """Numbers in a latent vector."""
    width: int = 16
    """Channels at half the frame's size, in both networks; the smallest layer has four times as many, the generator's
    largest half as many."""
    loss: Literal["non-saturating", "hinge", "least-squares", "wasserstein-gp", "relativistic"] = "relativistic"
    """What the networks play for: losses.py explains each in a line."""
    augment: tuple[Literal["colour", "translation", "cutout"], ...] = ("translation",)
    """How the discriminator sees frames changed, real and fake alike, so that a short video is not learned by heart;
    nothing after --augment: not at all."""
    grow: bool = True
    """Train on smaller frames first (from a quarter of the size), then on larger ones."""
    start_from: Path | None = None
    """Folder of a run, or of a shipped generator, whose networks this training starts with: on other frames of the same
    size, or of twice that."""
    learning_rate: float = 4e-4
    """Adam's learning rate, for both networks."""
    beta_1: float = 0.0
    """Adam's first decay rate, for both networks: of the gradient."""
    beta_2: float = 0.99
    """Adam's second decay rate, for both networks: of the gradient's square."""
    penalty: float = 0.1
    """Weight of the penalty on the discriminator's slope (R1's gamma, for each 1,000 pixels of a frame); more is
    steadier, and slower."""
    layout: float = 0.0
    """Weight of the distance, as thumbnails, from each fake to the nearest real frame of the batch and from each real
    frame to the nearest fake: teaches where sky, walls and street belong; 0: not at all."""
    feature_weight: float = 0.0
    """Weight of the discriminators that see frames through an ImageNet network, in the generator's loss (the one that
    sees pixels has 1); 0: there are none. Frames with a side below 64 pixels are seen by their pixels alone."""
    feature_width: int = 32
    """Channels of the features that they see, at each of three scales."""
    ema_decay: float = 0.999
    """How much of the averaged generator, which draws all pictures, survives a step."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Numbers to calculate with; weights and the averaged generator are float32 in any case. The shorter ones are
    faster on GPUs (bfloat16 from 2020 on) and on processors with AMX, and far slower on others."""
    devices: int = 1
    """GPUs to train on, each on its part of every batch; on TensorFlow and JAX, there also of several computers."""
    seed: int = 0
    """Seed of the first weights, the latents and the order of the frames."""
    picture_epochs: int = 5
    """Draw the same latents again every so many epochs."""
    score_epochs: int = 25
    """Score the generator every so many epochs, into metrics.csv, and keep the best one."""
    features: Path | None = Path("lite2")
    """Network to score by KID: `lite2`, `InceptionV3` (96 MB, downloaded once), a Keras file, or None."""
    checkpoint_minutes: float = 5.0
    """Save a checkpoint and the generator every so many minutes: the most work that a crash can cost."""
    keep_checkpoints: int = 3
    """Checkpoints to keep, newest first."""
    resume: bool = False
    """Continue the newest run (or the one named by --run) exactly where it stopped, with its own settings."""
    run: str | None = None
    """Run to continue with --resume: a folder's name, such as 0001-shuffled, or its number."""

    MAY_CHANGE = (
        "runs", "epochs", "minutes", "picture_epochs", "score_epochs", "features",
        "checkpoint_minutes", "keep_checkpoints",
    )  # fmt: skip

    def check(self):
        """Raise SettingError for the first value out of its range."""
        check_range(self, 1, "epochs", "window", "latent_dim", "width", "devices")
        check_range(self, 1, "picture_epochs", "score_epochs", "keep_checkpoints")
        check_range(self, 2, "batch_size")
        check_range(self, 1, "feature_width")
        check_range(self, 0, "penalty", "layout", "feature_weight")
        check_range(self, 0, "seed", most=MOST_SEED)
        check_positive(self, "learning_rate", "checkpoint_minutes", "minutes")
        _check(self, ("beta_1", "beta_2", "ema_decay"), lambda value: 0 <= value < 1, "at least 0 and below 1")
        if self.batch_size % self.devices:
            raise SettingError(f"--batch-size {self.batch_size} cannot be shared evenly by {self.devices} --devices.")
        if self.window > 1 and self.latent_dim % 2:
            raise SettingError(f"--latent-dim must be even with a --window of {self.window}, not {self.latent_dim}.")
        if self.start_from and not (self.start_from / "settings.json").is_file():
            raise SettingError(f"there is no run {self.start_from}: --start-from takes the folder of one.")
        if self.run is not None and not self.resume:
            raise SettingError("--run names the run to continue: add --resume.")
        if not self.name or any(character in self.name for character in r'\/:*?"<>|'):
            raise SettingError(f"--name becomes part of a folder's name, which {self.name!r} cannot be.")


def check_range(settings, least, *names, most=math.inf):
    """Raise SettingError for the first of these settings that is not from least to most and finite; None is allowed."""
    wanted = f"at least {least}" if most == math.inf else f"from {least} to {most}"
    _check(settings, names, lambda value: least <= value <= most and value < math.inf, wanted)


def check_positive(settings, *names):
    """Raise SettingError for the first of these settings that is not above 0 and finite; None is allowed."""
    _check(settings, names, lambda value: 0 < value < math.inf, "more than 0")


def _check(settings, names, fits, wanted):
    for name in names:
        value = getattr(settings, name)
        if value is not None and not fits(value):
            raise SettingError(f"--{_option(name)} must be {wanted}, not {value}.")


def command_line(main, settings, description):
    """Run a script: call main(settings as changed by the command line); tell what the user can mend in one line."""
    script = Path(sys.argv[0]).name
    try:
        chosen = tyro.cli(type(settings), default=settings, description=description)
        if isinstance(chosen, TrainingSettings) and chosen.resume:
            chosen = _settings_of_resumed_run(chosen, description)
        backend = os.environ.get("KERAS_BACKEND")  # unset, Keras takes that of its own settings
        if backend is not None and not (backend.isidentifier() and find_spec(backend)):
            raise SettingError(f"KERAS_BACKEND is {backend!r}, which is not installed: unset it, or install that.")
        main(chosen)
    except SettingError as error:
        print(f"{script}: {error}", file=sys.stderr)
        sys.exit(2)
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        sys.exit(f"{script}: {error.filename}: {error.strerror}. Name another place, or make this one usable.")
    except (InputError, OSError) as error:
        sys.exit(f"{script}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"\n{script}: stopped.")
    except Exception as error:
        if not isinstance(error, MemoryError) and not re.search(OUT_OF_MEMORY, str(error)):
            raise
        sys.exit(f"{script}: not enough memory: a smaller --batch-size, a smaller --width or smaller frames need less.")


def find_run(runs, run=None):
    """Return the folder of a run: the newest one in `runs`, or the one whose name or number is `run`.

    Raises SettingError when there is none.
    """
    found = sorted(path.parent for path in Path(runs).glob("[0-9][0-9][0-9][0-9]-*/settings.json"))
    if run is not None:
        found = [path for path in found if run in (path.name, path.name.split("-")[0], str(path))]
    if not found:
        raise SettingError(f"there is no run {run or ''} in {runs}: train one first, or name its folder with --runs.")
    return found[-1]


def new_run_dir(runs, name):
    """Make and return the folder of a new run, numbered after the newest one in `runs`."""
    runs.mkdir(parents=True, exist_ok=True)
    while True:
        numbers = [int(path.name[:4]) for path in runs.glob("[0-9][0-9][0-9][0-9]-*")]
        run_dir = runs / f"{max(numbers, default=0) + 1:04}-{name}"
        try:
            run_dir.mkdir()
        except FileExistsError:  # another run started at the same moment
            continue
        return run_dir


@contextmanager
def only_one_training(run_dir):
    """Within this, no other process trains the same run; raise SettingError where one does already.

    The operating system holds the lock, and lets go of it however the process ends.
    """
    try:
        lock = FileLock(run_dir / ".lock", timeout=0).acquire()
    except Timeout:
        raise SettingError(f"{run_dir} is being trained by another process: wait for its end, or stop it.") from None
    with lock:
        yield


def find_generator(named=None, runs=Path("saved_models")):
    """Return the Keras file of a generator: of a run folder or a file, or by default of the newest run that has one.

    A folder without a number holds a shipped one, which is taken where there is no run.
    Raises SettingError when there is none.
    """
    if named is None:
        found = sorted(
            runs.glob("*/generator.keras"), key=lambda path: (path.parent.name[0].isdigit(), path.parent.name)
        )
        if not found:
            raise SettingError(f"there is no generator in {runs}: train one first, or name one with --generator.")
        return found[-1]
    path = named / "generator.keras" if named.is_dir() else named
    if not path.is_file():
        raise SettingError(f"there is no generator {path}: --generator takes a run folder or a Keras file.")
    return path


def load_facts(run_dir):
    """Return what a run's settings.json holds: "settings", "frame_shape", "frame_count", "growth" and more."""
    return json.loads((run_dir / "settings.json").read_text())


def load_settings(run_dir):
    """Return the TrainingSettings a run was started with."""
    saved = load_facts(run_dir)["settings"]
    known = {field.name: saved[field.name] for field in fields(TrainingSettings) if field.name in saved}
    known |= {name: Path(known[name]) for name in ("frames", "features", "start_from") if known.get(name)}
    known["runs"] = run_dir.parent
    return TrainingSettings(**known | {"augment": tuple(known["augment"])})


def settings_as_json(settings, **facts):
    """Return the text of a settings.json: the settings, and facts that are none."""
    return json.dumps({"settings": asdict(settings), **facts}, indent=2, default=str) + "\n"


def refuse_other_frames(run_dir, facts):
    """Raise SettingError where a run to resume was trained on other frames than those with these facts."""
    saved = load_facts(run_dir)
    if any(saved.get(name, fact) != fact for name, fact in facts.items()):
        raise SettingError(
            f"{run_dir.name} was trained on {saved['frame_count']} frames of {saved['frame_shape']}, and now --frames "
            f"holds {facts['frame_count']} of {facts['frame_shape']}, or other ones: put them back, or start a new run."
        )


def _settings_of_resumed_run(chosen, description):
    """Return the resumed run's own settings, with those that were typed now and may change."""
    run_dir = find_run(chosen.runs, chosen.run)
    saved = replace(load_settings(run_dir), minutes=None, resume=True, run=run_dir.name)
    again = tyro.cli(TrainingSettings, default=replace(saved, runs=chosen.runs), description=description)
    again = replace(again, resume=True, run=run_dir.name)
    for field in fields(TrainingSettings):
        was, now = getattr(saved, field.name), getattr(again, field.name)
        if was != now and field.name not in TrainingSettings.MAY_CHANGE:
            may = ", ".join(f"--{_option(name)}" for name in TrainingSettings.MAY_CHANGE)
            raise SettingError(
                f"{run_dir.name} was trained with --{_option(field.name)} {was} and cannot go on with {now}: "
                f"leave the option out. Only {may} may change."
            )
    return again


def _option(name):
    return name.replace("_", "-")
