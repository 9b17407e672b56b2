"""Generator files: of Keras 2, of other projects, damaged, with code in them."""

import zipfile

import h5py
import keras
import numpy as np
import pytest
from conftest import KERAS2

from models import build_discriminators, build_generator
from walkgan.errors import InputError
from walkgan.generators import frame_drawer, load_generator, predict_frames
from walkgan.keyframes import keyframe_pair
from walkgan.latents import latent_from_seed, rotated_latent, slowest_pair, step_angles
from walkgan.scenes import scene_numbers


def test_loads_a_generator_of_keras_2_exactly():
    expected = np.load(KERAS2 / "expected.npz")
    generator = load_generator(KERAS2 / "generator.h5")
    assert generator.input_shape == (None, 10)
    np.testing.assert_allclose(generator.predict(expected["latents"], verbose=0), expected["frames"], atol=1e-5)


@pytest.mark.parametrize(
    "name",
    ["conv_t.h5", "conv_t.keras", "nested.h5", "nested.keras", "separable.keras", "mixed.h5", "gan.h5", "gan.keras"],
)
def test_loads_every_kind_of_keras_2_file(name):
    expected = np.load(KERAS2 / "expected_by_kind.npz")
    frames = load_generator(KERAS2 / name).predict(expected["latents"], verbose=0)
    kind = expected[name.split(".")[0]]
    assert kind.std() > 0.02
    kind = 2 * kind - 1 if name.startswith("separable") else kind  # a sigmoid's, from 0 to 1
    np.testing.assert_allclose(frames, kind, atol=2e-3 if name.startswith("mixed") else 1e-6)


@pytest.mark.parametrize("name", ["conv_t", "nested", "separable"])
def test_loads_files_of_keras_2_12(tmp_path, name):
    """Which named the containers of layers otherwise, and counted every layer twice."""
    with zipfile.ZipFile(KERAS2 / f"{name}.keras") as source:
        source.extractall(tmp_path)
    with h5py.File(tmp_path / "model.weights.h5", "r+") as file:
        containers = []
        file.visit(lambda path: containers.append(path) if path.split("/")[-1] == "layers" else None)
        for path in sorted(containers, key=len, reverse=True):
            for layer in sorted(file[path], reverse=True):
                kind, _, index = layer.rpartition("_")
                if index.isdigit():
                    file[path].move(layer, f"{kind}_{2 * int(index)}")
            file.move(path, path.removesuffix("layers") + "_layer_checkpoint_dependencies")
    (tmp_path / "metadata.json").write_text('{"keras_version": "2.12.0"}')
    with zipfile.ZipFile(tmp_path / "old.keras", "w") as target:
        for item in ("metadata.json", "config.json", "model.weights.h5"):
            target.write(tmp_path / item, item)
    expected = np.load(KERAS2 / "expected_by_kind.npz")
    frames = load_generator(tmp_path / "old.keras").predict(expected["latents"], verbose=0)
    kind = 2 * expected[name] - 1 if name == "separable" else expected[name]
    np.testing.assert_allclose(frames, kind, atol=1e-6)


def test_the_reason_is_in_the_message_wherever_it_stands(tmp_path):
    @keras.saving.register_keras_serializable("tests")
    class Odd(keras.layers.Layer):
        pass

    keras.Sequential([keras.Input((4,)), Odd()]).save(tmp_path / "odd.keras")
    del keras.saving.get_custom_objects()["tests>Odd"]
    with pytest.raises(InputError, match="Odd"):
        load_generator(tmp_path / "odd.keras")


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize(("activation", "low", "high"), [("tanh", -1, 1), ("sigmoid", 0, 1)])
def test_loads_third_party_generators_of_any_size_and_range(tmp_path, suffix, activation, low, high):
    keras.utils.set_random_seed(1)
    wide = keras.initializers.RandomNormal(stddev=3.0)
    third_party = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(7 * 9, activation, kernel_initializer=wide),
            keras.layers.Reshape((7, 9, 1)),
        ]
    )
    third_party.save(tmp_path / f"third_party.{suffix}")
    latents = np.random.default_rng(0).standard_normal((4, 5)).astype("float32")
    frames = load_generator(tmp_path / f"third_party.{suffix}").predict(latents, verbose=0)
    assert frames.shape == (4, 7, 9, 3)
    expected = (third_party.predict(latents, verbose=0) - low) / (high - low) * 2 - 1
    np.testing.assert_allclose(frames, np.repeat(expected, 3, -1), atol=1e-5)


