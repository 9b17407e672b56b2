"""Scenes of a video: networks that are conditional on them, and their latents."""

import json
import shutil

import keras
import numpy as np
import pytest
from conftest import FRAME_SHAPE, TINY, call, checkpoint_weights, write_frames

from models import build_generator, scene_of
from walkgan.dataset import list_frames
from walkgan.evaluation import walk_starts
from walkgan.gan_builder import build_gan
from walkgan.generators import load_generator, predict_frames, project, scenes_of
from walkgan.latents import rotate, rotated_latent, step_angles
from walkgan.run_folder import load_run_info
from walkgan.scenes import MAX_SCENES, find_scenes, move_to_scenes, scene_numbers
from walkgan.settings import TrainingSettings
from walkgan.training import scenes_to_learn
from walkgan.warm_start import copy_weights

SCRIPT = "train_unconditional_gan.py"


def scene_ends(*lengths):
    return np.repeat(np.cumsum(lengths), lengths)


def test_short_scenes_and_the_shortest_of_many_join_a_neighbour():
    assert find_scenes(scene_ends(40)) == (1.0,)
    assert find_scenes(scene_ends(30, 70)) == (0.3, 1.0)
    assert find_scenes(scene_ends(1, 299, 400, 2, 298)) == (0.3, 0.7, 1.0)
    assert find_scenes(scene_ends(300, 698, 2)) == (0.3, 1.0)
    many = find_scenes(scene_ends(*[10] * 100))
    assert len(many) == MAX_SCENES and many[-1] == 1.0 and np.diff([0, *many]).max() <= 0.13


def scenes_in_model(latents, scenes):
    inputs = keras.Input((latents.shape[1],))
    return keras.Model(inputs, scene_of(inputs, scenes)).predict(latents, verbose=0)


def test_latents_move_to_the_scene_of_their_frame_and_stay_normal():
    scenes, rng = (0.2, 0.5, 1.0), np.random.default_rng(0)
    latents, shares = rng.standard_normal((6000, 8)).astype("float32"), np.arange(6000) / 6000
    moved, one_hot = move_to_scenes(latents, shares, scenes, 0, rng)
    assert moved.dtype == one_hot.dtype == np.float32
    assert (one_hot.argmax(1) == np.searchsorted(scenes, shares, "right")).all()
    np.testing.assert_array_equal(scenes_in_model(moved, scenes), one_hot)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        np.testing.assert_array_equal(scenes_in_model(moved, scenes), one_hot)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(np.cov(moved.T), np.eye(8), atol=0.06)
    np.testing.assert_allclose(moved.mean(0), 0, atol=0.05)
    assert (moved != latents).any(0).tolist() == [False] * 3 + [True] + [False] * 3 + [True]


def test_windows_stay_in_their_scene():
    scenes, rng = (0.05, 1.0), np.random.default_rng(0)
    moved, one_hot = move_to_scenes(rng.standard_normal((500, 8)).astype("float32"), np.full(500, 0.02), scenes, 8, rng)
    later = np.array(rotate(moved, (8 * step_angles(8)).astype("float32")))
    np.testing.assert_array_equal(scenes_in_model(later, scenes), one_hot)


def test_a_walk_stays_in_its_scene():
    scenes = tuple(np.arange(1, 15) / 14)
    latents = np.random.default_rng(0).standard_normal((500, 128), "float32")
    later = np.array(rotate(latents, (300 * step_angles(128)).astype("float32")))  # five seconds at two steps a frame
    same = scene_numbers(later, scenes) == scene_numbers(latents, scenes)
    assert 0.7 < same.mean() < 1  # the others were about to go on


