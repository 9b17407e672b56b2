"""Training, from the settings to the end of the run.

saved_models/0001-shuffled/
    settings.json     the settings, and what the frames were
    metrics.csv       losses and speed of every epoch, scores of every 25th and at the end
    logs/             the same for TensorBoard
    samples/          real.png; epoch-0005.png and so on, always of the same latents; latest.png
    checkpoints/      step-00000420.weights.h5: all networks, optimizer, EMA, step
    generator.keras   the averaged (EMA) generator, ready for inference
    best_generator.keras   the same when it scored best
    discriminator.keras    and feature_discriminator*.keras: what a warm start needs besides
    rollbacks.log     divergences that were detected, if there were any
"""

import math
import sys
import warnings
from contextlib import closing
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import keras

from models import frame_shapes_by_level
from walkgan import distribution
from walkgan.callbacks import CSVLog, EpochTensorBoard, GracefulStop, PeriodicEvaluation, ProgressBar, SampleGrid
from walkgan.checkpoints import Checkpoints, load_newest_checkpoint
from walkgan.dataset import batches, fingerprint, list_frames, read_timeline, usable_frames
from walkgan.errors import InputError, SettingError
from walkgan.files import atomic_write, folder_lock
from walkgan.gan_builder import build_gan, uses_features
from walkgan.motion_metrics import MIN_FLOW_SIDE
from walkgan.pace import Pace
from walkgan.run_folder import (
    find_run,
    load_run_info,
    load_settings,
    new_run_dir,
    require_same_frames,
    resume_options,
    settings_as_json,
)
from walkgan.scenes import find_scenes
from walkgan.scoring_network import load_network
from walkgan.warm_start import warm_start
from walkgan.windows import longest_window

# The most that a size below the frames' own is trained on: images by pixels alone; images, or windows of several, where
# feature discriminators will follow, which teach structure at full size as well.
MAX_IMAGES_PER_SIZE = 60_000
MAX_IMAGES_PER_SIZE_WITH_FEATURES, MAX_WINDOWS_PER_SIZE_WITH_FEATURES = 10_000, 5_000


def train(settings):
    """Train a GAN as `settings`, TrainingSettings, say, in a run folder of its own.

    Returns that folder. Raises SettingError and InputError, before anything is written, for what cannot be trained, and
    InputError, after everything is saved, where a frame can no longer be read.
    """
    settings.check()
    paths, frame_shape = usable_frames(list_frames(settings.frames))
    if settings.batch_size > len(paths):
        raise SettingError(f"--batch-size must be at most {len(paths)}, the frames in {settings.frames}.")
    if settings.window > 1 and max(frame_shape[:2]) < MIN_FLOW_SIDE:
        raise SettingError(f"motion can be measured in frames of {MIN_FLOW_SIDE} pixels or more: extract larger ones.")
    if settings.window > 1 and settings.window > (longest := longest_window(settings.latent_dim)):
        raise SettingError(f"--window must be at most {longest} with a --latent-dim of {settings.latent_dim}.")
    info = {"frame_shape": list(frame_shape), "frame_count": len(paths), "fingerprint": fingerprint(paths)}
    distribution.initialize_hosts()
    distribution.enable_determinism()
    network = load_network(settings.features, frame_shape) if settings.features else None
    timeline = read_timeline(paths) if settings.window > 1 else None
    if settings.resume:
        run_dir = find_run(settings.runs, settings.run)
        info["scenes"] = load_run_info(run_dir).get("scenes", [1.0])  # runs from before 1.0.0 have none
    else:
        info["scenes"] = scenes_to_learn(settings, paths, timeline)
    with distribution.distribution_scope(settings.devices):
        steps_per_second = 1 / timeline.frame_interval if timeline else None
        gan = build_gan(settings, frame_shape, steps_per_second, info["scenes"])
    of_one_host = ("frames", "runs", "name", "run", "start_from", "minutes")
    shared = {name: value for name, value in asdict(settings).items() if name not in of_one_host}
    distribution.require_equal_on_all_processes("their frames or settings", [shared, info])
    if settings.resume:
        require_same_frames(run_dir, info)
    else:
        if settings.start_from:
            warm_start(settings.start_from, gan, settings)
        run_dir = new_run_dir(settings.runs, settings.name)
    with folder_lock(run_dir, "trained"), distribution.abort_all_on_error():
        run_training(run_dir, settings, gan, paths, info, timeline, network)
    return run_dir


def scenes_to_learn(settings, paths, timeline):
    """Return the scenes of frames, see find_scenes: a single one where latents are too small, or it is not known."""
    if settings.latent_dim <= 2:
        return (1.0,)
    try:
        return find_scenes((timeline or read_timeline(paths)).scene_ends)
    except InputError as error:  # which single frames do not need
        print(f"{error} They are trained as a single scene.")
        return (1.0,)


