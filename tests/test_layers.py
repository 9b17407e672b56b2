"""Layers of our own: the optical flow that a discriminator sees."""

import keras
import numpy as np
import pytest
from keras import ops

from models import build_discriminators
from walkgan.layers import OpticalFlow

HEIGHT, WIDTH = 20, 40


def flow(*frames):
    """Return unexplained change, down and right (batch, rows, columns, window - 1), away from the frame's edges."""
    window = ops.convert_to_tensor(np.concatenate(frames, -1).astype("float32"))
    found = ops.convert_to_numpy(OpticalFlow()(window))[:, 4:-4, 4:-4]
    return found.reshape(*found.shape[:3], -1, 3).transpose(4, 0, 1, 2, 3)


def scene(down=0.0, right=0.0, seed=0):
    """Return a frame (1, HEIGHT, WIDTH, 3) of smooth shapes that have moved that far."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH] - np.array([down, right]).reshape(2, 1, 1)
    waves = [np.sin(rng.uniform(-0.9, 0.9) * y + rng.uniform(-0.9, 0.9) * x + rng.uniform(0, 6)) for _ in range(6)]
    return np.mean(waves, 0)[None, ..., None].repeat(3, -1)


def test_flow_is_how_far_down_and_right_things_move():
    unexplained, down, right = flow(scene(), scene(0.3, -0.5), scene(0.7, -0.2))
    assert np.median(np.arctanh(down[..., 0])) == pytest.approx(0.3, abs=0.05)
    assert np.median(np.arctanh(right[..., 0])) == pytest.approx(-0.5, abs=0.05)
    assert np.median(np.arctanh(down[..., 1])) == pytest.approx(0.4, abs=0.05)
    assert np.median(np.arctanh(right[..., 1])) == pytest.approx(0.3, abs=0.05)
    assert np.median(unexplained) < 0.15


def test_what_melts_is_less_explained_than_what_moves():
    melted = 0.8 * scene() + 0.2 * scene(seed=1)  # changes less than what moves here
    moved, melted = (flow(scene(), later)[0] for later in (scene(0.3, -0.5), melted))
    assert np.median(melted) > 1.5 * np.median(moved)


def test_frames_without_contrast_do_not_move():
    grey = np.full((1, HEIGHT, WIDTH, 3), 0.5)
    unexplained, down, right = flow(grey, grey + 0.1)
    np.testing.assert_allclose([down, right], 0, atol=1e-5)
    np.testing.assert_allclose(unexplained, 4 * 0.1, rtol=0.01)


@pytest.mark.parametrize("size", [(8, 16), (16, 32), (32, 64), (45, 61)])
def test_discriminators_of_windows_see_flow_and_those_of_frames_do_not(size, tmp_path):
    for discriminator in build_discriminators((*size, 10), 4):
        windows = np.random.default_rng(0).uniform(-1, 1, (2, *discriminator.input_shape[1:])).astype("float32")
        before = discriminator.predict(windows, verbose=0)
        kernels = [layer.kernel for layer in discriminator.layers if layer.name.startswith("from_flow")]
        assert kernels and not any(ops.convert_to_numpy(kernel).any() for kernel in kernels)  # for warm starts
        for kernel in kernels:
            kernel.assign(ops.ones(kernel.shape))
        after = discriminator.predict(windows, verbose=0)
        assert (before != after).all()
        discriminator.save(tmp_path / "discriminator.keras")
        again = keras.models.load_model(tmp_path / "discriminator.keras", compile=False)
        np.testing.assert_allclose(again.predict(windows, verbose=0), after, rtol=1e-4, atol=1e-5)
        for kernel in kernels:
            kernel.assign(ops.zeros(kernel.shape))
    names = [layer.name for layer in build_discriminators((*size, 3), 4)[-1].layers]
    assert not any("flow" in name for name in names)
