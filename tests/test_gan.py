"""gan.py: who moves whom, the average, and that it learns."""

import keras
import numpy as np
import pytest

import gan as gan_module
from gan import GAN
from models import build_discriminator, build_generator

SHAPE = (16, 32, 3)


def small_gan(optimizer, ema_decay=0.9, penalty=10.0):
    keras.utils.set_random_seed(0)
    gan = GAN(build_generator(4, SHAPE, 8), build_discriminator(SHAPE, 8), penalty, ema_decay, seed=0)
    gan.compile(optimizer=optimizer, jit_compile=False)
    return gan


def random_batches(batch_size=8):
    random = np.random.default_rng(0)
    while True:
        frames = random.uniform(-1, 1, (batch_size, *SHAPE)).astype("float32")
        yield ({"frames": frames, "latents": random.standard_normal((batch_size, 4), "float32")},)


@pytest.mark.parametrize("mover", ["generator", "discriminator"])
def test_each_loss_moves_only_its_own_network(mover, monkeypatch):
    whole = gan_module.non_saturating
    keep = (0.0, 1.0) if mover == "generator" else (1.0, 0.0)
    monkeypatch.setattr(
        gan_module,
        "non_saturating",
        lambda *logits: [part * loss for part, loss in zip(keep, whole(*logits), strict=True)],
    )
    gan = small_gan(keras.optimizers.SGD(1.0), penalty=0.0)
    networks = {"generator": gan.generator, "discriminator": gan.discriminator}
    before = {name: [w.numpy().copy() for w in network.trainable_variables] for name, network in networks.items()}
    gan.fit(random_batches(), steps_per_epoch=2, verbose=0)
    for name, network in networks.items():
        after = [w.numpy() for w in network.trainable_variables]
        moved = [(old != new).any() for old, new in zip(before[name], after, strict=True)]
        assert all(moved) if name == mover else not any(moved)


def test_losses_push_the_logits_the_right_way():
    logits = {"real": np.full((4, 1), 2.0), "fake": np.full((4, 1), -1.0)}
    d_loss, g_loss = gan_module.non_saturating(logits["real"], logits["fake"], logits["fake"])
    np.testing.assert_allclose(float(d_loss), np.log1p(np.exp(-2.0)) + np.log1p(np.exp(-1.0)), rtol=1e-6)
    np.testing.assert_allclose(float(g_loss), np.log1p(np.exp(1.0)), rtol=1e-6)


def test_penalty_is_the_squared_gradient_and_moves_only_the_discriminator(monkeypatch):
    tf = pytest.importorskip("tensorflow")
    gan = small_gan(keras.optimizers.SGD(0.1))
    frames = tf.constant(next(random_batches(8))[0]["frames"])
    gan.discriminator.set_weights([4 * weight for weight in gan.discriminator.get_weights()])
    with tf.GradientTape() as tape:
        tape.watch(frames)
        logits = gan.discriminator(frames)
    exact = tf.reduce_sum(tape.gradient(logits, frames) ** 2) / 8
    monkeypatch.setattr(gan_module, "NOISE", 1e-3)
    estimates = []
    for _ in range(200):
        scores = gan({"frames": frames, "latents": np.zeros((8, 4), "float32")}, training=True)
        estimates.append(float(gan_module.gradient_penalty(scores["real"], scores["real_nearby"])))
    np.testing.assert_allclose(np.mean(estimates), float(exact), rtol=0.15)

    monkeypatch.setattr(gan_module, "non_saturating", lambda *logits: (0.0 * logits[0][0, 0], 0.0 * logits[2][0, 0]))
    before = [weight.numpy() for weight in gan.generator.trainable_variables]
    slope = gan.discriminator.get_weights()
    gan.fit(random_batches(), steps_per_epoch=2, verbose=0)
    assert all((old == new.numpy()).all() for old, new in zip(before, gan.generator.trainable_variables, strict=True))
    assert any((old != new).any() for old, new in zip(slope, gan.discriminator.get_weights(), strict=True))


def test_average_follows_the_generator():
    gan = small_gan(keras.optimizers.SGD(0.1), ema_decay=0.3)
    expected = [weight.numpy() for weight in gan.generator.variables]
    data = random_batches()
    for step in range(6):
        decay = min(0.3, (1 + step) / (10 + step))
        seen = [weight.numpy() for weight in gan.generator.trainable_variables]
        gan.fit(data, steps_per_epoch=1, verbose=0)
        named = {weight.path: old for weight, old in zip(gan.generator.trainable_variables, seen, strict=True)}
        # Weights are averaged as they were in the step, batch statistics as they came out of it.
        current = [named.get(weight.path, weight.numpy()) for weight in gan.generator.variables]
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, current, strict=True)]
    for average, wanted in zip(gan.ema_generator.variables, expected, strict=True):
        np.testing.assert_allclose(average.numpy(), wanted, rtol=1e-4, atol=1e-6)
    assert not gan.ema_generator.trainable_variables


def test_learns_the_colours_of_flat_frames():
    colours = np.array([[0.8, -0.8, -0.8], [-0.8, 0.8, -0.8], [-0.8, -0.8, 0.8]], "float32")
    random = np.random.default_rng(0)

    def flat():
        while True:
            frames = np.broadcast_to(colours[random.integers(3, size=24)][:, None, None], (24, *SHAPE))
            yield ({"frames": frames, "latents": random.standard_normal((24, 4), "float32")},)

    gan = small_gan(keras.optimizers.Adam(1e-3, beta_1=0.5), ema_decay=0.98)
    gan.fit(flat(), steps_per_epoch=600, verbose=0)
    fakes = gan.ema_generator.predict(random.standard_normal((200, 4)), verbose=0)
    distances = np.linalg.norm(fakes.mean((1, 2))[:, None] - colours, axis=-1)
    assert np.median(distances.min(1)) < 0.5  # the colours are 2.3 apart
    assert (np.bincount(distances.argmin(1), minlength=3) > 10).all()  # all three of them
    assert fakes.std((1, 2)).mean() < 0.4  # and flat
