"""What happens between training steps: progress bar, logs, samples, scores, and the stop."""

import csv
import math
import signal
import time
from contextlib import contextmanager

import numpy as np
from keras.callbacks import Callback, TensorBoard
from tqdm import tqdm

from walkgan.dataset import read_evenly_spaced
from walkgan.distribution import any_process
from walkgan.errors import InputError
from walkgan.files import atomic_write
from walkgan.generators import NUM_SAMPLES, generate
from walkgan.images import image_grid, write_frame
from walkgan.metrics import diversity, kernel_inception_distance, sliced_wasserstein
from walkgan.scoring_network import extract_features

NUM_SCORED = 100  # frames that are scored during training


class ProgressBar(Callback):
    """One bar for the whole run, with the time left."""

    def __init__(self, first_step, last_step, steps_per_epoch, stop):
        super().__init__()
        self.bar = tqdm(total=last_step, initial=first_step, unit="batch", mininterval=1, dynamic_ncols=True)
        self.steps_per_epoch, self.stop = steps_per_epoch, stop

    def on_train_batch_end(self, batch, logs=None):
        if self.bar.update():  # only when the bar is redrawn: otherwise the losses stay on the device
            self._show(logs)

    def on_epoch_end(self, epoch, logs=None):
        self._show(logs)

    def _show(self, logs):
        shown = {"epoch": f"{self.bar.n / self.steps_per_epoch:.1f}"}
        shown |= {name: f"{float(logs[name]):.2f}" for name in ("d_loss", "g_loss")}
        if self.stop.deadline < math.inf:
            shown["stops in"] = tqdm.format_interval(max(0, self.stop.deadline - time.monotonic()))
        self.bar.set_postfix(shown, refresh=False)


class CSVLog(Callback):
    """Appends a row to metrics.csv at the end of every epoch, and where the training was stopped within one.

    Keras's CSVLogger would write a stopped epoch twice, and keep rows that a resumed run writes again. Where another
    program has locked the file, rows wait until it can be written again.
    """

    COLUMNS = (
        "epoch", "step", "d_loss", "g_loss", "images_per_second", "kid", "sliced_wasserstein", "diversity",
        "feature_d_loss", "feature_g_loss",
    )  # fmt: skip
    RENAMED = {"spread": "diversity"}  # noqa: RUF012, columns of runs from before version 1.0.0

    def __init__(self, path, first_step, steps_per_epoch, settings):
        super().__init__()
        self.path, self.step = path, first_step
        self.steps_per_epoch, self.frames_per_step = steps_per_epoch, settings.batch_size * settings.window
        self.rows = [row for row in self._read() if float(row["step"]) <= first_step]
        self.waiting = []  # rows that are not yet written
        with atomic_write(path) as partial, open(partial, "w", newline="") as file:
            lines = [[row.get(name, "") for name in self.COLUMNS] for row in self.rows]
            csv.writer(file).writerows([self.COLUMNS, *lines])

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_start, self.step_before = time.monotonic(), self.step

    def on_train_batch_end(self, batch, logs=None):
        self.step, self.epoch_end = self.step + 1, time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        images = (self.step - self.step_before) * self.frames_per_step
        logs["images_per_second"] = images / (self.epoch_end - self.epoch_start)  # for TensorBoard too
        # Feature discriminators have losses of 0 where frames are still too small for them.
        row = {name: f"{float(value):.6g}" for name, value in logs.items() if value or "feature" not in name}
        row |= {"epoch": f"{self.step / self.steps_per_epoch:.6g}", "step": self.step}
        self.waiting.append([row.get(name, "") for name in self.COLUMNS])
        try:
            with open(self.path, "a", newline="") as file:
                csv.writer(file).writerows(self.waiting)
            self.waiting = []
        except PermissionError:
            if len(self.waiting) == 1:
                tqdm.write(f"{self.path} is locked by another program: close it there; the rows are kept until then.")

    def _read(self):
        if not self.path.exists():
            return []
        with open(self.path, newline="") as file:
            rows = [{self.RENAMED.get(name, name): cell for name, cell in row.items()} for row in csv.DictReader(file)]
        return [row for row in rows if None not in row.values()]  # not a row that a kill cut short


