"""Keyframes: which of them a frame is between, and what is drawn of which part of their latents."""

import json
import zipfile

import keras
import numpy as np
import pytest
from conftest import FRAME_SHAPE, REPO
from keras import ops

from models import build_generator, build_generators
from walkgan import keyframes
from walkgan.latents import latent_from_seed, rotated_latent, rotation_periods, slowest_pair
from walkgan.scenes import move_to_scenes
from walkgan.warm_start import copy_weights

LATENT_DIM = 16


def around(latents):
    """Return the keyframes before and after, and the fraction, of latents (batch, LATENT_DIM)."""
    both, fraction = map(ops.convert_to_numpy, keyframes.keyframes_around(ops.convert_to_tensor(latents[:, None])))
    return *np.split(both, 2), fraction[:, 0]


def walk(steps, seed=0):
    return np.stack([rotated_latent(latent_from_seed(LATENT_DIM, seed), step) for step in steps]).astype("float32")


def test_all_frames_between_two_keyframes_have_the_same_two():
    before, after, fraction = around(walk(np.arange(0, 100, 0.5)))
    ends = np.flatnonzero(np.diff(fraction) < 0) + 1
    assert 1 < len(ends) < 8 and fraction.min() >= 0 and fraction.max() <= 1
    for first, last in zip([0, *ends[:-1]], ends, strict=True):
        np.testing.assert_allclose(before[first:last], before[first : first + 1].repeat(last - first, 0), atol=1e-4)
    np.testing.assert_allclose(before[ends], after[ends - 1], atol=1e-4)
    assert np.abs(before - after).mean() > 0.1


def test_windows_of_a_walk_are_between_two_keyframes():
    latents = np.random.default_rng(0).standard_normal((500, LATENT_DIM)).astype("float32")
    lengths = np.resize(np.array([0, 1, 4, 8, 40], "float32"), 500)
    offsets = lengths[:, None] * np.array([0, 0.5, 1], "float32")
    windows = ops.convert_to_numpy(keyframes.between_keyframes(latents, offsets))
    fractions = np.stack([around(windows[:, frame])[2] for frame in range(3)], 1)
    for length in (0, 1, 4, 8):
        of_length = lengths == length
        firsts, middles, lasts = fractions[of_length].T
        _, period = keyframes.keyframe_pair(LATENT_DIM)
        np.testing.assert_allclose([middles - firsts, lasts - middles], length / 2 / period, atol=1e-5)
        assert firsts.min() < 0.05 and lasts.max() > 0.95  # anywhere between them
        moved = [rotated_latent(window[0], float(length)) for window in windows[of_length]]
        np.testing.assert_allclose(windows[of_length, 2], moved, atol=1e-5)
    assert (np.abs(windows[:, 0] - latents).max(0) < 1e-6).sum() == LATENT_DIM - 2
    np.testing.assert_allclose(np.linalg.norm(latents, axis=1), np.linalg.norm(windows[:, 0], axis=1), rtol=1e-5)


@pytest.mark.parametrize("scenes", [(1.0,), (0.5, 1.0)])
def test_windows_are_the_same_frames_as_one_by_one(scenes):
    of_windows = build_generators(LATENT_DIM, FRAME_SHAPE, 4, walks=True, window=3, scenes=scenes)
    of_frames = build_generators(LATENT_DIM, FRAME_SHAPE, 4, walks=True, scenes=scenes)
    for layer in of_frames[-1].layers:
        if layer.weights:
            factor = 9 if layer.name.startswith(("dense", "street", "strip", "to_rgb", "shift_")) else 1
            layer.set_weights([factor * weight for weight in of_windows[-1].get_layer(layer.name).get_weights()])
            of_windows[-1].get_layer(layer.name).set_weights(layer.get_weights())
    latents = np.random.default_rng(0).standard_normal((9, LATENT_DIM)).astype("float32")
    latents[:, slowest_pair(LATENT_DIM)] = np.resize([[0, 1], [0, -1]], (9, 2))  # in the middle of a scene
    windows = keyframes.between_keyframes(latents, np.array([[0, 2, 4], [0, 0, 0], [0, 14, 28]] * 3, "float32"))
    windows = ops.convert_to_numpy(windows)
    for several, single in zip(of_windows, of_frames, strict=True):
        frames = single.predict(windows.reshape(-1, LATENT_DIM), verbose=0)
        frames = np.concatenate(np.moveaxis(frames.reshape(9, 3, *frames.shape[1:]), 1, 0), -1)
        assert np.abs(np.diff(frames.reshape(*frames.shape[:3], 3, 3), axis=3)).max() > 0.01
        np.testing.assert_allclose(several.predict(windows, batch_size=4, verbose=0), frames, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 16), (16, 32), (45, 61), (64, 32)])
