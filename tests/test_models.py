"""The networks: shapes, shared layers, errors, all backends."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import REPO

from models import build_discriminators, build_generator, build_generators, frame_shapes_by_level
from walkgan.street import MEASURED


@pytest.mark.parametrize(
    "size", [(160, 320), (64, 64), (96, 96), (8, 8), (16, 48), (180, 320), (101, 77), (255, 256), (320, 640)]
)
def test_builds_networks_for_any_size_and_the_sizes_below(size):
    generators, discriminators = build_generators(6, (*size, 3), width=4), build_discriminators((*size, 3), width=4)
    shapes = list(frame_shapes_by_level((*size, 3)).values())
    assert shapes[-1] == (*size, 3)
    latents = np.random.default_rng(0).standard_normal((2, 6), "float32")
    for shape, generator, discriminator in zip(shapes, generators, discriminators, strict=True):
        frames = generator(latents, training=False)
        assert frames.shape == (2, *shape)
        assert discriminator(frames, training=False).shape == (2, 1)
    for networks in (generators, discriminators):  # which share their layers
        for smaller in networks[:-1]:
            shared = [layer for layer in smaller.layers if layer.weights]
            assert shared and all(networks[-1].get_layer(layer.name) is layer for layer in shared)


def test_sizes_below_are_halves_rounded_up():
    assert frame_shapes_by_level((180, 320, 3)) == {3: (45, 80, 3), 4: (90, 160, 3), 5: (180, 320, 3)}
    assert frame_shapes_by_level((101, 77, 3)) == {2: (26, 20, 3), 3: (51, 39, 3), 4: (101, 77, 3)}


def test_a_network_for_larger_frames_has_the_one_of_half_the_size_as_its_part():
    larger, shape = (320, 640, 3), (160, 320, 3)
    for build, name in (
        (lambda *arguments: build_generators(6, *arguments)[-1], "to_rgb_5"),
        (lambda *arguments: build_discriminators(*arguments)[-1], "from_rgb_5"),
    ):
        whole, alone = build(larger, 8), build(shape, 8)
        for layer in alone.layers:
            if layer.weights:
                assert [w.shape for w in whole.get_layer(layer.name).weights] == [w.shape for w in layer.weights]
        assert {layer.name for layer in alone.layers if layer.weights} < {layer.name for layer in whole.layers}
        assert whole.get_layer(name).weights


@pytest.mark.parametrize("walks", [False, True])
def test_a_fused_generator_draws_the_same_and_learns_the_same_from_it(walks):
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((4, 6), "float32")
    fused, plain = (build_generators(6, (16, 32, 3), 4, fused=fused, walks=walks)[-1] for fused in (True, False))
    layers = [(layer, plain.get_layer(layer.name)) for layer in fused.layers if layer.weights]
    for one, other in layers:  # so that no size adds nothing any more
        one.set_weights([weight + rng.uniform(0, 0.2, weight.shape) for weight in one.get_weights()])
        other.set_weights(one.get_weights())
    for network in (fused, plain):
        network.compile(keras.optimizers.SGD(1.0), "mean_squared_error")
    expected = plain.predict(latents, verbose=0)
    assert expected.std() > 0.05
    np.testing.assert_allclose(fused.predict(latents, verbose=0), expected, atol=1e-5)
    learned = [layer for _, layer in layers if layer.name not in MEASURED]
    before = [weight for layer in learned for weight in layer.get_weights()]
    for network in (fused, plain):
        network.fit(latents, np.zeros((4, 16, 32, 3), "float32"), batch_size=4, verbose=0)
    after = [weight for layer in learned for weight in layer.get_weights()]
    assert all((old != new).any() for old, new in zip(before, after, strict=True))
    for one, other in layers:
        for weight, same in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_allclose(weight, same, atol=1e-4)


def test_pyramid_is_wide_at_the_base_and_narrow_at_the_frame():
    generator = build_generator(8, (160, 320, 3), width=4)
    shapes = [layer.output.shape[1:] for layer in generator.layers if isinstance(layer, keras.layers.ReLU)]
    assert shapes[0] == (5, 10, 16)
    channels = [shape[2] for shape in shapes]
    assert channels == sorted(channels, reverse=True) and channels[-2:] == [4, 2]
    assert shapes[-1] == (160, 320, 2)  # a pixel is no linear mix of what is half as large


def test_smaller_networks_are_parts_of_larger_ones_and_growing_changes_nothing():
    assert list(frame_shapes_by_level((160, 320, 3)).values()) == [(40, 80, 3), (80, 160, 3), (160, 320, 3)]
    assert list(frame_shapes_by_level((16, 32, 3)).values()) == [(8, 16, 3), (16, 32, 3)]
    rng = np.random.default_rng(0)
    shape, larger = (16, 32, 3), (32, 64, 3)
    small_generator, generator = build_generators(6, larger, 8)[-2:]
    small_discriminator, discriminator = build_discriminators(larger, 8)[-2:]
    assert small_generator.output_shape[1:] == shape
    for whole, part in ((generator, small_generator), (discriminator, small_discriminator)):
        assert {id(weight) for weight in part.weights} < {id(weight) for weight in whole.weights}
        whole.set_weights([4 * weight for weight in whole.get_weights()])

    latents = rng.standard_normal((5, 6), "float32")
    before = small_generator.predict(latents, verbose=0)
    enlarged = keras.layers.UpSampling2D(interpolation="bilinear")(np.arctanh(before))
    np.testing.assert_allclose(generator.predict(latents, verbose=0), np.tanh(enlarged), atol=1e-4)
    frames = rng.uniform(-1, 1, (5, *shape)).astype("float32")
    logits = discriminator.predict(frames.repeat(2, 1).repeat(2, 2), verbose=0)
    assert logits.std() > 0
    np.testing.assert_allclose(logits, small_discriminator.predict(frames, verbose=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(7, 320), (1, 1), (4, 4)])
def test_frames_too_small_are_rejected(size):
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}"):
        build_generator(6, (*size, 3), width=4)


def test_discriminator_gives_logits():
    discriminator = build_discriminators((16, 16, 3), width=4)[-1]
    discriminator.set_weights([40 * weight for weight in discriminator.get_weights()])
    logits = discriminator.predict(np.random.default_rng(0).uniform(-1, 1, (64, 16, 16, 3)), verbose=0)
    assert logits.min() < 0 and logits.max() > 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_builds_and_trains_on_other_backends(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    if keras.backend.backend() not in ("tensorflow", backend):
        pytest.skip("the tests on TensorFlow try every backend")
    code = """
