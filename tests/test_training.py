"""The training scripts, run for real: the run folder, resume bit for bit, kills, Ctrl-C, bad settings."""

import contextlib
import csv
import json
import math
import shutil
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import cv2
import h5py
import keras
import numpy as np
import pytest
from conftest import KILLS, REAL_VIDEOS, TINY, moving_picture, run, start, write_frames

from walkgan import synthetic_walk
from walkgan.callbacks import EpochTensorBoard, SampleGrid
from walkgan.checkpoints import Checkpoints, load_newest_checkpoint
from walkgan.dataset import batches, list_frames, read_timeline
from walkgan.errors import InputError
from walkgan.gan_builder import build_gan
from walkgan.generators import generate, load_generator
from walkgan.images import crop_and_resize, read_frame, to_float, to_uint8, write_frame
from walkgan.latents import latent_from_seed, rotated_latent
from walkgan.metrics import diversity
from walkgan.motion_metrics import motion
from walkgan.run_folder import load_run_info, load_settings
from walkgan.settings import TrainingSettings
from walkgan.training import growth_schedule, train

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
        return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]


def test_run_folder_holds_everything(trained, frames_dir):
    run_dir, output = trained
    settings = json.loads((run_dir / "settings.json").read_text())
    assert settings["settings"]["batch_size"] == 4 and settings["frame_shape"] == [16, 32, 3]
    assert [row["epoch"] for row in metrics(run_dir)] == [1, 2, 3]
    assert [row["step"] for row in metrics(run_dir)] == [3, 6, 9]
    assert all(np.isfinite([row["d_loss"], row["g_loss"]]).all() for row in metrics(run_dir))
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
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, frames_dir, script):
    run(script, "--frames", frames_dir, "--runs", "whole", *TINY, "--epochs", 4, cwd=tmp_path)
    (whole,) = (tmp_path / "whole").iterdir()
    process = start(
        script, "--frames", frames_dir, "--runs", "parts", *TINY, "--epochs", 4, "--minutes", 1e-6, cwd=tmp_path
    )
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0 and "--resume" in output
    (part,) = (tmp_path / "parts").iterdir()
    assert metrics(part)[-1]["step"] == 1  # in the middle of the first epoch
    run(script, "--runs", "parts", "--resume", "--epochs", 2, cwd=tmp_path)
    output = run(script, "--runs", "parts", "--resume", "--run", part.name, "--epochs", 4, cwd=tmp_path)
    assert "resuming" in output
    facts = json.loads((part / "settings.json").read_text())
    assert facts["settings"]["epochs"] == 4
    assert facts["growth"] == [[0, [8, 16, 3]], [1, [16, 32, 3]]]  # stopped before, resumed across
    assert_same_weights(part, whole)
    assert [row["step"] for row in metrics(part)] == [1, 3, 6, 9, 12]
    if script == SCRIPT:
        assert (read_frame(part / "samples/latest.png") == read_frame(whole / "samples/latest.png")).all()


def test_feature_discriminators_resume_bit_for_bit(tmp_path):
    (tmp_path / "frames").mkdir()
    write_frames(tmp_path / "frames", moving_picture(6, 128, 128), ".jpg")
    arguments = (SCRIPT, "--frames", "frames", *TINY, "--no-grow", "--epochs", 2)
    run(*arguments, "--runs", "whole", cwd=tmp_path)
    run(*arguments, "--runs", "parts", "--minutes", 1e-6, cwd=tmp_path)
    run(SCRIPT, "--runs", "parts", "--resume", cwd=tmp_path)
    whole, parts = (tmp_path / runs / "0001-shuffled" for runs in ("whole", "parts"))
    assert_same_weights(parts, whole)
    assert sum("feature_discriminator" in name for name in weights(whole)) > 40
    assert [np.isfinite([row["feature_d_loss"], row["feature_g_loss"]]).all() for row in metrics(parts)] == [True] * 3
    run(*arguments, "--runs", "pixels", "--feature-weight", 0, cwd=tmp_path)
    assert not any("feature_discriminator" in name for name in weights(tmp_path / "pixels/0001-shuffled"))


def test_a_busy_machine_changes_nothing(tmp_path, frames_dir):
    arguments = (SCRIPT, "--frames", frames_dir, *TINY, "--epochs", 40, "--sample-every", 40)
    together = [start(*arguments, "--runs", f"runs-{number}", cwd=tmp_path) for number in range(4)]
    for process in together:
        output = "".join(process.communicate(timeout=200))
        assert process.returncode == 0, output
    for number in range(1, 4):
        assert_same_weights(tmp_path / "runs-0/0001-shuffled", tmp_path / f"runs-{number}/0001-shuffled")


