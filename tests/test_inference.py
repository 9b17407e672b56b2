"""inference_unconditional_gan.py: the same picture for the same seed, a walk that browsers play, plain errors."""

import json
import re
import shutil
import subprocess

import cv2
import imageio_ffmpeg
import keras
import numpy as np
import pytest
from conftest import KERAS2, TINY, call, refuse, run

from walkgan.generators import load_generator, steps_per_second
from walkgan.images import read_frame, to_uint8, write_frame
from walkgan.latents import latent_from_seed, rotated_latent, slerp_latent, slowest_pair

SCRIPT = "inference_unconditional_gan.py"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def output(trained):
    """The output folder of an inference with defaults, which finds the run by itself."""
    folder = trained[0].parents[1]
    printed = run(SCRIPT, "--rows", 2, "--columns", 3, "--walk-seconds", 1, cwd=folder)
    assert "plot.png" in printed and "0001-shuffled" in printed
    return folder / "output"


def test_plot_is_a_grid_of_the_seeds_pixel_by_pixel(output):
    plot = read_frame(output / "plot.png")
    assert plot.shape == (2 * 16 + 2, 3 * 32 + 4, 3)  # lines of two pixels
    for row in range(2):
        for column in range(3):
            cell = plot[row * 18 : row * 18 + 16, column * 34 : column * 34 + 32]
            np.testing.assert_array_equal(cell, read_frame(output / "frames" / f"{row * 3 + column:06}.png"))


def test_one_file_per_seed_and_the_same_image_for_the_same_seed(output, trained, tmp_path):
    assert sorted(path.name for path in (output / "frames").iterdir()) == [f"{seed:06}.png" for seed in range(16)]
    call(SCRIPT, "--generator", trained[0], "--seed", 5, "--count", 1, "--walk-seconds", 0, cwd=tmp_path)
    assert (read_frame(tmp_path / "output/frames/000005.png") == read_frame(output / "frames/000005.png")).all()
    assert (read_frame(output / "frames/000004.png") != read_frame(output / "frames/000005.png")).any()
    assert not (tmp_path / "output/walk.mp4").exists()


def test_walk_is_a_video_that_browsers_play(output):
    capture = cv2.VideoCapture(str(output / "walk.mp4"))
    count = sum(iter(capture.grab, False))
    assert count == 30 and capture.get(cv2.CAP_PROP_FPS) == 30
    info = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", output / "walk.mp4"], capture_output=True, text=True)
    assert re.search(r"h264.*yuv420p.*32x16", info.stderr)


def test_walk_is_smooth_never_repeats_and_stays_on_the_sphere():
    path = np.stack([slerp_latent(latent_from_seed(64, 3), 3, position) for position in np.arange(0, 6, 1 / 60)])
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert steps.max() < 0.5 and steps.min() > 0.05
    norms = np.linalg.norm(path, axis=1)
    assert norms.min() > 0.75 * 8 and norms.max() < 1.25 * 8
    assert np.linalg.norm(path[0] - path[240]) > 4
    np.testing.assert_allclose(path[60], latent_from_seed(64, 3, 1), atol=1e-5)
    free, of_one_scene = (slerp_latent(latent_from_seed(64, 3), 3, 0.7, keep_scene=keep) for keep in (False, True))
    changed = of_one_scene != free
    assert np.flatnonzero(changed).tolist() == slowest_pair(64)
    assert (of_one_scene[changed] == latent_from_seed(64, 3)[changed]).all()
    np.testing.assert_allclose(path[0], latent_from_seed(64, 3), atol=1e-5)
    assert np.isfinite(slerp_latent(latent_from_seed(1, 0), 0, 0.5)).all()
    with np.errstate(all="raise"):
        assert (slerp_latent(np.zeros(64, "float32"), 3, 0.5, truncation=0) == 0).all()


@pytest.fixture(scope="module")
def walker(tmp_path_factory, frames_dir):
    """A run of the ordered script, on 10 frames of a video of 25 a second."""
    folder = tmp_path_factory.mktemp("walker")
    shutil.copytree(frames_dir, folder / "data/frames")
    times = {"time": [number / 25 for number in range(10)], "video": [0] * 10}
    (folder / "data/frames/frames.json").write_text(json.dumps(times))
    call("train_unconditional_gan_big.py", *TINY, "--epochs", 2, cwd=folder)
    return folder / "saved_models/0001-ordered"


