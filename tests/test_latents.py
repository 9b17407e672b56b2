"""Rotation of latents."""

import numpy as np

from walkgan.latents import rotate, step_angles


def test_rotation_keeps_the_prior_adds_up_and_has_a_direction():
    latents = np.random.default_rng(0).standard_normal((4000, 8)).astype("float32")
    angles = step_angles(8).astype("float32")
    turned = np.array(rotate(latents, 7 * angles))
    np.testing.assert_allclose(np.cov(turned.T), np.eye(8), atol=0.1)
    np.testing.assert_allclose(rotate(turned, 5 * angles), rotate(latents, 12 * angles), atol=1e-5)
    np.testing.assert_allclose(rotate(turned, -7 * angles), latents, atol=1e-5)
    assert np.abs(turned - np.array(rotate(latents, -7 * angles))).mean() > 0.3
