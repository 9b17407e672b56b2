"""Builds and compiles the adversarial model that settings describe."""

import math

import keras

from models import (
    build_discriminators,
    build_feature_discriminator,
    build_generator,
    build_generators,
    num_downsamplings,
)
from walkgan.efficientnet import build_projector
from walkgan.errors import SettingError
from walkgan.gan import GAN

PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
MIN_FEATURE_SIZE = 64  # pixels of the shorter side; from twice that on, frames are seen at half size and in crops


def build_gan(settings, frame_shape, steps_per_second=None, scenes=(1.0,)):
    """Build and compile the adversarial model, its initial weights drawn from the settings' seed.

    `steps_per_second` is kept with a generator that learns motion: how many steps of its walk are a second.
    `scenes`: as of find_scenes in scenes.py.
    Raises SettingError for frames that are too small.
    """
    try:
        num_downsamplings(frame_shape)
    except ValueError as error:
        raise SettingError(f"{settings.frames}: {error} Extract the frames again, larger.") from None
    if keras.config.image_data_format() != "channels_last":
        raise SettingError('image_data_format must be "channels_last": change it in ~/.keras/keras.json.')
    keras.utils.set_random_seed(settings.seed)
    # In its name, since a Keras file has no other place that every Keras version reads.
    name = f"walker_{steps_per_second:.6g}" if steps_per_second else "generator"
    # A window of frames is one image of many channels, and one more for its length.
    channels = frame_shape[2] * settings.window + (settings.window > 1)
    try:
        keras.config.set_dtype_policy(PRECISIONS[settings.precision])
        options = {"scenes": scenes, "walks": settings.window > 1}
        generators = build_generators(
            settings.latent_dim, frame_shape, settings.width, fused=True, window=settings.window, **options
        )
        discriminators = build_discriminators((*frame_shape[:2], channels), settings.width, len(scenes))
        projector, feature_discriminators = build_feature_networks(frame_shape, settings, len(scenes))
    finally:
        keras.config.set_dtype_policy("float32")
    gan = GAN(
        generators,
        discriminators,
        ema_generator=build_generator(settings.latent_dim, frame_shape, settings.width, name, **options),
        loss=settings.loss,
        gamma=settings.gamma,
        thumbnail_weight=settings.thumbnail_weight,
        augment=settings.augment,
        ema_decay=settings.ema_decay,
        seed=settings.seed,
        projector=projector,
        feature_discriminators=feature_discriminators,
        feature_weight=settings.feature_weight,
    )
    compile_gan(gan, settings)
    return gan


def compile_gan(gan, settings):
    """Give the GAN its optimizer, and on several devices, statistics of the whole batch."""
    optimizer = keras.optimizers.Adam(
        settings.learning_rate,
        beta_1=settings.beta_1,
        beta_2=settings.beta_2,
        # Far above any normal gradient. Its norm also makes every update wait for all gradients: TensorFlow on the
        # CPU changed weights in place that oneDNN was still reading, about once in 2,000 steps.
        global_clipnorm=1e4,
    )
    if settings.precision == "float16":  # which underflows on small gradients
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    if settings.devices > 1 and keras.backend.backend() == "tensorflow":
        gan.replicas = settings.devices
        for layer in gan.generator.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True  # statistics of the whole batch, as on JAX
    # XLA made TensorFlow's step on the CPU a third slower; JAX needs it.
    gan.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax")
    gan.optimizer.build(gan.trainable_variables)  # so that a checkpoint finds its variables


def uses_features(settings, frame_shape):
    """Return whether a GAN of these settings has feature discriminators."""
    return settings.feature_weight > 0 and min(frame_shape[:2]) >= MIN_FEATURE_SIZE


def build_feature_networks(frame_shape, settings, num_scenes):
    """Build the frozen projector and the feature discriminators: (None, []) where there are none.

    The first of them sees whole frames, halved until their shorter side is below 128. Where they had to be halved, a
    second one sees crops of that size from the frames as they are.
    """
    if not uses_features(settings, frame_shape):
        return None, []
    factor = 2 ** int(math.log2(min(frame_shape[:2]) / MIN_FEATURE_SIZE))
    size = tuple(-(-side // factor) for side in frame_shape[:2])
    projector = build_projector((*size, 3), settings.feature_width, settings.seed)
    shapes = [features.shape[1:] for features in projector.outputs]
    views = 1 if factor == 1 else 2
    return projector, [build_feature_discriminator(shapes, settings.feature_width, num_scenes) for _ in range(views)]
