"""evaluate_unconditional_gan.py: real runs of the script, and scores that mean what they say."""

import hashlib
import json
import shutil

import cv2
import keras
import numpy as np
import pytest
from conftest import TINY, call, moving_frames, refuse, run, write_frames

from models import build_generator
from walkgan.dataset import Timeline, list_frames, read_timeline
from walkgan.evaluation import real_frames, score, score_motion, second_halves
from walkgan.images import read_frame
from walkgan.scoring_network import extract_features

SCRIPT = "evaluate_unconditional_gan.py"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def many_frames(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("many"), moving_frames(40, 16, 32))


def test_scores_a_run_and_shows_the_nearest_frames(trained, network, many_frames, tmp_path):
    output = run(
        SCRIPT, "--generator", trained[0], "--frames", many_frames, "--features", network, "--count", 50, cwd=tmp_path
    )
    scores = json.loads((tmp_path / "output/scores.json").read_text())
    assert scores["count"] == 20 and scores["features"] == str(network)
    assert scores["features_sha256"] == hashlib.sha256(network.read_bytes()).hexdigest()
    names = ("KID x 1000", "KID standard error", "Keras-FID", "precision", "recall", "density", "coverage")
    for name in (*names, "sliced Wasserstein", "diversity", "novelty"):
        assert name in output and len(scores[name]) == 3 and np.isfinite(scores[name]).all()
    for name in ("KID x 1000", "Keras-FID", "sliced Wasserstein"):  # nine steps of training draw no streets
        fake, unseen, baseline = scores[name]
        assert fake > 2 * abs(baseline) and unseen > 2 * abs(baseline)  # the grey bar brightens from half to half
    assert read_frame(tmp_path / "output/nearest.png").shape == (32, 256, 3)


def test_every_second_real_frame_scores_like_the_baseline(network):
    frames = moving_frames(40, 16, 32)
    features = extract_features(frames, keras.models.load_model(network))
    timeline = Timeline(np.arange(40) / 10, np.repeat([20, 40], 20), 0.1)
    halves = second_halves(timeline)
    assert (halves == np.repeat([False, True, False, True], 10)).all()  # of each scene
    scores = score(frames, frames[1::2], features, features[1::2], timeline.times, halves)
    for fake, _, baseline in scores.values():
        np.testing.assert_allclose(fake, baseline)
    assert scores["novelty"][0] < 0.5 < scores["novelty"][1]  # near-copies, and frames of other moments


def write_rolling_noise(folder, count):
    """Write frames in which everything moves by a pixel a frame, and return their paths."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (32, 64, 3), "uint8"), (0, 0), 1.5)
    return list_frames(write_frames(folder, [np.roll(noise, number, 1) for number in range(count)]))


def test_walks_are_scored_at_their_speed(tmp_path):
    paths = write_rolling_noise(tmp_path, 100)
    generator = build_generator(16, (32, 64, 3), width=8, name="walker_30")
    for layer in generator.layers[-8:]:
        layer.set_weights([10 * weight for weight in layer.get_weights()])
    slow, fast = (score_motion(generator, paths, read_timeline(paths), 0, speed) for speed in (0.5, 2))
    assert fast["motion, pace"][0] > 1.5 * slow["motion, pace"][0] > 0
    assert fast["motion, similarity"] != slow["motion, similarity"]
    for name in ("similarity", "speed", "expansion", "colour"):
        assert slow[f"motion, {name}"][1] < 0.1, name
    assert slow["motion, patches"][1] < slow["motion, patches"][0]
    assert slow["motion, straightness"] == (None, None)  # walks of 12 frames are too short to follow points


def test_windows_that_a_cut_leaves_in_odd_number_are_scored(tmp_path):
    paths = write_rolling_noise(tmp_path, 80)
    timeline = Timeline(np.arange(80) / 30, np.repeat([14, 80], [14, 66]), 1 / 30)  # the cut lies in one of 8 windows
    scores = score_motion(build_generator(16, (32, 64, 3), width=8, name="walker_30"), paths, timeline, 0)
    assert scores["motion, patches"][1] > 0


def test_frames_of_two_clips_are_never_of_one_moment(tmp_path):
    paths = list_frames(write_frames(tmp_path, moving_frames(40, 16, 32)))
    clips = Timeline(np.tile(np.arange(10) / 30, 4), np.repeat([10, 20, 30, 40], 10), 1 / 30)
    _, times, halves = real_frames(paths, clips, 40)
    assert (np.abs(times[:10, None] - times[10:]) > 1).all() and np.ptp(times[:10]) < 1
    assert halves.sum() == 20
    single = Timeline(np.zeros(40), np.arange(1, 41), 1 / 30)
    assert (real_frames(paths, single, 40)[2] == np.repeat([False, True], 20)).all()


def test_what_cannot_be_scored_is_reported(trained, network, frames_dir, many_frames, tmp_path):
    arguments = (SCRIPT, "--generator", trained[0], "--features", network)
    assert "--speed must be" in refuse(*arguments, "--speed", 0, cwd=tmp_path)
    assert "--seed must be" in refuse(*arguments, "--seed", -1, cwd=tmp_path)
    assert "20 real frames" in refuse(*arguments, cwd=tmp_path)  # the run has only 10
    file = trained[0] / "generator.keras"
    (tmp_path / "loose.keras").write_bytes(file.read_bytes())
    assert "--frames" in refuse(SCRIPT, "--generator", "loose.keras", cwd=tmp_path)
    (tmp_path / "text.keras").write_text("no network")
    bad = (SCRIPT, "--generator", trained[0], "--frames", many_frames, "--features", "text.keras")
    assert "text.keras" in refuse(*bad, cwd=tmp_path, expect=1)
    (tmp_path / "small").mkdir()
    write_frames(tmp_path / "small", moving_frames(40, 8, 16))
    assert "8x16" in refuse(*arguments, "--frames", "small", cwd=tmp_path)
    assert not (tmp_path / "output").exists()


def test_frames_that_training_leaves_out_are_left_out(trained, network, many_frames, tmp_path):
    shutil.copytree(many_frames, tmp_path / "frames")
    write_frames(tmp_path / "frames", np.zeros((1, 8, 16, 3), "uint8"))
    (tmp_path / "frames/000001.png").write_bytes(b"damaged")
    arguments = ("--generator", trained[0], "--frames", tmp_path / "frames", "--features", network)
    assert "2 of" in call(SCRIPT, *arguments, cwd=tmp_path)


@pytest.mark.parametrize("kind", ["fixed size", "grey", "channels first", "two outputs", "NaN"])
def test_networks_that_cannot_score_are_reported_before_anything_is_written(frames_dir, tmp_path, kind):
    shape = {"fixed size": (299, 299, 3), "grey": (16, 32, 1), "channels first": (3, 16, 32)}.get(kind, (None, None, 3))
    pixels = keras.Input(shape)
    features = keras.layers.GlobalAveragePooling2D()(pixels)
    if kind == "two outputs":
        features = [features, pixels]
    elif kind == "NaN":
        features = keras.layers.Rescaling(float("nan"))(features)
    keras.Model(pixels, features).save(tmp_path / "network.keras")
    arguments = ("--frames", frames_dir, *TINY, "--features", "network.keras")
    assert "cannot be used" in refuse("train_unconditional_gan.py", *arguments, cwd=tmp_path, expect=1)
    assert [path.name for path in tmp_path.iterdir()] == ["network.keras"]
