"""The training scripts, run for real: the run folder, resume bit for bit, kills, Ctrl-C, bad settings."""

import csv
import json
import shutil
import signal
import time
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from conftest import REAL_VIDEOS, TINY, moving_picture, run, start

from frames import list_frames, read_frame, to_float, write_frame
from gan import build_gan
from models import load_generator
from settings import InputError, TrainingSettings, load_settings
from training import Checkpoints, batches

SCRIPT = "train_unconditional_gan.py"


def weights(run_dir):
    """Everything in the newest checkpoint of a run, by name."""
    found = {}
    with h5py.File(sorted((run_dir / "checkpoints").glob("*.h5"))[-1]) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys() and len(first) > 40
    assert any("optimizer" in name for name in first)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def metrics(run_dir):
    with open(run_dir / "metrics.csv") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_run_folder_holds_everything(trained, frames_dir):
    run_dir, output = trained
    settings = json.loads((run_dir / "settings.json").read_text())
    assert settings["settings"]["batch_size"] == 4 and settings["frame_shape"] == [16, 32, 3]
    assert [row["epoch"] for row in metrics(run_dir)] == [1, 2, 3]
    assert [row["step"] for row in metrics(run_dir)] == [3, 6, 9]
    assert all(np.isfinite(list(row.values())).all() for row in metrics(run_dir))
    samples = sorted(path.name for path in (run_dir / "samples").iterdir())
    assert samples == ["epoch-0001.png", "epoch-0002.png", "epoch-0003.png", "latest.png", "real.png"]
    assert read_frame(run_dir / "samples/latest.png").shape == (64, 128, 3)
    real = read_frame(run_dir / "samples/real.png")
    assert (real[:16, :32] == read_frame(list_frames(frames_dir)[0])).all()
    assert list((run_dir / "logs").rglob("events*"))
    assert not list(run_dir.rglob(".partial*"))
    assert str(run_dir.relative_to(run_dir.parents[1]) / "samples") in output
    assert "/9 " in output and "<" in output  # the bar counts the whole run, with the time left


def test_saved_generator_is_the_average(trained):
    run_dir, _ = trained
    checkpoint = weights(run_dir)
    kernel = load_generator(run_dir / "generator.keras").weights[0].numpy()
    averages = [value for name, value in checkpoint.items() if name.startswith("ema_generator")]
    trained_ones = [value for name, value in checkpoint.items() if name.startswith("generator")]
    assert any(value.shape == kernel.shape and (value == kernel).all() for value in averages)
    assert not any(value.shape == kernel.shape and (value == kernel).all() for value in trained_ones)


@pytest.mark.parametrize("script", [SCRIPT, "train_unconditional_gan_big.py"])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, frames_dir, trained, script):
    whole = trained[0]
    if script != SCRIPT:
        run(script, "--frames", frames_dir, "--runs", "whole", *TINY, "--epochs", 3, cwd=tmp_path)
        whole = tmp_path / "whole/0001-ordered"
    process = start(
        script, "--frames", frames_dir, "--runs", "parts", *TINY, "--epochs", 3, "--minutes", 1e-6, cwd=tmp_path
    )
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0 and "--resume" in output
    (part,) = (tmp_path / "parts").iterdir()
    assert metrics(part)[-1]["step"] == 1  # in the middle of the first epoch
    run(script, "--runs", "parts", "--resume", "--epochs", 2, cwd=tmp_path)
    output = run(script, "--runs", "parts", "--resume", "--run", part.name, "--epochs", 3, cwd=tmp_path)
    assert "resuming" in output
    assert json.loads((part / "settings.json").read_text())["settings"]["epochs"] == 3
    assert_same_weights(part, whole)
    assert [row["step"] for row in metrics(part)] == [1, 3, 6, 9]
    if script == SCRIPT:
        assert (read_frame(part / "samples/latest.png") == read_frame(whole / "samples/latest.png")).all()


def test_a_busy_machine_changes_nothing(tmp_path, frames_dir):
    arguments = (SCRIPT, "--frames", frames_dir, *TINY, "--epochs", 40, "--picture-epochs", 40)
    together = [start(*arguments, "--runs", f"runs-{number}", cwd=tmp_path) for number in range(4)]
    for process in together:
        output = "".join(process.communicate(timeout=200))
        assert process.returncode == 0, output
    for number in range(1, 4):
        assert_same_weights(tmp_path / "runs-0/0001-shuffled", tmp_path / f"runs-{number}/0001-shuffled")


