"""Metrics: against written-out formulas and closed forms, and that damage moves every score the right way."""

import cv2
import numpy as np
import pytest
from conftest import REAL_VIDEOS, decode_all

from walkgan import synthetic_walk
from walkgan.images import crop_and_resize
from walkgan.metrics import (
    density_and_coverage,
    frechet_inception_distance,
    kernel_inception_distance,
    nearest,
    novelty,
    precision_and_recall,
    sliced_wasserstein,
)
from walkgan.scoring_network import extract_features

FEATURES = REAL_VIDEOS.parent / "features" / "efficientnet_lite0.keras"


def normal(count, numbers=6, shift=0.0, spread=1.0, seed=0):
    return shift + spread * np.random.default_rng(seed).standard_normal((count, numbers))


def test_kid_is_the_unbiased_mmd_written_out():
    real, fake = normal(23), normal(17, shift=0.5, seed=1)
    kernel = lambda x, y: (float(np.dot(x, y)) / len(x) + 1) ** 3  # noqa: E731
    within = lambda s: np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j])  # noqa: E731
    across = np.mean([kernel(x, y) for x in real for y in fake])
    expected = 1000 * (within(real) + within(fake) - 2 * across)
    np.testing.assert_allclose(kernel_inception_distance(real, fake)[0], expected)


def test_kid_is_unbiased_and_knows_its_error():
    values, errors = np.transpose(
        [kernel_inception_distance(normal(60, seed=s), normal(60, seed=1000 + s)) for s in range(60)]
    )
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(60)
    far = [kernel_inception_distance(normal(60, seed=s), normal(60, shift=0.6, seed=1000 + s)) for s in range(60)]
    values, errors = np.transpose(far)
    assert 0.6 < errors.mean() / values.std() < 1.6


