"""Files of Keras 2, rewritten so that Keras 3 loads them: the same layers and weights, without arguments it dropped."""

import inspect
import json
import re
import shutil
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path

import h5py
import keras

from walkgan.files import natural_order

# Arguments that every layer takes, besides its own.
COMMON = {"name", "trainable", "dtype", "activity_regularizer"}
RENAMED = {"LeakyReLU": {"alpha": "negative_slope"}, "ReLU": {"alpha": "negative_slope"}}


@contextmanager
def as_keras3(path):
    """Yield the path of a Keras file that Keras 3 loads: `path` itself, or where Keras 2 wrote it a temporary copy."""
    is_archive = zipfile.is_zipfile(path)
    if not (is_archive or h5py.is_hdf5(path)) or not _is_of_keras2(path, is_archive):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"converted{path.suffix}"
        if is_archive:
            with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
                for item in source.namelist():
                    content = source.read(item)
                    if item == "config.json":
                        content = json.dumps(convert(json.loads(content))).encode()
                    elif item == "model.weights.h5":
                        content = rename_weights(content)
                    target.writestr(item, content)
        else:
            shutil.copyfile(path, copy)
            with h5py.File(copy, "r+") as file:
                file.attrs["model_config"] = json.dumps(convert(json.loads(file.attrs["model_config"])))
        yield copy


def _is_of_keras2(path, is_archive):
    if is_archive:
        with zipfile.ZipFile(path) as archive:
            if "metadata.json" not in archive.namelist():
                return False
            version = json.loads(archive.read("metadata.json")).get("keras_version", "")
    else:
        with h5py.File(path) as file:
            if "model_config" not in file.attrs:
                return False
            version = file.attrs.get("keras_version", "")
            version = version.decode() if isinstance(version, bytes) else str(version)
    return version.startswith("2.")


def convert(config):
    """Return the config of Keras 3 for one of Keras 2, at any depth: models within models, layers, dtype policies."""
    if isinstance(config, list):
        return [convert(item) for item in config]
    if not isinstance(config, dict):
        return config
    name = config.get("class_name")
    if name == "Policy":
        return config["config"]["name"]
    config = {key: convert(value) for key, value in config.items()}
    if name in ("Functional", "Model"):
        inner = _renumber(config["config"])
        return config | {"module": "keras.src.models.functional", "class_name": "Functional", "config": inner}
    if name == "Sequential":
        return config | {"module": "keras", "config": _sequential(config["config"])}
    layer = getattr(keras.layers, name, None) if isinstance(name, str) else None
    if layer is not None and isinstance(config.get("config"), dict):
        return config | {"module": "keras.layers", "config": _arguments(name, layer, config["config"])}
    return config


def rename_weights(content):
    """Return a file of weights, bytes, with the names that Keras 2 has had since version 2.14.

    Before, layers stood in "_layer_checkpoint_dependencies", and each layer was counted twice.
    """
    old_name = "_layer_checkpoint_dependencies"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.h5"
        path.write_bytes(content)
        with h5py.File(path, "r+") as file:
            containers = []
            file.visit(lambda name: containers.append(name) if name.split("/")[-1] == old_name else None)
            for name in sorted(containers, key=len, reverse=True):  # the innermost first
                group, counts = file[name], {}
                for layer in natural_order(map(Path, group)):
                    kind = re.sub(r"_\d+$", "", layer.name)
                    index = counts[kind] = counts.get(kind, -1) + 1
                    renamed = f"{kind}_{index}" if index else kind
                    if renamed != layer.name:
                        group.move(layer.name, renamed)
                file.move(name, name.removesuffix(old_name) + "layers")
        return path.read_bytes()


def _renumber(config):
    """Return the config of a functional model; Keras 2 counted one call more of each Sequential in it."""
    sequential = {layer["config"]["name"] for layer in config["layers"] if layer["class_name"] == "Sequential"}

    def renumber(value):
        if isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str) and value[0] in sequential:
            return [value[0], value[1] - 1, *value[2:]]
        return [renumber(item) for item in value] if isinstance(value, list) else value

    layers = [layer | {"inbound_nodes": renumber(layer["inbound_nodes"])} for layer in config["layers"]]
    ends = {name: renumber(config[name]) for name in ("input_layers", "output_layers")}
    return config | ends | {"layers": layers}


def _sequential(config):
    """Return the config of a Sequential that begins with its input."""
    config = {"layers": config} if isinstance(config, list) else config  # before Keras 2.2.3
    first = config["layers"][0]
    if first["class_name"] != "InputLayer" and (shape := first["config"].pop("batch_shape", None)):
        layer = {"module": "keras.layers", "class_name": "InputLayer", "config": {"batch_shape": shape}}
        config = config | {"layers": [layer, *config["layers"]]}
    for layer in config["layers"][1:]:
        layer["config"].pop("batch_shape", None)
    return config


def _arguments(name, layer, config):
    """Return the arguments of a layer that Keras 3 takes; "batch_shape" of any layer is kept for _sequential."""
    shape = config.get("batch_input_shape") or config.get("batch_shape")
    known = set(inspect.signature(layer.__init__).parameters) | COMMON
    renamed = {RENAMED.get(name, {}).get(key, key): value for key, value in config.items()}
    kept = {key: value for key, value in renamed.items() if key in known}
    if name == "BatchNormalization" and isinstance(kept.get("axis"), list):
        kept["axis"] = kept["axis"][0]
    return kept | ({"batch_shape": shape} if shape else {})
