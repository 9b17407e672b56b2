"""The generator and the discriminator: DCGAN as a pyramid (Radford et al. 2016, arXiv:1511.06434).

Both networks are the same pyramid walked in opposite directions. At 160x320 and width 16:

    latents ->  5x10x128 -> 10x20x128 -> 20x40x64 -> 40x80x32 -> 80x160x16 -> 160x320x3
    frames  -> 80x160x16 -> 40x80x32 -> 20x40x64 -> 10x20x128 -> 5x10x128 -> one logit

Every step halves or doubles both sides, so pixels and channels trade places and no step costs much more than
its neighbours.

Two things differ from the paper, since they drew better frames here in the same time. The generator enlarges by
repeating pixels and then convolves, where the paper's transposed convolution leaves a checkerboard (Odena et al.
2016, distill.pub/2016/deconv-checkerboard). The discriminator has no batch normalisation: with it, on small
batches, it soon won outright and the generator stood still.
"""

import json
from pathlib import Path

import h5py
import keras
from keras import layers

from settings import InputError

SMALLEST_BASE = 4  # DCGAN starts from 4x4
WIDEST = 8  # no layer is wider than this many times the narrowest


def count_halvings(frame_shape):
    """Return how often a frame's sides are halved to reach the base of the pyramid.

    frame_shape: (height, width, channels). The shorter side of the base is 4, 5, 6 or 7, which is 5x10
    for 160x320. Raises ValueError, naming the nearest sizes that work, when a side does not halve so.
    """
    height, width = frame_shape[:2]
    halvings, shorter = 0, min(height, width)
    while shorter >= 2 * SMALLEST_BASE:
        halvings, shorter = halvings + 1, shorter / 2
    step = 2**halvings
    if halvings == 0 or height % step or width % step:
        raise ValueError(
            f"frames of {height}x{width} (height x width) cannot be built: both sides must halve to a base of at "
            f"least {SMALLEST_BASE}x{SMALLEST_BASE}. The nearest sizes that work: {_nearest_sizes(height, width)}."
        )
    return halvings


def build_generator(latent_dim, frame_shape, width):
    """Build the generator: latents in, frames out.

    latents: (batch, latent_dim) float32, standard normal. Returns frames (batch, height, width, channels)
    float32 in [-1, 1]. `width` is the number of channels just below the frame.
    Raises ValueError for a frame_shape that does not halve to a base.
    """
    *inner_widths, base_width = _pyramid_widths(frame_shape, width)
    halvings = count_halvings(frame_shape)
    base_shape = (frame_shape[0] >> halvings, frame_shape[1] >> halvings, base_width)

    latents = keras.Input((latent_dim,), name="latents")
    x = layers.Dense(base_shape[0] * base_shape[1] * base_width, use_bias=False, kernel_initializer=_init())(latents)
    x = layers.Reshape(base_shape)(x)
    x = layers.ReLU()(_batch_norm()(x))
    for channels in reversed(inner_widths):
        x = layers.UpSampling2D()(x)
        x = layers.Conv2D(channels, 3, padding="same", use_bias=False, kernel_initializer=_init())(x)
        x = layers.ReLU()(_batch_norm()(x))
    x = layers.UpSampling2D()(x)
    x = layers.Conv2D(frame_shape[2], 3, padding="same", kernel_initializer=_init())(x)
    frames = layers.Activation("tanh", dtype="float32")(x)
    return keras.Model(latents, frames, name="generator")


def build_discriminator(frame_shape, width):
    """Build the discriminator: frames in, logits out; a higher logit means more real.

    frames: (batch, height, width, channels) float32 in [-1, 1]. Returns (batch, 1) float32 logits.
    `width` is the number of channels just above the frame.
    Raises ValueError for a frame_shape that does not halve to a base.
    """
    x = frames = keras.Input(frame_shape, name="frames")
    for channels in _pyramid_widths(frame_shape, width):
        x = layers.Conv2D(channels, 4, 2, "same", kernel_initializer=_init())(x)
        x = layers.LeakyReLU(0.2)(x)
    logits = layers.Dense(1, dtype="float32", kernel_initializer=_init())(layers.Flatten()(x))
    return keras.Model(frames, logits, name="discriminator")


def load_generator(path):
    """Load a generator from a Keras file: this project's, or any model from one latent vector to a picture.

    path: a .keras file, or an .h5 file of Keras 2 or 3. Returns a model from latents (batch, latent_dim) to
    frames (batch, height, width, 3) in [-1, 1]; pictures in [0, 1] or [0, 255] are rescaled and grey ones made
    RGB. Raises InputError, naming the file, when it is no such model; code stored in the file is never run.
    """
    path = Path(path)
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
        if path.suffix in (".h5", ".hdf5") and isinstance(model, keras.Sequential):
            model = _with_true_input(model, path)
        latent_dim = model.input_shape[-1]
        probe = keras.random.normal((16, latent_dim), seed=0)
        frames = keras.ops.convert_to_numpy(model(probe, training=False))
    except Exception as error:  # whatever a stranger's file makes Keras raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} cannot be loaded as a Keras generator: {reason[:200]}") from error
    if len(model.inputs) != 1 or len(model.input_shape) != 2 or frames.ndim != 4 or frames.shape[-1] not in (1, 3):
        raise InputError(
            f"{path} is no generator: it maps {model.input_shape} to {model.output_shape}, not one latent vector "
            "(batch, latent_dim) to a picture (batch, height, width, 1 or 3)."
        )
    latents = keras.Input((latent_dim,), name="latents")
    outputs = model(latents, training=False)
    if frames.min() >= 0:
        outputs = layers.Rescaling(2.0 if frames.max() <= 1 else 1 / 127.5, -1.0)(outputs)
    if frames.shape[-1] == 1:
        outputs = layers.Concatenate()([outputs] * 3)
    return keras.Model(latents, outputs, name="generator")


def _with_true_input(model, path):
    """Give a Sequential from an .h5 file the input that the file states; Keras 3 adds a dimension to Keras 2's."""
    with h5py.File(path) as file:
        config = json.loads(file.attrs["model_config"])["config"]
    first = (config["layers"] if isinstance(config, dict) else config)[0]["config"]
    shape = first.get("batch_input_shape") or first.get("batch_shape")
    return keras.Sequential([keras.Input(shape[1:]), *model.layers])


def _pyramid_widths(frame_shape, width):
    """Return the channels of each level, from the one next to the frame down to the base."""
    return [min(width * 2**level, width * WIDEST) for level in range(count_halvings(frame_shape))]


def _init():
    return keras.initializers.RandomNormal(stddev=0.02)  # DCGAN, section 4


def _batch_norm():
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)  # short memory: the networks never stand still


def _nearest_sizes(height, width):
    """Name the sizes around height x width whose sides are multiples of the same power of two."""
    shorter = max(min(height, width), 2 * SMALLEST_BASE)
    step = 2 ** (shorter // SMALLEST_BASE).bit_length() // 2
    around = [sorted({max(side // step, SMALLEST_BASE) * step, -(-side // step) * step}) for side in (height, width)]
    sizes = {(h, w) for h in around[0] for w in around[1] if h >= SMALLEST_BASE * step and w >= SMALLEST_BASE * step}
    ordered = sorted(sizes, key=lambda size: abs(size[0] - height) + abs(size[1] - width))
    return ", ".join(f"{h}x{w}" for h, w in ordered)
