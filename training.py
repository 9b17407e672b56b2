"""A training run: frames in, `fit`, callbacks, a run folder that is never half-written, resume.

saved_models/0001-shuffled/
    settings.json     the settings, and what the frames were
    metrics.csv       losses and speed of every epoch, scores of every few
    logs/             the same for TensorBoard
    samples/          real.png, epoch-0005.png and so on (always the same latents), latest.png
    checkpoints/      step-00000420.weights.h5: both networks, optimizer, average, step
    generator.keras   the averaged generator, ready for inference
    best_generator.keras   the same when it scored best
    discriminator.keras    with generator.keras, all that another training needs to start from this one
    trouble.log       what went wrong and was mended, if anything did
"""

import csv
import itertools
import math
import os
import shutil
import signal
import sys
import time
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
from keras.callbacks import Callback, TensorBoard
from tqdm import tqdm

from frames import (
    fingerprint,
    fit_frame,
    list_frames,
    read_frame,
    read_timeline,
    replacing,
    tile,
    to_float,
    to_uint8,
    usable_frames,
    write_frame,
)
from gan import build_gan, sees_features
from metrics import extract_features, kernel_distance, load_network, sliced_wasserstein, spread
from models import DEEPEST, count_halvings, smaller_shapes
from settings import (
    InputError,
    SettingError,
    find_run,
    load_facts,
    load_settings,
    new_run_dir,
    only_one_training,
    refuse_other_frames,
    settings_as_json,
)

SAMPLES = 16  # pictures in a grid of samples, 4 x 4
SCORED = 100  # frames that are scored during training
# Signs of trouble:
WON = 0.01  # the discriminator's loss over an epoch: there is nothing left to learn from it
VARIED, COLLAPSED = 0.4, 0.15  # spread of the fakes, against the real frames': once above the first, below the second
SATURATED = 0.8  # part of the generator's values that are black or white, of those that are neither in real frames
AHEAD = min(os.cpu_count() or 1, 8)  # batches that are made before they are needed, at the same time
SPACINGS = 1, 2, 4  # frames from one of a window to the next; single frames among them slowed the walks
# What a size below the frames' own is trained on at most: by pixels alone, and where features will be seen, which teach
# structure at full size as well.
SIZE_IMAGES, SIZE_IMAGES_WITH_FEATURES = 60_000, 10_000


def train(settings):
    """Train a GAN from `settings`, a checked or unchecked TrainingSettings, in a run folder of its own.

    Returns that folder. Raises SettingError and InputError, before anything is written, for what cannot be trained.
    """
    settings.check()
    paths, frame_shape = usable_frames(list_frames(settings.frames))
    if settings.batch_size > len(paths):
        raise SettingError(f"--batch-size must be at most {len(paths)}, the frames in {settings.frames}.")

    facts = {"frame_shape": list(frame_shape), "frame_count": len(paths), "fingerprint": fingerprint(paths)}
    join_machines(settings)
    add_up_in_order()
    # `predict` of several machines would want all of them to take part: they log no KID.
    network = load_network(settings.features) if settings.features and machines()[1] == 1 else None
    timeline = read_timeline(paths) if settings.window > 1 else None
    with use_devices(settings.devices):
        gan = build_gan(settings, frame_shape, 1 / timeline.step if timeline else None)
    places = ("frames", "runs", "name", "run", "start_from")
    lasting = {name: value for name, value in asdict(settings).items() if name not in (*places, "minutes")}
    refuse_other_machines("their frames or settings", [lasting, facts])
    if settings.resume:
        run_dir = find_run(settings.runs, settings.run)
        refuse_other_frames(run_dir, facts)
    else:
        if settings.start_from:
            start_from(settings.start_from, gan, settings)
        run_dir = new_run_dir(settings.runs, settings.name)
    with only_one_training(run_dir), ending_together():
        train_in(run_dir, settings, gan, paths, facts, timeline, network)
    return run_dir


