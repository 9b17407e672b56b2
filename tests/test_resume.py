"""Resuming: bit for bit, after kills, Ctrl-C and full disks, with the settings of the run, on another backend."""

import contextlib
import json
import shutil
import signal
import subprocess
import time

import h5py
import numpy as np
import pytest
from conftest import (
    KILLS,
    TINY,
    assert_same_weights,
    call,
    checkpoint_weights,
    read_metrics,
    refuse,
    run,
    start,
)

from walkgan.files import folder_lock
from walkgan.generators import load_generator
from walkgan.images import read_frame
from walkgan.run_folder import load_settings

SCRIPT = "train_unconditional_gan.py"
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("script", [SCRIPT, "train_unconditional_gan_big.py"])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, frames_dir, script):
    call(script, "--frames", frames_dir, "--runs", "whole", *TINY, "--epochs", 4, cwd=tmp_path)
    (whole,) = (tmp_path / "whole").iterdir()
    stopped = (script, "--frames", frames_dir, "--runs", "parts", *TINY, "--epochs", 4, "--minutes", 1e-6)
    assert "--resume" in call(*stopped, cwd=tmp_path)
    (part,) = (tmp_path / "parts").iterdir()
    assert read_metrics(part)[-1]["step"] == 1  # in the middle of the first epoch
    if script == SCRIPT:
        call(script, "--runs", "parts", "--resume", "--epochs", 2, cwd=tmp_path)
    output = call(script, "--runs", "parts", "--resume", "--run", part.name, "--epochs", 4, cwd=tmp_path)
    assert "resuming" in output
    facts = json.loads((part / "settings.json").read_text())
    assert facts["settings"]["epochs"] == 4
    assert facts["growth"] == [[0, [8, 16, 3]], [1, [16, 32, 3]]]  # stopped before, resumed across
    assert_same_weights(part, whole)
    assert [row["step"] for row in read_metrics(part)] == [1, 3, 6, 9, 12]
    if script == SCRIPT:
        assert (read_frame(part / "samples/latest.png") == read_frame(whole / "samples/latest.png")).all()


def test_feature_discriminators_resume_bit_for_bit(tmp_path, trained_with_features):
    arguments = ("--no-grow", "--epochs", 2, "--learning-rate", 0.02, "--minutes", 1e-6)
    frames = load_settings(trained_with_features).frames
    call(SCRIPT, "--frames", frames, *TINY, *arguments, cwd=tmp_path)
    call(SCRIPT, "--resume", cwd=tmp_path)
    parts = tmp_path / "saved_models/0001-shuffled"
    assert_same_weights(parts, trained_with_features)
    assert sum("feature_discriminator" in name for name in checkpoint_weights(parts)) > 40
    assert [np.isfinite([row["feature_d_loss"], row["feature_g_loss"]]).all() for row in read_metrics(parts)] == [
        True
    ] * 3


def test_killed_at_any_moment_it_resumes_to_the_same_end(tmp_path, frames_dir):
    arguments = (SCRIPT, "--frames", frames_dir, *TINY, "--epochs", 14 * KILLS)
    call(*arguments, "--runs", "whole", "--sample-every", 50, cwd=tmp_path)  # nor a checkpoint after every step
    arguments += ("--checkpoint-minutes", 1e-6)
    run_dir = tmp_path / "killed/0001-shuffled"
    rng = np.random.default_rng(0)
    kills = 0
    process = start(*arguments, "--runs", "killed", cwd=tmp_path)
    while process.poll() is None:
        deadline = time.monotonic() + 60
        while process.poll() is None and not (run_dir / "metrics.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.5, 4) if not kills else rng.uniform(6, 9))
        if kills < KILLS and process.poll() is None:
            process.kill()
            kills += 1
            process.wait()
            for path in run_dir.glob("checkpoints/step-*.h5"):
                with h5py.File(path):  # whole
                    pass
            if (run_dir / "generator.keras").exists():
                load_generator(run_dir / "generator.keras")
            soon = ("--checkpoint-minutes", 5, "--sample-every", 50) if kills == KILLS else ()  # to the end
            process = start(SCRIPT, "--runs", "killed", "--resume", *soon, cwd=tmp_path)
        elif kills == KILLS:
            process.communicate(timeout=200)
    assert process.returncode == 0 and kills
    assert_same_weights(run_dir, tmp_path / "whole/0001-shuffled")
    steps = [row["step"] for row in read_metrics(run_dir)]
    assert steps == sorted(set(steps)) and steps[-1] == 42 * KILLS


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path, frames_dir):
    process = start(SCRIPT, "--frames", frames_dir, *TINY, cwd=tmp_path)
    run_dir = tmp_path / "saved_models/0001-shuffled"
    while not (run_dir / "samples/epoch-0002.png").exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output = "".join(process.communicate(timeout=60))
    assert process.returncode == 0, output
    assert f"--resume --run {run_dir.name}" in output and "Traceback" not in output
    assert int(checkpoint_weights(run_dir)["vars/step"]) == read_metrics(run_dir)[-1]["step"] >= 6
    load_generator(run_dir / "generator.keras")


