"""Motion metrics: reversed, frozen, shuffled and faster walks are told apart."""

import cv2
import numpy as np
import pytest
from conftest import REAL_VIDEOS, decode_all

from walkgan.images import crop_and_resize
from walkgan.motion_metrics import motion, motion_distances, patch_distance, structural_similarity
from walkgan.point_tracks import tracked_motion


@pytest.fixture(scope="module")
def panned_walks():
    """Walks into a picture: 12 of 48 frames of 80x160, each from another place and at a slightly other speed."""
    rng = np.random.default_rng(0)
    blobs = cv2.GaussianBlur(rng.uniform(0, 255, (400, 800, 3)).astype("float32"), (0, 0), 3)
    scene = np.clip((blobs - 127) * 6 + 127, 0, 255).astype("uint8")

    def frame(x, y, zoom):
        matrix = np.float32([[1 / zoom, 0, x - 80 / zoom], [0, 1 / zoom, y - 40 / zoom]])
        return cv2.warpAffine(scene, matrix, (160, 80), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)

    def walk():
        x, y, speed = rng.uniform(200, 600), rng.uniform(120, 280), rng.uniform(0.018, 0.022)
        return np.stack([frame(x, y, np.exp(speed * step)) for step in range(48)])

    return [walk() for _ in range(12)]


def test_motion_tells_reversed_frozen_shuffled_and_double_speed_walks(panned_walks):
    shuffled = np.random.default_rng(1).permutation(24)
    real, other = [walk[:24] for walk in panned_walks[::2]], panned_walks[1::2]
    measured = motion(real)
    assert (measured["expansion"] > 0).mean() > 0.95
    # Walking in by 2% a step moves a pixel by 2% of its distance from the centre.
    assert 0.5 < np.median(measured["speed"]) / (0.02 * 45 / 80) < 1.5
    baseline = motion_distances(measured, motion([walk[:24] for walk in other]))
    changed = {
        "reversed": [walk[:24][::-1] for walk in other],
        "frozen": [walk[:1].repeat(24, 0) for walk in other],
        "shuffled": [walk[:24][shuffled] for walk in other],
        "double speed": [walk[::2] for walk in other],
    }
    tells = {
        "reversed": ["expansion"],
        "frozen": ["similarity", "speed", "expansion", "colour"],
        "shuffled": ["similarity", "speed", "expansion"],
        "double speed": ["similarity", "speed", "expansion"],
    }
    for name, walks in changed.items():
        distances = motion_distances(measured, motion(walks))
        for score in tells[name]:
            assert distances[score] > 3 * baseline[score], (name, score, distances, baseline)
    assert (motion(changed["reversed"])["expansion"] < 0).mean() > 0.95
    assert motion_distances(measured, measured) == dict.fromkeys(baseline, 0.0)