def test_a_walk_has_no_jumps_and_its_file_needs_no_code_of_ours(size, tmp_path):
    generator = build_generators(LATENT_DIM, (*size, 3), 4, walks=True)[-1]
    for layer in generator.layers:
        if layer.name.startswith(("dense", "to_rgb")):
            layer.set_weights([4 * weight for weight in layer.get_weights()])
    frames = generator.predict(walk(np.arange(0, 80, 0.0625)), verbose=0)
    changes = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    assert frames.shape[1:] == (*size, 3) and 0 < changes.max() < 8 * changes.mean() < 0.1
    generator.save(tmp_path / "generator.keras")
    with zipfile.ZipFile(tmp_path / "generator.keras") as file:
        assert b"walkgan" not in file.read("config.json")
    again = keras.models.load_model(tmp_path / "generator.keras", compile=False)
    np.testing.assert_allclose(again.predict(walk(range(3)), verbose=0), frames[:48:16], atol=1e-5)


def test_keyframes_are_drawn_in_the_scene_of_the_frame():
    scenes = (0.5, 1.0)
    generator = build_generator(LATENT_DIM, FRAME_SHAPE, 4, scenes=scenes, walks=True)
    for layer in generator.layers:
        if layer.name.startswith(("dense", "street", "strip", "to_rgb", "shift_")):
            layer.set_weights([9 * weight for weight in layer.get_weights()])
    shares = np.array([0.25, 0.501])  # shortly before the second, a walk was in the other scene
    latents = move_to_scenes(walk([16, 16]), shares, scenes, 0, np.random.default_rng(0))[0]
    assert around(latents)[2][1] > 0.1
    before = generator.predict(latents, verbose=0)
    kernels = [layer.kernel for layer in generator.layers if layer.name.startswith(("scale_", "shift_"))]
    assert len(kernels) == 12  # of levels 0 to 2, and of three strips
    for kernel in kernels:
        kernel.assign(ops.stack([kernel[1], kernel[1]]))
    changes = np.abs(generator.predict(latents, verbose=0) - before).mean((1, 2, 3))
    assert changes[0] > 0.01 and changes[1] < 1e-5


def test_only_the_slow_part_of_a_latent_tells_what_is_far_away():
    generator = build_generator(LATENT_DIM, FRAME_SHAPE, 4, walks=True)
    for layer in generator.layers:
        if layer.name.startswith(("dense", "far", "street", "to_rgb")):
            layer.set_weights([60 * weight for weight in layer.get_weights()])
        if layer.name in ("strip_0", "strip_1", "strip_2"):  # what is near
            layer.set_weights([0 * weight for weight in layer.get_weights()])
    pair, _ = keyframes.keyframe_pair(LATENT_DIM)
    is_slow = rotation_periods(LATENT_DIM) >= keyframes.SLOW_STEPS
    is_fast = ~is_slow & (np.arange(LATENT_DIM // 2) != pair)  # which tells the time
    assert is_slow.sum() > 1 and is_fast.sum() > 1
    before, fast, slow = walk([0, 0, 0])
    fast[np.tile(is_fast, 2)] += 1
    slow[np.tile(is_slow, 2)] += 1
    before, fast, slow = generator.predict(np.stack([before, fast, slow]), verbose=0)
    np.testing.assert_allclose(fast, before, atol=1e-5)
    assert np.abs(slow - before).mean() > 0.01


def test_a_warm_start_from_a_generator_without_keyframes_tells_what_starts_anew():
    source = build_generator(LATENT_DIM, FRAME_SHAPE, 4)
    generator = build_generator(LATENT_DIM, FRAME_SHAPE, 4, walks=True)
    before = generator.get_layer("conv_1").get_weights()
    assert sorted(copy_weights(source, generator)) == ["conv_1", "conv_2", "dense", "norm_1", "to_rgb_1"]
    np.testing.assert_array_equal(generator.get_layer("conv_1").get_weights(), before)
    np.testing.assert_array_equal(*(network.get_layer("norm_0").gamma for network in (source, generator)))
    assert not copy_weights(source, build_generator(LATENT_DIM, FRAME_SHAPE, 4))
    assert {"far", "street", "dense_strip", "conv_1"} <= set(copy_weights(generator, source))  # it has no street


def test_a_warm_start_from_the_shipped_city_walk_leaves_out_only_what_the_video_tells():
    source = keras.models.load_model(REPO / "saved_models" / "city_walk" / "generator.keras", compile=False)
    settings = json.loads((REPO / "saved_models" / "city_walk" / "settings.json").read_text())["settings"]
    generator = build_generator(settings["latent_dim"], (160, 320, 3), settings["width"], walks=True)
    camera = generator.get_layer("camera").get_weights()
    assert copy_weights(source, generator) == []
    np.testing.assert_array_equal(generator.get_layer("camera").get_weights(), camera)
    for name in ("dense", "conv_5", "conv_3"):
        np.testing.assert_array_equal(*(network.get_layer(name).kernel for network in (source, generator)))