import numpy as np
from pathlib import Path
from walkgan.settings import TrainingSettings
from walkgan.gan_builder import build_gan
from models import frame_shapes_by_level
from walkgan.dataset import batches
from walkgan.dataset import read_timeline
from walkgan.images import write_frame
import tempfile
folder = Path(tempfile.mkdtemp())
for number in range(4):
    write_frame(folder / f"{number}.png", np.full((16, 32, 3), 60 * number, "uint8"))
paths = sorted(folder.iterdir())
settings = TrainingSettings(batch_size=4, latent_dim=4, width=4, window=3)
gan = build_gan(settings, (16, 32, 3))
before = [weights.copy() for weights in gan.generator.get_weights()]
for shape in frame_shapes_by_level((16, 32, 3)).values():
    gan.make_train_function(force=True)
    gan.fit(batches(paths, settings, gan.steps, shape, read_timeline(paths)), steps_per_epoch=3, verbose=0)
    assert np.isfinite(gan.generator.get_weights()[0]).all()
assert gan.steps == 6
assert any((old != new).any() for old, new in zip(before, gan.generator.get_weights()))
frames = gan.ema_generator.predict(np.zeros((2, 4)), verbose=0)
assert np.isfinite(frames).all() and frames.shape == (2, 16, 32, 3)
"""
    environment = {"KERAS_BACKEND": backend, "PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin"}
    environment["XLA_FLAGS"] = os.environ["XLA_FLAGS"]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