def test_killed_at_any_moment_it_resumes_to_the_same_end(tmp_path, frames_dir):
    arguments = (SCRIPT, "--frames", frames_dir, *TINY, "--epochs", 14 * KILLS)
    run(*arguments, "--runs", "whole", "--sample-every", 50, cwd=tmp_path)  # nor a checkpoint after every step
    arguments += ("--checkpoint-minutes", 1e-6)
    run_dir = tmp_path / "killed/0001-shuffled"
    random = np.random.default_rng(0)
    kills = 0
    process = start(*arguments, "--runs", "killed", cwd=tmp_path)
    while process.poll() is None:
        deadline = time.monotonic() + 60
        while process.poll() is None and not (run_dir / "metrics.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(random.uniform(0.5, 4) if not kills else random.uniform(6, 9))
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
    steps = [row["step"] for row in metrics(run_dir)]
    assert steps == sorted(set(steps)) and steps[-1] == 42 * KILLS


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


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for the memory in use")
def test_no_memory_is_lost_with_every_step(tmp_path):
    pytest.importorskip("tensorflow", reason="writes for TensorBoard")
    board = EpochTensorBoard(tmp_path, write_graph=False)
    board.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    board.on_train_begin()

    def pages_after(steps):
        for step in range(steps):
            board.on_train_batch_begin(step)
            board.on_train_batch_end(step, {f"loss_{number}": 0.5 for number in range(10)})
        return int(Path("/proc/self/statm").read_text().split()[1])

    before = pages_after(500)
    assert pages_after(5000) - before < 200  # of 4 KB; with Keras's own callback it is 900
    board.on_train_end()


def test_keeps_as_many_checkpoints_as_asked(tmp_path, frames_dir):
    arguments = ("--keep-checkpoints", 2, "--checkpoint-minutes", 1e-6, "--epochs", 3)
    run(SCRIPT, "--frames", frames_dir, *TINY, *arguments, cwd=tmp_path)
    kept = sorted(path.name for path in (tmp_path / "saved_models/0001-shuffled/checkpoints").iterdir())
    assert kept == ["step-00000008.weights.h5", "step-00000009.weights.h5"]


def test_runs_are_numbered_and_never_shared(tmp_path, frames_dir, trained):
    shutil.copytree(trained[0].parent, tmp_path / "saved_models")
    run(SCRIPT, "--frames", frames_dir, *TINY, "--epochs", 1, "--name", "second", cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "saved_models").iterdir()) == ["0001-shuffled", "0002-second"]


def test_two_trainings_never_share_a_run(tmp_path, frames_dir):
    arguments = (SCRIPT, "--frames", frames_dir, *TINY)
    together = [start(*arguments, cwd=tmp_path) for _ in range(2)]
    runs = [tmp_path / "saved_models" / name for name in ("0001-shuffled", "0002-shuffled")]
    while not all((run_dir / "samples/epoch-0001.png").exists() for run_dir in runs):
        time.sleep(0.05)
        assert all(process.poll() is None for process in together)
    assert "another process" in run(SCRIPT, "--resume", "--run", "0001", cwd=tmp_path, expect=2)
    for process in together:
        process.kill()  # which frees the run
        process.communicate()
    run(SCRIPT, "--resume", "--run", "0001", "--minutes", 1e-6, cwd=tmp_path)


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
        ("--learning-rate", "0"), ("--beta-1", "1"), ("--gamma", "-1"), ("--thumbnail-weight", "-1"), ("--minutes", "0"),
        ("--minutes", "nan"), ("--name", "a/b"), ("--keep-checkpoints", "0"), ("--run", "0001"), ("--epochs", "many"),
        ("--seed", "-1"), ("--seed", str(2**32)), ("--window", "0"), ("--window", "3", "--latent-dim", "7"),
    ],
)  # fmt: skip
def test_bad_settings_are_told_before_anything_is_written(tmp_path, frames_dir, arguments):
    output = run(SCRIPT, "--frames", frames_dir, *arguments, cwd=tmp_path, expect=2)
    assert arguments[0] in output
    assert not list(tmp_path.iterdir())


def test_what_the_machine_lacks_is_told_before_anything_is_written(tmp_path, frames_dir):
    assert "abacus" in run(SCRIPT, "--frames", frames_dir, cwd=tmp_path, expect=2, env={"KERAS_BACKEND": "abacus"})
    assert "--width" in run(SCRIPT, "--frames", frames_dir, *TINY, "--width", 10**7, cwd=tmp_path, expect=1)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    output = run(SCRIPT, "--frames", frames_dir, *TINY, "--runs", "file", cwd=tmp_path, expect=1)
    assert "file: File exists. Name another place" in output


