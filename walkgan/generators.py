"""Saved generators: loading them, also those of other projects, generating, and projection into latent space."""

import json
import re
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers, ops

from walkgan.distribution import is_multi_process
from walkgan.errors import InputError
from walkgan.images import to_float, to_uint8

NUM_SAMPLES = 16  # images in a grid of samples, 4 x 4
PROJECTION_RESTARTS, PROJECTION_STEPS = 8, 200


def load_generator(path):
    """Load a generator from a Keras file: this project's, or any model from one latent vector to an image.

    path: a .keras file, or an .h5 file of Keras 2 or 3. Returns a model from latents (batch, latent_dim) to
    frames (batch, height, width, 3) in [-1, 1]; images in [0, 1] or [0, 255] are rescaled and grey ones made RGB.
    Raises InputError, naming the file, when it is not such a model; code stored in the file is never run.
    """
    path = Path(path)
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
        if path.suffix in (".h5", ".hdf5") and isinstance(model, keras.Sequential):
            model = _fix_keras2_input(model, path)
        latent_dim = model.input_shape[-1]
        probe = keras.random.normal((16, latent_dim), seed=0)
        frames = ops.convert_to_numpy(model(probe, training=False))
    except Exception as error:  # whatever a third-party file makes Keras raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} cannot be loaded as a Keras generator: {reason[:200]}") from error
    if len(model.inputs) != 1 or len(model.input_shape) != 2 or frames.ndim != 4 or frames.shape[-1] not in (1, 3):
        raise InputError(
            f"{path} is not a generator: it maps {model.input_shape} to {model.output_shape}, not one latent vector "
            "(batch, latent_dim) to an image (batch, height, width, 1 or 3)."
        )
    latents = keras.Input((latent_dim,), name="latents")
    outputs = model(latents, training=False)
    if getattr(model.layers[-1], "activation", None) is not keras.activations.tanh and frames.min() >= 0:
        outputs = layers.Rescaling(2.0 if frames.max() <= 1 else 1 / 127.5, -1.0)(outputs)
    if frames.shape[-1] == 1:
        outputs = layers.Concatenate()([outputs] * 3)
    return keras.Model(latents, outputs, name=model.name if steps_per_second(model) else "generator")


def _fix_keras2_input(model, path):
    """Give a Sequential from an .h5 file the input shape in that file; Keras 3 adds a dimension to Keras 2's."""
    with h5py.File(path) as file:
        config = json.loads(file.attrs["model_config"])["config"]
    first = (config["layers"] if isinstance(config, dict) else config)[0]["config"]
    shape = first.get("batch_input_shape") or first.get("batch_shape")
    return keras.Sequential([keras.Input(shape[1:]), *model.layers])


def steps_per_second(generator):
    """Return how many steps of `step_angles` one second of a generator's walk is; None if it has not learned motion."""
    match = re.fullmatch(r"walker_([0-9.e+-]+)", generator.name)
    return float(match[1]) if match else None


def generate(gan, latents, averaged=True):
    """Return the frames that the averaged generator, or else the trained one, generates from latents, as uint8."""
    generator = gan.ema_generator if averaged else gan.generator
    if not is_multi_process():
        return to_uint8(generator.predict(latents, batch_size=NUM_SAMPLES, verbose=0))
    # `predict` would need the other hosts to take part; a copy of the weights does not.
    variables = generator.trainable_variables, generator.non_trainable_variables
    weights = [[ops.convert_to_numpy(variable) for variable in group] for group in variables]
    parts = np.split(latents, range(NUM_SAMPLES, len(latents), NUM_SAMPLES))
    frames = [ops.convert_to_numpy(generator.stateless_call(*weights, part, training=False)[0]) for part in parts]
    return to_uint8(np.concatenate(frames))


def project(generator, image, seed):
    """Return the latent (latent_dim,) float32 whose frame is nearest to an image of the generator's size, uint8.

    Gradient descent from several random latents at once, of which the best is kept (Creswell & Bharath 2016,
    arXiv:1611.05644). The distance is the mean difference of pixels, and of their means over 8x8. Norms are
    limited to sqrt(latent_dim), that of a typical latent: the generator has not been trained beyond.
    """
    latent_dim = generator.input_shape[-1]
    index = keras.Input((), dtype="int32")
    latents = layers.Embedding(
        PROJECTION_RESTARTS, latent_dim, keras.initializers.RandomNormal(stddev=1, seed=seed),
        embeddings_constraint=keras.constraints.MaxNorm(latent_dim**0.5, axis=1),
    )  # fmt: skip
    generator.trainable = False
    search = keras.Model(index, generator(latents(index), training=False))
    target = to_float(image)[None]
    blur = layers.AveragePooling2D(min(8, *image.shape[:2]), padding="same")

    def distance(_, frames):
        difference = ops.subtract(frames, target)
        return ops.mean(ops.abs(difference), (1, 2, 3)) + ops.mean(ops.abs(blur(difference)), (1, 2, 3))

    search.compile(keras.optimizers.Adam(0.05), loss=distance)
    indices = np.tile(np.arange(PROJECTION_RESTARTS), PROJECTION_STEPS)
    print("searching for the nearest frame")
    search.fit(indices, np.zeros(len(indices)), batch_size=PROJECTION_RESTARTS, shuffle=False)
    found = search.predict(np.arange(PROJECTION_RESTARTS), batch_size=PROJECTION_RESTARTS, verbose=0)
    best = int(np.argmin(ops.convert_to_numpy(distance(None, found))))
    return ops.convert_to_numpy(latents.embeddings)[best]