def test_resume_keeps_the_runs_settings(tmp_path, frames_dir, trained):
    shutil.copytree(trained[0].parent, tmp_path / "saved_models")
    output = refuse(SCRIPT, "--resume", "--latent-dim", 9, cwd=tmp_path)
    assert "--latent-dim 8" in output and "--epochs" in output
    output = refuse(SCRIPT, "--resume", cwd=tmp_path)
    assert "set more with --epochs" in output
    with folder_lock(tmp_path / "saved_models/0001-shuffled", "trained"):
        assert "another process" in refuse(SCRIPT, "--resume", "--epochs", 9, cwd=tmp_path)
    assert "no run" in refuse(SCRIPT, "--resume", "--run", "0007", cwd=tmp_path)
    shutil.copytree(frames_dir, tmp_path / "fewer")
    (tmp_path / "fewer/000009.jpg").unlink()
    settings = tmp_path / "saved_models/0001-shuffled/settings.json"
    settings.write_text(settings.read_text().replace(str(frames_dir), str(tmp_path / "fewer")))
    assert "10 frames" in refuse(SCRIPT, "--resume", "--epochs", 9, cwd=tmp_path)
    assert "no run" in refuse(SCRIPT, "--resume", "--runs", "nowhere", cwd=tmp_path)


def test_resume_on_another_backend(tmp_path, trained, frames_dir):
    pytest.importorskip("jax")
    shutil.copytree(trained[0].parent, tmp_path / "saved_models")
    run_dir = tmp_path / "saved_models/0001-shuffled"
    before = checkpoint_weights(run_dir)
    run(SCRIPT, "--resume", "--epochs", 4, cwd=tmp_path, env={"KERAS_BACKEND": "jax"})
    after = checkpoint_weights(run_dir)
    assert before.keys() == after.keys() and after["vars/step"] == before["vars/step"] + 3
    kernels = [name for name in before if name.startswith("generator/layers/conv2d")]
    moved = [np.abs(after[name] - before[name]).max() for name in kernels]
    assert 0 < max(moved) < 0.01


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a disk of 4 MB."""
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path / "disk")]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("takes a system, and the right, to mount a small disk")
    yield tmp_path / "disk"
    subprocess.run(["umount", "--lazy", tmp_path / "disk"], check=True)


def test_resume_after_a_full_disk(tmp_path, frames_dir, small_disk):
    arguments = (SCRIPT, "--frames", frames_dir, *TINY, "--sample-every", 20, "--no-grow")
    process = start(*arguments, "--epochs", 10**6, "--checkpoint-minutes", 0.01, cwd=small_disk)
    run_dir = small_disk / "saved_models/0001-shuffled"
    deadline = time.monotonic() + 120
    while not list(run_dir.glob("samples/epoch-*.png")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    with contextlib.suppress(OSError), open(small_disk / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    output = "".join(process.communicate(timeout=120))
    assert process.returncode == 1 and "Traceback" not in output, output
    assert "free" in output or "No space left" in output
    (small_disk / "filler").unlink()
    epochs = int(checkpoint_weights(run_dir)["vars/step"]) // 3 + 2
    call(SCRIPT, "--resume", "--epochs", epochs, cwd=small_disk)
    call(*arguments, "--epochs", epochs, cwd=tmp_path)
    assert_same_weights(run_dir, tmp_path / "saved_models/0001-shuffled")