def test_killed_at_any_moment_it_resumes_to_the_same_end(tmp_path, frames_dir):
    arguments = (SCRIPT, "--frames", frames_dir, *TINY, "--epochs", 40, "--checkpoint-minutes", 1e-6)
    run(*arguments, "--runs", "whole", cwd=tmp_path)
    run_dir = tmp_path / "killed/0001-shuffled"
    random = np.random.default_rng(0)
    kills = 0
    process = start(*arguments, "--runs", "killed", cwd=tmp_path)
    while process.poll() is None:
        deadline = time.monotonic() + 60
        while process.poll() is None and not (run_dir / "metrics.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(random.uniform(0.5, 4) if not kills else random.uniform(6, 9))
        if kills < 3 and process.poll() is None:
            process.kill()
            kills += 1
            process.wait()
            for path in run_dir.glob("checkpoints/step-*.h5"):
                with h5py.File(path):  # whole
                    pass
            if (run_dir / "generator.keras").exists():
                load_generator(run_dir / "generator.keras")
            process = start(SCRIPT, "--runs", "killed", "--resume", cwd=tmp_path)
        elif kills == 3:
            process.communicate(timeout=200)
    assert process.returncode == 0 and kills
    assert_same_weights(run_dir, tmp_path / "whole/0001-shuffled")
    steps = [row["step"] for row in metrics(run_dir)]
    assert steps == sorted(set(steps)) and steps[-1] == 120


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_resume(tmp_path, frames_dir, number):
    process = start(SCRIPT, "--frames", frames_dir, *TINY, cwd=tmp_path)
    run_dir = tmp_path / "saved_models/0001-shuffled"
    while not (run_dir / "samples/epoch-0002.png").exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(number)
    output = "".join(process.communicate(timeout=60))
    assert process.returncode == 0, output
    assert f"--resume --run {run_dir.name}" in output and "Traceback" not in output
    assert int(weights(run_dir)["vars/step"]) == metrics(run_dir)[-1]["step"] >= 6
    load_generator(run_dir / "generator.keras")


def test_keeps_as_many_checkpoints_as_asked(tmp_path, frames_dir):
    arguments = ("--keep-checkpoints", 2, "--checkpoint-minutes", 1e-6, "--epochs", 3)
    run(SCRIPT, "--frames", frames_dir, *TINY, *arguments, cwd=tmp_path)
    kept = sorted(path.name for path in (tmp_path / "saved_models/0001-shuffled/checkpoints").iterdir())
    assert kept == ["step-00000008.weights.h5", "step-00000009.weights.h5"]


def test_runs_are_numbered_and_never_shared(tmp_path, frames_dir, trained):
    shutil.copytree(trained[0].parent, tmp_path / "saved_models")
    run(SCRIPT, "--frames", frames_dir, *TINY, "--epochs", 1, "--name", "second", cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "saved_models").iterdir()) == ["0001-shuffled", "0002-second"]


def test_resume_keeps_the_runs_settings(tmp_path, frames_dir, trained):
    shutil.copytree(trained[0].parent, tmp_path / "saved_models")
    output = run(SCRIPT, "--resume", "--latent-dim", 9, cwd=tmp_path, expect=2)
    assert "--latent-dim 8" in output and "--epochs" in output
    output = run(SCRIPT, "--resume", cwd=tmp_path, expect=2)
    assert "more with --epochs" in output
    assert "no run" in run(SCRIPT, "--resume", "--run", "0007", cwd=tmp_path, expect=2)
    shutil.copytree(frames_dir, tmp_path / "fewer")
    (tmp_path / "fewer/000009.jpg").unlink()
    settings = tmp_path / "saved_models/0001-shuffled/settings.json"
    settings.write_text(settings.read_text().replace(str(frames_dir), str(tmp_path / "fewer")))
    assert "10 frames" in run(SCRIPT, "--resume", "--epochs", 9, cwd=tmp_path, expect=2)
    assert "no run" in run(SCRIPT, "--resume", "--runs", "nowhere", cwd=tmp_path, expect=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--batch-size", "11"), ("--batch-size", "0"), ("--latent-dim", "0"), ("--epochs", "0"), ("--width", "-1"),
        ("--learning-rate", "0"), ("--beta-1", "1"), ("--penalty", "-1"), ("--minutes", "0"),
        ("--minutes", "nan"), ("--name", "a/b"), ("--keep-checkpoints", "0"), ("--run", "0001"), ("--epochs", "many"),
        ("--seed", "-1"),
    ],
)  # fmt: skip
def test_bad_settings_are_told_before_anything_is_written(tmp_path, frames_dir, arguments):
    output = run(SCRIPT, "--frames", frames_dir, *arguments, cwd=tmp_path, expect=2)
    assert arguments[0] in output
    assert not list(tmp_path.iterdir())


