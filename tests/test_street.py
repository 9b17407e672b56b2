"""The street of a walk: frames show it in perspective, and what comes nearer stays what it is."""

import cv2
import keras
import numpy as np
import pytest
from conftest import FRAME_SHAPE
from keras import ops
from test_keyframes import LATENT_DIM, walk

from models import build_generator, frame_shapes_by_level
from walkgan.keyframes import keyframe_pair
from walkgan.latents import rotated_latent, rotation_periods
from walkgan.street import ASPECT, STRIPS, latents_along, street_seen
from walkgan.warm_start import copy_weights

WALKED = np.array([1.0, 0.2, 0.5, 0.3])  # from one keyframe to the next, of what is below, above, right and left
HEIGHT, WIDTH = 40, 80


def painted(place, around):
    """Return what is painted at places along the way, in keyframes, and directions around it, in turns."""
    return np.sin(3 * 2 * np.pi * around) + 0.5 * place


def painted_strip(number):
    rows, columns, reach = STRIPS[number]
    return painted(((np.arange(rows * reach) + 0.5) / rows)[:, None], (np.arange(columns) + 0.5) / columns)[..., None]


def expected_view(time):
    """Return what is painted, as seen after some walking, and how far ahead it is, in keyframes."""
    down, right = ((np.arange(side) + 0.5 - side / 2) / HEIGHT for side in (HEIGHT, WIDTH))
    down, right = np.meshgrid(down, right / ASPECT, indexing="ij")
    near = np.where(right > 0, WALKED[2], WALKED[3]) * abs(right)
    near += np.where(down > 0, WALKED[0], WALKED[1]) * np.maximum(abs(down) - abs(right), 0)
    return painted(1 / near + time, np.arctan2(down, right) / (2 * np.pi)), 1 / near


def seeing(turned=(0.0, 0.0), horizon=0.0, window=1):
    """Return street_seen as a model of strips, what is far away, latents of 1, fraction, distances and scene."""
    strips = [keras.Input((rows * reach, columns, 1)) for rows, columns, reach in STRIPS]
    others = [keras.Input(shape) for shape in ((HEIGHT, WIDTH, 1), (LATENT_DIM,), (1,), (4,), (1,))]
    model = keras.Model([*strips, *others], street_seen(strips, *others, window))
    model.get_layer("camera").kernel.assign(np.tile(np.divide(turned, LATENT_DIM), (LATENT_DIM, 1)))
    model.get_layer("horizon").kernel.assign([[horizon]])
    return model


def seen(strips, far=0.0, fraction=0.0, walked=WALKED, **options):
    """Return one frame of strips, {number: (rows, columns, 1)}; the others are 0."""
    shapes = [(rows * reach, columns, 1) for rows, columns, reach in STRIPS]
    strips = [np.broadcast_to(strips.get(number, 0.0), shape)[None] for number, shape in enumerate(shapes)]
    far = np.broadcast_to(far, (2, HEIGHT, WIDTH, 1))
    inputs = [*strips, far, np.ones((1, LATENT_DIM)), [[fraction]], [walked], [[1]]]
    frame = ops.convert_to_numpy(seeing(**options)([np.asarray(each, "float32") for each in inputs]))[0, ..., 0]
    assert frame.shape == (HEIGHT + 2, WIDTH + 2)
    return frame[1:-1, 1:-1]


@pytest.mark.parametrize("number", range(len(STRIPS)))
@pytest.mark.parametrize("sign", [1, -1])  # forward and backward
def test_a_street_looks_as_from_where_one_has_walked_to(number, sign):
    expected, ahead = expected_view(time=sign * 0.5)
    shown = seen({number: painted_strip(number)}, fraction=0.5, walked=sign * WALKED)
    near = (seen({number: 1.0}) == 1) & (ahead > 2.5)
    assert near.sum() > 300
    assert np.median(abs(shown - expected)[near]) < 0.1 < np.median(abs(shown - expected_view(0)[0])[near])


@pytest.mark.parametrize("number", range(len(STRIPS)))
def test_a_strip_is_shown_where_its_rows_are_no_finer_than_the_frame(number):
    rows, _, reach = STRIPS[number]
    shown, (_, ahead) = seen({number: 1.0}), expected_view(time=0)
    shown, ahead = shown[HEIGHT // 2, WIDTH // 2 :], ahead[HEIGHT // 2, WIDTH // 2 :]  # from the middle to the right
    pixels = 1 / np.maximum(-np.gradient(ahead) * rows, 1e-9)  # of each row, in columns of the frame
    fine, coarse = pixels < 0.35, (pixels > 1.5) & (ahead < 2 / 3 * (reach - 1))
    assert fine.any() and (shown[fine] == 0).all()
    assert coarse.sum() >= 5 and (shown[coarse] == 1).all()


def test_what_stands_on_a_wall_stays_upright():
    rows, columns, reach = STRIPS[1]
    posts = np.random.default_rng(0).standard_normal((rows * reach, 1, 1)).repeat(columns, 1)
    shown = seen({1: posts}, fraction=0.3)
    assert np.ptp(shown[:, 70:], 0).max() < 1e-3 < np.ptp(shown[:, 30:50], 0).max()


def test_what_is_far_away_is_seen_in_the_middle_alone():
    shown = seen({}, far=1.0)
    assert shown[20, 40] == 1 and (shown[[0, -1]] == 0).all()


def test_a_turn_of_the_camera_moves_the_whole_frame():
    far = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((HEIGHT, WIDTH)), (0, 0), 2)[..., None]
    for drawn in ({"strips": {1: painted_strip(1)}}, {"strips": {}, "far": far}):
        still, moved = seen(**drawn), seen(**drawn, turned=(0.1, -0.05))  # 4 pixels down, 2 to the left
        np.testing.assert_allclose(moved[8:-8, 8:-8], np.roll(still, (4, -2), (0, 1))[8:-8, 8:-8], atol=0.01)