def test_files_without_a_generator_are_rejected(tmp_path):
    whole = tmp_path / "whole.keras"
    build_generator(6, (8, 8, 3), width=4).save(whole)
    (tmp_path / "cut.keras").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "text.keras").write_text("no model")
    (tmp_path / "text.h5").write_text("no model")
    (tmp_path / "empty.keras").write_bytes(b"")
    build_discriminators((8, 8, 3), width=4)[-1].save(tmp_path / "discriminator.keras")
    for name in ("cut.keras", "text.keras", "text.h5", "empty.keras", "discriminator.keras"):
        with pytest.raises(InputError, match=name):
            load_generator(tmp_path / name)


def test_code_in_a_file_is_never_run(tmp_path):
    inside = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: print("run!") or x)])
    inside.save(tmp_path / "lambda.keras")
    with pytest.raises(InputError, match=r"lambda\.keras"):
        load_generator(tmp_path / "lambda.keras")


def test_a_tanh_generator_is_never_rescaled(tmp_path):
    bright = keras.initializers.Constant(3.0)  # so that no frame of a few is dark anywhere
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(48, bias_initializer=bright, kernel_initializer="zeros")]
    )
    model.add(keras.layers.Reshape((4, 4, 3)))
    model.add(keras.layers.Activation("tanh"))
    model.save(tmp_path / "bright.keras")
    frames = load_generator(tmp_path / "bright.keras").predict(np.zeros((1, 5), "float32"), verbose=0)
    np.testing.assert_allclose(frames, np.tanh(3.0), rtol=1e-5)


def test_what_frames_of_a_walk_share_is_drawn_once(tmp_path, monkeypatch):
    model = build_generator(16, (32, 64, 3), width=8, name="walker_30", walks=True)
    first = next(layer for layer in model.layers if layer.name.startswith("to_rgb"))
    first.kernel.assign(10_000 * first.kernel)  # untrained frames are grey
    model.save(tmp_path / "generator.keras")
    generator = load_generator(tmp_path / "generator.keras")
    starts = [latent_from_seed(16, seed) for seed in (0, 1)]
    latents = np.stack([rotated_latent(start, steps) for steps in range(40) for start in starts])
    expected = predict_frames(generator, latents)
    assert np.ptp(expected.astype(int), 0).max() > 100  # two walks, which move
    drawn = []
    predict_on_batch = keras.Model.predict_on_batch

    def counting(model, inputs):
        drawn.append((len(model.outputs), len(inputs)))
        return predict_on_batch(model, inputs)

    monkeypatch.setattr(keras.Model, "predict_on_batch", counting)
    draw = frame_drawer(generator)
    frames = np.concatenate([draw(half) for half in np.split(latents, 2)])  # both halves of some keyframe
    np.testing.assert_allclose(frames.astype(int), expected, atol=1)  # of 255: sums are rounded differently
    at_keyframes, of_frames = ([inputs for outputs, inputs in drawn if outputs == count] for count in (4, 1))
    assert set(at_keyframes) == {1} and len(of_frames) == 2
    assert len(at_keyframes) <= 6  # 40 steps of two walks, with 32 from keyframe to keyframe, but two for some rounded


def test_after_a_cut_another_scene_is_drawn(tmp_path):
    model = build_generator(16, (32, 64, 3), width=8, name="walker_30", walks=True, scenes=(0.5, 1.0))
    first = next(layer for layer in model.layers if layer.name.startswith("to_rgb"))
    first.kernel.assign(10_000 * first.kernel)  # untrained frames are grey
    model.save(tmp_path / "generator.keras")
    generator = load_generator(tmp_path / "generator.keras")
    start = latent_from_seed(16, 0)
    angle = np.pi - 4.8 * step_angles(16)[-1]  # five steps before a cut
    start[slowest_pair(16)] = np.cos(angle), np.sin(angle)
    start[keyframe_pair(16)[0] :: 8] = 1, 0  # and at a keyframe
    latents = np.stack([rotated_latent(start, steps) for steps in range(16)])
    assert scene_numbers(latents, (0.5, 1.0)).tolist() == [0] * 5 + [1] * 11
    expected = predict_frames(generator, latents).astype(int)
    assert np.abs(expected[5] - expected[4]).mean() > 3 * np.abs(expected[4] - expected[3]).mean()
    np.testing.assert_allclose(frame_drawer(generator)(latents).astype(int), expected, atol=1)
