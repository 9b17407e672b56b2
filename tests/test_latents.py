"""Rotation of latents."""

import numpy as np
from keras import ops

from walkgan.latents import SCENE_PERIOD, latent_from_seed, rotate, rotated_latent, step_angles
from walkgan.windows import append_time_channel


def test_rotation_keeps_the_prior_adds_up_and_has_a_direction():
    latents = np.random.default_rng(0).standard_normal((4000, 8)).astype("float32")
    angles = step_angles(8).astype("float32")
    turned = np.array(rotate(latents, 7 * angles))
    np.testing.assert_allclose(np.cov(turned.T), np.eye(8), atol=0.1)
    np.testing.assert_allclose(rotate(turned, 5 * angles), rotate(latents, 12 * angles), atol=1e-5)
    np.testing.assert_allclose(rotate(turned, -7 * angles), latents, atol=1e-5)
    assert np.abs(turned - np.array(rotate(latents, -7 * angles))).mean() > 0.3


def test_a_walk_rotates_its_latent():
    start = latent_from_seed(128, 0)
    for steps in (0, 0.5, 40):
        expected = rotate(start, (steps * step_angles(128)).astype("float32"))
        np.testing.assert_allclose(rotated_latent(start, steps), expected, atol=1e-5)
    turn, later = rotated_latent(start, SCENE_PERIOD), rotated_latent(start, 1000 * SCENE_PERIOD)  # of the slowest pair
    assert rotated_latent(start, 1).dtype == np.float32
    np.testing.assert_allclose(later[[63, 127]], start[[63, 127]], atol=1e-5)
    np.testing.assert_allclose(turn[[63, 127]], start[[63, 127]], atol=1e-5)


def test_time_channel_scales_with_the_window():
    frames, offsets = np.zeros((2, 8, 8, 15), "float32"), np.array([[0, 1, 2, 3, 4], [0, 4, 8, 12, 16]], "float32")
    channel = ops.convert_to_numpy(append_time_channel([frames], ops.convert_to_tensor(offsets)))[..., 15]
    np.testing.assert_allclose(channel[:, 0, 0], [0.25, 1.0])