def test_frames_that_cannot_be_trained_on(tmp_path, frames_dir):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "missing"):
        assert "extract_frames.py" in run(SCRIPT, "--frames", folder, cwd=tmp_path, expect=1)
    for number in range(20):
        (tmp_path / "odd").mkdir(exist_ok=True)
        write_frame(tmp_path / "odd" / f"{number}.png", np.zeros((15, 32, 3), "uint8"))
    assert "16x32" in run(SCRIPT, "--frames", "odd", cwd=tmp_path, expect=2)
    shutil.copytree(frames_dir, tmp_path / "text")
    (tmp_path / "text/000004.jpg").write_text("not a picture")
    assert "000004.jpg" in run(SCRIPT, "--frames", "text", *TINY, cwd=tmp_path, expect=1)
    assert not (tmp_path / "saved_models").exists()
    shutil.copytree(frames_dir, tmp_path / "mixed")
    write_frame(tmp_path / "mixed/000005.jpg", np.zeros((8, 16, 3), "uint8"))
    assert "000005.jpg" in run(SCRIPT, "--frames", "mixed", *TINY, cwd=tmp_path, expect=1)


def test_unwritable_and_full_folders_are_told_and_lose_nothing(tmp_path, frames_dir, trained, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    assert "file" in run(SCRIPT, "--frames", frames_dir, "--runs", "file/runs", *TINY, cwd=tmp_path, expect=1)
    run_dir = tmp_path / "saved_models/0001-shuffled"
    shutil.copytree(trained[0], run_dir)
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    settings = load_settings(run_dir)
    gan = build_gan(settings, (16, 32, 3))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    with pytest.raises(InputError, match="--resume --run 0001-shuffled"):
        Checkpoints(run_dir, settings).save(gan)
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    Checkpoints(run_dir, settings).save(gan)
    assert len(list(run_dir.rglob("*.h5"))) == 2


@pytest.fixture
def paths(tmp_path):
    for number in range(10):
        write_frame(tmp_path / f"{number}.png", np.full((8, 16, 3), 25 * number, "uint8"))
    return list_frames(tmp_path)


def test_ordered_batches_are_consecutive_frames(paths):
    stream = batches(paths, TrainingSettings(shuffle=False, batch_size=4, latent_dim=3), 0)
    seen = [np.rint((next(stream)[0]["frames"][:, 0, 0, 0] + 1) * 127.5 / 25).astype(int).tolist() for _ in range(4)]
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9], [0, 1, 2, 3]]


def test_shuffled_batches_show_every_frame_in_every_epoch_in_another_order(paths):
    stream = batches(paths, TrainingSettings(batch_size=5, latent_dim=3), 0)
    seen = [np.rint((next(stream)[0]["frames"][:, 0, 0, 0] + 1) * 127.5 / 25).astype(int).tolist() for _ in range(4)]
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == list(range(10))
    assert seen[0] + seen[1] != seen[2] + seen[3] != list(range(10))


def test_a_batch_depends_on_seed_and_step_alone(paths):
    settings = TrainingSettings(batch_size=4, latent_dim=3, seed=5)
    stream = batches(paths, settings, 0)
    later = batches(paths, settings, 7)
    for _ in range(7):
        next(stream)
    for _ in range(4):
        first, second = next(stream)[0], next(later)[0]
        assert first.keys() == second.keys() == {"frames", "latents"}
        assert (first["frames"] == second["frames"]).all() and (first["latents"] == second["latents"]).all()
        assert first["frames"].dtype == first["latents"].dtype == np.float32
        assert first["frames"].min() >= -1 and first["frames"].max() <= 1
    other = next(batches(paths, TrainingSettings(batch_size=4, latent_dim=3, seed=6), 0))[0]
    assert (other["latents"] != next(batches(paths, settings, 0))[0]["latents"]).all()


def test_frames_survive_the_way_in_and_out():
    from frames import to_uint8

    everything = np.arange(256, dtype="uint8")
    assert (to_uint8(to_float(everything)) == everything).all()


@pytest.mark.skipif(not REAL_VIDEOS.exists(), reason="the real videos lie beside the project only where it is made")
def test_whole_job_on_a_real_video(tmp_path):
    run("extract_frames.py", "--video", REAL_VIDEOS / "paris_walk.mp4", "--target-frames", 24, cwd=tmp_path)
    run("train_unconditional_gan_big.py", "--width", 4, "--epochs", 2, "--batch-size", 8, cwd=tmp_path)
    run("inference_unconditional_gan.py", "--walk-seconds", 0.5, "--count", 2, cwd=tmp_path)
    assert read_frame(tmp_path / "output/plot.png").shape == (640, 1280, 3)
    real = read_frame(tmp_path / "saved_models/0001-ordered/samples/real.png")
    fake = read_frame(tmp_path / "output/frames/000001.png")
    assert real.shape == (640, 1280, 3) and fake.shape == (160, 320, 3)


def test_moving_picture_moves():
    assert (np.diff(moving_picture(5)[:, 32, 64, 0].astype(int)) > 0).all()
