"""Images at positions between their pixels, by bilinear interpolation."""

import keras
from keras import ops


def sample(x, row, column, window):
    """Return x (batch, rows, columns, channels) at other positions: (batch * window, height, width, channels).

    row, column: (batch * window, height, width) float32, or 1 for one of these; each of x is sampled `window` times.
    Outside, x is as at its edge.
    """
    pixels = ops.reshape(x, (-1, x.shape[-1]))
    # A sum of four products was a quarter faster than one product of stacked pixels, with its gradient.
    return sum(
        ops.cast(weight[..., None], x.dtype) * ops.take(pixels, number, 0)
        for number, weight in neighbours(x.shape, row, column, window)
    )


def neighbours(shape, row, column, window):
    """Return the four pixels around each position, [(number, weight)], both (batch * window, height, width).

    shape: (batch, rows, columns, channels) of the images, whose pixels are numbered one image after the other. The rest
    as for `sample`.
    """
    _, rows, columns, _ = shape
    row, column = ops.clip(row, 0, rows - 1.001), ops.clip(column, 0, columns - 1.001)
    top, left = ops.floor(row), ops.floor(column)
    below, beside = row - top, column - left
    image = ops.cumsum(ops.ones_like(top[:, :1, :1]), 0) - 1  # whose number in its batch, of a size that is not known
    first = ops.cast(image, "int32") // window * (rows * columns) + ops.cast(top * columns + left, "int32")
    weights = [(1 - below) * (1 - beside), (1 - below) * beside, below * (1 - beside), below * beside]
    return [(first + offset, weight) for offset, weight in zip((0, 1, columns, columns + 1), weights, strict=True)]


class Sampling(keras.layers.Layer):
    """`sample` as a layer. With TensorFlow on a CPU it takes a third of the time, with its gradient."""

    def call(self, x, row, column, window):
        """Return what `sample` returns."""
        if keras.backend.backend() == "tensorflow" and keras.backend.standardize_dtype(x.dtype) == "float32":
            import tensorflow as tf

            if not tf.config.list_physical_devices("GPU"):
                return sample_by_matrix(x, row, column, window)
        return sample(x, row, column, window)


def sample_by_matrix(x, row, column, window):
    """Return what `sample` returns, as the product of a sparse matrix and the pixels: on TensorFlow, in float32."""
    import tensorflow as tf

    pixels = tf.reshape(x, (-1, x.shape[-1]))
    numbers, weights = zip(*neighbours(x.shape, row, column, window), strict=True)
    count, (height, width) = tf.size(numbers[0]), numbers[0].shape[1:]
    where = tf.stack([tf.tile(tf.range(count), [len(numbers)]), tf.reshape(numbers, (-1,))], 1)
    shape = tf.cast(tf.stack([count, tf.shape(pixels)[0]]), "int64")
    # tf.sparse has the same, but takes longer, since its indices have 64 bits.
    sampled = tf.raw_ops.SparseTensorDenseMatMul(
        a_indices=where, a_values=tf.reshape(weights, (-1,)), a_shape=shape, b=pixels
    )
    return tf.reshape(sampled, (-1, height, width, x.shape[-1]))
