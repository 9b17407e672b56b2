"""Starting a training from the networks of another run."""

import re

import keras
import numpy as np
from keras import ops

from models import MAX_DOWNSAMPLINGS, MAX_SCENE_LEVEL, frame_shapes_by_level, num_downsamplings
from walkgan.errors import InputError, SettingError
from walkgan.run_folder import load_run_info, load_settings
from walkgan.settings import option_name
from walkgan.street import MEASURED, STRIP_NAMES


def warm_start(run_dir, gan, settings):
    """Copy the averaged generator and the discriminators of a run, on frames of the same or a smaller size.

    Layers that it does not have start as always: those of larger frames add nothing.
    Raises SettingError where its networks do not fit, InputError where their files cannot be read.
    """
    source, shape = load_settings(run_dir), tuple(load_run_info(run_dir)["frame_shape"])
    for name in ("latent_dim", "width", "window"):
        if getattr(source, name) != getattr(settings, name):
            raise SettingError(
                f"{run_dir} was trained with {option_name(name)} {getattr(source, name)}: use the same here."
            )
    frame_shape = gan.ema_generator.output_shape[1:]
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
            skipped = copy_weights(keras.models.load_model(path, compile=False), network)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path} cannot be used for a warm start: {error!r:.200}") from error
        if skipped:
            print(f"{path} is of another version: its layers {', '.join(skipped)} do not fit, and are not copied.")
    gan.reset_ema()


def copy_weights(source, network):
    """Copy the weights of every layer of `source` to the layer of the same name in `network`.

    Where both have several scenes, those of `network` start as those of `source`, in turn. How the
    camera moves is not copied: the video tells. Returns the names of layers that do not fit, which are not copied.
    """
    renamed = {"look": "stem"}  # before version 1.0.0
    own, skipped = {layer.name: layer for layer in network.layers}, []
    for layer in source.layers:
        name = renamed.get(layer.name, layer.name).replace("_frames_", "_rgb_").replace("places_", "positions_")
        weights, is_of_scenes = layer.get_weights(), re.match(r"scale_|shift_|.*_by_scene", name)
        if is_of_scenes and name in own:
            weights = [in_turn(*pair) for pair in zip(weights, own[name].get_weights(), strict=True)]
        if weights and name not in MEASURED and (name in own or not is_of_scenes):
            if name not in own or [each.shape for each in weights] != [each.shape for each in own[name].weights]:
                skipped.append(name)
            else:
                own[name].set_weights(weights)
    copy_scenes({layer.name: layer for layer in source.layers}, own)
    return skipped


def in_turn(weight, own):
    """Return a weight with as many scenes as `own`, some of them more than once or not at all."""
    for axis, size in enumerate(own.shape):
        weight = np.take(weight, np.arange(size) % weight.shape[axis], axis)
    return weight


def copy_scenes(source, own):
    """Copy one scene of a generator to another's, given the layers of both by name, where only one has several.

    All scenes of `own` start alike; or what scaled and shifted the first of `source` becomes a part of the
    normalisation.
    """
    for level in (*range(MAX_SCENE_LEVEL + 1), *STRIP_NAMES):
        scale, shift, norm = f"scale_{level}", f"shift_{level}", own.get(f"norm_{level}")
        if scale in own and scale not in source:
            for name in (scale, shift):
                own[name].kernel.assign(ops.zeros_like(own[name].kernel))
        elif scale in source and scale not in own:
            factor = 1 + source[scale].kernel[0]
            norm.gamma.assign(factor * norm.gamma)
            norm.beta.assign(factor * norm.beta + source[shift].kernel[0])