def test_a_generator_that_learned_motion_walks_at_its_own_rate(walker, tmp_path):
    arguments = (SCRIPT, "--generator", walker, "--walk-seconds", 2, "--walks", 2, "--seed", 3)
    call(*arguments, cwd=tmp_path)
    slowly = ("--speed", 0.5, "--walks", 1, "--output", "slow")
    call(SCRIPT, "--generator", walker / "generator.keras", *slowly, cwd=tmp_path)
    assert not (tmp_path / "slow/walks.mp4").exists()  # it would be the same as walk.mp4
    videos = {}
    for name in ("output/walk.mp4", "output/walks.mp4", "slow/walk.mp4"):
        capture = cv2.VideoCapture(str(tmp_path / name))
        assert capture.get(cv2.CAP_PROP_FPS) == 30
        videos[name] = [capture.retrieve()[1] for _ in iter(capture.grab, False)]
    assert [len(frames) for frames in videos.values()] == [60, 60, 240]
    assert videos["output/walks.mp4"][0].shape == (16, 64, 3)
    strip = read_frame(tmp_path / "output/strip.png")
    assert strip.shape == (2 * 16, 12 * 32, 3)
    generator = load_generator(walker / "generator.keras")
    steps = steps_per_second(generator) / 30
    latents = [rotated_latent(latent_from_seed(8, 4), 4 * k * steps) for k in range(12)]
    expected = to_uint8(generator.predict(np.stack(latents), verbose=0))
    assert np.abs(strip[16:].astype(int) - np.concatenate(list(expected), 1)).max() <= 1
    call(
        SCRIPT, "--generator", walker, "--walk-seconds", 2, "--walks", 2, "--seed", 3, "--output", "again", cwd=tmp_path
    )
    assert (tmp_path / "again/walk.mp4").read_bytes() == (tmp_path / "output/walk.mp4").read_bytes()


def test_a_learned_walk_rotates_step_by_step_for_hours():
    path = np.stack([rotated_latent(latent_from_seed(64, 3), step) for step in range(200)])
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), np.linalg.norm(path[0]), rtol=1e-5)
    np.testing.assert_allclose(path[0], latent_from_seed(64, 3))
    late = [rotated_latent(latent_from_seed(64, 3), 1_000_000 + step) for step in range(2)]
    np.testing.assert_allclose(
        np.linalg.norm(late[1] - late[0]), np.linalg.norm(path[1] - path[0]), rtol=0.3
    )  # as fast as at the start, give or take where it stands
    half = np.linalg.norm(rotated_latent(latent_from_seed(64, 3), 0.5) - path[0]) / np.linalg.norm(path[1] - path[0])
    np.testing.assert_allclose(half, 0.5, atol=0.02)


def test_truncation_1_changes_nothing_and_0_gives_the_mean(trained, tmp_path):
    call(SCRIPT, "--generator", trained[0], "--truncation", 0, "--count", 2, "--walk-seconds", 0, cwd=tmp_path)
    frames = [read_frame(tmp_path / "output/frames" / f"{seed:06}.png") for seed in range(2)]
    assert (frames[0] == frames[1]).all()


def test_an_image_is_projected_and_a_walk_starts_from_it(walker, trained, tmp_path):
    generator = keras.models.load_model(walker / "generator.keras")
    for layer in generator.layers:
        if layer.name.startswith(("to_rgb", "strip", "far")):  # after two epochs all of its frames are alike, and grey
            layer.kernel.assign((1000 if layer.name.startswith("to_rgb") else 10) * layer.kernel)
    generator.save(tmp_path / "vivid.keras")
    image = to_uint8(generator.predict(latent_from_seed(8, 123)[None], verbose=0))[0]
    assert image.std() > 5
    write_frame(tmp_path / "image.png", image)
    call(SCRIPT, "--generator", "vivid.keras", "--project", "image.png", "--walk-seconds", 0.2, cwd=tmp_path)
    shown, found = np.split(read_frame(tmp_path / "output/projected.png").astype(int), 2, 1)
    np.testing.assert_array_equal(shown, image)
    others = to_uint8(generator.predict(np.stack([latent_from_seed(8, seed) for seed in range(16)]), verbose=0)).astype(
        int
    )
    assert np.abs(found - image).mean() < 0.5 * np.abs(others - image).mean((1, 2, 3)).min()
    first = cv2.VideoCapture(str(tmp_path / "output/walk.mp4")).read()[1][..., ::-1]
    assert np.abs(first - found).mean() < np.abs(first - others[0]).mean()  # the walk of the seed would begin there
    before = read_frame(tmp_path / "output/projected.png")
    arguments = ("--generator", "vivid.keras", "--project", "image.png", "--walk-seconds", 0, "--truncation", 0.1)
    call(SCRIPT, *arguments, cwd=tmp_path)
    assert (read_frame(tmp_path / "output/projected.png") == before).all()  # what was found is not scaled
    assert "there is no image none.png" in refuse(SCRIPT, "--project", "none.png", cwd=trained[0].parents[1])


