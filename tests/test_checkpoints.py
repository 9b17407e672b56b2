"""Checkpoints: how many are kept, what a full disk leaves, divergences and the rollback."""

import itertools
import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import TINY, call, moving_frames, read_metrics, refuse, write_frames

from walkgan import checkpoints as checkpoints_module
from walkgan.callbacks import SampleGrid
from walkgan.checkpoints import Checkpoints, load_newest_checkpoint
from walkgan.dataset import list_frames
from walkgan.errors import InputError
from walkgan.gan_builder import build_gan
from walkgan.generators import generate, load_generator
from walkgan.metrics import diversity
from walkgan.pace import Pace
from walkgan.run_folder import load_settings
from walkgan.settings import TrainingSettings
from walkgan.training import train

SCRIPT = "train_unconditional_gan.py"
pytestmark = pytest.mark.slow


def test_keeps_as_many_checkpoints_as_set(tmp_path, frames_dir):
    arguments = ("--keep-checkpoints", 2, "--checkpoint-minutes", 1e-6, "--epochs", 3)
    call(SCRIPT, "--frames", frames_dir, *TINY, *arguments, cwd=tmp_path)
    kept = sorted(path.name for path in (tmp_path / "saved_models/0001-shuffled/checkpoints").iterdir())
    assert kept == ["step-00000008.weights.h5", "step-00000009.weights.h5"]