def test_frames_that_cannot_be_trained_on(tmp_path, frames_dir):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "missing"):
        assert "extract_frames.py" in run(SCRIPT, "--frames", folder, cwd=tmp_path, expect=1)
    for number in range(20):
        (tmp_path / "small").mkdir(exist_ok=True)
        write_frame(tmp_path / "small" / f"{number}.png", np.zeros((7, 32, 3), "uint8"))
    assert "7x32" in run(SCRIPT, "--frames", "small", cwd=tmp_path, expect=2)
    shutil.copytree(frames_dir, tmp_path / "bad")
    for number in range(1, 6):
        (tmp_path / f"bad/{number:06}.jpg").write_text("not a picture")
    output = run(SCRIPT, "--frames", "bad", *TINY, cwd=tmp_path, expect=1)
    assert "5 of 10 frames" in output and "000001.jpg" in output
    (tmp_path / "one").mkdir()
    write_frame(tmp_path / "one/000000.png", np.zeros((16, 32, 3), "uint8"))
    assert "one frame only" in run(SCRIPT, "--frames", "one", *TINY, cwd=tmp_path, expect=1)
    assert not (tmp_path / "saved_models").exists()


def test_frames_that_cannot_be_used_are_left_out_and_counted(tmp_path, frames_dir):
    frames = tmp_path / "frames"
    shutil.copytree(frames_dir, frames)
    (frames / "000004.jpg").write_text("not a picture")
    (frames / "000005.jpg").write_bytes((frames / "000005.jpg").read_bytes()[:100])
    write_frame(frames / "000006.jpg", np.zeros((8, 16, 3), "uint8"))
    (frames / "000007.jpg").write_bytes(b"")
    cv2.imwrite(str(frames / "grey.png"), np.zeros((16, 32), "uint8"))  # these two can be
    cv2.imwrite(str(frames / "transparent.png"), np.zeros((16, 32, 4), "uint8"))
    output = run(SCRIPT, "--frames", frames, *TINY, "--epochs", 1, cwd=tmp_path)
    assert "4 of 12 frames" in output and "000004.jpg" in output
    assert load_run_info(tmp_path / "saved_models/0001-shuffled")["frame_count"] == 8
    # A resume without one of those that were used, or with another in its place, is refused.
    content = (frames / "000003.jpg").read_bytes()
    (frames / "000003.jpg").unlink()
    assert "put them back" in run(SCRIPT, "--resume", "--epochs", 2, cwd=tmp_path, expect=2)
    write_frame(frames / "000003.jpg", np.random.default_rng(0).integers(0, 255, (16, 32, 3)).astype("uint8"))
    assert "put them back" in run(SCRIPT, "--resume", "--epochs", 2, cwd=tmp_path, expect=2)
    (frames / "000003.jpg").write_bytes(content)
    run(SCRIPT, "--resume", "--epochs", 2, cwd=tmp_path)


@pytest.mark.parametrize("script", [SCRIPT, "train_unconditional_gan_big.py"])
def test_a_frame_deleted_during_training_is_named_and_all_is_saved(tmp_path, frames_dir, script):
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
    assert process.returncode == 1 and "000004.jpg is gone" in output and "Traceback" not in output
    (run_dir,) = runs.iterdir()
    epochs = math.ceil(metrics(run_dir)[-1]["epoch"]) + 1
    assert int(weights(run_dir)["vars/step"]) == metrics(run_dir)[-1]["step"] >= 6
    (frames / "000004.jpg").write_bytes(content)
    run(script, "--resume", "--epochs", epochs, cwd=tmp_path)


