"""The generator and the discriminator: DCGAN (Radford et al. 2016, arXiv:1511.06434) as a pyramid that can grow.

Both networks are the same pyramid walked in opposite directions. At 160x320 and width 16:

    latents ->  5x10x64 -> 10x20x48 -> 20x40x32 -> 40x80x24 -> 80x160x16 -> 160x320x8 -> 160x320x3
    frames  -> 80x160x16 -> 40x80x24 -> 20x40x32 -> 10x20x48 -> 5x10x64 -> one logit

Every step halves or doubles both sides. The widths fall slowly towards the frame, so that small frames cost a fraction
of what large ones do; twice as wide below, the same time gave half the steps, and worse frames. Six things differ from
the paper, since they drew better frames here in the same time:

- The generator enlarges by repeating pixels and then convolves, where the paper's transposed convolution leaves a
  checkerboard (Odena et al. 2016, distill.pub/2016/deconv-checkerboard).
- It convolves at the frame's own size too, and draws from that. In the paper a pixel is a linear mix of features of
  half the size, and fakes were strewn with squiggles, however long the training.
- From 40x80 on, each size adds a correction to the enlarged picture of the size below, and the discriminator sees the
  frame at each of these sizes (the RGB skips of StyleGAN2, Karras et al. 2020, arXiv:1912.04958; MSG-GAN, Karnewar &
  Wang 2020, arXiv:1903.06048). So the networks of the smaller frames are parts of those of the larger ones, and can
  be trained first (Karras et al. 2018, arXiv:1710.10196).
- What a size adds to those below starts at nothing: a growth begins with the picture it found, and needs no fading in.
- The discriminator looks at the smallest frames pixel by pixel before it halves them; without, fakes were strewn with
  small rings that it did not see.
- The discriminator has no batch normalisation: with it, on small batches, it soon won outright and the generator stood
  still.
"""

import json
import math
import re
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers, ops

from settings import InputError

SMALLEST_BASE = 4  # DCGAN starts from 4x4
WIDEST = 4  # the base is this many times as wide as the layer of half the frame's size
BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}  # short memory: the networks never stand still
PERIODS = 16, 3000  # steps in which the fastest and the slowest pair of a walking latent turn round
SKIPS = 3  # how many sizes, the frame's own and the ones below, have a picture of their own
DEEPEST = 5  # halvings; a network of more has one of so many as its part, and a picture of its own at every size above


def count_halvings(frame_shape):
    """Return how often a frame's sides are halved to reach the base of the pyramid.

    frame_shape: (height, width, channels). The shorter side of the base is 4 to 8, which is 5x10 for 160x320. Sides
    that do not halve so are padded at the bottom and on the right inside the networks, and cut off again.
    Raises ValueError where the shorter side is below 8.
    """
    height, width = frame_shape[:2]
    halvings, shorter = 0, min(height, width)
    while shorter >= 2 * SMALLEST_BASE:
        halvings, shorter = halvings + 1, shorter / 2
    if halvings == 0:
        raise ValueError(f"frames of {height}x{width} (height x width) are too small: no side can be below 8.")
    return halvings


class UpConv2D(layers.Conv2D):
    """A 3x3 convolution of the input enlarged twice by repeating pixels, in half the time of UpSampling2D and Conv2D.

    Three pixels in a row of the enlarged input are two of the input, one of them twice. So the two layers are one
    transposed convolution, whose 4x4 kernel is the 3x3 one added up at four places.
    """

    def call(self, inputs):
        """Return (batch, 2 * height, 2 * width, filters) of inputs (batch, height, width, channels)."""
        if keras.backend.backend() == "jax":  # whose compiler made the whole step a third slower on the CPU
            return super().call(ops.repeat(ops.repeat(inputs, 2, 1), 2, 2))
        places = [((down, 1 - down), (right, 1 - right), (0, 0), (0, 0)) for down in (0, 1) for right in (0, 1)]
        mirrored = ops.flip(sum(ops.pad(self.kernel, place) for place in places), (0, 1))
        return ops.conv_transpose(inputs, ops.transpose(mirrored, (0, 1, 3, 2)), 2, padding="same")

    def compute_output_shape(self, input_shape):
        """Return the shape of what `call` returns."""
        return input_shape[0], 2 * input_shape[1], 2 * input_shape[2], self.filters