def train_in(run_dir, settings, gan, paths, facts, timeline, network):
    """Train a GAN in the folder of its run, from where that stands to the end of its epochs, or to a stop."""
    frame_shape = gan.generator.output_shape[1:]
    steps_per_epoch = math.ceil(len(paths) / settings.batch_size)
    last_step = settings.epochs * steps_per_epoch
    if settings.resume:
        growth = load_facts(run_dir)["growth"]  # as planned at the start, whatever --epochs is now
        load_newest_checkpoint(gan, run_dir)
        refuse_other_machines("their checkpoints", gan.steps)
        if gan.steps >= last_step:
            raise SettingError(f"{run_dir} has had its {settings.epochs} epochs: ask for more with --epochs.")
    else:
        growth = plan_growth(settings, frame_shape, len(paths))
    facts |= {"growth": growth, "keras": keras.__version__, "backend": keras.backend.backend()}
    with replacing(run_dir / "settings.json") as partial:  # of a resumed run too: --epochs may have changed
        lasting = replace(settings, resume=False, run=None)
        partial.write_text(settings_as_json(lasting, **facts))
    first_step = gan.steps
    doing = "resuming" if settings.resume else "training"
    print("{} {}: {} frames of {}x{}".format(doing, run_dir, len(paths), *frame_shape[:2]))

    stop = Stop(settings.minutes)
    metrics = Metrics(run_dir / "metrics.csv", first_step, steps_per_epoch, settings)
    samples = Samples(run_dir, settings, paths)
    checkpoints = Checkpoints(run_dir, settings, samples)
    if not settings.resume:
        checkpoints.save(gan)  # the first to fall back on
    callbacks = [
        Progress(first_step, last_step, steps_per_epoch, stop),
        checkpoints,
        Scores(run_dir, settings, paths, network, metrics.rows),
        metrics,
        *([Board(run_dir / "logs", write_graph=False)] if find_spec("tensorflow") else []),
        samples,
        stop,
    ]
    with stop.on_signals():
        for (start, shape), (end, _) in zip(growth, [*growth[1:], (settings.epochs, None)], strict=True):
            end = min(end, settings.epochs)
            while start <= gan.steps // steps_per_epoch < end and not stop.agreed:
                epoch, done = divmod(gan.steps, steps_per_epoch)
                if gan.steps == start * steps_per_epoch:
                    gan.restart_optimizer()
                data = stop.where_they_end(batches(paths, settings, gan.steps, shape, timeline))
                gan.make_train_function(force=True)  # for frames of another size
                gan.fit(  # first the rest of an epoch that was interrupted, then the whole ones
                    data, initial_epoch=epoch, epochs=epoch + 1 if done else end, shuffle=False, verbose=0,
                    steps_per_epoch=steps_per_epoch - done, callbacks=callbacks,
                )  # fmt: skip
    checkpoints.save_or_go_back(gan)
    samples.write(gan, "latest")
    if stop.error:
        raise InputError(f"{stop.error} All is saved; then go on with --resume --run {run_dir.name}.")
    how = stop.reason or ("stopped by another machine" if stop.agreed else "finished")
    print(f"{how} at epoch {gan.steps / steps_per_epoch:.2f} of {settings.epochs}.")
    print(f"Pictures: {run_dir / 'samples'}. Generator: {run_dir / 'generator.keras'}.")
    if gan.steps < last_step:
        print(f"To go on: python {Path(sys.argv[0]).name} --resume --run {run_dir.name}")


