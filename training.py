"""A training run: frames in, `fit`, callbacks, a run folder that is never half-written, resume.

saved_models/0001-shuffled/
    settings.json     the settings, and what the frames were
    metrics.csv       losses and speed of every epoch
    logs/             the same for TensorBoard
    samples/          real.png, epoch-0005.png and so on (always the same latents), latest.png
    checkpoints/      step-00000420.weights.h5: both networks, optimizer, average, step
    generator.keras   the averaged generator, ready for inference
"""

import csv
import math
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
from keras.callbacks import Callback, TensorBoard
from tqdm import tqdm

from frames import check_frames, list_frames, read_frame, replacing, tile, to_float, to_uint8, write_frame
from gan import build_gan
from settings import InputError, SettingError, find_run, new_run_dir, refuse_other_frames, settings_as_json

SAMPLES = 16  # pictures in a grid of samples, 4 x 4


def train(settings):
    """Train a GAN from `settings`, a checked or unchecked TrainingSettings, in a run folder of its own.

    Raises SettingError and InputError, before anything is written, for what cannot be trained.
    """
    settings.check()
    paths = list_frames(settings.frames)
    frame_shape = check_frames(paths)
    if settings.batch_size > len(paths):
        raise SettingError(f"--batch-size must be at most {len(paths)}, the frames in {settings.frames}.")
    steps_per_epoch = math.ceil(len(paths) / settings.batch_size)
    last_step = settings.epochs * steps_per_epoch

    add_up_in_order()
    gan = build_gan(settings, frame_shape)
    if settings.resume:
        run_dir = find_run(settings.runs, settings.run)
        refuse_other_frames(run_dir, len(paths), frame_shape)
        load_newest_checkpoint(gan, run_dir)
        if int(gan.step) >= last_step:
            raise SettingError(f"{run_dir} has had its {settings.epochs} epochs: ask for more with --epochs.")
    else:
        run_dir = new_run_dir(settings.runs, settings.name)
    facts = {"frame_shape": frame_shape, "frame_count": len(paths), "keras": keras.__version__}
    with replacing(run_dir / "settings.json") as partial:  # of a resumed run too: --epochs may have changed
        lasting = replace(settings, resume=False, run=None)
        partial.write_text(settings_as_json(lasting, **facts, backend=keras.backend.backend()))
    first_step = int(gan.step)
    doing = "resuming" if settings.resume else "training"
    print("{} {}: {} frames of {}x{}".format(doing, run_dir, len(paths), *frame_shape[:2]))

    samples = Samples(run_dir, settings)
    samples.draw_real(paths)
    checkpoints = Checkpoints(run_dir, settings)
    stop = Stop(settings.minutes)
    callbacks = [
        Progress(first_step, last_step, steps_per_epoch, stop),
        Metrics(run_dir / "metrics.csv", first_step, steps_per_epoch, settings),
        *([TensorBoard(run_dir / "logs", write_graph=False)] if find_spec("tensorflow") else []),
        samples,
        checkpoints,
        stop,
    ]
    # An epoch that was interrupted is finished first; then come the whole ones.
    epoch, done = divmod(first_step, steps_per_epoch)
    spans = [(epoch, epoch + 1, steps_per_epoch - done), (epoch + 1, settings.epochs, steps_per_epoch)]
    if not done:
        spans = [(epoch, settings.epochs, steps_per_epoch)]
    with stop.on_signals():
        for start, end, steps in spans:
            if start < end and not stop.asked:
                data = batches(paths, settings, int(gan.step))
                gan.fit(
                    data, initial_epoch=start, epochs=end, steps_per_epoch=steps,
                    shuffle=False, verbose=0, callbacks=callbacks,
                )  # fmt: skip
    checkpoints.save(gan)
    samples.draw(gan, "latest")
    print(f"{stop.reason or 'finished'} at epoch {int(gan.step) / steps_per_epoch:.2f} of {settings.epochs}.")
    print(f"Pictures: {run_dir / 'samples'}. Generator: {run_dir / 'generator.keras'}.")
    if int(gan.step) < last_step:
        print(f"To go on: python {Path(sys.argv[0]).name} --resume --run {run_dir.name}")
    return run_dir