def test_the_horizon_moves_the_street_and_leaves_what_is_far_away():
    strip = {1: painted_strip(1)}
    np.testing.assert_allclose(seen(strip, horizon=-0.1)[:-8], seen(strip, turned=(-0.1, 0.0))[:-8], atol=0.01)
    columns = np.arange(WIDTH)[None, :, None]
    assert seen({}, far=columns, horizon=-0.1)[16, 43] == pytest.approx(43)
    assert seen({}, far=columns, turned=(0.0, 0.1))[20, 43] == pytest.approx(39)


@pytest.mark.parametrize("batch", [1, HEIGHT, WIDTH])
def test_a_batch_as_large_as_a_side_is_the_same_as_one_by_one(batch):
    """Keras took one number for each of the batch for one for each row or column."""
    model, rng = seeing(turned=(0.02, 0.01), horizon=0.1), np.random.default_rng(0)
    *strips, _, latents, fraction, walked, scene = [
        rng.uniform(0, 1, (batch, *each.shape[1:])) for each in model.inputs
    ]
    far = rng.uniform(0, 1, (2, batch, HEIGHT, WIDTH, 1))

    def frames(of):
        both = far[:, of].reshape(-1, HEIGHT, WIDTH, 1)
        inputs = *(each[of] for each in strips), both, latents[of], fraction[of], walked[of], scene[of]
        return ops.convert_to_numpy(model([np.asarray(each, "float32") for each in inputs]))

    alone = np.concatenate([frames(slice(i, i + 1)) for i in range(batch)])
    np.testing.assert_allclose(frames(slice(batch)), alone, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_strip_one_keyframe_later_is_the_same_strip(sign):
    generator = build_generator(LATENT_DIM, FRAME_SHAPE, 4, walks=True)
    generator.get_layer("distances").kernel.assign(sign * WALKED[None])
    names = [f"strip_{number}" for number in range(len(STRIPS))]
    model = keras.Model(generator.input, [generator.get_layer(name).output for name in names])
    start = walk([0])[0]
    _, period = keyframe_pair(LATENT_DIM)
    before, after = (model.predict(rotated_latent(start, steps)[None], verbose=0) for steps in (0, period))
    for old, new, (rows, _, reach) in zip(before, after, STRIPS, strict=True):
        old, new = (old, new) if sign > 0 else (new, old)
        inner = slice(rows, (reach - 1) * rows - 1)  # farther, a strip ends, and nearer
        scale = np.abs(np.diff(old[0], axis=0)).max()
        np.testing.assert_allclose(old[0, rows:][inner], new[0][inner], atol=0.01 * scale)


@pytest.mark.parametrize("shape", [(36, 64, 3), (64, 36, 3), (45, 81, 3)])
def test_the_middle_of_a_street_is_that_of_the_frame(shape):
    generator = build_generator(LATENT_DIM, shape, 4, walks=True)  # which pads these at the bottom and on the right
    small = frame_shapes_by_level(shape)[1][:2]
    assert generator.get_layer("far").output.shape[1:3] == small
    assert generator.output_shape[1:] == shape


def test_a_place_is_drawn_from_the_latent_of_when_a_walk_passes_it():
    _, period = keyframe_pair(LATENT_DIM)
    latents = latents_along(walk([0]), WALKED[None].astype("float32"))
    np.testing.assert_allclose(latents[0, 3], walk([3.5 * period])[0], atol=1e-4)
    backward = latents_along(walk([0]), -WALKED[None].astype("float32"))
    np.testing.assert_allclose(backward[0, 3], walk([-3.5 * period])[0], atol=1e-4)
    assert rotation_periods(LATENT_DIM).max() > 24 * period  # it never comes back while it is seen


def test_a_warm_start_copies_what_is_drawn_and_not_how_the_camera_moves():
    source, network = (build_generator(LATENT_DIM, FRAME_SHAPE, 4, walks=True) for _ in range(2))
    source.get_layer("distances").kernel.assign(-WALKED[None])
    source.get_layer("horizon").kernel.assign([[0.2]])
    source.get_layer("camera").kernel.assign(np.ones((LATENT_DIM, 2)))
    assert copy_weights(source, network) == []
    for name in ("dense_strip", "conv_strip_1", "dense"):
        np.testing.assert_array_equal(*(each.get_layer(name).get_weights()[0] for each in (source, network)))
    for name, initial in (("distances", 0.5), ("horizon", 0), ("camera", 0)):
        np.testing.assert_array_equal(network.get_layer(name).kernel, initial)