def add_up_in_order():
    """Make TensorFlow's sums on the CPU the same every time, on a busy machine too; costs about 3% of the speed.

    Without it a resumed training may differ from an uninterrupted one in the last digits. On a GPU it would
    cost far more, so there it is left.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        if not tensorflow.config.list_physical_devices("GPU"):
            tensorflow.config.experimental.enable_op_determinism()


def join_machines(settings):
    """Join the machines that Keras's variables KERAS_DISTRIBUTION_... name, before anything is calculated.

    Each keeps a whole run of its own, and draws its pictures for itself: they share the steps only. What ends or turns
    a training must therefore be agreed upon (`any_machine`). Raises SettingError where they cannot train together.
    """
    if os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", "1") == "1":
        return
    if keras.backend.backend() != "jax":
        raise SettingError("several machines train together on JAX only: set KERAS_BACKEND to jax on each.")
    try:
        keras.distribution.initialize()
    except (RuntimeError, ValueError) as error:
        raise SettingError(f"the machines of KERAS_DISTRIBUTION_JOB_ADDRESSES do not meet: {error}") from error
    import jax

    refuse_other_machines("their numbers of GPUs", jax.local_device_count())


def machines():
    """Return the number of this machine, from 0, and how many train together."""
    if keras.backend.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def gather(number):
    """Return what each of the machines that train together calls this with, at the same step; waits for all."""
    if machines()[1] == 1:
        return np.array([number])
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(np.array(number))


def any_machine(says_so):
    """Return whether any of the machines that train together says so."""
    return bool(gather(bool(says_so)).any())


@contextmanager
def ending_together():
    """Within this, an error on one of several machines ends this training at once, and so that of the others.

    An ordinary exit would wait for the other machines, which wait for this one's next step.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if machines()[1] == 1 or isinstance(error, SettingError):
            raise
        if not isinstance(error, InputError | OSError):  # as JAX says that a connection broke
            error = f"another machine is gone ({error!s:.100}). From the last checkpoint, on each: --resume"
        print(f"\n{Path(sys.argv[0]).name}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def refuse_other_machines(what, value):
    """Raise SettingError where the machines that train together do not all have the same of something."""
    if len(set(gather(zlib.crc32(repr(value).encode())).tolist())) > 1:
        raise SettingError(f"the machines differ in {what}: those of a training must be the same on all.")


def use_devices(count):
    """Return the context to build a GAN in, so that `fit` gives each of so many devices its part of every batch.

    Devices are GPUs, or without one the parts of the processor that the backend was told to make. TensorFlow trains
    through tf.distribute, JAX through keras.distribution; either with the result of one device, but for what is drawn
    at random within a step, and for the nearest frames, which TensorFlow seeks within each part. Raises SettingError
    where there are fewer devices, and on other backends. Of several machines, all devices train.
    """
    backend = keras.backend.backend()
    if machines()[1] > 1 and count != len(keras.distribution.list_devices()):
        raise SettingError(f"--devices must be {len(keras.distribution.list_devices())}, all that the machines have.")
    if count == 1:
        return nullcontext()
    if backend == "tensorflow":
        import tensorflow as tf

        found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    elif backend == "jax":
        found = keras.distribution.list_devices()
    else:
        raise SettingError(f"--devices {count}: set KERAS_BACKEND to tensorflow or jax.")
    if len(found) < count:
        raise SettingError(f"--devices {count}: {backend} finds {len(found)} here.")
    if backend == "tensorflow":
        return tf.distribute.MirroredStrategy([device.name for device in found[:count]]).scope()
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=found[:count], auto_shard_dataset=False)
    )
    return nullcontext()


