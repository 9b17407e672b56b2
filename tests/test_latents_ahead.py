"""What comes nearer on a walk is drawn from the same latent on each keyframe, and keyframes fit each other."""

import keras
import numpy as np
import pytest
from conftest import FRAME_SHAPE, random_batches, weights_of
from keras import ops
from test_keyframes import LATENT_DIM, WALKED, street, walk

from models import build_generator
from walkgan import keyframes, latents_ahead
from walkgan.directions import DIRECTIONS, passed_at, positions, shares_of_directions
from walkgan.gan_builder import build_gan
from walkgan.latents import rotated_latent, rotation_periods
from walkgan.settings import TrainingSettings
from walkgan.warm_start import copy_weights


@pytest.mark.parametrize("sign", [1, -1])  # forward and backward
def test_what_comes_nearer_keeps_its_latent(sign):
    height, width = 80, 160
    _, period = keyframes.keyframe_pair(LATENT_DIM)
    walked = np.tile(sign * WALKED, (2, 1)).astype("float32")
    ahead = latents_ahead.latents_ahead(walk([0, period]), walked, height, width)
    down, right = positions(height, width)
    passed = passed_at(down[None, :, None], right[None, None], walked[:1])
    scale = ops.convert_to_numpy(1 / (1 - passed))
    moved = keyframes.sample(ahead[1:], scale * down[:, None], scale * right, 1)[0]
    before, after, moved = (ops.convert_to_numpy(each) for each in (*ahead, moved))
    farthest = np.maximum(abs(down[:, None]), abs(right) / 2)
    seen = (farthest > 0.15) & (scale[0] * farthest < 0.45)
    pairs = np.tile((rotation_periods(LATENT_DIM) > 200) & (rotation_periods(LATENT_DIM) < 1000), 2)
    wrong, still = (np.median(np.abs(each - before)[seen][:, pairs]) for each in (moved, after))
    assert pairs.sum() == 4 and wrong < 0.2 * still, (wrong, still)


def test_latents_far_ahead_fade_out_where_they_change_fast():
    ahead = latents_ahead.latents_ahead(walk([0]), np.ones((1, 4), "float32"), 41, 81)  # with a middle
    sizes = np.linalg.norm(ops.convert_to_numpy(ahead)[0].reshape(41, 81, 2, -1), axis=2)
    pairs = np.linalg.norm(walk([0]).reshape(2, -1), axis=0)
    fast = rotation_periods(LATENT_DIM) < 200
    assert np.isfinite(sizes).all() and (sizes[21, 41] < 0.1 * pairs)[fast].all()
    np.testing.assert_allclose(sizes[-1, 40, ~fast], pairs[~fast], rtol=0.1)
    never_passed = latents_ahead.latents_ahead(walk([0]), np.zeros((1, 4), "float32"), 41, 81)
    np.testing.assert_array_equal(never_passed, 0)


