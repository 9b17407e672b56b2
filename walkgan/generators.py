"""Saved generators: loading them, also those of other projects, generating, and projection into latent space."""

import re
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from walkgan.distribution import predict
from walkgan.errors import InputError, shorten
from walkgan.images import to_float, to_uint8
from walkgan.keras2 import as_keras3
from walkgan.keyframes import keyframes_around
from walkgan.scenes import move_to_scenes, scene_numbers
from walkgan.street import STRIP_NAMES

NUM_SAMPLES = 16  # images in a grid of samples, 4 x 4
AT_KEYFRAMES = "far", *STRIP_NAMES  # layers of a generator of walks, see street.py
PROJECTION_RESTARTS, PROJECTION_STEPS = 8, 200


def load_generator(path):
    """Load a generator from a Keras file: this project's, or any model from one latent vector to an image.

    path: a .keras file, or an .h5 file of Keras 2 or 3; of a whole GAN, the generator in it is taken. Returns a model
    from latents (batch, latent_dim) to frames (batch, height, width, 3) in [-1, 1]; images in [0, 1] or [0, 255] are
    rescaled and grey ones made RGB. Raises InputError, naming the file, when it holds no such model; code stored in the
    file is never run.
    """
    path = Path(path)
    try:
        with as_keras3(path) as readable:
            model = keras.models.load_model(readable, compile=False, safe_mode=True)
        model = _find_generator(model)
        latent_dim = model.inputs[0].shape[-1]
        probe = keras.random.normal((4, latent_dim), seed=0)
        frames = ops.convert_to_numpy(_call(model, probe))
    except Exception as error:  # whatever a third-party file makes Keras raise
        raise InputError(f"{path} cannot be loaded as a Keras generator: {shorten(error)}") from error
    if not _is_generator(model):
        raise InputError(
            f"{path} is not a generator: it maps {model.input_shape} to {model.output_shape}, not one latent vector "
            "(batch, latent_dim) to an image (batch, height, width, 1 or 3)."
        )
    latents = keras.Input((latent_dim,), name="latents")
    outputs = _call(model, latents)
    if getattr(model.layers[-1], "activation", None) is not keras.activations.tanh and frames.min() >= 0:
        outputs = layers.Rescaling(2.0 if frames.max() <= 1 else 1 / 127.5, -1.0)(outputs)
    if frames.shape[-1] == 1:
        outputs = layers.Concatenate()([outputs] * 3)
    return keras.Model(latents, outputs, name=model.name if steps_per_second(model) else "generator")


def _call(model, latents):
    """Return the images of a model; those of Keras 2 may give a list of one."""
    images = model(latents, training=False)
    return images[0] if isinstance(images, list | tuple) and len(images) == 1 else images


def _is_generator(model):
    if not len(model.inputs) == len(model.outputs) == 1:
        return False
    input_shape, output_shape = model.inputs[0].shape, model.outputs[0].shape
    return len(input_shape) == 2 and len(output_shape) == 4 and output_shape[-1] in (1, 3)


def _find_generator(model):
    """Return a model, or the generator in it if it is a whole GAN."""
    parts = [layer for layer in model.layers if isinstance(layer, keras.Model) and _is_generator(layer)]
    return model if _is_generator(model) or len(parts) != 1 else parts[0]


def steps_per_second(generator):
    """Return how many steps of `step_angles` a second of a walk takes; None for a generator without motion."""
    match = re.fullmatch(r"walker_([0-9.e+-]+)", generator.name)
    return float(match[1]) if match else None


def scenes_of(generator):
    """Return where the scenes of a generator of load_generator end, see find_scenes; (1.0,) for a single one."""
    layers_inside = [layer for model in generator.layers for layer in getattr(model, "layers", ())]
    found = [layer for layer in layers_inside if isinstance(layer, layers.Discretization) and layer.name == "scene"]
    return (*found[0].bin_boundaries, 1.0) if found else (1.0,)


def predict_frames(generator, latents):
    """Return the frames that a generator generates from latents, as uint8."""
    return to_uint8(predict(generator, latents, NUM_SAMPLES))


