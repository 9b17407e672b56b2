"""What cannot be trained is reported in one line, before anything is written."""

import math
import shutil
import time

import cv2
import numpy as np
import pytest
from conftest import TINY, call, checkpoint_weights, read_metrics, refuse, run, start, write_frames

from walkgan.images import write_frame
from walkgan.run_folder import load_run_info

SCRIPT = "train_unconditional_gan.py"
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "arguments",
    [
        ("--batch-size", "11"), ("--batch-size", "0"), ("--latent-dim", "0"), ("--epochs", "0"), ("--width", "-1"),
        ("--learning-rate", "0"), ("--beta-1", "1"), ("--gamma", "-1"), ("--minutes", "0"), ("--minutes", "nan"),
        ("--thumbnail-weight", "-1"), ("--name", "a/b"), ("--keep-checkpoints", "0"), ("--run", "0001"),
        ("--epochs", "many"),
        ("--seed", "-1"), ("--seed", str(2**32)), ("--window", "0"), ("--window", "3", "--latent-dim", "7"),
        ("--batch-size", "8", "--devices", "8"), ("--window", "9"), ("--window", "5", "--latent-dim", "8"),
    ],
)  # fmt: skip
def test_bad_settings_are_reported_before_anything_is_written(tmp_path, frames_dir, arguments):
    output = refuse(SCRIPT, "--frames", frames_dir, *arguments, cwd=tmp_path)
    assert arguments[0] in output
    assert not list(tmp_path.iterdir())


def test_missing_backends_memory_and_folders_are_reported(tmp_path, frames_dir):
    assert "abacus" in run(SCRIPT, "--frames", frames_dir, cwd=tmp_path, expect=2, env={"KERAS_BACKEND": "abacus"})
    assert "--width" in refuse(SCRIPT, "--frames", frames_dir, *TINY, "--width", 10**7, cwd=tmp_path, expect=1)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    output = refuse(SCRIPT, "--frames", frames_dir, *TINY, "--runs", "file", cwd=tmp_path, expect=1)
    assert "file: File exists. Choose another path" in output


def test_frames_that_cannot_be_trained_on(tmp_path, frames_dir):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "missing"):
        assert "extract_frames.py" in refuse(SCRIPT, "--frames", folder, cwd=tmp_path, expect=1)
    for number in range(20):
        (tmp_path / "small").mkdir(exist_ok=True)
        write_frame(tmp_path / "small" / f"{number}.png", np.zeros((7, 32, 3), "uint8"))
    assert "7x32" in refuse(SCRIPT, "--frames", "small", cwd=tmp_path)
    (tmp_path / "tiny").mkdir()
    write_frames(tmp_path / "tiny", np.zeros((20, 8, 8, 3), "uint8"))
    assert "12 pixels" in refuse("train_unconditional_gan_big.py", "--frames", "tiny", cwd=tmp_path)
    shutil.copytree(frames_dir, tmp_path / "bad")
    for number in range(1, 6):
        (tmp_path / f"bad/{number:06}.jpg").write_text("not an image")
    output = refuse(SCRIPT, "--frames", "bad", *TINY, cwd=tmp_path, expect=1)
    assert "5 of 10 frames" in output and "000001.jpg" in output
    (tmp_path / "one").mkdir()
    write_frame(tmp_path / "one/000000.png", np.zeros((16, 32, 3), "uint8"))
    assert "only one frame" in refuse(SCRIPT, "--frames", "one", *TINY, cwd=tmp_path, expect=1)
    assert not (tmp_path / "saved_models").exists()


def test_unusable_frames_are_left_out_and_counted(tmp_path, frames_dir):
    frames = tmp_path / "frames"
    shutil.copytree(frames_dir, frames)
    (frames / "000004.jpg").write_text("not an image")
    (frames / "000005.jpg").write_bytes((frames / "000005.jpg").read_bytes()[:100])
    write_frame(frames / "000006.jpg", np.zeros((8, 16, 3), "uint8"))
    (frames / "000007.jpg").write_bytes(b"")
    cv2.imwrite(str(frames / "grey.png"), np.zeros((16, 32), "uint8"))  # these two can be
    cv2.imwrite(str(frames / "transparent.png"), np.zeros((16, 32, 4), "uint8"))
    output = call(SCRIPT, "--frames", frames, *TINY, "--epochs", 1, cwd=tmp_path)
    assert "4 of 12 frames" in output and "000004.jpg" in output
    assert load_run_info(tmp_path / "saved_models/0001-shuffled")["frame_count"] == 8
    # A resume without one of those that were used, or with another in its place, is refused.
    content = (frames / "000003.jpg").read_bytes()
    (frames / "000003.jpg").unlink()
    assert "put them back" in refuse(SCRIPT, "--resume", "--epochs", 2, cwd=tmp_path)
    write_frame(frames / "000003.jpg", np.random.default_rng(0).integers(0, 255, (16, 32, 3)).astype("uint8"))
    assert "put them back" in refuse(SCRIPT, "--resume", "--epochs", 2, cwd=tmp_path)
    (frames / "000003.jpg").write_bytes(content)
    call(SCRIPT, "--resume", "--epochs", 2, cwd=tmp_path)


@pytest.mark.parametrize("script", [SCRIPT, "train_unconditional_gan_big.py"])
def test_a_frame_deleted_during_training_is_named_and_everything_saved(tmp_path, frames_dir, script):
    frames = tmp_path / "frames"
    shutil.copytree(frames_dir, frames)
    process = start(script, "--frames", frames, *TINY, cwd=tmp_path)
    runs = tmp_path / "saved_models"
    while not list(runs.glob("*/samples/epoch-0002.png")):
        time.sleep(0.05)
        assert process.poll() is None
    content = (frames / "000004.jpg").read_bytes()
    (frames / "000004.jpg").unlink()
    output = "".join(process.communicate(timeout=100))
    assert process.returncode == 1 and "000004.jpg is missing" in output and "Traceback" not in output
    (run_dir,) = runs.iterdir()
    epochs = math.ceil(read_metrics(run_dir)[-1]["epoch"]) + 1
    assert int(checkpoint_weights(run_dir)["vars/step"]) == read_metrics(run_dir)[-1]["step"] >= 6
    (frames / "000004.jpg").write_bytes(content)
    call(script, "--resume", "--epochs", epochs, cwd=tmp_path)
