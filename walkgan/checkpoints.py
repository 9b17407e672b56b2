"""Checkpoints: saved every few minutes, and loaded to resume or after a divergence."""

import math
import shutil
import time

import keras
import numpy as np
from keras.callbacks import Callback
from tqdm import tqdm

from walkgan.distribution import any_process
from walkgan.errors import InputError
from walkgan.files import atomic_write
from walkgan.generators import generate
from walkgan.metrics import diversity
from walkgan.run_folder import resume_options

# What counts as a divergence:
MIN_D_LOSS = 0.01  # over an epoch: below, the discriminator has nothing left to teach
DIVERSE, COLLAPSED_DIVERSITY = 0.4, 0.15  # a collapse: diversity below the second, having once been above the first
MAX_SATURATED_FRACTION = 0.8  # of the values that are neither black nor white in real frames


class Checkpoints(Callback):
    """Saves what resuming needs, the generator and its samples every few minutes, unless the training has diverged.

    Losses are checked after every epoch; weights and samples before every save and with every sample grid. After a
    divergence it rolls back to the last checkpoint, stabilises the training and continues: with the frames and latents
    that come next, so that it does not diverge in the same way again.
    """

    def __init__(self, run_dir, settings, samples, pace):
        super().__init__()
        self.run_dir, self.keep, self.samples, self.pace = run_dir, settings.keep_checkpoints, samples, pace
        self.seconds, self.last_save = 60 * settings.checkpoint_minutes, time.monotonic()
        self.d_loss_is_nonnegative = settings.loss != "wasserstein-gp"
        self.rolled_back_in_epoch = False
        (run_dir / "checkpoints").mkdir(exist_ok=True)

    def on_epoch_begin(self, epoch, logs=None):
        self.rolled_back_in_epoch = False

    def on_train_batch_end(self, batch, logs=None):
        if any_process(time.monotonic() - self.last_save > self.seconds, batch):
            self.save_or_roll_back(self.model)

    def on_epoch_end(self, epoch, logs=None):
        gan, reason = self.model, None
        if not self.rolled_back_in_epoch:  # else its mean losses are still those of before
            if not np.isfinite([logs["d_loss"], logs["g_loss"]]).all():
                reason = "the losses are NaN or infinite"
            elif self.d_loss_is_nonnegative and logs["d_loss"] < MIN_D_LOSS:
                reason = f"the discriminator overpowers the generator (d_loss below {MIN_D_LOSS})"
        if not reason and (epoch + 1) % self.samples.every == 0:
            reason = self.find_divergence(gan)
        if reason:
            self.roll_back(gan, reason)

    def find_divergence(self, gan):
        """Return what is wrong with the GAN as it stands, if anything is, on this host or another."""
        reason = self._find_divergence_here(gan)
        return (reason or "divergence on another host") if any_process(reason) else None

    def _find_divergence_here(self, gan):
        if not all(np.isfinite(keras.ops.convert_to_numpy(variable)).all() for variable in gan.variables):
            return "weights are NaN or infinite"
        frames = generate(gan, self.samples.latents, averaged=False)
        fake, real = (((values < 3) | (values > 252)).mean() for values in (frames, self.samples.real))
        if fake > real + MAX_SATURATED_FRACTION * (1 - real):  # dark footage and black bars are right to be black
            return f"the generator is saturated: {fake:.0%} of its values are black or white, of real ones {real:.0%}"
        now = diversity(frames, self.samples.real)
        if gan.was_diverse and now < COLLAPSED_DIVERSITY:
            return f"mode collapse: the diversity of the fakes is {now:.2f} times that of real frames"
        gan.was_diverse = gan.was_diverse or now > DIVERSE
        return None

    def roll_back(self, gan, reason):
        """Load the last checkpoint, stabilise the training, report it and continue."""
        self.rolled_back_in_epoch = True
        step, growth_step = gan.steps, int(gan.growth_step)
        loaded = load_newest_checkpoint(gan, self.run_dir)
        is_of_a_smaller_size = int(gan.growth_step) != growth_step
        gan.step.assign(step)
        if is_of_a_smaller_size:
            gan.begin_size()
        gan.stabilise()
        learning_rate, gamma = map(keras.ops.convert_to_numpy, (gan.optimizer.learning_rate, gan.gamma))
        text = (
            f"step {step}: {reason}. Rolled back to {loaded.name}; from here on the learning rate is "
            f"{learning_rate:.3g} and gamma {gamma:.3g}."
        )
        tqdm.write(text)
        with open(self.run_dir / "rollbacks.log", "a") as file:
            file.write(text + "\n")
        self.save(gan)

    def save_or_roll_back(self, gan):
        """Save the GAN, or if it has diverged, roll back to the last checkpoint."""
        if reason := self.find_divergence(gan):
            self.roll_back(gan, reason)
        else:
            self.save(gan)

    def save(self, gan):
        """Write a checkpoint, the networks and the latest samples; only then delete the oldest checkpoints.

        Raises InputError, with everything that was saved before intact, where the disk has no room for both.
        """
        values = sum(math.prod(variable.shape) for variable in [*gan.variables, *gan.optimizer.variables])
        needed, free = 6 * values + 2**20, shutil.disk_usage(self.run_dir).free  # 4 bytes each, and HDF5's own
        if free < needed:  # checked first, since HDF5 answers a full disk with dozens of errors
            raise InputError(
                f"{self.run_dir} needs {needed >> 20} MB for a checkpoint and the disk has {free >> 20}: free some "
                f"space, then continue with {resume_options(self.run_dir)}; the last checkpoint is intact."
            )
        with atomic_write(self.run_dir / "checkpoints" / f"step-{gan.steps:08}.weights.h5") as partial:
            gan.save_weights(partial)
        self.pace.set(gan)
        for name, network in gan.saved_networks.items():
            with atomic_write(self.run_dir / f"{name}.keras") as partial:
                network.save(partial)
        self.samples.write(gan, "latest")
        for path in _list_checkpoints(self.run_dir)[: -self.keep]:
            path.unlink()
        self.last_save = time.monotonic()


def load_newest_checkpoint(gan, run_dir):
    """Load and return the newest checkpoint of a run; None, and the GAN at its first step, where there is none yet.

    Raises InputError where it cannot be loaded.
    """
    paths = _list_checkpoints(run_dir)
    if not paths:
        return None
    try:
        gan.load_weights(paths[-1])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{paths[-1]} cannot be loaded ({error!r:.200}): if it is damaged, delete it to continue from the one "
            "before; if another version of this project wrote it, continue with that version, or start a new training "
            f"from its networks with --start-from {run_dir}."
        ) from error
    return paths[-1]


def _list_checkpoints(run_dir):
    return sorted((run_dir / "checkpoints").glob("step-*.weights.h5"))
