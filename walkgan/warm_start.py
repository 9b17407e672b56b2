"""Starting a training from the networks of another run."""

import re

import keras

from models import MAX_DOWNSAMPLINGS, frame_shapes_by_level, num_downsamplings
from walkgan.errors import InputError, SettingError
from walkgan.run_folder import load_run_info, load_settings
from walkgan.settings import option_name


def warm_start(run_dir, gan, settings):
    """Copy the averaged generator and the discriminators of a run, on frames of the same or a smaller size.

    Layers that it does not have start as always: those of larger frames add nothing, those for each scene are random.
    Raises SettingError where its networks do not fit, InputError where their files cannot be read.
    """
    source, shape = load_settings(run_dir), tuple(load_run_info(run_dir)["frame_shape"])
    for name in ("latent_dim", "width", "window"):
        if getattr(source, name) != getattr(settings, name):
            raise SettingError(
                f"{run_dir} was trained with {option_name(name)} {getattr(source, name)}: use the same here."
            )
    frame_shape = gan.generator.output_shape[1:]
    smaller = shape in frame_shapes_by_level(frame_shape).values() and num_downsamplings(shape) >= MAX_DOWNSAMPLINGS
    if shape != frame_shape and not smaller:
        raise SettingError(
            "{} was trained on {}x{} frames and cannot start a training on {}x{}: only on the same size, or from "
            "128 pixels on, on twice or four times the size.".format(run_dir, *shape[:2], *frame_shape[:2])
        )
    same_projector = (source.seed, source.feature_width) == (settings.seed, settings.feature_width)
    for name, network in (gan.saved_networks | {"generator": gan.generator}).items():
        path = run_dir / f"{name}.keras"
        if name.startswith("feature") and not (path.exists() and same_projector):
            continue  # that run had none, or they saw other features: this network starts as always
        try:
            copy_weights(keras.models.load_model(path, compile=False), network)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path} cannot be used for a warm start: {error!r:.200}") from error
    gan.reset_ema()


def copy_weights(source, network):
    """Copy the weights of every layer of `source` to the layer of the same name in `network`.

    Those for each scene stay as they are where the other run has another number of scenes.
    """
    renamed = {"look": "stem"}  # before version 1.0.0
    for layer in source.layers:
        if layer.weights:
            name = renamed.get(layer.name, layer.name).replace("_frames_", "_rgb_").replace("places_", "positions_")
            if not of_other_scenes(name, layer, network):
                network.get_layer(name).set_weights(layer.get_weights())


def of_other_scenes(name, layer, network):
    """Return whether a layer is for each scene, and `network` has none of that name and shape."""
    if not re.match(r"scale_|shift_|.*_by_scene", name):
        return False
    same = [each for each in network.layers if each.name == name]
    return not same or same[0].kernel.shape != layer.kernel.shape