def frame_drawer(generator):
    """Return a function from latents (count, latent_dim) float32 to uint8 frames (count, height, width, 3).

    Frames are those of predict_frames. But what a generator of walks draws at a keyframe is drawn once for all frames
    that follow it, also for those of the next call: it is a large part of the work.
    """
    model = next((layer for layer in generator.layers if isinstance(layer, keras.Model)), generator)
    parts = [layer.output for layer in model.layers if layer.name in AT_KEYFRAMES]
    if not steps_per_second(generator) or len(parts) < len(AT_KEYFRAMES):
        return lambda latents: to_uint8(generator.predict_on_batch(latents))
    scenes, drawn = scenes_of(generator), {}
    at_keyframes, of_frames = keras.Model(model.input, parts), keras.Model([model.input, *parts], model.output)

    def draw(latents):
        nonlocal drawn
        before, _ = ops.split(keyframes_around(latents[:, None])[0], 2)
        before = ops.convert_to_numpy(before).round(2) + 0  # from frame to frame it differs a little, 0 and -0 too
        before = np.column_stack([before, scene_numbers(latents, scenes)])  # after a cut, another scene is drawn
        keys = [keyframe.tobytes() for keyframe in before]
        # Each keyframe by itself: for every other number of them, TensorFlow would first take a second to prepare.
        drawn = {
            key: drawn[key] if key in drawn else at_keyframes.predict_on_batch(latent[None])
            for key, latent in dict(zip(keys, latents, strict=True)).items()
        }
        by_part = zip(*(drawn[key] for key in keys), strict=True)
        # What is drawn at the keyframe before comes first, of all frames; then what is drawn at the one after.
        joined = [np.stack(part, 1).reshape(-1, *part[0].shape[1:]) for part in by_part]
        return to_uint8(of_frames.predict_on_batch([latents, *joined]))

    return draw


def generate(gan, latents, averaged=True):
    """Return the frames that the averaged generator, or else the trained one, generates from latents, as uint8."""
    generator = gan.ema_generator if averaged else gan.generator
    if len(generator.input_shape) == 3:  # it generates windows: here of the same frame several times
        latents = np.repeat(latents[:, None], generator.input_shape[1], 1)
    return predict_frames(generator, latents)[..., :3]


def project(generator, image, seed):
    """Return the latent (latent_dim,) float32 whose frame is nearest to an image of the generator's size, uint8.

    Gradient descent from several random latents at once, of which the best is kept (Creswell & Bharath 2016,
    arXiv:1611.05644). Every scene has at least one, since no gradient leads from one to another. The distance is the
    mean difference of pixels, and of their means over 8x8. Norms are limited to sqrt(latent_dim), that of a typical
    latent: the generator has not been trained beyond.
    """
    latent_dim, scenes, rng = generator.input_shape[-1], scenes_of(generator), np.random.default_rng(seed)
    restarts = max(PROJECTION_RESTARTS, len(scenes))
    starts = rng.standard_normal((restarts, latent_dim), "float32")
    middles = (np.array([0, *scenes[:-1]]) + scenes) / 2
    starts, _ = move_to_scenes(starts, np.resize(middles, restarts), scenes, 0, rng)
    index = keras.Input((), dtype="int32")
    norm = keras.constraints.MaxNorm(latent_dim**0.5, axis=1)
    latents = layers.Embedding(restarts, latent_dim, keras.initializers.Constant(starts), embeddings_constraint=norm)
    generator.trainable = False
    search = keras.Model(index, generator(latents(index), training=False))
    target = to_float(image)[None]
    blur = layers.AveragePooling2D(min(8, *image.shape[:2]), padding="same")

    def distance(_, frames):
        difference = ops.subtract(frames, target)
        return ops.mean(ops.abs(difference), (1, 2, 3)) + ops.mean(ops.abs(blur(difference)), (1, 2, 3))

    search.compile(keras.optimizers.Adam(0.05), loss=distance)
    indices = np.tile(np.arange(restarts), PROJECTION_STEPS)
    print("searching for the nearest frame")
    search.fit(indices, np.zeros(len(indices)), batch_size=restarts, shuffle=False)
    found = search.predict(np.arange(restarts), batch_size=restarts, verbose=0)
    best = int(np.argmin(ops.convert_to_numpy(distance(None, found))))
    return ops.convert_to_numpy(latents.embeddings)[best]
