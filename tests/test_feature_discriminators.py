"""Feature discriminators: which frames they see, which loss moves which network, spectral normalisation."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import random_batches, weights_of
from keras import ops

from walkgan.gan_builder import build_gan
from walkgan.layers import SpectralConv2D
from walkgan.settings import TrainingSettings


def feature_gan(optimizer, shape=(128, 256, 3), loss="relativistic"):
    settings = TrainingSettings(latent_dim=4, width=4, feature_weight=1.0, feature_width=4, augment=(), grow=False)
    gan = build_gan(replace(settings, loss=loss), shape)
    gan.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax")  # whose eager steps take minutes
    return gan


@pytest.mark.slow
@pytest.mark.parametrize("mover", ["generator", "feature_discriminators"])
def test_feature_losses_move_only_their_own_networks(mover):
    # XLA's depthwise convolutions take a CPU twenty times as long.
    shape, views = ((128, 128, 3), 2) if keras.backend.backend() != "jax" else ((64, 64, 3), 1)
    gan = feature_gan(keras.optimizers.SGD(0.1), shape)
    both, keep = gan.loss_function, (0.0, 1.0) if mover == "generator" else (1.0, 0.0)

    def loss_of_one(*logits):
        is_of_features = logits[0].shape[1] > 1
        return [is_of_features * weight * loss for weight, loss in zip(keep, both(*logits), strict=True)]

    gan.loss_function = loss_of_one
    gan.gamma.assign(0.0)
    networks = {"generator": gan.generators[-1], "discriminator": gan.discriminator}
    networks |= {f"feature_discriminators {view}": one for view, one in enumerate(gan.feature_discriminators)}
    before = {name: weights_of(network) for name, network in networks.items()}
    projector = [ops.convert_to_numpy(weight) for weight in gan.projector.weights]
    gan.fit(random_batches(shape=shape, batch_size=2), steps_per_epoch=2, verbose=0)
    for name, network in networks.items():
        moved = [(old != new).any() for old, new in zip(before[name], weights_of(network), strict=True)]
        assert any(moved) == name.startswith(mover), name
    assert len(networks) == 2 + views
    assert all(
        (old == ops.convert_to_numpy(new)).all() for old, new in zip(projector, gan.projector.weights, strict=True)
    )


def test_feature_discriminators_see_single_frames_of_a_window():
    settings = TrainingSettings(latent_dim=4, width=4, window=3, feature_weight=1.0, feature_width=4, augment=())
    gan = build_gan(replace(settings, grow=False), (64, 128, 3), 30.0)
    rng = np.random.default_rng(0)
    batch = {
        "frames": rng.uniform(-1, 1, (2, 64, 128, 9)).astype("float32"),
        "latents": rng.standard_normal((2, 4), "float32"),
        "frame_offsets": np.array([[0, 1, 2], [0, 2, 4]], "float32"),
    }
    outputs = gan({name: ops.convert_to_tensor(value) for name, value in batch.items()})
    assert outputs["real_logits"].shape == (2, 1)
    assert outputs["feature_real_logits"].shape[0] == outputs["feature_fake_logits"].shape[0] == 2
    (discriminator,) = gan.feature_discriminators
    expected = discriminator(gan.projector(batch["frames"][..., :3]))
    found, expected = map(ops.convert_to_numpy, (outputs["feature_real_logits"], expected))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("shape", "count"), [((32, 64, 3), 0), ((64, 128, 3), 1), ((100, 120, 3), 1)])
def test_small_frames_have_no_feature_discriminators(shape, count):
    gan = feature_gan(keras.optimizers.SGD(0.1), shape)
    assert len(gan.feature_discriminators) == count
    for discriminator in gan.feature_discriminators:
        assert discriminator.output_shape[1] >= 3 * 4 * 8


def test_spectral_convolution_has_norm_1():
    layer = SpectralConv2D(6, 3, use_bias=True)
    frames = keras.random.normal((1, 3, 3, 5), seed=1)
    for _ in range(50):
        layer(frames, training=True)
    inputs = np.eye(45, dtype="float32").reshape(45, 3, 3, 5)
    outputs = ops.convert_to_numpy(layer(inputs)).reshape(45, 6) - ops.convert_to_numpy(layer.bias)
    np.testing.assert_allclose(np.linalg.svd(outputs, compute_uv=False)[0], 1.0, rtol=1e-3)
    before = ops.convert_to_numpy(layer.singular_vector)
    layer(frames)
    assert (ops.convert_to_numpy(layer.singular_vector) == before).all()  # followed in training only


def test_feature_weight_0_turns_them_off():
    gan = build_gan(TrainingSettings(latent_dim=4, width=4, feature_weight=0.0, grow=False), (64, 128, 3))
    assert gan.projector is None and not gan.feature_discriminators
    assert not any("feature" in name for name in gan.saved_networks)