def test_a_training_starts_from_a_finished_run_on_frames_as_large_or_half_as_large(tmp_path, trained):
    for name, side in (("small", 128), ("large", 256), ("other", 192)):
        (tmp_path / name).mkdir()
        write_frames(tmp_path / name, moving_picture(6, side, side), ".jpg")
    run(SCRIPT, "--frames", "small", *TINY, "--epochs", 1, cwd=tmp_path)
    runs = tmp_path / "saved_models"
    arguments = (SCRIPT, "--frames", "large", *TINY, "--epochs", 1, "--start-from", runs / "0001-shuffled")
    run(*arguments, "--learning-rate", 1e-9, "--seed", 5, "--feature-weight", 0, cwd=tmp_path)
    run(*arguments, "--frames", "small", "--learning-rate", 1e-9, "--seed", 5, cwd=tmp_path)
    for number, side in ((2, 256), (3, 128)):
        assert load_run_info(runs / f"000{number}-shuffled")["growth"] == [[0, [side, side, 3]]]
        names = ("feature_discriminator.keras", "feature_discriminator_of_crops.keras") if side == 128 else ()
        for network in ("generator.keras", "discriminator.keras", *names):
            files = [runs / name / network for name in ("0001-shuffled", f"000{number}-shuffled")]
            before, after = map(keras.models.load_model, files)
            for layer in before.layers:
                if hasattr(layer, "kernel"):  # of another seed they are 0.02 apart
                    np.testing.assert_allclose(after.get_layer(layer.name).kernel, layer.kernel, atol=2e-3)
            if (number, network) == (2, "generator.keras"):  # it starts with the enlarged picture
                assert np.abs(after.get_layer("to_rgb_6").kernel).max() < 1e-6
    run(SCRIPT, "--resume", "--epochs", 2, cwd=tmp_path)
    (runs / "0003-shuffled/discriminator.keras").unlink()
    shortened = (SCRIPT, "--frames", "small", *TINY, "--start-from", runs / "0003-shuffled")
    assert "discriminator.keras" in run(*shortened, cwd=tmp_path, expect=1)
    assert "--width 4" in run(*arguments, "--width", 8, cwd=tmp_path, expect=2)
    odd = (SCRIPT, "--frames", "other", *TINY, "--start-from", runs / "0001-shuffled")
    assert "128x128" in run(*odd, cwd=tmp_path, expect=2)
    assert "16x32" in run(SCRIPT, "--frames", "large", *TINY, "--start-from", trained[0], cwd=tmp_path, expect=2)
    assert "no run" in run(SCRIPT, "--frames", "large", "--start-from", "none", cwd=tmp_path, expect=2)
    assert len(list(runs.iterdir())) == 3


def test_frames_whose_sides_do_not_halve_are_drawn_exactly(tmp_path):
    (tmp_path / "odd").mkdir()
    frames = write_frames(tmp_path / "odd", moving_picture(10, 19, 33), ".png")
    run(SCRIPT, "--frames", frames, *TINY, "--epochs", 8, "--augment", cwd=tmp_path)
    run_dir = tmp_path / "saved_models/0001-shuffled"
    assert load_run_info(run_dir)["growth"] == [[0, [10, 17, 3]], [2, [19, 33, 3]]]
    assert load_generator(run_dir / "generator.keras").output_shape == (None, 19, 33, 3)