def test_fid_of_gaussians_is_its_closed_form():
    real, fake = normal(40_000), normal(40_000, shift=0.3, spread=1.5, seed=1)
    np.testing.assert_allclose(frechet_inception_distance(real, fake), 6 * (0.3**2 + 0.5**2), rtol=0.03)
    mixed = normal(500) @ np.random.default_rng(2).standard_normal((6, 6))
    other = normal(500, seed=3) @ np.random.default_rng(4).standard_normal((6, 6))
    c1, c2 = np.cov(mixed.T), np.cov(other.T)
    values = np.linalg.eigvals(c1 @ c2)  # tr sqrt(C1 C2), the other way
    expected = (
        ((mixed.mean(0) - other.mean(0)) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * np.sqrt(values).real.sum()
    )
    np.testing.assert_allclose(frechet_inception_distance(mixed, other), expected, rtol=1e-8)
    np.testing.assert_allclose(frechet_inception_distance(mixed, mixed), 0, atol=1e-8)
    assert np.isfinite(frechet_inception_distance(normal(5, 50), normal(5, 50, seed=1)))  # fewer frames than numbers


def test_precision_and_recall_tell_what_is_missing():
    left, right = normal(150, shift=-20), normal(150, shift=20, seed=1)
    both = np.concatenate([left, right])
    fake_left, fake_right = normal(150, shift=-20, seed=2), normal(150, shift=20, seed=3)
    precision, recall = precision_and_recall(both, np.concatenate([fake_left, fake_right]))
    assert precision > 0.8 and recall > 0.8
    precision, recall = precision_and_recall(both, np.concatenate([fake_left, fake_left + 0.01]))  # half is missing
    assert precision > 0.8 and 0.3 < recall < 0.6
    precision, recall = precision_and_recall(left, both[::-1])  # half is nowhere real
    assert 0.3 < precision < 0.6


def test_precision_and_recall_by_hand():
    real, fake = np.array([[0.0], [1], [2], [3], [10]]), np.array([[2.5], [4], [30], [31], [32]])
    # Reach of the reals, k = 3: 3, 2, 2, 3, 9. Of the fakes: 28.5, 27, 27, 28.5, 29.5.
    assert precision_and_recall(real, fake, k=3) == (2 / 5, 1.0)


def test_density_and_coverage_by_hand():
    real, fake = np.array([[0.0], [1], [2], [3], [10]]), np.array([[2.5], [4], [30]])
    # Radii of the reals, k = 2: 2, 1, 1, 2, 8. Fake 2.5 lies within those of 2, 3 and 10, 4 of 3 and 10, 30 of none.
    density, coverage = density_and_coverage(real, fake, k=2)
    np.testing.assert_allclose([density, coverage], [(3 + 2 + 0) / 3 / 2, 3 / 5])


def test_frames_of_the_same_moment_are_no_neighbours():
    walk = np.cumsum(normal(300, 20), axis=0)  # a video: every frame is near the one before
    other = walk + 3 * normal(300, 20, seed=1)  # another walk on the same way
    near = np.abs(np.subtract.outer(np.arange(300), np.arange(300))) < 15
    assert precision_and_recall(walk, other)[0] < 0.1 < 0.8 < precision_and_recall(walk, other, near)[0]
    assert density_and_coverage(walk, other)[1] < 0.5 < 0.8 < density_and_coverage(walk, other, near)[1]


def test_the_error_of_a_video_knows_that_neighbours_are_copies():
    moments = [normal(30, seed=seed) for seed in range(60)]
    fakes = [normal(150, shift=0.6, seed=1000 + seed) for seed in range(60)]
    video = lambda real: np.repeat(real, 5, axis=0) + 0.01 * normal(150)  # noqa: E731
    results = [kernel_inception_distance(video(real), fake) for real, fake in zip(moments, fakes, strict=True)]
    values, errors = np.transpose(results)
    assert 0.6 < errors.mean() / values.std() < 1.6  # half as much by every tenth frame


def test_novelty_tells_copies_from_new_frames():
    walk = np.cumsum(normal(200, 10), axis=0)  # a video: every frame is near the one before
    copies = walk[::5] + 0.01 * normal(40, 10, seed=1)
    news = walk[::5] + 20 * normal(40, 10, seed=2)
    assert novelty(walk, copies) < 0.05
    assert novelty(walk, news) > 1
    distance, index = nearest(copies, walk)
    assert (index == np.arange(0, 200, 5)).all() and distance.max() < 0.1


@pytest.fixture(scope="module")
def walk_frames():
    """Real frames to damage: the built-in walk, 80x160, in video order."""
    return np.stack([crop_and_resize(synthetic_walk.render_frame(number), 80, 160) for number in range(0, 900, 15)])


def damaged(frames):
    """Yield (name, mild, severe) of controlled damage."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(frames.shape)
    blur = lambda sigma: np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames])  # noqa: E731
    add = lambda what: np.clip(frames + what, 0, 255).astype("uint8")  # noqa: E731
    repeat = lambda count: frames[np.arange(len(frames)) % count]  # noqa: E731
    return {
        "blur": (blur(1), blur(4)),
        "noise": (add(10 * noise), add(50 * noise)),
        "colour": (add(np.array([12, 0, -12])), add(np.array([60, 0, -60]))),
        "repeated frames": (repeat(20), repeat(2)),
    }


@pytest.mark.parametrize("name", ["blur", "noise", "colour", "repeated frames"])
def test_sliced_wasserstein_rises_with_damage(walk_frames, name):
    real, clean = walk_frames[::2], walk_frames[1::2]
    baseline = np.mean(sliced_wasserstein(real, clean))
    mild, severe = (np.mean(sliced_wasserstein(real, frames)) for frames in damaged(clean)[name])
    assert baseline < severe and mild < severe
    if name != "repeated frames":
        assert mild > 1.1 * baseline
    assert np.mean(sliced_wasserstein(real, real)) == 0


def test_sliced_wasserstein_finds_the_level_of_the_damage(walk_frames):
    real, clean = walk_frames[::2], walk_frames[1::2]
    baseline, blurred = sliced_wasserstein(real, clean), sliced_wasserstein(real, damaged(clean)["blur"][0])
    assert len(baseline) == 3  # 80, 40 and 20 pixels high
    assert blurred[0] / baseline[0] > 2 * blurred[2] / baseline[2]
    with pytest.raises(ValueError, match="equally many"):
        sliced_wasserstein(real, clean[:5])


@pytest.mark.slow
@pytest.mark.skipif(not FEATURES.exists(), reason="the feature network lies beside the project only where it is made")
def test_features_of_real_video_give_the_known_scores_and_rise_with_damage():
    import keras

    network = keras.models.load_model(FEATURES, compile=False)
    frames = np.stack([crop_and_resize(frame, 80, 160) for frame in decode_all(REAL_VIDEOS / "nyc_walk.mp4")[::2]])
    real, clean = extract_features(frames[::2], network), frames[1::2]
    scores = {"clean": extract_features(clean, network)}
    for name, (mild, severe) in damaged(clean).items():
        scores |= {f"mild {name}": extract_features(mild, network), f"severe {name}": extract_features(severe, network)}
    kid = {name: kernel_inception_distance(real, features)[0] for name, features in scores.items()}
    fid = {name: frechet_inception_distance(real, features) for name, features in scores.items()}
    np.testing.assert_allclose([kid["clean"], kid["mild blur"]], [-4, 137], atol=8)  # known of this network and clip
    for distance in (kid, fid):
        for name in damaged(clean):
            assert distance["clean"] < distance[f"severe {name}"], name
            assert distance[f"mild {name}"] < distance[f"severe {name}"], name
    assert precision_and_recall(real, scores["clean"])[0] > 0.9 > precision_and_recall(real, scores["severe noise"])[0]
    assert precision_and_recall(real, scores["severe repeated frames"])[1] < 0.2