def test_full_disks_are_reported_and_nothing_is_lost(tmp_path, frames_dir, trained, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    assert "file" in refuse(SCRIPT, "--frames", frames_dir, "--runs", "file/runs", *TINY, cwd=tmp_path, expect=1)
    run_dir = tmp_path / "saved_models/0001-shuffled"
    shutil.copytree(trained[0], run_dir)
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    settings = load_settings(run_dir)
    gan = build_gan(settings, (16, 32, 3))
    checkpoints = Checkpoints(
        run_dir, settings, SampleGrid(run_dir, settings, list_frames(frames_dir)), Pace([], None, 0)
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    with pytest.raises(InputError, match="--resume --run 0001-shuffled"):
        checkpoints.save(gan)
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    checkpoints.save(gan)
    assert len(list(run_dir.rglob("*.h5"))) == 2
    latest = run_dir / "samples/latest.png"
    assert latest.read_bytes() != before[latest]  # also where an epoch takes long


def nan(gan):
    gan.generator.get_layer("dense").kernel.assign(np.nan * gan.generator.get_layer("dense").kernel)


def collapse(gan):
    for name in ("norm_0", "norm_1"):
        gan.generator.get_layer(name).gamma.assign(0 * gan.generator.get_layer(name).gamma)


def saturate(gan):
    gan.generator.get_layer("to_rgb_2").bias.assign([50.0, 50.0, -50.0])


def overpower(gan):
    gan.loss_function = lambda real, fake, frozen: (0 * keras.ops.mean(real), keras.ops.mean(-frozen))
    gan.make_train_function(force=True)


@pytest.mark.parametrize(
    ("fault", "reason"), [(nan, "NaN"), (collapse, "mode collapse"), (saturate, "saturated"), (overpower, "overpowers")]
)
def test_divergence_is_rolled_back_and_the_training_finishes(tmp_path, monkeypatch, fault, reason):
    colours = np.random.default_rng(0).integers(0, 256, (12, 1, 1, 3)).astype("uint8")
    (tmp_path / "frames").mkdir()
    write_frames(tmp_path / "frames", np.broadcast_to(colours, (12, 16, 32, 3)))
    settings = TrainingSettings(
        frames=tmp_path / "frames", runs=tmp_path, epochs=60, batch_size=4, latent_dim=8, width=4, sample_every=10,
        learning_rate=2e-3, checkpoint_minutes=20 / 60, ema_decay=0.9, features=None,
    )  # fmt: skip
    clock = itertools.count()  # a second a step, about: which checkpoint is the last does not depend on the machine
    monkeypatch.setattr(checkpoints_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    write = SampleGrid.on_epoch_end
    done = []

    def break_once(samples, epoch, logs=None):
        write(samples, epoch, logs)
        if epoch == 40 and not done:
            done.append(samples.model.loss_function)
            fault(samples.model)
            if fault is saturate:  # seen before a checkpoint, if that is due before the discriminator overpowers it
                for _ in range(20):
                    next(clock)
        elif epoch == 42 and fault is overpower:
            samples.model.loss_function = done[0]
            samples.model.make_train_function(force=True)

    monkeypatch.setattr(SampleGrid, "on_epoch_end", break_once)
    run_dir = train(settings)
    log = (run_dir / "rollbacks.log").read_text()
    assert reason in log and "learning rate" in log, log
    gan = build_gan(settings, (16, 32, 3))
    load_newest_checkpoint(gan, run_dir)
    assert float(gan.optimizer.learning_rate) < settings.learning_rate and float(gan.gamma) > settings.gamma
    fakes = generate(gan, np.random.default_rng(1).standard_normal((50, 8), "float32"))
    assert all(np.isfinite(weight).all() for weight in gan.get_weights())
    assert diversity(fakes, np.broadcast_to(colours, (12, 16, 32, 3))) > 0.4
    assert read_metrics(run_dir)[-1]["step"] == 180 and np.isfinite(read_metrics(run_dir)[-1]["d_loss"])


@pytest.mark.parametrize("saved_after_growth", [False, True])
def test_rolled_back_to_before_a_growth_the_size_begins_again(tmp_path, saved_after_growth):
    (tmp_path / "frames").mkdir()
    write_frames(tmp_path / "frames", moving_frames(12, 16, 32))
    settings = TrainingSettings(batch_size=2, latent_dim=8, width=4)
    gan = build_gan(settings, (16, 32, 3))
    samples = SampleGrid(tmp_path, settings, list_frames(tmp_path / "frames"))
    checkpoints = Checkpoints(tmp_path, settings, samples, Pace([], None, 0))

    def train_until(step):
        gan.step.assign(step)
        gan.optimizer.iterations.assign(step)

    train_until(4)
    checkpoints.save(gan)
    gan.begin_size()
    train_until(6)
    if saved_after_growth:
        checkpoints.save(gan)
    train_until(8)
    checkpoints.roll_back(gan, "test")
    assert gan.steps == 8
    assert int(gan.growth_step) == (4 if saved_after_growth else 8)
    assert int(gan.optimizer.iterations) == (6 if saved_after_growth else 0)


def test_a_divergence_within_an_epoch_is_rolled_back_once(tmp_path, frames_dir):
    settings = TrainingSettings(batch_size=2, latent_dim=8, width=4)
    gan = build_gan(settings, (16, 32, 3))
    samples = SampleGrid(tmp_path, settings, list_frames(frames_dir))
    checkpoints = Checkpoints(tmp_path, settings, samples, Pace([], None, 0))
    checkpoints.set_model(gan)
    checkpoints.save(gan)
    for epoch in range(2):
        checkpoints.on_epoch_begin(epoch)
        nan(gan)
        checkpoints.save_or_roll_back(gan)
        checkpoints.on_epoch_end(epoch, {"d_loss": np.nan, "g_loss": np.nan})  # the mean since the epoch's first step
        assert len((tmp_path / "rollbacks.log").read_text().splitlines()) == epoch + 1
    checkpoints.on_epoch_begin(2)
    checkpoints.on_epoch_end(2, {"d_loss": np.nan, "g_loss": np.nan})
    assert "losses are NaN" in (tmp_path / "rollbacks.log").read_text()


def test_a_dark_video_is_no_divergence(tmp_path):
    frames = np.zeros((24, 16, 32, 3), "uint8")  # 87.5% black
    frames[:, 6:10, 8:24] = np.linspace(40, 220, 24).astype("uint8")[:, None, None, None]
    (tmp_path / "frames").mkdir()
    write_frames(tmp_path / "frames", frames)
    settings = TrainingSettings(
        frames=tmp_path / "frames", runs=tmp_path, epochs=50, batch_size=4, latent_dim=8, width=4, features=None,
        learning_rate=2e-3, ema_decay=0.9,
    )  # fmt: skip
    run_dir = train(settings)
    assert not (run_dir / "rollbacks.log").exists(), (run_dir / "rollbacks.log").read_text()
    gan = build_gan(settings, (16, 32, 3))
    load_newest_checkpoint(gan, run_dir)
    fakes = generate(gan, np.random.default_rng(1).standard_normal((50, 8), "float32"))
    assert (fakes < 3).mean() > 0.5  # as dark: an absolute limit would have rolled back


def test_a_training_that_must_diverge_ends_with_a_finite_generator(tmp_path, frames_dir):
    arguments = (*TINY, "--epochs", 5, "--learning-rate", 1e30, "--gamma", 0)
    output = call(SCRIPT, "--frames", frames_dir, *arguments, cwd=tmp_path)
    run_dir = tmp_path / "saved_models/0001-shuffled"
    assert "Rolled back to step-" in output and "NaN" in (run_dir / "rollbacks.log").read_text()
    assert all(np.isfinite(weight).all() for weight in load_generator(run_dir / "generator.keras").get_weights())


def test_a_resumed_training_knows_that_its_fakes_were_diverse(tmp_path):
    settings = TrainingSettings(batch_size=2, latent_dim=8, width=4)
    gan = build_gan(settings, (16, 32, 3))
    gan.was_diverse = True
    gan.save_weights(tmp_path / "step-00000001.weights.h5")
    other = build_gan(settings, (16, 32, 3))
    assert not other.was_diverse
    other.load_weights(tmp_path / "step-00000001.weights.h5")
    assert other.was_diverse
