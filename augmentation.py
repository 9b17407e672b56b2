"""DiffAugment: frames changed so that gradients pass."""

import keras
from keras import ops


def diff_augment(frames, changes, seed):
    """Change frames (batch, height, width, channels) so that gradients pass: "colour", "translation", "cutout".

    DiffAugment (Zhao et al. 2020, arXiv:2006.10738). All frames of a batch are moved alike, by up to an eighth of
    their sides: a slice, which costs nothing, where a shift for each would cost a quarter of a step.
    """
    count, height, width = ops.shape(frames)[0], *frames.shape[1:3]
    amount = lambda least, most: keras.random.uniform((count, 1, 1, 1), least, most, seed=seed)  # noqa: E731
    if "colour" in changes:
        frames = frames + amount(-0.5, 0.5)
        colours = ops.reshape(frames, (count, height, width, -1, 3))  # of each frame of a window
        grey = ops.reshape(ops.mean(colours, -1, keepdims=True) * ops.ones_like(colours), ops.shape(frames))
        frames = grey + amount(0.0, 2.0) * (frames - grey)
        mean = ops.mean(frames, (1, 2, 3), keepdims=True)
        frames = mean + amount(0.5, 1.5) * (frames - mean)
    if "translation" in changes:
        down, right = height // 8, width // 8
        padded = ops.pad(frames, ((0, 0), (down, down), (right, right), (0, 0)))
        top = keras.random.randint((), 0, 2 * down + 1, seed=seed)
        left = keras.random.randint((), 0, 2 * right + 1, seed=seed)
        frames = ops.slice(padded, (0, top, left, 0), ops.shape(frames))
    if "cutout" in changes:
        rows, columns = ops.reshape(ops.arange(height), (1, -1, 1, 1)), ops.reshape(ops.arange(width), (1, 1, -1, 1))
        away = ops.abs(ops.cast(rows, "float32") - height * amount(0.0, 1.0)) / height
        aside = ops.abs(ops.cast(columns, "float32") - width * amount(0.0, 1.0)) / width
        frames = ops.where((away < 0.25) & (aside < 0.25), 0.0, frames)
    return frames