class EpochTensorBoard(TensorBoard):
    """TensorBoard by epoch: after every batch Keras's own would write nothing, and leak 3 KB.

    Raises InputError where the log can no longer be written.
    """

    def on_train_batch_end(self, batch, logs=None):
        pass

    def on_epoch_end(self, epoch, logs=None):
        from tensorflow.errors import OpError  # not above: without TensorFlow there is no log

        try:
            super().on_epoch_end(epoch, logs)
        except OpError as error:
            raise InputError(
                f"{self.log_dir} cannot be written: free some space, then --resume continues from the last checkpoint."
            ) from error


class PeriodicEvaluation(Callback):
    """Scores the averaged generator every few epochs and at the end, and keeps the generator that scored best.

    The best is that of the lowest KID, or without a feature network of the lowest sliced Wasserstein distance.
    """

    def __init__(self, run_dir, settings, paths, network, rows, pace, stop):
        super().__init__()
        self.path, self.every, self.network = run_dir / "best_generator.keras", settings.evaluate_every, network
        self.last_epoch, self.pace, self.stop = settings.epochs, pace, stop
        self.criterion = "kid" if network else "sliced_wasserstein"
        self.best = min((float(row[self.criterion]) for row in rows if row[self.criterion]), default=math.inf)
        self.real = read_evenly_spaced(paths, NUM_SCORED)
        self.features = extract_features(self.real, network) if network else None
        rng = np.random.default_rng((settings.seed, 3))
        self.latents = rng.standard_normal((len(self.real), settings.latent_dim), "float32")

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every and epoch + 1 < self.last_epoch and not self.stop.out_of_time:
            return
        fakes = generate(self.model, self.latents)
        if self.network:
            logs["kid"] = kernel_inception_distance(self.features, extract_features(fakes, self.network))[0]
        logs["sliced_wasserstein"] = float(np.mean(sliced_wasserstein(self.real, fakes)))
        logs["diversity"] = diversity(fakes, self.real)
        if logs[self.criterion] < self.best:
            self.best = logs[self.criterion]
            self.pace.forget()
            self.pace.set(self.model)
            with atomic_write(self.path) as partial:
                self.model.ema_generator.save(partial)


class SampleGrid(Callback):
    """Writes images generated from the same latents every few epochs, and one of real frames."""

    def __init__(self, run_dir, settings, paths):
        super().__init__()
        self.folder, self.every = run_dir / "samples", settings.sample_every
        self.folder.mkdir(exist_ok=True)
        rng = np.random.default_rng((settings.seed, 2))
        self.latents = rng.standard_normal((NUM_SAMPLES, settings.latent_dim), "float32")
        self.real = read_evenly_spaced(paths, NUM_SAMPLES)
        write_frame(self.folder / "real.png", image_grid(self.real, 4))

    def write(self, gan, *names):
        """Write the averaged generator's images of the fixed latents to files of these names."""
        grid = image_grid(generate(gan, self.latents), 4)
        for name in names:
            write_frame(self.folder / f"{name}.png", grid)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            self.write(self.model, f"epoch-{epoch + 1:04}", "latest")


class GracefulStop(Callback):
    """Ends the training after the current step: when its minutes are over, on Ctrl-C and on SIGTERM."""

    def __init__(self, minutes):
        super().__init__()
        self.deadline = time.monotonic() + 60 * (minutes or math.inf)
        self.requested = self.agreed = self.out_of_time = self.signalled = False
        self.reason, self.error = "", None

    def stop_on_read_error(self, batches):
        """Yield batches; where a frame can no longer be read, request the stop and repeat the last batch."""
        batch = None
        try:
            for batch in batches:
                yield batch
        except InputError as error:
            if batch is None:
                raise
            self.requested, self.error = True, error
        while True:
            yield batch

    def on_train_batch_end(self, batch, logs=None):
        if time.monotonic() > self.deadline:
            self.requested, self.out_of_time, self.reason = True, True, "time limit reached, stopped"
        if any_process(self.requested, batch):
            self.agreed = self.model.stop_training = True

    @contextmanager
    def on_signals(self):
        """While active, Ctrl-C and SIGTERM request the stop; a second Ctrl-C does not wait for it."""
        before = {signum: signal.signal(signum, self._request) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _request(self, signum, _):
        if self.signalled and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested, self.signalled, self.reason = True, True, "interrupted, saved"
        tqdm.write(
            "Stopping after this step and saving; press Ctrl-C again to stop at once, losing everything since the "
            "last checkpoint."
        )