def build_generator(latent_dim, frame_shape, width, part_of=None, steps_a_second=None, fused=False):
    """Build the generator: latents in, frames out.

    latents: (batch, latent_dim) float32, standard normal. Returns frames (batch, height, width, channels)
    float32 in [-1, 1]. `width` is the number of channels at half the frame's size. With `part_of`, a generator of
    frames twice or four times as large, it is the part of that one which draws these frames, with its weights.
    `steps_a_second` is kept with a generator that walks: a second of its walk is so many steps of `step_angles`.
    A `fused` one draws the same and is quicker to train, but has layers of our own, which a Keras file should not.
    Raises ValueError for frames that are too small.
    """
    layer = _layers(part_of)
    halvings, smallest, padding = _pyramid(frame_shape, part_of.output_shape[1:] if part_of else frame_shape)
    widths = _widths(width, halvings)
    base_shape = (*((side + more) >> halvings for side, more in zip(frame_shape, padding, strict=False)), widths[0])

    latents = keras.Input((latent_dim,), name="latents")
    x = layer(layers.Dense, "dense", math.prod(base_shape), use_bias=False)(latents)
    x = layer(layers.Reshape, "base", base_shape)(x)
    x = layers.ReLU()(layer(layers.BatchNormalization, "norm_0", **BATCH_NORM)(x))
    frames = None
    for level in range(1, halvings + 1):
        channels = widths[level] if level < min(halvings, DEEPEST) else max(width // 2, 1)
        x, kind = (x, UpConv2D) if fused else (layers.UpSampling2D()(x), layers.Conv2D)
        x = layer(kind, f"conv_{level}", channels, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layer(layers.BatchNormalization, f"norm_{level}", **BATCH_NORM)(x))
        if level >= smallest:
            start = "zeros" if level > smallest else None
            picture = layer(layers.Conv2D, f"to_frames_{level}", frame_shape[2], 3, padding="same", start=start)(x)
            larger = [] if frames is None else [layers.UpSampling2D(interpolation="bilinear")(frames)]
            frames = layers.Add()([*larger, picture]) if larger else picture
    if any(padding):
        frames = layers.Cropping2D([(0, more) for more in padding])(frames)
    frames = layers.Activation("tanh", dtype="float32", name="frames")(frames)
    # In its name, since a Keras file has no other room that any Keras reads.
    name = f"walker_{steps_a_second:.6g}" if steps_a_second else "generator"
    return keras.Model(latents, frames, name=name)


def build_discriminator(frame_shape, width, part_of=None):
    """Build the discriminator: frames in, logits out; a higher logit means more real.

    frames: (batch, height, width, channels) float32 in [-1, 1]. Returns (batch, 1) float32 logits.
    `width` is the number of channels at half the frame's size. With `part_of`, a discriminator of frames twice or four
    times as large, it is the part of that one which judges these frames, with its weights.
    Raises ValueError for frames that are too small.
    """
    layer = _layers(part_of)
    halvings, smallest, padding = _pyramid(frame_shape, part_of.input_shape[1:] if part_of else frame_shape)
    widths = _widths(width, halvings)
    inputs = frames = keras.Input(frame_shape, name="frames")
    if any(padding):
        frames = layers.ZeroPadding2D([(0, more) for more in padding])(frames)
    x = None
    for level in range(halvings, 0, -1):
        parts = []
        if x is not None:
            start = "zeros" if level >= smallest else None
            parts.append(layer(layers.Conv2D, f"conv_{level}", widths[level - 1], 4, 2, "same", start=start)(x))
        if level >= smallest:
            seen = frames
            if level == smallest:
                seen = layers.LeakyReLU(0.2)(layer(layers.Conv2D, "look", widths[-1], 3, padding="same")(frames))
            parts.append(layer(layers.Conv2D, f"from_frames_{level}", widths[level - 1], 4, 2, "same")(seen))
            frames = layers.AveragePooling2D(2)(frames)
        x = layers.LeakyReLU(0.2)(layers.Add()(parts) if len(parts) > 1 else parts[0])
    logits = layer(layers.Dense, "logits", 1, dtype="float32")(layers.Flatten()(x))
    return keras.Model(inputs, logits, name="discriminator")


@keras.saving.register_keras_serializable("models")
class SpectralConv2D(layers.Conv2D):
    """A convolution whose kernel is divided by its largest singular value (Miyato et al. 2018, arXiv:1802.05957).

    The value is followed by one power iteration a training step. Keras's SpectralNormalization overwrites the kernel
    itself, which JAX's functional steps would lose.
    """

    def build(self, input_shape):
        """Make the kernel, and the left singular vector that is followed."""
        super().build(input_shape)
        self.singular_vector = self.add_weight(
            shape=(self.filters,), initializer=keras.initializers.RandomNormal(seed=0), trainable=False,
            name="singular_vector", aggregation="only_first_replica",
        )  # fmt: skip

    def call(self, inputs, training=False):
        """Return what Conv2D returns, with the kernel normalised."""
        matrix = ops.cast(ops.reshape(self.kernel, (-1, self.filters)), "float32")
        fixed, vector = ops.stop_gradient(matrix), ops.cast(self.singular_vector, "float32")
        other = ops.normalize(ops.matmul(fixed, vector))
        vector = ops.normalize(ops.matmul(other, fixed))
        if training:
            self.singular_vector.assign(vector)
        largest = ops.dot(other, ops.matmul(matrix, vector))
        kernel = self.kernel / ops.cast(largest, self.kernel.dtype)
        return ops.conv(inputs, kernel, list(self.strides), self.padding) + self.bias

    # Conv2D's own would leave the singular vector out.
    save_own_variables = layers.Layer.save_own_variables
    load_own_variables = layers.Layer.load_own_variables


def build_feature_discriminator(feature_shapes, width):
    """Build the discriminator that sees frames through a frozen network: features in, logits out.

    feature_shapes: (rows, columns, channels) of each scale, finest first, such as 20x40, 10x20 and 5x10. Returns
    (batch, logits) float32, a higher one more real: of each scale one for every place of the coarsest, and one for the
    whole frame, which counts as much as a third of the places together.
    After Projected GAN (Sauer et al. 2021, arXiv:2111.01007), which has no logit for the whole frame.
    """
    inputs = [keras.Input(shape, name=f"features_{scale}") for scale, shape in enumerate(feature_shapes)]
    places = math.prod(feature_shapes[-1][:2])
    logits = []
    for scale, x in enumerate(inputs):

        def convolve(x, name, filters, size, strides=1, scale=scale):
            x = SpectralConv2D(filters, size, strides, padding="same", name=f"{name}_{scale}")(x)
            return layers.LeakyReLU(0.2)(x)

        for halving in range(len(inputs) - 1 - scale, 0, -1):
            x = convolve(x, f"halve_{halving}", width if halving > 1 else 2 * width, 4, strides=2)
        x = convolve(x, "conv", 2 * width, 3)
        of_places = SpectralConv2D(1, 3, padding="same", dtype="float32", name=f"places_{scale}")(x)
        x = convolve(x, "whole_conv", 2 * width, 3, strides=2)
        of_whole = SpectralConv2D(1, x.shape[1:3], dtype="float32", name=f"whole_{scale}")(x)
        logits += [layers.Flatten()(of_places), *[layers.Flatten()(of_whole)] * max(1, round(0.3 * places))]
    return keras.Model(inputs, layers.Concatenate()(logits), name="feature_discriminator")


def steps_a_second(generator):
    """Return how many steps of `step_angles` a second of a generator's walk takes; None if it has not learned to."""
    named = re.fullmatch(r"walker_([0-9.e+-]+)", generator.name)
    return float(named[1]) if named else None


def step_angles(latent_dim):
    """Return the angles (latent_dim / 2,), in radians, by which a step of a walk turns the pairs of a latent."""
    return 2 * np.pi / np.geomspace(*PERIODS, latent_dim // 2)


def rotate(latents, angles):
    """Turn the pairs of a latent, each by its own angle.

    latents: (..., latent_dim), an even many; angles: (..., latent_dim / 2) in radians. A rotation leaves the normal
    distribution as it is, so every frame of a walk is drawn from the latents the generator was trained on.
    """
    first, second = ops.split(latents, 2, -1)
    cosine, sine = ops.cos(angles), ops.sin(angles)
    return ops.concatenate([first * cosine - second * sine, first * sine + second * cosine], -1)


def smaller_shapes(frame_shape):
    """Return the frame shapes that a network of frame_shape has parts for, smallest first, its own last."""
    height, width, channels = frame_shape
    halvings, smallest, _ = _pyramid(frame_shape, frame_shape)
    halved = lambda side, times: -(-side // 2**times)  # noqa: E731, rounded up
    return [(halved(height, times), halved(width, times), channels) for times in range(halvings - smallest, -1, -1)]


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
    return keras.Model(latents, outputs, name=model.name if steps_a_second(model) else "generator")


def _with_true_input(model, path):
    """Give a Sequential from an .h5 file the input that the file states; Keras 3 adds a dimension to Keras 2's."""
    with h5py.File(path) as file:
        config = json.loads(file.attrs["model_config"])["config"]
    first = (config["layers"] if isinstance(config, dict) else config)[0]["config"]
    shape = first.get("batch_input_shape") or first.get("batch_shape")
    return keras.Sequential([keras.Input(shape[1:]), *model.layers])


def _layers(part_of):
    """Return layer(kind, name, ...), which makes a layer, or finds the one of that name in the network `part_of`."""

    def layer(kind, name, *arguments, start=None, **options):
        if part_of is not None:
            return part_of.get_layer(name)
        if kind in (layers.Dense, layers.Conv2D, UpConv2D):
            options["kernel_initializer"] = start or keras.initializers.RandomNormal(stddev=0.02)  # DCGAN's
        return kind(*arguments, name=name, **options)

    return layer


def _pyramid(frame_shape, whole_shape):
    """Return how often a network's frames are halved, the first halving with a picture of its own, and the padding.

    The halvings and pictures are those of the whole network, for frames of whole_shape, of which this one is a part.
    The padding is (rows, columns), which make the sides halve evenly.
    """
    whole = count_halvings(whole_shape)
    halvings = whole - round(math.log2(whole_shape[0] / frame_shape[0]))
    return halvings, max(1, min(whole, DEEPEST) - SKIPS + 1), [-side % 2**halvings for side in frame_shape[:2]]


def _widths(width, halvings):
    """Return the channels at each size, from the base to half the frame's: falling evenly, in steps of 8."""
    last = max(min(halvings, DEEPEST) - 1, 1)
    exact = [width * WIDEST ** (1 - min(level, last) / last) for level in range(halvings)]
    return [max(8 * round(channels / 8), 8) if channels > 8 else max(round(channels), 1) for channels in exact]
