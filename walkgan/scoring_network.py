"""The network that scores frames by their features; it takes no part in training."""

import hashlib
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from walkgan.distribution import predict
from walkgan.efficientnet import NETWORKS, build_scorer
from walkgan.errors import InputError, shorten


def load_network(features, frame_shape):
    """Load the network that scores: one of EfficientNet-Lite's by name, `InceptionV3`, or a Keras file.

    Raises InputError when it cannot be loaded, InceptionV3 not be downloaded, or frames of frame_shape not be scored.
    """
    network = _load(features)
    try:
        wanted = network.input_shape[1:]
        if any(side not in (None, own) for side, own in zip(wanted, frame_shape, strict=True)):
            raise ValueError(f"it takes inputs of {wanted}")
        found = extract_features(np.random.default_rng(0).integers(0, 256, (2, *frame_shape), "uint8"), network)
    except Exception as error:  # whatever the network makes Keras raise
        height, width = frame_shape[:2]
        raise InputError(
            f"--features {features} cannot be used: it must take {height}x{width} RGB frames and give one array of "
            f"features ({shorten(error)})."
        ) from error
    if not np.isfinite(found).all():
        raise InputError(f"--features {features} cannot be used: it gives features that are NaN or infinite.")
    return network


def _load(features):
    if str(features) in NETWORKS:
        return build_scorer(str(features))
    if str(features) != "InceptionV3":
        try:
            return keras.models.load_model(features, compile=False)
        except Exception as error:  # whatever the file makes Keras raise
            raise InputError(f"--features {features} cannot be loaded: {shorten(error)}") from error
    pixels = keras.Input((None, None, 3))
    scaled = keras.layers.Rescaling(1 / 127.5, -1.0)(keras.layers.Resizing(299, 299)(pixels))
    try:
        inception = keras.applications.InceptionV3(include_top=False, pooling="avg")
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise InputError("InceptionV3 could not be downloaded: name another network with --features.") from error
    return keras.Model(pixels, inception(scaled), name="Keras-InceptionV3")


def describe_network(features):
    """Return {"features": file or name of the network, "features_sha256": that of its weights' file}."""
    if str(features) in NETWORKS:
        weights = NETWORKS[str(features)]
        return {"features": f"{weights.package}/{weights.file}", "features_sha256": weights.sha256}
    if Path(features).is_file():
        digest = hashlib.sha256(Path(features).read_bytes()).hexdigest()
        return {"features": str(features), "features_sha256": digest}
    return {"features": f"{features} of Keras {version('keras')}, ImageNet", "features_sha256": None}


def extract_features(frames, network, batch_size=32):
    """Return the features (count, numbers) float64 that a Keras model finds in frames.

    `network` takes RGB values from 0 to 255 and gives one vector per frame (spatial outputs are averaged).
    """
    outputs = predict(network, frames.astype("float32"), batch_size)
    return outputs.reshape(len(frames), -1, outputs.shape[-1]).mean(1).astype("float64")