def test_each_position_is_between_two_directions():
    shares = shares_of_directions(41, 81)
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
    assert (shares > 1e-6).sum(-1).max() == 2 and (shares.max((0, 1)) > 0.9).all()
    assert shares[20, 80, 0] == shares[40, 40, DIRECTIONS // 4] == 1  # right, and below
    around = np.concatenate([shares[0], shares[1:, -1], shares[-1, -2::-1], shares[-2:0:-1, 0]])
    assert np.abs(around - np.roll(around, 1, 0)).max() < 0.15


def test_near_the_camera_only_latents_ahead_tell_positions_apart():
    far = np.random.default_rng(0).standard_normal((2, 20, 40, 3)).astype("float32")
    walked = np.ones((2, 4), "float32")
    still = np.zeros((2, LATENT_DIM), "float32")
    still[:, LATENT_DIM // 2 - 1] = 1  # the slowest pair, which is about the same whenever something passes
    inputs = [keras.Input(each.shape[1:]) for each in (far, still, walked)]
    model = keras.Model(inputs, latents_ahead.near_and_far(*inputs))
    constant = model([0 * far, still, 0 * walked])  # of each direction: nothing is ever passed
    np.testing.assert_allclose(model([far, 2 * still, 0 * walked]), far + constant, atol=1e-5)
    shown = ops.convert_to_numpy(model([far, still, walked]))
    below, right, left = shown[0, 14:, 20], shown[0, 10, 28:], shown[0, 10, :12]
    size = np.abs(shown[0, 14:]).max()
    assert 0.01 < size < 0.1 and all(np.ptp(each, 0).max() < 0.25 * size for each in (below, right, left))
    assert all(np.abs(each.mean(0) - below.mean(0)).max() > 0.25 * size for each in (right, left))


def test_the_keyframe_after_shows_what_is_left_of_the_one_before():
    generator = build_generator(LATENT_DIM, (80, 160, 3), 4, walks=True)
    for layer in generator.layers:
        if layer.name.startswith(("ahead", "to_rgb")):
            layer.set_weights([20 * weight for weight in layer.get_weights()])
        if layer.name in ("dense", "sway", "turning"):
            layer.set_weights([0 * weight for weight in layer.get_weights()])
    (pair, period), periods = keyframes.keyframe_pair(LATENT_DIM), rotation_periods(LATENT_DIM)
    starts = np.random.default_rng(0).standard_normal((16, LATENT_DIM)).astype("float32")
    starts[:, np.tile((periods < 20) | (periods > 400), 2)] = 0
    starts[:, [pair, LATENT_DIM // 2 + pair]] = 1, 0  # at a keyframe
    halfway = np.stack([rotated_latent(start, period / 2) for start in starts])

    def drawn(latents, late):
        layer = generator.get_layer("late")
        layer.set_weights([0 * layer.get_weights()[0], np.array([late])])
        return generator.predict(latents, verbose=0)

    first, before, after = drawn(starts, late=10), drawn(halfway, late=10), drawn(halfway, late=-10)
    unlike, moved = (np.abs(before - other).mean() for other in (after, first))
    assert unlike < 0.6 * moved, (unlike, moved)


def test_keyframes_that_do_not_fit_each_other_cost_a_loss():
    def loss(before, after):
        frames = np.stack([before, after]).astype("float32")[:, None]
        walked, turning = WALKED.astype("float32")[None], np.zeros((1, 1, 1), "float32")
        model_inputs = [keras.Input(shape) for shape in ((40, 80, 1), (40, 80, 1), (4,), (1, 1))]
        first, second, walks, turned = model_inputs
        model = keras.Model(model_inputs, keyframes.with_consistency_loss(first, second, walks, [turned, turned]))
        shown = model([*frames, walked, turning])
        np.testing.assert_array_equal(shown, frames[0])
        return float(model.losses[0])

    fitting, standing = loss(street(0), street(1)), loss(street(0), street(0))
    assert fitting < 0.4 * standing, (fitting, standing)
    assert loss(10 * street(0), 10 * street(1)) == pytest.approx(fitting, rel=0.01)
    other = np.random.default_rng(0).standard_normal((40, 80, 1))
    assert 1 < loss(street(0), other) < 3


def test_keyframes_that_do_not_fit_move_what_is_drawn_and_not_how_one_walks():
    settings = TrainingSettings(window=3, latent_dim=4, width=4, augment=())
    gan = build_gan(settings, FRAME_SHAPE, steps_per_second=29.97)
    gan.loss_function = lambda *logits: (0.0 * logits[0][0, 0], 0.0 * logits[2][0, 0])
    names = ["dense", "ahead_0", "conv_1", "walked", "turning", "sway", "late", "to_rgb_1"]
    layers = [gan.generator.get_layer(name) for name in names]
    before = [weights_of(layer) for layer in layers]
    offsets = np.tile(np.array([0, 2, 4], "float32"), (8, 1))
    batches = ((batch | {"frame_offsets": offsets},) for (batch,) in random_batches(shape=(*FRAME_SHAPE[:2], 9)))
    gan.fit(batches, steps_per_epoch=2, verbose=0)
    moved = [(old[0] != weights_of(layer)[0]).any() for old, layer in zip(before, layers, strict=True)]
    assert dict(zip(names, moved, strict=True)) == {name: name in names[:3] for name in names}


def test_a_warm_start_copies_what_is_drawn_and_not_which_way_walks_go():
    source, network = (build_generator(LATENT_DIM, FRAME_SHAPE, 4, walks=True) for _ in range(2))
    source.get_layer("direction").kernel.assign([[-1.0]])
    assert copy_weights(source, network) == []
    for name in ("ahead_0", "walked", "dense"):
        np.testing.assert_array_equal(*(each.get_layer(name).get_weights()[0] for each in (source, network)))
    assert network.get_layer("direction").kernel[0, 0] == 1