@pytest.mark.parametrize(("window", "side"), [(1, 128), (3, 64)])
def test_all_networks_read_scenes(window, side):
    settings = TrainingSettings(latent_dim=4, width=4, feature_width=4, feature_weight=1.0, window=window)
    gan = build_gan(settings, (side, side, 3), 30.0 if window > 1 else None, (0.5, 1.0))
    rng = np.random.default_rng(0)
    frames = rng.uniform(-1, 1, (4, side, side, 3 * window)).astype("float32")
    batch = {"frames": frames, "latents": rng.standard_normal((4, 4), "float32"), "scene": np.eye(2)[[0, 0, 1, 1]]}
    if window > 1:
        batch["frame_offsets"] = np.tile(np.arange(3, dtype="float32"), (4, 1))
    outputs = gan(batch, training=False)
    other = gan(batch | {"scene": batch["scene"][::-1]}, training=False)
    for name in ("real_logits", "fake_logits_for_generator", "feature_real_logits", "feature_fake_logits"):
        assert outputs[name].shape == other[name].shape and not np.allclose(outputs[name], other[name]), name
    np.testing.assert_allclose(outputs["fake_logits"], outputs["fake_logits_for_generator"], atol=1e-5)


def test_frames_of_unknown_times_are_one_scene(tmp_path):
    paths = list_frames(write_frames(tmp_path, np.zeros((4, 8, 8, 3), "uint8")))
    (tmp_path / "frames.json").write_text("{}")
    assert scenes_to_learn(TrainingSettings(), paths, None) == (1.0,)
    (tmp_path / "frames.json").write_text('{"time": [0, 1, 2, 3], "video": [0, 0, 1, 1]}')
    assert scenes_to_learn(TrainingSettings(), paths, None) == (0.5, 1.0)
    assert scenes_to_learn(TrainingSettings(latent_dim=2), paths, None) == (1.0,)


def generator_of_scenes(scenes):
    """Return a generator that shows each scene in another grey, and nothing but it."""
    generator = build_generator(8, FRAME_SHAPE, width=4, name="walker_30", scenes=scenes)
    for layer in generator.layers:
        if layer.name.startswith("shift_"):
            grey = np.linspace(0.1, 1, len(scenes))[:, None]
            layer.set_weights([np.broadcast_to(grey, layer.kernel.shape)])
        elif layer.name.startswith("scale_"):
            layer.set_weights([np.full(layer.kernel.shape, -1.0)])
        elif layer.name.startswith(("conv_", "to_rgb_")):
            layer.kernel.assign(np.full(layer.kernel.shape, 0.02))
    return generator


def test_an_image_of_the_rarest_scene_is_found(tmp_path):
    scenes = (*np.arange(1, 13) * 0.08, 0.98, 1.0)
    generator_of_scenes(scenes).save(tmp_path / "generator.keras")
    generator = load_generator(tmp_path / "generator.keras")
    assert scenes_of(generator) == pytest.approx(scenes)
    latents, _ = move_to_scenes(np.ones((14, 8), "float32"), np.array([0, *scenes[:-1]]), scenes, 0, np.random)
    frames = predict_frames(generator, latents)
    assert len(np.unique(frames.mean((1, 2, 3)).round())) == 14
    found = project(generator, frames[12], seed=0)
    np.testing.assert_array_equal(predict_frames(generator, found[None])[0], frames[12])


def test_walks_that_are_scored_stay_in_the_scene_of_the_real_one():
    scenes, starts = (0.2, 0.3, 1.0), np.array([0.0, 0.15, 0.25, 0.29, 0.6, 0.99])
    generator = keras.Sequential([keras.Input((8,)), generator_of_scenes(scenes)])
    latents = walk_starts(generator, starts, 150, seed=0)
    later = [rotated_latent(latent, 150) for latent in latents]
    for each in (latents, np.stack(later)):
        np.testing.assert_array_equal(scenes_in_model(each, scenes).argmax(1), [0, 0, 1, 1, 2, 2])


@pytest.mark.slow
def test_each_scene_has_its_own_frames():
    colours = np.array([[0.8, -0.8, -0.8], [-0.8, -0.8, 0.8]], "float32")
    scenes, rng = (0.5, 1.0), np.random.default_rng(0)
    settings = TrainingSettings(
        batch_size=8, latent_dim=4, width=8, augment=(), learning_rate=1e-3, beta_1=0.5, gamma=1.0, ema_decay=0.98
    )
    gan = build_gan(settings, FRAME_SHAPE, None, scenes)

    def flat():
        while True:
            latents, scene = move_to_scenes(
                rng.standard_normal((8, 4)).astype("float32"), rng.uniform(0, 1, 8), scenes, 0, rng
            )
            frames = np.broadcast_to((scene @ colours)[:, None, None], (8, *FRAME_SHAPE))
            yield ({"frames": frames.astype("float32"), "latents": latents, "scene": scene},)

    gan.fit(flat(), steps_per_epoch=400, verbose=0)
    latents = rng.standard_normal((200, 4)).astype("float32")
    fakes = gan.ema_generator.predict(latents, verbose=0).mean((1, 2))
    nearest = np.linalg.norm(fakes[:, None] - colours, axis=-1).argmin(1)
    assert (nearest == scenes_in_model(latents, scenes).argmax(1)).mean() > 0.95


