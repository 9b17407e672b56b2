"""Motion metrics: reversed, frozen, shuffled and faster walks are told apart."""

import cv2
import numpy as np
import pytest
from conftest import REAL_VIDEOS, decode_all

from walkgan.images import crop_and_resize
from walkgan.motion_metrics import motion, motion_distances, structural_similarity


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


def test_structural_similarity_of_known_images():
    rng = np.random.default_rng(0)
    blurred = cv2.GaussianBlur(rng.uniform(0, 255, (60, 80)), (0, 0), 2)
    picture = cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX).astype("uint8")
    assert structural_similarity(picture, picture) == 1
    # Of flat pictures only the brightness counts: (2 a b + c) / (a^2 + b^2 + c), c = (0.01 * 255)^2.
    flat = structural_similarity(np.full((20, 20), 100, "uint8"), np.full((20, 20), 50, "uint8"))
    np.testing.assert_allclose(flat, (2 * 100 * 50 + 6.5025) / (100**2 + 50**2 + 6.5025), rtol=1e-6)
    assert structural_similarity(picture, 255 - picture) < 0
