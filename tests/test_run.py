"""A training run from its first step to its end, by the script: the run folder, warm starts, any frame size."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import (
    REAL_VIDEOS,
    TINY,
    assert_same_weights,
    call,
    checkpoint_weights,
    moving_frames,
    read_metrics,
    refuse,
    run,
    start,
    write_frames,
)

from walkgan import synthetic_walk
from walkgan.dataset import list_frames
from walkgan.errors import SettingError
from walkgan.files import folder_lock
from walkgan.gan_builder import build_gan
from walkgan.generators import load_generator
from walkgan.images import crop_and_resize, read_frame, to_uint8
from walkgan.latents import latent_from_seed, rotated_latent
from walkgan.motion_metrics import motion
from walkgan.run_folder import load_run_info, load_settings
from walkgan.settings import TrainingSettings
from walkgan.training import growth_schedule
from walkgan.warm_start import warm_start

SCRIPT = "train_unconditional_gan.py"
pytestmark = pytest.mark.slow


def test_run_folder_holds_everything(trained, frames_dir):
    run_dir, output = trained
    settings = json.loads((run_dir / "settings.json").read_text())
    assert settings["settings"]["batch_size"] == 4 and settings["frame_shape"] == [16, 32, 3]
    assert [row["epoch"] for row in read_metrics(run_dir)] == [1, 2, 3]
    assert [row["step"] for row in read_metrics(run_dir)] == [3, 6, 9]
    assert all(np.isfinite([row["d_loss"], row["g_loss"]]).all() for row in read_metrics(run_dir))
    samples = sorted(path.name for path in (run_dir / "samples").iterdir())
    assert samples == ["epoch-0001.png", "epoch-0002.png", "epoch-0003.png", "latest.png", "real.png"]
    assert read_frame(run_dir / "samples/latest.png").shape == (64, 128, 3)
    real = read_frame(run_dir / "samples/real.png")
    assert (real[:16, :32] == read_frame(list_frames(frames_dir)[0])).all()
    assert list((run_dir / "logs").rglob("events*"))
    assert not list(run_dir.rglob(".partial*"))
    assert str(run_dir.relative_to(run_dir.parents[1]) / "samples") in output
    assert "/9 " in output and "<" in output  # the bar counts the whole run, with the time left


def test_saved_generator_is_the_ema(trained):
    run_dir, _ = trained
    checkpoint = checkpoint_weights(run_dir)
    kernel = load_generator(run_dir / "generator.keras").weights[0].numpy()
    averages = [value for name, value in checkpoint.items() if name.startswith("ema_generator")]
    trained_ones = [value for name, value in checkpoint.items() if name.startswith("generator")]
    assert any(value.shape == kernel.shape and (value == kernel).all() for value in averages)
    assert not any(value.shape == kernel.shape and (value == kernel).all() for value in trained_ones)


def test_runs_are_numbered_and_never_shared(tmp_path, frames_dir, trained):
    shutil.copytree(trained[0].parent, tmp_path / "saved_models")
    call(SCRIPT, "--frames", frames_dir, *TINY, "--epochs", 1, "--name", "second", cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "saved_models").iterdir()) == ["0001-shuffled", "0002-second"]


def test_two_trainings_at_once_are_alike_and_never_share_a_run(tmp_path, frames_dir):
    arguments = (SCRIPT, "--frames", frames_dir, *TINY, "--epochs", 30)
    together = [start(*arguments, cwd=tmp_path) for _ in range(2)]
    runs = [tmp_path / "saved_models" / name for name in ("0001-shuffled", "0002-shuffled")]
    while not (runs[0] / "samples/epoch-0001.png").exists():
        time.sleep(0.05)
        assert all(process.poll() is None for process in together)
    with pytest.raises(SettingError, match="another process"), folder_lock(runs[0], "trained"):
        pass
    for process in together:
        output = "".join(process.communicate(timeout=200))
        assert process.returncode == 0, output
    assert_same_weights(*runs)  # however busy the CPU was


def test_warm_start_on_frames_of_the_same_and_twice_the_size(tmp_path, trained, trained_with_features):
    for name, side in (("small", 128), ("large", 256), ("other", 192)):
        (tmp_path / name).mkdir()
        write_frames(tmp_path / name, moving_frames(6, side, side), ".jpg")
    runs = tmp_path / "saved_models"
    shutil.copytree(trained_with_features, runs / "0001-shuffled")
    arguments = (SCRIPT, "--frames", "large", *TINY, "--epochs", 1, "--start-from", runs / "0001-shuffled")
    call(*arguments, "--learning-rate", 1e-9, "--seed", 5, "--feature-weight", 0, cwd=tmp_path)
    call(*arguments, "--frames", "small", "--learning-rate", 1e-9, cwd=tmp_path)
    for number, side in ((2, 256), (3, 128)):
        assert load_run_info(runs / f"000{number}-shuffled")["growth"] == [[0, [side, side, 3]]]
        names = ("feature_discriminator.keras", "feature_discriminator_of_crops.keras") if side == 128 else ()
        for network in ("generator.keras", "discriminator.keras", *names):
            files = [runs / name / network for name in ("0001-shuffled", f"000{number}-shuffled")]
            before, after = map(keras.models.load_model, files)
            for layer in before.layers:
                if hasattr(layer, "kernel"):  # untrained they are 0.02 apart
                    np.testing.assert_allclose(after.get_layer(layer.name).kernel, layer.kernel, atol=2e-3)
            if (number, network) == (2, "generator.keras"):  # it starts with the enlarged picture
                assert np.abs(after.get_layer("to_rgb_6").kernel).max() < 1e-6
    other_features = replace(load_settings(runs / "0001-shuffled"), seed=5)
    gan = build_gan(other_features, (128, 128, 3))
    warm_start(runs / "0001-shuffled", gan, other_features)
    for network, same in (("discriminator", True), ("feature_discriminator", False)):
        before = keras.models.load_model(runs / f"0001-shuffled/{network}.keras").trainable_variables[0]
        assert np.allclose(gan.saved_networks[network].trainable_variables[0], before) == same
    (runs / "0003-shuffled/discriminator.keras").unlink()
    shortened = (SCRIPT, "--frames", "small", *TINY, "--start-from", runs / "0003-shuffled")
    assert "discriminator.keras" in refuse(*shortened, cwd=tmp_path, expect=1)
    assert "--width 4" in refuse(*arguments, "--width", 8, cwd=tmp_path)
    odd = (SCRIPT, "--frames", "other", *TINY, "--start-from", runs / "0001-shuffled")
    assert "128x128" in refuse(*odd, cwd=tmp_path)
    assert "16x32" in refuse(SCRIPT, "--frames", "large", *TINY, "--start-from", trained[0], cwd=tmp_path)
    assert "no run" in refuse(SCRIPT, "--frames", "large", "--start-from", "none", cwd=tmp_path)
    assert len(list(runs.iterdir())) == 3


def test_frame_sizes_that_do_not_halve_evenly(tmp_path):
    (tmp_path / "odd").mkdir()
    frames = write_frames(tmp_path / "odd", moving_frames(10, 19, 33), ".png")
    call(SCRIPT, "--frames", frames, *TINY, "--epochs", 8, "--augment", cwd=tmp_path)
    run_dir = tmp_path / "saved_models/0001-shuffled"
    assert load_run_info(run_dir)["growth"] == [[0, [10, 17, 3]], [2, [19, 33, 3]]]
    assert load_generator(run_dir / "generator.keras").output_shape == (None, 19, 33, 3)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_saves_a_float32_generator(tmp_path, frames_dir, precision):
    call(SCRIPT, "--frames", frames_dir, *TINY, "--epochs", 4, "--precision", precision, cwd=tmp_path)
    run_dir = tmp_path / "saved_models/0001-shuffled"
    losses = [[row["d_loss"], row["g_loss"]] for row in read_metrics(run_dir)]
    assert np.isfinite(losses).all() and 0.3 < np.mean(losses) < 1.5
    policies = {layer.dtype_policy.name for layer in load_generator(run_dir / "generator.keras").layers}
    assert policies == {"float32"}
    if precision == "float16":  # which also keeps a scale of the loss
        call(SCRIPT, "--resume", "--epochs", 5, cwd=tmp_path)


def test_growth_schedule(tmp_path):
    settings = TrainingSettings(epochs=500)
    sizes = [(40, 80, 3), (80, 160, 3), (160, 320, 3)]
    assert growth_schedule(settings, (160, 320, 3), 336) == list(zip([0, 125, 250], sizes, strict=True))
    assert growth_schedule(settings, (160, 320, 3), 10_000) == list(zip([0, 6, 12], sizes, strict=True))
    with_features = TrainingSettings(epochs=500, feature_weight=1.0)
    assert growth_schedule(with_features, (160, 320, 3), 336) == list(zip([0, 30, 60], sizes, strict=True))
    windows = TrainingSettings(epochs=500, feature_weight=1.0, window=3)
    assert growth_schedule(windows, (160, 320, 3), 336) == list(zip([0, 15, 30], sizes, strict=True))
    assert growth_schedule(with_features, (40, 80, 3), 336)[1][0] == 125  # too small for features
    assert growth_schedule(TrainingSettings(grow=False), (160, 320, 3), 336) == [(0, (160, 320, 3))]
    assert growth_schedule(TrainingSettings(epochs=100), (512, 1024, 3), 336)[-1] == (80, (512, 1024, 3))  # of five
    (tmp_path / "settings.json").write_text('{"settings": {}, "frame_shape": [40, 80, 3]}')
    warm = TrainingSettings(start_from=tmp_path)
    assert [shape for _, shape in growth_schedule(warm, (160, 320, 3), 336)] == sizes[1:]
    assert growth_schedule(replace(warm, grow=False), (160, 320, 3), 336) == [(0, (160, 320, 3))]


def test_walks_go_backwards_where_their_video_does(tmp_path):
    with ThreadPoolExecutor() as pool:
        draw_small = lambda number: crop_and_resize(synthetic_walk.render_frame(4 * number), 16, 32)  # noqa: E731
        frames = list(pool.map(draw_small, range(80)))
    (tmp_path / "frames").mkdir()
    write_frames(tmp_path / "frames", frames[::-1])
    arguments = ("--frames", "frames", "--latent-dim", 32, "--width", 8, "--epochs", 20, "--sample-every", 20)
    call("train_unconditional_gan_big.py", *arguments, "--features", "None", cwd=tmp_path)
    generator = load_generator(tmp_path / "saved_models/0001-ordered/generator.keras")
    latents = np.stack([rotated_latent(latent_from_seed(32, seed), step) for seed in range(8) for step in range(40)])
    walks = np.split(to_uint8(generator.predict(latents, verbose=0)), 8)
    assert (motion(walks)["expansion"] < 0).mean() >= 0.9


@pytest.mark.skipif(not REAL_VIDEOS.exists(), reason="the real videos lie beside the project only where it is made")
def test_whole_job_on_a_real_video(tmp_path):
    run("extract_frames.py", "--video", REAL_VIDEOS / "paris_walk.mp4", "--target-frames", 24, cwd=tmp_path)
    run("train_unconditional_gan_big.py", "--width", 4, "--epochs", 1, "--batch-size", 8, cwd=tmp_path)
    run("inference_unconditional_gan.py", "--walk-seconds", 0.5, "--count", 2, cwd=tmp_path)
    assert read_frame(tmp_path / "output/plot.png").shape == (646, 1286, 3)
    real = read_frame(tmp_path / "saved_models/0001-ordered/samples/real.png")
    fake = read_frame(tmp_path / "output/frames/000001.png")
    assert real.shape == (640, 1280, 3) and fake.shape == (160, 320, 3)