TWO_PROCESSORS = """
import tensorflow as tf
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_train_as_one_does(tmp_path, frames_dir, backend):
    pytest.importorskip(backend)
    environment = {"KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    if backend == "tensorflow":
        (tmp_path / "sitecustomize.py").write_text(TWO_PROCESSORS)  # which Python runs first
        environment["PYTHONPATH"] = str(tmp_path)
    # Nothing that is drawn at random within a step, of which two devices draw twice as much, nor a nearest frame, which
    # a device seeks in its own part of the batch.
    arguments = (
        SCRIPT,
        "--frames",
        frames_dir,
        *TINY,
        "--epochs",
        2,
        "--augment",
        "--gamma",
        0,
        "--thumbnail-weight",
        0,
    )
    for devices in (1, 2):
        run(*arguments, "--devices", devices, "--name", f"on-{devices}", cwd=tmp_path, env=environment)
    one, two = (weights(tmp_path / f"saved_models/000{devices}-on-{devices}") for devices in (1, 2))
    assert one.keys() == two.keys()
    for name in one:
        # Adam's first steps make much of the last digits where a gradient is next to nothing.
        near = np.isclose(one[name], two[name], rtol=1e-3, atol=1e-4)
        assert near.mean() > 0.98, name
    run(SCRIPT, "--resume", "--epochs", 3, cwd=tmp_path, env=environment)
    run(SCRIPT, "--frames", frames_dir, *TINY, "--epochs", 1, "--devices", 2, cwd=tmp_path, env=environment)
    assert "cannot be shared" in run(*arguments, "--devices", 3, cwd=tmp_path, expect=2, env=environment)
    assert f"{backend} finds 2" in run(*arguments, "--devices", 4, cwd=tmp_path, expect=2, env=environment)


def test_a_run_goes_on_on_another_backend(tmp_path, trained, frames_dir):
    pytest.importorskip("jax")
    shutil.copytree(trained[0].parent, tmp_path / "saved_models")
    run_dir = tmp_path / "saved_models/0001-shuffled"
    before = weights(run_dir)
    run(SCRIPT, "--resume", "--epochs", 4, cwd=tmp_path, env={"KERAS_BACKEND": "jax"})
    after = weights(run_dir)
    assert before.keys() == after.keys() and after["vars/step"] == before["vars/step"] + 3
    kernels = [name for name in before if name.startswith("generator/layers/conv2d")]
    moved = [np.abs(after[name] - before[name]).max() for name in kernels]
    assert 0 < max(moved) < 0.01


def test_two_machines_train_as_one_does_and_stop_together(tmp_path, frames_dir):
    pytest.importorskip("jax")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    together = {"KERAS_DISTRIBUTION_JOB_ADDRESSES": address, "KERAS_DISTRIBUTION_NUM_PROCESSES": "2"}

    def on_both(*arguments):
        return [
            start(
                SCRIPT, *arguments, "--runs", f"machine-{number}", cwd=tmp_path,
                env=environment | together | {"KERAS_DISTRIBUTION_PROCESS_ID": str(number)},
            )
            for number in (0, 1)
        ]  # fmt: skip

    arguments = ("--frames", frames_dir, *TINY, "--no-grow", "--epochs", 2, "--augment", "--gamma", 0)
    run(SCRIPT, *arguments, cwd=tmp_path, env=environment)
    for process in on_both(*arguments, "--devices", 2):
        output = "".join(process.communicate(timeout=600))
        assert process.returncode == 0, output
    one = weights(tmp_path / "saved_models/0001-shuffled")
    for number in (0, 1):
        two = weights(tmp_path / f"machine-{number}/0001-shuffled")
        for name in one:
            assert np.isclose(one[name], two[name], rtol=1e-3, atol=1e-4).mean() > 0.98, name
    for process in on_both(*arguments, "--devices", 4):
        assert "--devices must be 2" in "".join(process.communicate(timeout=600))
        assert process.returncode == 2

    def trained_on_both():
        processes, rows = on_both("--resume", "--epochs", 10_000), tmp_path / "machine-0/0001-shuffled/metrics.csv"
        enough = len(rows.read_text().splitlines()) + 3
        while len(rows.read_text().splitlines()) < enough:
            time.sleep(0.05)
            assert processes[0].poll() is None
        return processes

    processes = trained_on_both()
    processes[1].send_signal(signal.SIGINT)
    for process, words in zip(processes, ("stopped by another machine", "interrupted: saved"), strict=True):
        output = "".join(process.communicate(timeout=600))
        assert process.returncode == 0 and words in output, output
    newest = [max((tmp_path / f"machine-{number}").rglob("step-*.h5")).name for number in (0, 1)]
    assert newest[0] == newest[1]
    processes = trained_on_both()
    processes[1].kill()
    assert "another machine is gone" in processes[0].communicate(timeout=600)[1]
    assert processes[0].returncode == 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_and_saves_a_generator_of_full_precision(tmp_path, frames_dir, precision):
    run(SCRIPT, "--frames", frames_dir, *TINY, "--epochs", 4, "--precision", precision, cwd=tmp_path)
    run_dir = tmp_path / "saved_models/0001-shuffled"
    losses = [[row["d_loss"], row["g_loss"]] for row in metrics(run_dir)]
    assert np.isfinite(losses).all() and 0.3 < np.mean(losses) < 1.5
    policies = {layer.dtype_policy.name for layer in load_generator(run_dir / "generator.keras").layers}
    assert policies == {"float32"}
    run(SCRIPT, "--resume", "--epochs", 5, cwd=tmp_path)


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
        Checkpoints(run_dir, settings, None).save(gan)
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    Checkpoints(run_dir, settings, None).save(gan)
    assert len(list(run_dir.rglob("*.h5"))) == 2


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a disk of 4 MB."""
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path / "disk")]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("takes a system, and the right, to mount a small disk")
    yield tmp_path / "disk"
    subprocess.run(["umount", "--lazy", tmp_path / "disk"], check=True)