def add_up_in_order():
    """Make TensorFlow's sums on the CPU the same every time, on a busy machine too; costs about 3% of the speed.

    Without it a resumed training may differ from an uninterrupted one in the last digits. On a GPU it would
    cost far more, so there it is left.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        if not tensorflow.config.list_physical_devices("GPU"):
            tensorflow.config.experimental.enable_op_determinism()


def batches(paths, settings, step):
    """Yield the batches of a training from `step` on, without end.

    Batch number `step` is a function of the seed and that number alone, on every backend: so a resumed
    training sees the frames and latents it would have seen. Each is a tuple of one dictionary as GAN reads it.
    Every frame is seen in every epoch; the last batch is filled up with frames before it.
    """
    steps_per_epoch = math.ceil(len(paths) / settings.batch_size)
    order, order_epoch = np.arange(len(paths)), None
    while True:
        epoch, batch = divmod(step, steps_per_epoch)
        if settings.shuffle and epoch != order_epoch:
            order, order_epoch = np.random.default_rng((settings.seed, 0, epoch)).permutation(len(paths)), epoch
        start = min(batch * settings.batch_size, len(paths) - settings.batch_size)
        frames = np.stack([read_frame(paths[index]) for index in order[start : start + settings.batch_size]])
        latents = np.random.default_rng((settings.seed, 1, step)).standard_normal(
            (settings.batch_size, settings.latent_dim), "float32"
        )
        yield ({"frames": to_float(frames), "latents": latents},)
        step += 1


class Progress(Callback):
    """One bar for the whole run, with the time left."""

    def __init__(self, first_step, last_step, steps_per_epoch, stop):
        super().__init__()
        self.bar = tqdm(total=last_step, initial=first_step, unit="batch", mininterval=1, dynamic_ncols=True)
        self.steps_per_epoch, self.stop = steps_per_epoch, stop

    def on_train_batch_end(self, batch, logs=None):
        if self.bar.update():  # when the bar moved on the screen: the losses stay on the device otherwise
            shown = {"epoch": f"{self.bar.n / self.steps_per_epoch:.1f}"}
            shown |= {name: f"{float(logs[name]):.2f}" for name in ("d_loss", "g_loss")}
            if self.stop.deadline < math.inf:
                shown["ends in"] = tqdm.format_interval(max(0, self.stop.deadline - time.monotonic()))
            self.bar.set_postfix(shown, refresh=False)

    def on_train_end(self, logs=None):
        self.bar.refresh()


class Metrics(Callback):
    """Adds a row to metrics.csv at the end of every epoch, and where the training was stopped within one.

    Keras's CSVLogger would write a stopped epoch twice, and keep rows that a resumed run writes again.
    """

    COLUMNS = ("epoch", "step", "d_loss", "g_loss", "images_per_second")

    def __init__(self, path, first_step, steps_per_epoch, settings):
        super().__init__()
        self.path, self.step = path, first_step
        self.steps_per_epoch, self.batch_size = steps_per_epoch, settings.batch_size
        rows = [row for row in self._read() if int(row["step"]) <= first_step]
        with replacing(path) as partial, open(partial, "w", newline="") as file:
            csv.writer(file).writerows([self.COLUMNS, *(row.values() for row in rows)])

    def on_epoch_begin(self, epoch, logs=None):
        self.began, self.step_before = time.monotonic(), self.step

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1

    def on_epoch_end(self, epoch, logs=None):
        images = (self.step - self.step_before) * self.batch_size
        logs["images_per_second"] = images / (time.monotonic() - self.began)  # for TensorBoard too
        row = {"epoch": self.step / self.steps_per_epoch, "step": self.step} | logs
        with open(self.path, "a", newline="") as file:
            csv.writer(file).writerow([f"{float(row[name]):.6g}" for name in self.COLUMNS])

    def _read(self):
        if not self.path.exists():
            return []
        with open(self.path, newline="") as file:
            return [row for row in csv.DictReader(file) if row["images_per_second"]]  # not one that a kill cut short


class Samples(Callback):
    """Draws the same latents every few epochs, beside a picture of real frames."""

    def __init__(self, run_dir, settings):
        super().__init__()
        self.folder, self.every = run_dir / "samples", settings.picture_epochs
        self.folder.mkdir(exist_ok=True)
        random = np.random.default_rng((settings.seed, 2))
        self.latents = random.standard_normal((SAMPLES, settings.latent_dim), "float32")

    def draw_real(self, paths):
        """Write real.png: frames evenly spaced in time, as many as there are samples."""
        chosen = np.linspace(0, len(paths) - 1, SAMPLES).round().astype(int)
        write_frame(self.folder / "real.png", tile(np.stack([read_frame(paths[index]) for index in chosen]), 4))

    def draw(self, gan, name):
        """Write a picture of the fixed latents by the averaged generator."""
        frames = to_uint8(gan.ema_generator.predict(self.latents, batch_size=SAMPLES, verbose=0))
        write_frame(self.folder / f"{name}.png", tile(frames, 4))

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            self.draw(self.model, f"epoch-{epoch + 1:04}")


class Checkpoints(Callback):
    """Saves everything the training needs to go on, and the generator, every few minutes."""

    def __init__(self, run_dir, settings):
        super().__init__()
        self.run_dir, self.keep = run_dir, settings.keep_checkpoints
        self.every, self.saved = 60 * settings.checkpoint_minutes, time.monotonic()
        (run_dir / "checkpoints").mkdir(exist_ok=True)

    def on_train_batch_end(self, batch, logs=None):
        if time.monotonic() - self.saved > self.every:
            self.save(self.model)

    def save(self, gan):
        """Write a checkpoint and generator.keras; only then delete the oldest checkpoints.

        Raises InputError, with what was saved before left whole, where the disk has no room for both.
        """
        numbers = sum(math.prod(variable.shape) for variable in [*gan.variables, *gan.optimizer.variables])
        needed, free = 5 * numbers + 2**20, shutil.disk_usage(self.run_dir).free  # 4 bytes each, and HDF5's own
        if free < needed:  # asked first, since HDF5 meets a full disk with a crowd of errors
            raise InputError(
                f"{self.run_dir} needs {needed >> 20} MB for a checkpoint and the disk has {free >> 20}: free some, "
                f"then go on with --resume --run {self.run_dir.name}; the last checkpoint is whole."
            )
        with replacing(self.run_dir / "checkpoints" / f"step-{int(gan.step):08}.weights.h5") as partial:
            gan.save_weights(partial)
        with replacing(self.run_dir / "generator.keras") as partial:
            gan.ema_generator.save(partial)
        for path in _checkpoints(self.run_dir)[: -self.keep]:
            path.unlink()
        self.saved = time.monotonic()


class Stop(Callback):
    """Ends the training after the current step: when its minutes are over, on Ctrl-C and on SIGTERM."""

    def __init__(self, minutes):
        super().__init__()
        self.deadline = time.monotonic() + 60 * (minutes or math.inf)
        self.asked, self.reason = False, ""

    def on_train_batch_end(self, batch, logs=None):
        if time.monotonic() > self.deadline:
            self.asked, self.reason = True, "minutes over: stopped"
        if self.asked:
            self.model.stop_training = True

    @contextmanager
    def on_signals(self):
        """Within this, Ctrl-C and SIGTERM ask for the end; a second Ctrl-C does not wait for it."""
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number, _):
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked, self.reason = True, "interrupted: saved"
        tqdm.write("Stopping after this step and saving; press Ctrl-C again to stop at once, losing the last minutes.")


def load_newest_checkpoint(gan, run_dir):
    """Load the newest checkpoint of a run; leave the GAN at its first step where a run has none yet."""
    paths = _checkpoints(run_dir)
    if paths:
        try:
            gan.load_weights(paths[-1])
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{paths[-1]} is damaged ({error}): delete it to go on from the one before.") from error


def _checkpoints(run_dir):
    return sorted((run_dir / "checkpoints").glob("step-*.weights.h5"))
