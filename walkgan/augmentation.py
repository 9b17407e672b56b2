"""What the discriminators see: frames augmented (DiffAugment), and views of them for the feature discriminators."""

import keras
from keras import ops


def diff_augment(frames, policy, seed):
    """Augment frames (batch, height, width, channels) float32 by a policy of "colour", "translation", "cutout".

    DiffAugment (Zhao et al. 2020, arXiv:2006.10738); gradients pass through. All frames of a batch are translated
    alike, by up to an eighth of their sides: a slice, which costs nothing, where a shift of each would cost a quarter
    of a step. `seed` is a keras.random.SeedGenerator.
    """
    count, height, width = ops.shape(frames)[0], *frames.shape[1:3]

    def uniform(minimum, maximum):
        return keras.random.uniform((count, 1, 1, 1), minimum, maximum, seed=seed)

    if "colour" in policy:
        frames = frames + uniform(-0.5, 0.5)
        colours = ops.reshape(frames, (count, height, width, -1, 3))  # of each frame of a window
        grey = ops.reshape(ops.mean(colours, -1, keepdims=True) * ops.ones_like(colours), ops.shape(frames))
        frames = grey + uniform(0.0, 2.0) * (frames - grey)
        mean = ops.mean(frames, (1, 2, 3), keepdims=True)
        frames = mean + uniform(0.5, 1.5) * (frames - mean)
    if "translation" in policy:
        vertical, horizontal = height // 8, width // 8
        padded = ops.pad(frames, ((0, 0), (vertical, vertical), (horizontal, horizontal), (0, 0)))
        top = keras.random.randint((), 0, 2 * vertical + 1, seed=seed)
        left = keras.random.randint((), 0, 2 * horizontal + 1, seed=seed)
        frames = ops.slice(padded, (0, top, left, 0), ops.shape(frames))
    if "cutout" in policy:
        rows, columns = ops.reshape(ops.arange(height), (1, -1, 1, 1)), ops.reshape(ops.arange(width), (1, 1, -1, 1))
        row_distance = ops.abs(ops.cast(rows, "float32") - height * uniform(0.0, 1.0)) / height
        column_distance = ops.abs(ops.cast(columns, "float32") - width * uniform(0.0, 1.0)) / width
        frames = ops.where((row_distance < 0.25) & (column_distance < 0.25), 0.0, frames)
    return frames


def feature_views(real, fake, scene, size, seed):
    """Return views of frames, each (real, fake, scene), with frames of the projector's size (height, width).

    real, fake: (batch, height, width, channels); of windows, the first frame is seen. scene: (batch, scenes), or None,
    as it then is in each view.

    Where frames are larger, half of the batch is seen whole, averaged down to that size, and half of it in crops at
    full resolution, at one random position: together they cost a quarter of the whole batch at full resolution.
    """
    (count, *sides, _), (height, width) = ops.shape(real), size

    def part(start, shape):  # with its gradient, in a third of the time that Python's slices take
        return [ops.slice(frames, start, (*shape, 3)) for frames in (real, fake)]

    factor = round(real.shape[1] / height)
    if factor == 1:
        return [(*part((0, 0, 0, 0), (count, *sides)), scene)]
    half = count // 2
    top = keras.random.randint((), 0, real.shape[1] - height + 1, seed=seed)
    left = keras.random.randint((), 0, real.shape[2] - width + 1, seed=seed)
    # Explicit strides: Keras 3.15 on JAX mishandles the default, which is the pool size.
    whole = part((0, 0, 0, 0), (half, *sides))
    whole = [ops.average_pool(frames, factor, strides=factor, padding="same") for frames in whole]
    crops = part((half, top, left, 0), (count - half, height, width))
    scenes = (None, None) if scene is None else (scene[:half], scene[half:])
    return [(*whole, scenes[0]), (*crops, scenes[1])]