def test_a_disk_that_fills_up_ends_the_training_and_with_room_it_goes_on(tmp_path, frames_dir, small_disk):
    arguments = (SCRIPT, "--frames", frames_dir, *TINY, "--sample-every", 50, "--no-grow")
    process = start(*arguments, "--epochs", 10**6, "--checkpoint-minutes", 0.01, cwd=small_disk)
    run_dir = small_disk / "saved_models/0001-shuffled"
    deadline = time.monotonic() + 120
    while len(list(run_dir.glob("samples/epoch-*.png"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    with contextlib.suppress(OSError), open(small_disk / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    output = "".join(process.communicate(timeout=120))
    assert process.returncode == 1 and "Traceback" not in output, output
    assert "free" in output or "No space left" in output
    (small_disk / "filler").unlink()
    epochs = int(weights(run_dir)["vars/step"]) // 3 + 2
    run(SCRIPT, "--resume", "--epochs", epochs, cwd=small_disk)
    run(*arguments, "--epochs", epochs, cwd=tmp_path)
    assert_same_weights(run_dir, tmp_path / "saved_models/0001-shuffled")


def test_scores_are_logged_and_the_best_generator_kept(tmp_path, frames_dir, trained):
    features = tmp_path / "network.keras"
    pixels = keras.Input((16, 32, 3))
    keras.Model(pixels, keras.layers.AveragePooling2D(4)(keras.layers.Rescaling(1 / 255)(pixels))).save(features)
    arguments = (*TINY, "--epochs", 5, "--evaluate-every", 2, "--features", features)
    run(SCRIPT, "--frames", frames_dir, *arguments, cwd=tmp_path)
    run_dir = tmp_path / "saved_models/0001-shuffled"
    for column in ("kid", "sliced_wasserstein", "diversity"):
        assert np.isfinite([row[column] for row in metrics(run_dir)]).tolist() == [False, True, False, True, True]
    load_generator(run_dir / "best_generator.keras")
    best = (run_dir / "best_generator.keras").read_bytes()
    if metrics(run_dir)[-1]["kid"] == min(row["kid"] for row in metrics(run_dir)[1::2]):
        assert weights_of_file(run_dir / "best_generator.keras") == weights_of_file(run_dir / "generator.keras")
    # A score that nothing will beat, of before the resume, keeps the generator that had it.
    lines = (run_dir / "metrics.csv").read_text().splitlines()
    cells = lines[-1].split(",")
    cells[lines[0].split(",").index("kid")] = "-1000"
    (run_dir / "metrics.csv").write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")
    run(SCRIPT, "--resume", "--epochs", 8, cwd=tmp_path)
    assert (run_dir / "best_generator.keras").read_bytes() == best
    arguments = (*TINY, "--epochs", 1, "--evaluate-every", 1, "--features", "lite2")  # the default
    run(SCRIPT, "--frames", frames_dir, *arguments, cwd=tmp_path)
    assert metrics(tmp_path / "saved_models/0002-shuffled")[-1]["kid"] > 100
    assert "cannot be loaded" in run(
        SCRIPT, "--frames", frames_dir, *TINY, "--features", frames_dir / "000000.jpg", cwd=tmp_path, expect=1
    )


def weights_of_file(path):
    return [weight.numpy().tolist() for weight in load_generator(path).weights]


def nan(gan):
    gan.generator.get_layer("dense").kernel.assign(np.nan * gan.generator.get_layer("dense").kernel)


def collapse(gan):
    for name in ("norm_0", "norm_1"):
        gan.generator.get_layer(name).gamma.assign(0 * gan.generator.get_layer(name).gamma)


def saturate(gan):
    gan.generator.get_layer("to_rgb_2").bias.assign([50.0, 50.0, -50.0])


def win(gan):
    gan.loss_function = lambda real, fake, frozen: (0 * keras.ops.mean(real), keras.ops.mean(-frozen))
    gan.make_train_function(force=True)


@pytest.mark.parametrize(
    ("fault", "told"), [(nan, "no numbers"), (collapse, "collapsed"), (saturate, "saturated"), (win, "has won")]
)
def test_trouble_is_mended_and_the_training_ends_by_itself(tmp_path, monkeypatch, fault, told):
    colours = np.random.default_rng(0).integers(0, 256, (12, 1, 1, 3)).astype("uint8")
    (tmp_path / "frames").mkdir()
    write_frames(tmp_path / "frames", np.broadcast_to(colours, (12, 16, 32, 3)))
    settings = TrainingSettings(
        frames=tmp_path / "frames", runs=tmp_path, epochs=60, batch_size=4, latent_dim=8, width=4, sample_every=1,
        learning_rate=2e-3, checkpoint_minutes=0.01, ema_decay=0.9, features=None,
    )  # fmt: skip
    write = SampleGrid.on_epoch_end
    done = []

    def break_once(samples, epoch, logs=None):
        write(samples, epoch, logs)
        if epoch == 40 and not done:
            done.append(samples.model.loss_function)
            fault(samples.model)
        elif epoch == 42 and fault is win:
            samples.model.loss_function = done[0]
            samples.model.make_train_function(force=True)

    monkeypatch.setattr(SampleGrid, "on_epoch_end", break_once)
    run_dir = train(settings)
    log = (run_dir / "rollbacks.log").read_text()
    assert told in log and "learning rate" in log, log
    gan = build_gan(settings, (16, 32, 3))
    load_newest_checkpoint(gan, run_dir)
    assert float(gan.optimizer.learning_rate) < settings.learning_rate and float(gan.gamma) > settings.penalty
    fakes = generate(gan, np.random.default_rng(1).standard_normal((50, 8), "float32"))
    assert all(np.isfinite(weight).all() for weight in gan.get_weights())
    assert diversity(fakes, np.broadcast_to(colours, (12, 16, 32, 3))) > 0.2
    assert metrics(run_dir)[-1]["step"] == 180 and np.isfinite(metrics(run_dir)[-1]["d_loss"])


def test_a_dark_video_is_no_trouble(tmp_path):
    frames = np.zeros((24, 16, 32, 3), "uint8")  # 87.5% black
    frames[:, 6:10, 8:24] = np.linspace(40, 220, 24).astype("uint8")[:, None, None, None]
    (tmp_path / "frames").mkdir()
    write_frames(tmp_path / "frames", frames)
    settings = TrainingSettings(
        frames=tmp_path / "frames", runs=tmp_path, epochs=80, batch_size=4, latent_dim=8, width=4, features=None,
        learning_rate=2e-3, ema_decay=0.9,
    )  # fmt: skip
    run_dir = train(settings)
    assert not (run_dir / "rollbacks.log").exists(), (run_dir / "rollbacks.log").read_text()
    gan = build_gan(settings, (16, 32, 3))
    load_newest_checkpoint(gan, run_dir)
    fakes = generate(gan, np.random.default_rng(1).standard_normal((50, 8), "float32"))
    assert (fakes < 3).mean() > 0.5  # as dark, so that a share alone would have said trouble


def test_a_training_that_must_explode_ends_with_a_sane_generator(tmp_path, frames_dir):
    arguments = (*TINY, "--epochs", 12, "--learning-rate", 1e30, "--gamma", 0)
    output = run(SCRIPT, "--frames", frames_dir, *arguments, cwd=tmp_path)
    run_dir = tmp_path / "saved_models/0001-shuffled"
    assert "Back to step-" in output and "no numbers" in (run_dir / "rollbacks.log").read_text()
    assert all(np.isfinite(weight).all() for weight in load_generator(run_dir / "generator.keras").get_weights())


@pytest.fixture(scope="module")
def small_walk():
    """The drawn walk at 16x32, every fourth frame of it, 200 in all."""
    with ThreadPoolExecutor() as pool:
        draw_small = lambda number: crop_and_resize(synthetic_walk.render_frame(4 * number), 16, 32)  # noqa: E731
        return np.stack(list(pool.map(draw_small, range(200))))


@pytest.mark.parametrize("direction", [1, -1])
def test_walks_go_the_way_their_video_goes(tmp_path, small_walk, direction):
    (tmp_path / "frames").mkdir()
    write_frames(tmp_path / "frames", small_walk[::direction])
    arguments = ("--frames", "frames", "--latent-dim", 32, "--width", 8, "--epochs", 120, "--sample-every", 60)
    run("train_unconditional_gan_big.py", *arguments, "--evaluate-every", 1000, cwd=tmp_path)
    generator = load_generator(tmp_path / "saved_models/0001-ordered/generator.keras")
    latents = np.stack([rotated_latent(latent_from_seed(32, seed), step) for seed in range(8) for step in range(40)])
    walks = np.split(to_uint8(generator.predict(latents, verbose=0)), 8)
    assert (direction * motion(walks)["expansion"] > 0).mean() >= 0.9


def test_small_frames_come_first():
    settings = TrainingSettings(epochs=500)
    sizes = [(40, 80, 3), (80, 160, 3), (160, 320, 3)]
    assert growth_schedule(settings, (160, 320, 3), 336) == list(zip([0, 125, 250], sizes, strict=True))
    assert growth_schedule(settings, (160, 320, 3), 10_000) == list(zip([0, 6, 12], sizes, strict=True))
    with_features = TrainingSettings(epochs=500, feature_weight=1.0)
    assert growth_schedule(with_features, (160, 320, 3), 336) == list(zip([0, 30, 60], sizes, strict=True))
    assert growth_schedule(with_features, (40, 80, 3), 336)[1][0] == 125  # too small for features
    assert growth_schedule(TrainingSettings(grow=False), (160, 320, 3), 336) == [(0, (160, 320, 3))]


@pytest.fixture
def paths(tmp_path):
    for number in range(10):
        write_frame(tmp_path / f"{number}.png", np.full((8, 16, 3), 25 * number, "uint8"))
    return list_frames(tmp_path)


def brightness(frames):
    """The number of each frame of `paths`, from what a batch shows of it."""
    return np.rint((frames[:, 0, 0, ::3] + 1) * 127.5 / 25).astype(int)


def test_batches_in_video_order_are_consecutive_frames(paths):
    stream = batches(paths, TrainingSettings(shuffle=False, batch_size=4, latent_dim=3), 0, (8, 16, 3))
    seen = [brightness(next(stream)[0]["frames"])[:, 0].tolist() for _ in range(4)]
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9], [0, 1, 2, 3]]


def test_windows_are_frames_of_one_scene_in_order_with_their_true_times(paths):
    videos = [0] * 6 + [1] * 4
    times = [0.1 * number for number in range(6)] + [0, 0.1, 0.3, 0.4]  # one frame is missing
    (paths[0].parent / "frames.json").write_text(json.dumps({"time": times, "video": videos}))
    timeline = read_timeline(paths)
    assert timeline.scene_ends.tolist() == [6] * 6 + [10] * 4
    np.testing.assert_allclose(timeline.frame_interval, 0.1)
    settings = TrainingSettings(window=3, batch_size=5, latent_dim=4)
    stream, spacings = batches(paths, settings, 0, (8, 16, 3), timeline), set()
    for _ in range(40):
        batch = next(stream)[0]
        assert batch["frames"].shape == (5, 8, 16, 9) and batch["frame_offsets"].dtype == np.float32
        for window, passed in zip(brightness(batch["frames"]), batch["frame_offsets"], strict=True):
            first, last = window[0], window[-1]
            assert (np.diff(window) == window[1] - first).all() and last < timeline.scene_ends[first]
            expected = (np.array(times)[window] - times[first]) / 0.1
            np.testing.assert_allclose(passed, expected, atol=1e-5)
            spacings.add(int(window[1] - first))
    assert spacings == {1, 2}  # 4 does not fit


def test_hard_cuts_part_scenes_and_a_walk_does_not(tmp_path):
    random = np.random.default_rng(0)
    scenes = [cv2.GaussianBlur(random.uniform(0, 255, (40, 300, 3)), (0, 0), 4) for _ in range(2)]
    scenes = [cv2.normalize(scene, None, 0, 255, cv2.NORM_MINMAX).astype("uint8") for scene in scenes]
    frames = [scene[:, 2 * step : 2 * step + 80] for scene in scenes for step in range(12)]
    write_frames(tmp_path, frames)
    timeline = read_timeline(list_frames(tmp_path))
    assert timeline.scene_ends.tolist() == [12] * 12 + [24] * 12
    np.testing.assert_allclose(timeline.times, np.arange(24) / 30)
    (tmp_path / "frames.json").write_text(json.dumps({"time": [0.0], "video": [0]}))
    with pytest.raises(InputError, match=r"frames\.json"):
        read_timeline(list_frames(tmp_path))


def test_shuffled_batches_show_every_frame_in_every_epoch_in_another_order(paths):
    stream = batches(paths, TrainingSettings(batch_size=5, latent_dim=3), 0, (8, 16, 3))
    seen = [np.rint((next(stream)[0]["frames"][:, 0, 0, 0] + 1) * 127.5 / 25).astype(int).tolist() for _ in range(4)]
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == list(range(10))
    assert seen[0] + seen[1] != seen[2] + seen[3] != list(range(10))


def test_a_batch_depends_on_seed_and_step_alone(paths):
    settings = TrainingSettings(batch_size=4, latent_dim=3, seed=5)
    stream = batches(paths, settings, 0, (8, 16, 3))
    later = batches(paths, settings, 7, (8, 16, 3))
    for _ in range(7):
        next(stream)
    for _ in range(4):
        first, second = next(stream)[0], next(later)[0]
        assert first.keys() == second.keys() == {"frames", "latents"}
        assert (first["frames"] == second["frames"]).all() and (first["latents"] == second["latents"]).all()
        assert first["frames"].dtype == first["latents"].dtype == np.float32
        assert first["frames"].min() >= -1 and first["frames"].max() <= 1
    other = next(batches(paths, TrainingSettings(batch_size=4, latent_dim=3, seed=6), 0, (8, 16, 3)))[0]
    assert (other["latents"] != next(batches(paths, settings, 0, (8, 16, 3)))[0]["latents"]).all()


def test_frames_survive_the_way_in_and_out():
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