def run_training(run_dir, settings, gan, paths, info, timeline, network):
    """Train a GAN in the folder of its run, from where that stands to the end of its epochs, or to a stop."""
    steps_per_epoch = math.ceil(len(paths) / settings.batch_size)
    last_step = settings.epochs * steps_per_epoch
    growth, scored_since = start_or_resume(run_dir, settings, gan, info, last_step)
    stop = GracefulStop(settings.minutes)
    progress = ProgressBar(gan.steps, last_step, steps_per_epoch, stop)
    log = CSVLog(run_dir / "metrics.csv", gan.steps, steps_per_epoch, settings)
    samples = SampleGrid(run_dir, settings, paths)
    pace = Pace(paths, timeline, settings.seed, info["scenes"])
    checkpoints = Checkpoints(run_dir, settings, samples, pace)
    comparable = [row for row in log.rows if float(row["step"]) > scored_since]
    evaluation = PeriodicEvaluation(run_dir, settings, paths, network, comparable, pace, stop)
    board = [EpochTensorBoard(run_dir / "logs", write_graph=False)] if find_spec("tensorflow") else []
    if gan.steps == 0:
        pace.set_camera(gan)
        checkpoints.save(gan)  # the first to roll back to
    # In this order: a rollback comes before the scores, which log and TensorBoard then write.
    callbacks = [progress, checkpoints, evaluation, log, *board, samples, stop]

    def next_batches(shape):
        return stop.stop_on_read_error(batches(paths, settings, gan.steps, shape, timeline, info["scenes"]))

    with stop.on_signals(), closing(progress.bar):
        for (start, shape), (end, _) in zip(growth, [*growth[1:], (settings.epochs, None)], strict=True):
            epochs = range(start, min(end, settings.epochs))
            fit_size(gan, next_batches, shape, epochs, steps_per_epoch, callbacks, stop)
        pace.forget()
        checkpoints.save_or_roll_back(gan)
    report_end(run_dir, settings, gan.steps, steps_per_epoch, stop)


def start_or_resume(run_dir, settings, gan, info, last_step):
    """Load the newest checkpoint on --resume and write settings.json.

    Returns the growth schedule of the run, and the step after which today's network has scored it: scores of another
    network cannot be compared.
    """
    scored_since = 0
    if settings.resume:
        before = load_run_info(run_dir)
        growth = before["growth"]  # as at the start, even if --epochs has changed
        if not load_newest_checkpoint(gan, run_dir) and settings.start_from:  # killed before the first
            warm_start(settings.start_from, gan, settings)
        distribution.require_equal_on_all_processes("their checkpoints", gan.steps)
        if gan.steps >= last_step:
            raise SettingError(f"{run_dir} has finished its {settings.epochs} epochs: set more with --epochs.")
        same_network = load_settings(run_dir).features == settings.features
        scored_since = before.get("scored_since", 0) if same_network else gan.steps
    else:
        growth = growth_schedule(settings, gan.ema_generator.output_shape[1:], info["frame_count"])
    info = info | {"growth": growth, "scored_since": scored_since}
    info |= {"keras": keras.__version__, "backend": keras.backend.backend()}
    with atomic_write(run_dir / "settings.json") as partial:
        partial.write_text(settings_as_json(replace(settings, resume=False, run=None), **info))
    verb = "resuming" if settings.resume else "training"
    height, width = info["frame_shape"][:2]
    print(f"{verb} {run_dir} on {info['frame_count']} {height}x{width} frames")
    return growth, scored_since


def fit_size(gan, next_batches, shape, epochs, steps_per_epoch, callbacks, stop):
    """Train on frames of one shape for what is left of its epochs, a range.

    An interrupted epoch is finished first, the others follow in one `fit`.
    """
    gan.make_train_function(force=True)  # once per size: JAX would compile it again
    while epochs.start <= gan.steps // steps_per_epoch < epochs.stop and not stop.agreed:
        epoch, done = divmod(gan.steps, steps_per_epoch)
        if gan.steps == epochs.start * steps_per_epoch:
            gan.begin_size()
        with warnings.catch_warnings():
            if tuple(shape) != gan.ema_generator.output_shape[1:]:  # the layers of larger sizes are not trained yet
                warnings.filterwarnings("ignore", message="Gradients do not exist for variables")
            gan.fit(
                next_batches(shape), initial_epoch=epoch, epochs=epoch + 1 if done else epochs.stop,
                steps_per_epoch=steps_per_epoch - done, shuffle=False, verbose=0, callbacks=callbacks,
            )  # fmt: skip


def report_end(run_dir, settings, steps, steps_per_epoch, stop):
    """Print how the training ended, where its results are and how to continue; raise InputError where a read failed."""
    command = resume_options(run_dir)
    if stop.error and steps < settings.epochs * steps_per_epoch:  # else it was of a batch read ahead
        raise InputError(f"{stop.error} Everything is saved; then continue with {command}.")
    outcome = stop.reason or ("stopped by another host" if stop.agreed else "finished")
    print(f"{outcome} at epoch {steps / steps_per_epoch:.2f} of {settings.epochs}.")
    print(f"Images: {run_dir / 'samples'}. Generator: {run_dir / 'generator.keras'}.")
    if steps < settings.epochs * steps_per_epoch:
        print(f"To continue: python {Path(sys.argv[0]).name} {command}")


def growth_schedule(settings, frame_shape, frame_count):
    """Return (first epoch, frame shape) of each size that is trained, smallest first.

    Each size but the last has a quarter of the epochs (of five or six sizes, a fifth or sixth), but no more than
    MAX_IMAGES_PER_SIZE images, or with feature discriminators MAX_IMAGES_PER_SIZE_WITH_FEATURES, or
    MAX_WINDOWS_PER_SIZE_WITH_FEATURES windows of several.
    """
    shapes = list(frame_shapes_by_level(frame_shape).values())
    if settings.start_from:
        num_trained = shapes.index(tuple(load_run_info(settings.start_from)["frame_shape"])) + 1
        shapes = shapes[num_trained:] or shapes[-1:]
    if not settings.grow:
        shapes = shapes[-1:]
    if not uses_features(settings, frame_shape):
        images = MAX_IMAGES_PER_SIZE
    elif settings.window == 1:
        images = MAX_IMAGES_PER_SIZE_WITH_FEATURES
    else:
        images = MAX_WINDOWS_PER_SIZE_WITH_FEATURES * settings.window
    most = settings.epochs // max(4, len(shapes))
    epochs = min(most, math.ceil(images / (frame_count * settings.window)))
    return [(number * epochs, shape) for number, shape in enumerate(shapes)]