def start_from(run_dir, gan, settings):
    """Give the GAN the averaged generator and the discriminators of a finished run, on frames as or half as large.

    What it has beyond them starts as always, adding nothing. Raises SettingError where they are no part of the GAN's,
    InputError where their files cannot be read.
    """
    theirs, shape = load_settings(run_dir), tuple(load_facts(run_dir)["frame_shape"])
    for name in ("latent_dim", "width", "window"):
        if getattr(theirs, name) != getattr(settings, name):
            raise SettingError(
                f"{run_dir} was trained with --{name.replace('_', '-')} {getattr(theirs, name)}: so must this."
            )
    frame_shape = gan.generator.output_shape[1:]
    if shape != frame_shape and (shape not in smaller_shapes(frame_shape) or count_halvings(shape) < DEEPEST):
        raise SettingError(
            "{}, a run on frames of {}x{}, is no start for {}x{}: only for the same size, or from 128 pixels on for "
            "twice that.".format(run_dir, *shape[:2], *frame_shape[:2])
        )
    for name, network in (gan.saved_networks | {"generator": gan.generator}).items():
        path = run_dir / f"{name}.keras"
        if name.startswith("feature") and not path.exists():
            continue  # that run had none, or was on frames half as large: this one begins as always
        try:
            for layer in keras.models.load_model(path, compile=False).layers:
                if layer.weights:
                    network.get_layer(layer.name).set_weights(layer.get_weights())
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path} cannot be started from: {error!r:.200}") from error
    gan.begin_average()