def rubber(walks, amplitude, steps):
    """Return the walks bent like rubber: each place is pushed to and fro, by pixels, and elsewhere after some steps."""
    bent = []
    for seed, walk in enumerate(walks):
        length, height, width = walk.shape[:3]
        pushes = np.random.default_rng(seed).standard_normal((length // steps + 2, 5, 9, 2)).astype("float32")
        rows, columns = np.mgrid[:height, :width].astype("float32")
        for step, frame in enumerate(walk):
            index, part = divmod(step / steps, 1)
            push = (1 - part) * pushes[int(index)] + part * pushes[int(index) + 1]
            x, y = np.moveaxis(amplitude * cv2.resize(push, (width, height), interpolation=cv2.INTER_CUBIC), -1, 0)
            bent.append(cv2.remap(frame, columns + x, rows + y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))
    return np.split(np.stack(bent), len(walks))


def assert_worse(bent, scores, straightness, bending):
    """Bent walks are less straight by at least that much, and bend more by at least that factor."""
    assert bent["straightness"] < scores["straightness"] - straightness, (bent, scores)
    assert bent["bending"] > bending * scores["bending"], (bent, scores)


def test_points_of_bent_and_melting_walks(panned_walks):
    real, other = panned_walks[:4], panned_walks[4:8]
    scores, baseline = tracked_motion(real), patch_distance(real, other)
    assert scores["straightness"] > 0.97 and scores["bending"] < 0.05
    for bend in ((2, 4), (6, 12)):
        bent = rubber(other, *bend)
        assert_worse(tracked_motion(bent), scores, straightness=0.1, bending=2)
        assert patch_distance(real, bent) > 1.5 * baseline
    opacity = (0.5 - 0.5 * np.cos(np.arange(48) * np.pi / 16))[:, None, None, None]  # to and fro in 16 steps each
    melting = [
        ((1 - opacity) * walk + opacity * after).astype("uint8") for walk, after in zip(real, other, strict=True)
    ]
    assert tracked_motion(melting)["points followed"] < 0.9 * scores["points followed"]


def test_growth_of_walks_forward_backward_and_on_the_spot(panned_walks):
    def on_the_spot(walk):
        """Return 48 frames in which the walk fades back every 20 steps."""
        frames = []
        for step in range(48):
            since = step % 20
            faded = max(since - 10, 0) / 10
            frames.append((1 - faded) * walk[since] + faded * walk[max(since - 20, 0)])
        return np.stack(frames).astype("uint8")

    walks = panned_walks[:4]
    expected = np.exp(0.02 * 40)
    forward, backward, spot = (
        tracked_motion(each)["growth"]
        for each in (walks, [walk[::-1] for walk in walks], [on_the_spot(walk) for walk in walks])
    )
    assert abs(forward / expected - 1) < 0.1 and abs(backward * expected - 1) < 0.1
    assert spot < 0.75 * forward


def test_patches_of_identical_frozen_and_slow_walks(panned_walks):
    real, other = [walk[:24] for walk in panned_walks[:4]], panned_walks[4:8]
    assert patch_distance(real, real) == 0
    baseline = patch_distance(real, [walk[:24] for walk in other])
    assert patch_distance(real, [walk[:12].repeat(2, 0) for walk in other]) > 1.5 * baseline
    assert patch_distance(real, [walk[:1].repeat(24, 0) for walk in other]) > 3 * baseline


def test_what_cannot_be_followed_has_no_paths():
    noise = np.random.default_rng(0).integers(0, 256, (42, 80, 160, 3), "uint8")
    scores = tracked_motion([noise])
    assert scores["points followed"] < 0.05 and np.isnan(scores["straightness"]) and np.isnan(scores["bending"])
    assert np.isnan(scores["growth"])
    grey = np.full((42, 80, 160, 3), 127, "uint8")
    assert tracked_motion([grey])["points followed"] == 0
    still = tracked_motion([noise[:1].repeat(42, 0)])
    assert still["points followed"] > 0.95 and np.isnan(still["straightness"]) and np.isnan(still["bending"])
    assert still["growth"] == 1


@pytest.mark.slow
@pytest.mark.skipif(not REAL_VIDEOS.exists(), reason="the real videos lie beside the project only where it is made")
def test_motion_of_a_real_walk():
    frames = np.stack([crop_and_resize(frame, 80, 160) for frame in decode_all(REAL_VIDEOS / "nyc_walk.mp4")])
    walks = np.split(frames, 8)
    measured = motion(walks[::2])
    baseline = motion_distances(measured, motion(walks[1::2]))
    backwards = motion_distances(measured, motion([walk[::-1] for walk in walks[1::2]]))
    frozen = motion_distances(measured, motion([walk[:1].repeat(42, 0) for walk in walks[1::2]]))
    assert (measured["expansion"] > 0).mean() > 0.8
    assert backwards["expansion"] > 3 * baseline["expansion"]
    assert all(frozen[name] > 2 * baseline[name] for name in baseline)


@pytest.mark.slow
@pytest.mark.skipif(not REAL_VIDEOS.exists(), reason="the real videos lie beside the project only where it is made")
@pytest.mark.parametrize("name", ["nyc_walk", "walk_newyork_sidewalk"])
def test_a_real_walk_scores_better_than_the_same_one_bent(name):
    frames = [crop_and_resize(frame, 80, 160) for frame in decode_all(REAL_VIDEOS / f"{name}.mp4")[:320]]
    walks = np.split(np.stack(frames), 8)
    real, other = walks[::2], walks[1::2]
    scores, baseline = tracked_motion(other), patch_distance(real, other)
    for bend in ((1, 4), (4, 16)):
        bent = rubber(other, *bend)
        assert_worse(tracked_motion(bent), scores, straightness=0.05, bending=1.3)
        assert patch_distance(real, bent) > 1.1 * baseline


def test_structural_similarity_of_known_images():
    rng = np.random.default_rng(0)
    blurred = cv2.GaussianBlur(rng.uniform(0, 255, (60, 80)), (0, 0), 2)
    picture = cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX).astype("uint8")
    assert structural_similarity(picture, picture) == 1
    # Of flat pictures only the brightness counts: (2 a b + c) / (a^2 + b^2 + c), c = (0.01 * 255)^2.
    flat = structural_similarity(np.full((20, 20), 100, "uint8"), np.full((20, 20), 50, "uint8"))
    np.testing.assert_allclose(flat, (2 * 100 * 50 + 6.5025) / (100**2 + 50**2 + 6.5025), rtol=1e-6)
    assert structural_similarity(picture, 255 - picture) < 0
