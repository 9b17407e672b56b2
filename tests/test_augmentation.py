"""DiffAugment, and the views of the feature discriminators."""

import keras
import numpy as np
import pytest
from keras import ops

from walkgan.augmentation import diff_augment, feature_views

EVERYTHING = ("colour", "translation", "cutout")
needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="takes its gradients with TensorFlow's tape"
)


@needs_tensorflow
def test_augmentation_changes_colour_position_and_cutouts_and_passes_gradients():
    import tensorflow as tf

    frames = np.zeros((64, 16, 32, 3), "float32")
    frames[:, 6:10, 14:18] = [0.9, 0.1, -0.5]
    seed = keras.random.SeedGenerator(0)
    variable = tf.Variable(frames)
    with tf.GradientTape() as tape:
        changed = diff_augment(variable, EVERYTHING, seed)
        total = tf.reduce_sum(changed)
    changed, gradient = changed.numpy(), tape.gradient(total, variable).numpy()
    assert changed.shape == frames.shape and np.isfinite(gradient).all() and (gradient != 0).any((1, 2, 3)).all()
    cut = (changed == 0).all(-1)
    assert cut.any() and cut.mean() < 0.7
    assert changed.std(0).max() > 0.1  # each in its own colours
    places = set()
    for _ in range(20):
        bright = np.abs(diff_augment(frames, ["translation"], seed).numpy() - frames[:, :1, :1]).mean((0, 3))
        places.add(tuple(np.argwhere(bright > 0.5 * bright.max()).mean(0).round().astype(int)))
    assert len(places) > 5
    assert (
        (
            diff_augment(frames, EVERYTHING, keras.random.SeedGenerator(1))
            == diff_augment(frames, EVERYTHING, keras.random.SeedGenerator(1))
        )
        .numpy()
        .all()
    )


@pytest.mark.parametrize("window", [1, 3])
def test_large_frames_are_seen_whole_and_in_crops(window):
    frames = np.arange(4 * 128 * 256 * 3, dtype="float32").reshape(4, 128, 256, 3)
    windows = np.concatenate([frames, *[0 * frames] * (window - 1)], -1)
    scene = np.arange(4)[:, None]
    (whole, crops) = feature_views(
        *(ops.convert_to_tensor(each) for each in (windows, -windows, scene)), (64, 128), keras.random.SeedGenerator(0)
    )
    for (real, fake, seen), expected in ((whole, scene[:2]), (crops, scene[2:])):
        np.testing.assert_array_equal(ops.convert_to_numpy(seen), expected)
        assert real.shape == (2, 64, 128, 3)
        np.testing.assert_array_equal(ops.convert_to_numpy(fake), -ops.convert_to_numpy(real))
    averaged = frames[:2].reshape(2, 64, 2, 128, 2, 3).mean((2, 4))
    np.testing.assert_allclose(ops.convert_to_numpy(whole[0]), averaged, rtol=1e-5)
    crop = ops.convert_to_numpy(crops[0])[0]
    (top, left) = (int(place[0]) for place in np.nonzero(frames[2, :, :, 0] == crop[0, 0, 0]))
    np.testing.assert_array_equal(crop, frames[2, top : top + 64, left : left + 128])