def plan_growth(settings, frame_shape, frame_count):
    """Return (first epoch, frame shape) of each size that is trained, smallest first.

    Each size but the last has a quarter of the epochs, but no more than SIZE_IMAGES images, or
    SIZE_IMAGES_WITH_FEATURES.
    """
    shapes = smaller_shapes(frame_shape)
    if settings.start_from:
        known = shapes.index(tuple(load_facts(settings.start_from)["frame_shape"])) + 1
        shapes = shapes[known:] or shapes[-1:]
    elif not settings.grow:
        shapes = shapes[-1:]
    images = SIZE_IMAGES_WITH_FEATURES if sees_features(settings, frame_shape) else SIZE_IMAGES
    share = min(settings.epochs // 4, math.ceil(images / (frame_count * settings.window)))
    return [(share * number, shape) for number, shape in enumerate(shapes)]


def batches(paths, settings, step, frame_shape, timeline=None):
    """Yield the batches of a training from `step` on, without end, with frames scaled to frame_shape.

    Batch number `step` is a function of the seed and that number alone, on every backend: so a resumed
    training sees the frames and latents it would have seen. Each is a tuple of one dictionary as GAN reads it.
    Every frame is seen in every epoch; the last batch is filled up with frames before it. With a timeline, every
    frame is the first of a window in every epoch, of frames SPACINGS apart that lie in one scene.
    Batches are made ahead, by threads, while the network trains: a GPU would wait for them longer than it calculates.
    Of machines that train together, each makes its own part of them.
    """
    steps_per_epoch = math.ceil(len(paths) / settings.batch_size)
    machine, of = machines()
    part = slice(machine * settings.batch_size // of, (machine + 1) * settings.batch_size // of)

    @lru_cache(2)  # at an epoch's end the next one's batches are made already
    def order_of(epoch):
        if not settings.shuffle:
            return np.arange(len(paths))
        return np.random.default_rng((settings.seed, 0, epoch)).permutation(len(paths))

    def make(step):
        epoch, batch = divmod(step, steps_per_epoch)
        start = min(batch * settings.batch_size, len(paths) - settings.batch_size)
        random = np.random.default_rng((settings.seed, 1, step))
        data = {"latents": random.standard_normal((settings.batch_size, settings.latent_dim), "float32")}
        chosen = order_of(epoch)[start : start + settings.batch_size, None]
        if timeline:
            chosen = windows(chosen[:, 0], settings.window, timeline, random)
            data["times"] = ((timeline.times[chosen] - timeline.times[chosen[:, :1]]) / timeline.step).astype("float32")
        chosen, data = chosen[part], {name: values[part] for name, values in data.items()}
        read = {index: fit_frame(read_frame(paths[index]), *frame_shape[:2]) for index in np.unique(chosen)}
        frames = np.stack([[read[index] for index in row] for row in chosen])
        # A window is stacked on channels.
        data["frames"] = to_float(np.moveaxis(frames, 1, 3).reshape(len(chosen), *frame_shape[:2], -1))
        return (data,)

    with ThreadPoolExecutor(AHEAD) as pool:
        making = deque()
        for number in itertools.count(step):
            making.append(pool.submit(make, number))
            if len(making) > AHEAD:
                yield making.popleft().result()


def windows(firsts, window, timeline, random):
    """Return the indices (count, window) of windows that begin with the frames `firsts`, or a little before them.

    Their frames are as far apart as one of SPACINGS, drawn at random, says, or less in a scene too short for it.
    """
    ends = timeline.scene_ends[firsts]
    starts = np.searchsorted(timeline.scene_ends, ends)  # of the scenes
    spacings = np.minimum(random.choice(SPACINGS, len(firsts)), (ends - 1 - starts) // (window - 1))
    firsts = np.minimum(firsts, ends - 1 - spacings * (window - 1))
    return firsts[:, None] + spacings[:, None] * np.arange(window)


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

    COLUMNS = (
        "epoch", "step", "d_loss", "g_loss", "images_per_second", "kid", "sliced_wasserstein", "spread",
        "feature_d_loss", "feature_g_loss",
    )  # fmt: skip

    def __init__(self, path, first_step, steps_per_epoch, settings):
        super().__init__()
        self.path, self.step = path, first_step
        self.steps_per_epoch, self.frames_per_step = steps_per_epoch, settings.batch_size * settings.window
        self.rows = [row for row in self._read() if int(row["step"]) <= first_step]
        with replacing(path) as partial, open(partial, "w", newline="") as file:
            # A run of before has not all columns.
            csv.writer(file).writerows(
                [self.COLUMNS, *([row.get(name, "") for name in self.COLUMNS] for row in self.rows)]
            )

    def on_epoch_begin(self, epoch, logs=None):
        self.began, self.step_before = time.monotonic(), self.step

    def on_train_batch_end(self, batch, logs=None):
        self.step, self.ended = self.step + 1, time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        images = (self.step - self.step_before) * self.frames_per_step
        logs["images_per_second"] = images / (self.ended - self.began)  # for TensorBoard too
        row = {"epoch": self.step / self.steps_per_epoch, "step": self.step} | logs
        with open(self.path, "a", newline="") as file:
            csv.writer(file).writerow([f"{float(row[name]):.6g}" if name in row else "" for name in self.COLUMNS])

    def _read(self):
        if not self.path.exists():
            return []
        with open(self.path, newline="") as file:  # not a row that a kill cut short
            rows = list(csv.DictReader(file))
        return [row for row in rows if None not in row.values()]


class Board(TensorBoard):
    """TensorBoard by epoch: Keras's own turns to it after every batch too, writes nothing, and leaks 3 KB each time."""

    def on_train_batch_end(self, batch, logs=None):
        pass


class Scores(Callback):
    """Scores the averaged generator every few epochs, beside its losses, and keeps the generator that scored best.

    The best is that of the lowest KID, or without a feature network of the lowest sliced Wasserstein distance.
    """

    def __init__(self, run_dir, settings, paths, network, rows):
        super().__init__()
        self.path, self.every, self.network = run_dir / "best_generator.keras", settings.score_epochs, network
        self.last = settings.epochs
        self.by = "kid" if network else "sliced_wasserstein"
        self.best = min((float(row[self.by]) for row in rows if row[self.by]), default=math.inf)
        self.real = read_evenly(paths, SCORED)
        self.features = extract_features(self.real, network) if network else None
        random = np.random.default_rng((settings.seed, 3))
        self.latents = random.standard_normal((len(self.real), settings.latent_dim), "float32")

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every and epoch + 1 < self.last:
            return
        fakes = draw(self.model, self.latents)
        if self.network:
            logs["kid"] = kernel_distance(self.features, extract_features(fakes, self.network))[0]
        logs["sliced_wasserstein"] = float(np.mean(sliced_wasserstein(self.real, fakes)))
        logs["spread"] = spread(fakes, self.real)
        if logs[self.by] < self.best:
            self.best = logs[self.by]
            with replacing(self.path) as partial:
                self.model.ema_generator.save(partial)


class Samples(Callback):
    """Draws the same latents every few epochs, beside a picture of real frames."""

    def __init__(self, run_dir, settings, paths):
        super().__init__()
        self.folder, self.every = run_dir / "samples", settings.picture_epochs
        self.folder.mkdir(exist_ok=True)
        self.latents = np.random.default_rng((settings.seed, 2)).standard_normal(
            (SAMPLES, settings.latent_dim), "float32"
        )
        self.real = read_evenly(paths, SAMPLES)
        write_frame(self.folder / "real.png", tile(self.real, 4))

    def write(self, gan, name):
        """Write a picture of the fixed latents by the averaged generator."""
        write_frame(self.folder / f"{name}.png", tile(draw(gan, self.latents), 4))

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            self.write(self.model, f"epoch-{epoch + 1:04}")


class Checkpoints(Callback):
    """Saves everything the training needs to go on, and the generator, every few minutes, if all is well.

    In trouble it goes back to the last checkpoint instead, softens the training and goes on: with the frames and
    latents that come next, so that it does not walk into the same trouble again.
    """

    def __init__(self, run_dir, settings, samples):
        super().__init__()
        self.run_dir, self.keep, self.samples = run_dir, settings.keep_checkpoints, samples
        self.every, self.saved = 60 * settings.checkpoint_minutes, time.monotonic()
        self.bounded_loss, self.varied = settings.loss != "wasserstein-gp", False
        (run_dir / "checkpoints").mkdir(exist_ok=True)

    def on_train_batch_end(self, batch, logs=None):
        if any_machine(time.monotonic() - self.saved > self.every):
            self.save_or_go_back(self.model)

    def on_epoch_end(self, epoch, logs=None):
        gan = self.model
        if not np.isfinite([logs["d_loss"], logs["g_loss"]]).all():
            self.go_back(gan, "the losses are no numbers any more")
        elif self.bounded_loss and logs["d_loss"] < WON:
            self.go_back(gan, "the discriminator has won, and the generator has nothing to learn from")
        elif (epoch + 1) % self.samples.every == 0 and (reason := self.trouble(gan)):
            self.go_back(gan, reason)

    def trouble(self, gan):
        """Return what is wrong with the GAN as it stands, if anything is, on this machine or another."""
        reason = self._trouble_here(gan)
        return (reason or "trouble on another machine") if any_machine(reason) else None

    def _trouble_here(self, gan):
        if not all(np.isfinite(keras.ops.convert_to_numpy(variable)).all() for variable in gan.variables):
            return "the weights are no numbers any more"
        frames = draw(gan, self.samples.latents, averaged=False)
        fake, real = (((part < 3) | (part > 252)).mean() for part in (frames, self.samples.real))
        if fake > real + SATURATED * (1 - real):  # a night, or bars around a film, are black rightly
            return f"the generator is saturated: {fake:.0%} of its values are black or white, of real ones {real:.0%}"
        now = spread(frames, self.samples.real)
        if self.varied and now < COLLAPSED:
            return f"the generator has collapsed: spread of its frames {now:.2f} of the real ones'"
        self.varied = self.varied or now > VARIED
        return None

    def go_back(self, gan, reason):
        """Load the last checkpoint, soften the training, say so and go on."""
        step = gan.steps
        loaded = load_newest_checkpoint(gan, self.run_dir)
        gan.step.assign(step)
        gan.soften()
        learning_rate, penalty = map(keras.ops.convert_to_numpy, (gan.optimizer.learning_rate, gan.penalty))
        text = (
            f"step {step}: {reason}. Back to {loaded.name}, with learning rate "
            f"{learning_rate:.3g} and penalty {penalty:.3g} from here on."
        )
        tqdm.write(text)
        with open(self.run_dir / "trouble.log", "a") as file:
            file.write(text + "\n")
        self.save(gan)

    def save_or_go_back(self, gan):
        """Save the GAN if it is sound, else go back to when it was."""
        if reason := self.trouble(gan):
            self.go_back(gan, reason)
        else:
            self.save(gan)

    def save(self, gan):
        """Write a checkpoint and both networks; only then delete the oldest checkpoints.

        Raises InputError, with what was saved before left whole, where the disk has no room for both.
        """
        numbers = sum(math.prod(variable.shape) for variable in [*gan.variables, *gan.optimizer.variables])
        needed, free = 6 * numbers + 2**20, shutil.disk_usage(self.run_dir).free  # 4 bytes each, and HDF5's own
        if free < needed:  # asked first, since HDF5 meets a full disk with a crowd of errors
            raise InputError(
                f"{self.run_dir} needs {needed >> 20} MB for a checkpoint and the disk has {free >> 20}: free some, "
                f"then go on with --resume --run {self.run_dir.name}; the last checkpoint is whole."
            )
        with replacing(self.run_dir / "checkpoints" / f"step-{gan.steps:08}.weights.h5") as partial:
            gan.save_weights(partial)
        for name, network in gan.saved_networks.items():
            with replacing(self.run_dir / f"{name}.keras") as partial:
                network.save(partial)
        for path in _checkpoints(self.run_dir)[: -self.keep]:
            path.unlink()
        self.saved = time.monotonic()


class Stop(Callback):
    """Ends the training after the current step: when its minutes are over, on Ctrl-C and on SIGTERM."""

    def __init__(self, minutes):
        super().__init__()
        self.deadline = time.monotonic() + 60 * (minutes or math.inf)
        self.asked, self.agreed, self.reason, self.error = False, False, "", None

    def where_they_end(self, batches):
        """Yield batches; where a frame cannot be read any more, ask for the end, and repeat the last until then."""
        batch = None
        try:
            for batch in batches:
                yield batch
        except InputError as error:
            if batch is None:
                raise
            self.asked, self.error = True, error
        while True:
            yield batch

    def on_train_batch_end(self, batch, logs=None):
        if time.monotonic() > self.deadline:
            self.asked, self.reason = True, "minutes over: stopped"
        if any_machine(self.asked):
            self.agreed = self.model.stop_training = True

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


def draw(gan, latents, averaged=True):
    """Return what the averaged generator, or else the trained one, draws from latents, as uint8."""
    generator = gan.ema_generator if averaged else gan.generator
    if machines()[1] == 1:
        return to_uint8(generator.predict(latents, batch_size=SAMPLES, verbose=0))
    # `predict` would want the other machines to take part; not so a copy of the weights.
    numbers = keras.ops.convert_to_numpy
    weights = [list(map(numbers, some)) for some in (generator.trainable_variables, generator.non_trainable_variables)]
    parts = np.split(latents, range(SAMPLES, len(latents), SAMPLES))
    frames = [numbers(generator.stateless_call(*weights, part, training=False)[0]) for part in parts]
    return to_uint8(np.concatenate(frames))


def read_evenly(paths, count):
    """Return `count` frames (fewer where there are fewer), evenly spaced in time, as one array."""
    chosen = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return np.stack([read_frame(paths[index]) for index in chosen])


def load_newest_checkpoint(gan, run_dir):
    """Load and return the newest checkpoint of a run; leave the GAN at its first step where there is none yet."""
    paths = _checkpoints(run_dir)
    if not paths:
        return None
    try:
        gan.load_weights(paths[-1])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{paths[-1]} does not load ({error!r:.200}): if damaged, delete it to go on from the one before; if of "
            "another version of this project, go on with that one."
        ) from error
    return paths[-1]


def _checkpoints(run_dir):
    return sorted((run_dir / "checkpoints").glob("step-*.weights.h5"))