@pytest.mark.parametrize(
    ("before", "after"),
    [([0.3, 0.5, 1.0], [1.0]), ([1.0], [0.3, 1.0]), ([0.3, 0.5, 1.0], [0.4, 1.0]), ([0.3, 1.0], [0.2, 0.4, 0.7, 1.0])],
)
def test_another_number_of_scenes_starts_with_images_of_those_before(before, after):
    source, network = (build_generator(8, FRAME_SHAPE, width=4, scenes=scenes) for scenes in (before, after))
    rng = np.random.default_rng(0)
    for layer in source.layers:
        layer.set_weights([weight + 0.2 * rng.random(weight.shape) for weight in layer.get_weights()])
    copy_weights(source, network)
    latents = rng.standard_normal((200, 8)).astype("float32")
    old, new = (scenes_in_model(latents, scenes).argmax(1) if len(scenes) > 1 else 0 for scenes in (before, after))
    alike = np.broadcast_to(old == new % len(before), 200)
    frames, expected = (model.predict(latents[alike], verbose=0) for model in (network, source))
    assert len(frames) > 40 and np.std(expected, 0).max() > 0.01
    np.testing.assert_allclose(frames, expected, atol=1e-5)


@pytest.mark.slow
def test_a_video_of_two_scenes_from_its_first_step_to_a_warm_start(tmp_path):
    frames = np.concatenate([np.full((6, 16, 32, 3), shade, "uint8") for shade in (20, 230)])
    for folder, scenes in (("frames", [0] * 6 + [1] * 6), ("one", [0] * 6)):
        (tmp_path / folder).mkdir()
        write_frames(tmp_path / folder, frames[: len(scenes)])
        index = {"time": [number / 30 for number in range(len(scenes))], "video": scenes}
        (tmp_path / folder / "frames.json").write_text(json.dumps(index))
    call(SCRIPT, "--frames", "frames", *TINY, "--epochs", 1, cwd=tmp_path)
    run_dir = tmp_path / "saved_models/0001-shuffled"
    assert load_run_info(run_dir)["scenes"] == [0.5, 1.0]
    assert any("by_scene" in layer.name for layer in keras.models.load_model(run_dir / "discriminator.keras").layers)
    generator = load_generator(run_dir / "generator.keras").get_layer("generator")
    assert list(generator.get_layer("scene").bin_boundaries) == [0.5]
    call(SCRIPT, "--resume", "--epochs", 2, cwd=tmp_path)
    # A video with another number of scenes may start from it, and the other way round.
    call(SCRIPT, "--frames", "one", *TINY, "--epochs", 1, "--start-from", run_dir, cwd=tmp_path)
    plain = tmp_path / "saved_models/0002-shuffled"
    call(SCRIPT, "--frames", "frames", *TINY, "--epochs", 1, "--start-from", plain, cwd=tmp_path)
    # A run of before there were scenes goes on without them.
    shutil.copytree(plain, tmp_path / "before/0001-shuffled")
    settings = tmp_path / "before/0001-shuffled/settings.json"
    info = json.loads(settings.read_text())
    del info["scenes"]
    settings.write_text(json.dumps(info))
    (tmp_path / "one/frames.json").write_text(json.dumps(index | {"video": [0, 0, 0, 1, 1, 1]}))
    call(SCRIPT, "--runs", "before", "--resume", "--epochs", 2, cwd=tmp_path)
    assert int(checkpoint_weights(tmp_path / "before/0001-shuffled")["vars/step"]) == 4