@pytest.mark.parametrize("room, written, wanting", [(100, [], "plot.png"), (2000, ["plot.png"], "walks.mp4")])
def test_a_full_disk_is_reported_and_leaves_what_was_there(trained, tmp_path, room, written, wanting):
    resource = pytest.importorskip("resource", reason="limits file sizes as only Unix can")
    (tmp_path / "output").mkdir()
    for name in ("plot.png", "walk.mp4"):
        (tmp_path / "output" / name).write_text("before")

    def nearly_full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    little = ("--generator", trained[0], "--rows", 1, "--columns", 1, "--count", 0)
    output = run(SCRIPT, *little, cwd=tmp_path, expect=1, preexec_fn=nearly_full)
    assert f"output/{wanting} cannot be written: " in output.splitlines()[-1]
    kept = {path.name for path in (tmp_path / "output").glob("*.*") if path.read_bytes() == b"before"}
    assert kept == {"plot.png", "walk.mp4"} - set(written)
    assert not list((tmp_path / "output").glob(".partial*"))
    call(SCRIPT, *little, cwd=tmp_path)


def test_third_party_generators(tmp_path):
    output = call(SCRIPT, "--generator", KERAS2 / "generator.h5", "--walk-seconds", 0.2, cwd=tmp_path)
    assert "generator.h5" in output
    assert read_frame(tmp_path / "output/frames/000000.png").shape == (10, 16, 3)


def test_a_shipped_generator_draws_until_there_is_a_run(trained, tmp_path):
    shipped = tmp_path / "saved_models/city"
    shutil.copytree(trained[0], shipped, ignore=shutil.ignore_patterns("checkpoints"))
    little = ("--rows", 1, "--columns", 1, "--count", 0, "--walk-seconds", 0)
    assert "models/city/generator.keras" in call(SCRIPT, *little, cwd=tmp_path)
    assert "train one first" in refuse("train_unconditional_gan.py", "--resume", cwd=tmp_path)
    shutil.copytree(trained[0], tmp_path / "saved_models/0001-shuffled")
    assert "0001-shuffled" in call(SCRIPT, *little, cwd=tmp_path)


def test_bad_generators_and_settings_are_reported(trained, tmp_path):
    assert "train one first" in refuse(SCRIPT, cwd=tmp_path)
    assert "there is no generator" in refuse(SCRIPT, "--generator", "none.keras", cwd=tmp_path)
    (tmp_path / "cut.keras").write_bytes((trained[0] / "generator.keras").read_bytes()[:5000])
    assert "cut.keras" in refuse(SCRIPT, "--generator", "cut.keras", cwd=tmp_path, expect=1)
    for option in ("--rows", "--columns", "--speed", "--frame-rate", "--walks"):
        assert option in refuse(SCRIPT, "--generator", trained[0], option, 0, cwd=tmp_path)
    assert "from 1 to 100, not 101" in refuse(SCRIPT, "--columns", 101, cwd=tmp_path)
    assert not (tmp_path / "output").exists()


def test_an_output_folder_may_have_a_colon(trained, tmp_path):
    few = ("--generator", trained[0], "--rows", 1, "--columns", 1, "--count", 1, "--walk-seconds", 0.2)
    call(SCRIPT, *few, "--output", "a:b", cwd=tmp_path)
    assert cv2.VideoCapture(str(tmp_path / "a:b/walk.mp4")).read()[0]


def test_results_of_two_generators_never_mix(trained, tmp_path):
    few = ("--rows", 1, "--columns", 1, "--walk-seconds", 0)
    (tmp_path / "output").mkdir()
    (tmp_path / "output/strip.png").touch()  # of an earlier run with walks
    call(SCRIPT, *few, "--generator", trained[0], "--count", 3, cwd=tmp_path)
    call(SCRIPT, *few, "--generator", trained[0], "--count", 1, "--seed", 7, cwd=tmp_path)
    frames = tmp_path / "output/frames"
    assert [path.name for path in sorted(frames.glob("*.png"))] == [f"{seed:06}.png" for seed in (0, 1, 2, 7)]
    assert not (tmp_path / "output/strip.png").exists()
    (frames / "mine.png").touch()
    call(SCRIPT, *few, "--generator", KERAS2 / "generator.h5", "--count", 1, cwd=tmp_path)
    assert [path.name for path in sorted(frames.glob("*.png"))] == ["000000.png", "mine.png"]


def test_an_output_folder_with_frames_of_another_origin_is_left_alone(trained, frames_dir, tmp_path):
    shutil.copytree(frames_dir, tmp_path / "data/frames")
    (tmp_path / "data/frames/000010.png").touch()
    before = sorted((tmp_path / "data/frames").iterdir())
    assert "did not write" in refuse(SCRIPT, "--generator", trained[0], "--output", "data", cwd=tmp_path)
    assert sorted((tmp_path / "data/frames").iterdir()) == before and not (tmp_path / "data/plot.png").exists()
    (tmp_path / "photo.heic").write_bytes(b"no image that OpenCV knows")
    output = refuse(SCRIPT, "--generator", trained[0], "--project", "photo.heic", cwd=tmp_path, expect=1)
    assert "convert it" in output and "delete" not in output
