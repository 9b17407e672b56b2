"""The course of a training: what is compiled when, and how the progress bar ends."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from walkgan import training
from walkgan.run_folder import settings_as_json
from walkgan.settings import TrainingSettings
from walkgan.training import fit_size


class StepCounter:
    """A GAN that counts its steps, and how often its step was compiled and a size begun."""

    ema_generator = SimpleNamespace(output_shape=(None, 8, 8, 3))

    def __init__(self, steps):
        self.steps, self.compiled, self.begun, self.fits = steps, 0, 0, []

    def make_train_function(self, force):
        self.compiled += force

    def begin_size(self):
        self.begun += 1

    def fit(self, data, initial_epoch, epochs, steps_per_epoch, **_):
        self.fits.append((initial_epoch, epochs, steps_per_epoch))
        self.steps += steps_per_epoch * (epochs - initial_epoch)


def test_a_size_is_compiled_once_and_an_interrupted_epoch_finished_first():
    gan, stop = StepCounter(7), SimpleNamespace(agreed=False)
    fit_size(gan, lambda shape: None, (8, 8, 3), range(1, 4), 5, [], stop)
    assert gan.fits == [(1, 2, 3), (2, 4, 5)] and gan.steps == 20 and gan.compiled == 1 and gan.begun == 0


def test_a_size_is_begun_once():
    gan, stop = StepCounter(5), SimpleNamespace(agreed=False)
    fit_size(gan, lambda shape: None, (4, 4, 3), range(1, 3), 5, [], stop)
    assert gan.fits == [(1, 3, 5)] and gan.begun == 1


@pytest.mark.slow
def test_the_bar_is_closed_before_the_last_lines(trained):
    output = trained[1]
    printed, bar = output.split("Images: ")[0], output.replace("\r", "\n").splitlines()
    assert re.search(r"^finished at epoch 3\.00 of 3\.$", printed, re.MULTILINE)
    last = [line for line in bar if "100%" in line][-1]
    assert "epoch=3.0" in last and "9/9" in last


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_warm_again(tmp_path, monkeypatch):
    run_dir = tmp_path / "0001-a"
    (run_dir / "checkpoints").mkdir(parents=True)
    settings = TrainingSettings(runs=tmp_path, start_from=tmp_path / "source", resume=True, run="0001-a", epochs=2)
    info = {"frame_shape": [16, 32, 3], "frame_count": 4}
    (run_dir / "settings.json").write_text(settings_as_json(settings, **info, growth=[[0, [16, 32, 3]]]))
    warmed = []
    monkeypatch.setattr(training, "warm_start", lambda *arguments: warmed.append(arguments[0]))
    gan = SimpleNamespace(steps=0)
    assert training.start_or_resume(run_dir, settings, gan, info, 8) == ([[0, [16, 32, 3]]], 0)
    assert warmed == [tmp_path / "source"]
    settings.check()  # the source may be gone once there is a checkpoint
    gan.steps = 5
    for _ in range(2):  # from where on another network scores, also at the next resume
        assert training.start_or_resume(run_dir, replace(settings, features=None), gan, info, 8)[1] == 5
