"""gan.py: who moves whom, the average, and that it learns."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import REPO
from keras import ops

from models import SpectralConv2D, build_discriminators, build_generator, build_generators
from walkgan import gan as gan_module
from walkgan import losses
from walkgan.augmentation import diff_augment, feature_views
from walkgan.gan import GAN
from walkgan.gan_builder import build_gan
from walkgan.generators import steps_per_second
from walkgan.latents import rotate, step_angles
from walkgan.run_folder import load_settings
from walkgan.settings import TrainingSettings

EVERYTHING = ("colour", "translation", "cutout")
SHAPE, SMALLER = (16, 32, 3), (8, 16, 3)
needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="takes its gradients with TensorFlow's tape"
)


def small_gan(optimizer, ema_decay=0.9, gamma=20.0, loss="non-saturating", thumbnail_weight=0.0, augment=()):
    keras.utils.set_random_seed(0)
    generators, discriminators = build_generators(4, SHAPE, 8, fused=True), build_discriminators(SHAPE, 8)
    average = build_generator(4, SHAPE, 8)
    gan = GAN(generators, discriminators, average, loss, gamma, thumbnail_weight, augment, ema_decay, seed=0)
    gan.compile(optimizer=optimizer, jit_compile=False)
    return gan


def random_batches(batch_size=8, shape=SHAPE):
    random = np.random.default_rng(0)
    while True:
        frames = random.uniform(-1, 1, (batch_size, *shape)).astype("float32")
        yield ({"frames": frames, "latents": random.standard_normal((batch_size, 4), "float32")},)


def weights_of(network):
    return [weight.numpy().copy() for weight in network.trainable_variables]


def moved_by_training(gan):
    """Train two steps; return whether they moved the generator, and whether the discriminator."""
    networks = (gan.generator, gan.discriminator)
    before = [weights_of(network) for network in networks]
    gan.fit(random_batches(), steps_per_epoch=2, verbose=0)
    return [
        any((old != new).any() for old, new in zip(weights, weights_of(network), strict=True))
        for weights, network in zip(before, networks, strict=True)
    ]


@pytest.mark.parametrize("augment", [(), EVERYTHING])
@pytest.mark.parametrize("mover", ["generator", "discriminator"])
@pytest.mark.parametrize("loss", gan_module.LOSSES)
def test_each_loss_moves_only_its_own_network(loss, mover, augment):
    gan = small_gan(keras.optimizers.SGD(1.0), gamma=0.0, loss=loss, augment=augment)
    # What a size adds to the one below starts at zero, which would stop some gradients at the first step.
    for layer in (gan.generator.get_layer("to_rgb_2"), gan.discriminator.get_layer("conv_1")):
        layer.kernel.assign(0.1 * keras.random.normal(layer.kernel.shape, seed=1))
    whole, keep = gan.loss_function, (0.0, 1.0) if mover == "generator" else (1.0, 0.0)
    gan.loss_function = lambda *logits: [part * loss for part, loss in zip(keep, whole(*logits), strict=True)]
    networks = {"generator": gan.generator, "discriminator": gan.discriminator}
    before = {name: weights_of(network) for name, network in networks.items()}
    gan.fit(random_batches(), steps_per_epoch=2, verbose=0)
    for name, network in networks.items():
        moved = [(old != new).any() for old, new in zip(before[name], weights_of(network), strict=True)]
        # A constant added to all logits changes no relativistic and no Wasserstein loss, nor hinge inside its margin.
        fixed = name == "discriminator" and loss in ("relativistic", "wasserstein-gp", "hinge")
        assert (all(moved[:-1]) and (fixed or moved[-1])) if name == mover else not any(moved)


def test_small_frames_train_the_parts_for_small_frames_only():
    gan = small_gan(keras.optimizers.SGD(1.0))
    for network, untouched in ((gan.generator, "to_rgb_2"), (gan.discriminator, "from_rgb_2")):
        before = {layer.name: [w.numpy() for w in layer.trainable_variables] for layer in network.layers}
        gan.fit(random_batches(shape=SMALLER), steps_per_epoch=1, verbose=0)
        moved = {
            layer.name: any(
                (new.numpy() != old).any()
                for new, old in zip(layer.trainable_variables, before[layer.name], strict=True)
            )
            for layer in network.layers
        }
        assert any(moved.values()) and not moved[untouched]


@pytest.mark.parametrize(
    ("loss", "d_expected", "g_expected"),
    [
        ("non-saturating", np.log1p(np.exp(-0.5)) + np.log1p(np.exp(-1.0)), np.log1p(np.exp(1.0))),
        ("hinge", 0.5 + 0.0, 1.0),
        ("least-squares", (0.25 + 1.0) / 2, 4.0 / 2),
        ("wasserstein-gp", -1.5, 1.0),
        ("relativistic", np.log1p(np.exp(-1.5)), np.log1p(np.exp(1.5))),
    ],
)
def test_losses_have_their_papers_values(loss, d_expected, g_expected):
    real, fake = ops.full((4, 1), 0.5), ops.full((4, 1), -1.0)
    d_loss, g_loss = gan_module.LOSSES[loss][0](real, fake, fake)
    np.testing.assert_allclose([float(d_loss), float(g_loss)], [d_expected, g_expected], rtol=1e-5)


def test_one_centred_penalty_is_the_distance_of_the_slope_from_1():
    steps = np.random.default_rng(0).standard_normal((200_000, 10))
    for norm in (0.3, 1.0, 3.0):
        gradient = np.full(10, norm / np.sqrt(10))
        slopes = ops.convert_to_tensor((steps @ gradient)[:, None].astype("float32"))
        estimate = float(losses.one_centred_penalty(slopes))
        np.testing.assert_allclose(estimate, (norm - 1) ** 2, atol=0.05)


@needs_tensorflow
def test_augmentation_changes_colour_place_and_cuts_and_lets_gradients_through():
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


@needs_tensorflow
def test_penalty_is_the_squared_gradient_and_moves_only_the_discriminator(monkeypatch):
    import tensorflow as tf

    gan = small_gan(keras.optimizers.SGD(0.1))
    frames = tf.constant(next(random_batches(8))[0]["frames"])
    gan.discriminator.set_weights([4 * weight for weight in gan.discriminator.get_weights()])
    with tf.GradientTape() as tape:
        tape.watch(frames)
        logits = gan.discriminator(frames)
    exact = tf.reduce_sum(tape.gradient(logits, frames) ** 2) / 8
    gan.perturbation_std = 1e-3
    monkeypatch.setattr(gan_module, "PENALTY_BATCH_SIZE", 8)
    estimates = []
    for _ in range(200):
        scores = gan({"frames": frames, "latents": np.zeros((8, 4), "float32")}, training=True)
        estimates.append(float(losses.zero_centred_penalty((scores["real_perturbed"] - scores["real"][:8]) / 1e-3)))
    np.testing.assert_allclose(np.mean(estimates), float(exact), rtol=0.15)

    gan.loss_function = lambda *logits: (0.0 * logits[0][0, 0], 0.0 * logits[2][0, 0])
    assert moved_by_training(gan) == [False, True]


def test_bfloat16_does_not_drown_the_penalty():
    shipped = REPO / "saved_models" / "city_shuffled"
    generator, discriminator = (
        keras.models.load_model(shipped / f"{name}.keras", compile=False) for name in ("generator", "discriminator")
    )
    latents = keras.random.normal((4, generator.input_shape[1]), seed=0)
    batch, penalties = {"frames": generator(latents, training=False), "latents": latents}, {}
    for precision in ("float32", "bfloat16"):
        settings = replace(load_settings(shipped), augment=(), thumbnail_weight=0.0, precision=precision)
        gan = build_gan(settings, generator.output_shape[1:])
        gan.discriminator.set_weights(discriminator.get_weights())
        scores = gan(batch, training=False)
        slopes = ops.convert_to_numpy(scores["real_perturbed"] - scores["real"]) / gan.perturbation_std
        penalties[precision] = float(losses.zero_centred_penalty(slopes))
    assert 0.5 < penalties["bfloat16"] / penalties["float32"] < 2, penalties  # 8 times as much, once


def test_layout_is_the_distance_to_the_nearest_thumbnail_both_ways_and_moves_only_the_generator():
    random = np.random.default_rng(0)
    real, fake = random.uniform(-1, 1, (2, 5, *SHAPE)).astype("float32")  # thumbnails of 16x32 are 8x16
    small = [frames.reshape(5, 8, 2, 16, 2, 3).mean((2, 4)) for frames in (real, fake)]
    between = np.array([[np.abs(one - other).mean() for other in small[1]] for one in small[0]])
    expected = between.min(0).mean() + between.min(1).mean()
    np.testing.assert_allclose(losses.thumbnail_loss(real, fake), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.thumbnail_loss(real, real[::-1]), 0, atol=1e-6)
    only_one = np.repeat(real[:1], 5, 0)  # fakes that are all the same leave the other real frames out
    assert float(losses.thumbnail_loss(real, only_one)) > 0.1

    gan = small_gan(keras.optimizers.SGD(0.1), gamma=0.0, thumbnail_weight=5.0)
    gan.loss_function = lambda *logits: (0.0 * logits[0][0, 0], 0.0 * logits[2][0, 0])
    assert moved_by_training(gan) == [True, False]


def test_windows_are_judged_together_and_drawn_from_one_latent_turned_on():
    settings = TrainingSettings(window=3, latent_dim=6, width=4, loss="non-saturating", augment=())
    gan = build_gan(settings, SHAPE, steps_per_second=29.97)
    assert steps_per_second(gan.ema_generator) == 29.97
    judged = []
    judge = gan.discriminator.call
    gan.discriminator.call = lambda inputs, **options: judged.append(inputs) or judge(inputs, **options)
    random = np.random.default_rng(0)
    latents = random.standard_normal((5, 6)).astype("float32")
    times = np.array([0, 0, 0, 1, 2] * 3, "float32").reshape(3, 5).T * np.array([0, 1, 2.5], "float32")
    frames = random.uniform(-1, 1, (5, 16, 32, 9)).astype("float32")
    gan({"frames": frames, "latents": latents, "frame_offsets": times})
    seen = ops.convert_to_numpy(judged[-1])  # real, fake, and noisy ones of the first real ones
    assert seen.shape == (14, 16, 32, 10)
    np.testing.assert_array_equal(seen[:5, ..., :9], frames)
    angles = step_angles(6).astype("float32")
    for number in range(5):
        np.testing.assert_allclose(seen[[number, 5 + number], ..., 9], times[number, -1] / 8)
        for place in range(3):
            latent = np.array(rotate(latents[number], times[number, place] * angles))[None]
            drawn = ops.convert_to_numpy(gan.generator(latent, training=False))[0]
            np.testing.assert_allclose(seen[5 + number, ..., 3 * place : 3 * place + 3], drawn, atol=1e-5)
    np.testing.assert_allclose(seen[10:, ..., 9], np.broadcast_to(times[:4, -1, None, None] / 8, (4, 16, 32)))


def test_rotation_keeps_the_prior_adds_up_and_has_a_direction():
    latents = np.random.default_rng(0).standard_normal((4000, 8)).astype("float32")
    angles = step_angles(8).astype("float32")
    turned = np.array(rotate(latents, 7 * angles))
    np.testing.assert_allclose(np.cov(turned.T), np.eye(8), atol=0.1)
    np.testing.assert_allclose(rotate(turned, 5 * angles), rotate(latents, 12 * angles), atol=1e-5)
    np.testing.assert_allclose(rotate(turned, -7 * angles), latents, atol=1e-5)
    assert np.abs(turned - np.array(rotate(latents, -7 * angles))).mean() > 0.3


def test_penalty_counts_alike_for_frames_of_every_size():
    gan = small_gan(keras.optimizers.SGD(0.1), gamma=2.0)
    logits = {name: np.zeros((4, 1), "float32") for name in ("real", "fake", "fake_for_generator")}
    logits["real_perturbed"] = np.full((4, 1), 0.5 * gan.perturbation_std, "float32")
    small, large = (
        float(gan.compute_loss(x={"frames": np.zeros((4, *size, 3))}, y_pred=logits, training=False))
        for size in ((20, 50), (40, 100))
    )
    flat = 3 * np.log(2)
    np.testing.assert_allclose([small - flat, large - flat], [2.0 / 2 * 0.5**2, 4 * 2.0 / 2 * 0.5**2], rtol=1e-4)


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


@pytest.mark.parametrize("loss", gan_module.LOSSES)
def test_learns_the_colours_of_flat_frames(loss):
    colours = np.array([[0.8, -0.8, -0.8], [-0.8, 0.8, -0.8], [-0.8, -0.8, 0.8]], "float32")
    random = np.random.default_rng(0)

    def flat():
        while True:
            frames = np.broadcast_to(colours[random.integers(3, size=24)][:, None, None], (24, *SHAPE))
            yield ({"frames": frames, "latents": random.standard_normal((24, 4), "float32")},)

    # With a third of this penalty, one of the colours is lost now and then.
    penalty = 20.0 if loss == "wasserstein-gp" else 60.0
    gan = small_gan(keras.optimizers.Adam(1e-3, beta_1=0.5), ema_decay=0.98, gamma=penalty, loss=loss)
    gan.fit(flat(), steps_per_epoch=1000, verbose=0)
    fakes = gan.ema_generator.predict(random.standard_normal((200, 4)), verbose=0)
    distances = np.linalg.norm(fakes.mean((1, 2))[:, None] - colours, axis=-1)
    # The colours are 2.3 apart, and grey is 1.5 from each.
    if loss == "wasserstein-gp":  # needs more steps of the critic than the one it gets here, and forgets colours
        assert np.median(distances.min(1)) < 1.1
        return
    assert np.median(distances.min(1)) < 0.8
    assert (np.bincount(distances.argmin(1), minlength=3) > 10).all()  # all three of them
    assert fakes.std((1, 2)).mean() < 0.4  # and flat


def feature_gan(optimizer, shape=(128, 256, 3), loss="relativistic"):
    settings = TrainingSettings(latent_dim=4, width=4, feature_weight=1.0, feature_width=4, augment=(), grow=False)
    gan = build_gan(replace(settings, loss=loss), shape)
    gan.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax")  # whose eager steps take minutes
    return gan


@pytest.mark.parametrize("mover", ["generator", "feature_discriminators"])
def test_feature_losses_move_only_their_own_networks(monkeypatch, mover):
    # XLA's depthwise convolutions take a CPU twenty times as long.
    shape, views = ((128, 256, 3), 2) if keras.backend.backend() != "jax" else ((64, 64, 3), 1)
    gan = feature_gan(keras.optimizers.SGD(0.1), shape)
    whole, keep = gan_module.hinge, (0.0, 1.0) if mover == "generator" else (1.0, 0.0)
    monkeypatch.setattr(gan_module, "hinge", lambda *logits: [a * b for a, b in zip(keep, whole(*logits), strict=True)])
    gan.loss_function = lambda *logits: (0.0 * ops.mean(logits[0]), 0.0)
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


def test_of_a_window_single_frames_are_seen_by_their_features():
    settings = TrainingSettings(latent_dim=4, width=4, window=3, feature_weight=1.0, feature_width=4, augment=())
    gan = build_gan(replace(settings, grow=False), (64, 128, 3), 30.0)
    random = np.random.default_rng(0)
    batch = {
        "frames": random.uniform(-1, 1, (2, 64, 128, 9)).astype("float32"),
        "latents": random.standard_normal((2, 4), "float32"),
        "frame_offsets": np.array([[0, 1, 2], [0, 2, 4]], "float32"),
    }
    scores = gan({name: ops.convert_to_tensor(value) for name, value in batch.items()})
    assert scores["real"].shape == (2, 1) and scores["feature_real"].shape[0] == scores["feature_fake"].shape[0] == 2
    (discriminator,) = gan.feature_discriminators
    expected = discriminator(gan.projector(batch["frames"][..., :3]))
    found, expected = map(ops.convert_to_numpy, (scores["feature_real"], expected))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_large_frames_are_seen_whole_and_in_crops():
    frames = np.arange(4 * 128 * 256 * 3, dtype="float32").reshape(4, 128, 256, 3)
    (whole, crops) = feature_views(
        ops.convert_to_tensor(frames), ops.convert_to_tensor(-frames), (64, 128), keras.random.SeedGenerator(0)
    )
    for real, fake in (whole, crops):
        assert real.shape == (2, 64, 128, 3)
        np.testing.assert_array_equal(ops.convert_to_numpy(fake), -ops.convert_to_numpy(real))
    averaged = frames[:2].reshape(2, 64, 2, 128, 2, 3).mean((2, 4))
    np.testing.assert_allclose(ops.convert_to_numpy(whole[0]), averaged, rtol=1e-5)
    crop = ops.convert_to_numpy(crops[0])[0]
    (top, left) = (int(place[0]) for place in np.nonzero(frames[2, :, :, 0] == crop[0, 0, 0]))
    np.testing.assert_array_equal(crop, frames[2, top : top + 64, left : left + 128])


@pytest.mark.parametrize(("shape", "count"), [((32, 64, 3), 0), ((64, 128, 3), 1), ((100, 120, 3), 1)])
def test_features_are_seen_of_frames_that_are_large_enough(shape, count):
    gan = feature_gan(keras.optimizers.SGD(0.1), shape)
    assert len(gan.feature_discriminators) == count
    for discriminator in gan.feature_discriminators:
        assert discriminator.output_shape[1] >= 3 * 4 * 8


def test_spectral_convolution_has_slope_1():
    keras.utils.set_random_seed(0)
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


def test_a_restarted_optimizer_moves_new_and_old_layers_alike():
    gan = small_gan(keras.optimizers.Adam(1e-3, beta_1=0.0, beta_2=0.99))
    gan.optimizer.build(gan.trainable_variables)
    gan.fit(random_batches(shape=SMALLER), steps_per_epoch=30, verbose=0)
    gan.reset_optimizer()
    gan.make_train_function(force=True)
    before = [ops.convert_to_numpy(variable).copy() for variable in gan.trainable_variables]
    gan.fit(random_batches(), steps_per_epoch=1, verbose=0)
    after = map(ops.convert_to_numpy, gan.trainable_variables)
    steps = [np.abs(new - old).max() / 1e-3 for old, new in zip(before, after, strict=True)]
    assert 0.9 < max(steps) < 1.1  # without the restart, layers of the larger size moved 5
    assert float(ops.convert_to_numpy(gan.optimizer.learning_rate)) == np.float32(1e-3)
