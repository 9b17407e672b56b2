"""Keras layers of our own: convolutions, batch normalisation and optical flow; and how weights start."""

import keras
import numpy as np
from keras import ops


def normal(stddev=0.02):
    """Return DCGAN's initializer of weights, from a normal distribution."""
    return keras.initializers.RandomNormal(stddev=stddev)


class UpConv2D(keras.layers.Conv2D):
    """A 3x3 convolution of the input upsampled twice by repeating pixels, in half the time of UpSampling2D and Conv2D.

    Three pixels in a row of the upsampled input are two of the input, one of them twice. So the two layers are one
    transposed convolution, whose 4x4 kernel is the sum of the 3x3 one shifted to four positions.
    """

    def call(self, inputs):
        """Return (batch, 2 * height, 2 * width, filters) of inputs (batch, height, width, channels)."""
        if keras.backend.backend() == "jax":  # XLA on the CPU made the whole step a third slower
            return super().call(ops.repeat(ops.repeat(inputs, 2, 1), 2, 2))
        paddings = [((top, 1 - top), (left, 1 - left), (0, 0), (0, 0)) for top in (0, 1) for left in (0, 1)]
        kernel_4x4 = ops.flip(sum(ops.pad(self.kernel, padding) for padding in paddings), (0, 1))
        return ops.conv_transpose(inputs, ops.transpose(kernel_4x4, (0, 1, 3, 2)), 2, padding="same")

    def compute_output_shape(self, input_shape):
        """Return the shape of what `call` returns."""
        return input_shape[0], 2 * input_shape[1], 2 * input_shape[2], self.filters


class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalisation, on TensorFlow by one fused operation, which takes a quarter of the time.

    It has the name of Keras's layer because names of classes are part of checkpoints.
    """

    def call(self, inputs, training=False):
        """Return what Keras's layer returns."""
        half = keras.backend.standardize_dtype(inputs.dtype) != "float32"  # bfloat16 took three times as long, on a CPU
        if keras.backend.backend() != "tensorflow" or not training or self.synchronized or half:
            return super().call(inputs, training=training)
        import tensorflow as tf

        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], variance.dtype)
        variance *= (count - 1) / count  # that of all, like Keras; the operation divides by one less
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(self.momentum * moving + (1 - self.momentum) * new)
        return outputs


@keras.saving.register_keras_serializable("models")
class SpectralConv2D(keras.layers.Conv2D):
    """A convolution whose kernel is divided by its largest singular value (Miyato et al. 2018, arXiv:1802.05957).

    The value is tracked by one power iteration per training step. Keras's SpectralNormalization overwrites the kernel
    itself, which JAX's functional steps would lose.
    """

    def build(self, input_shape):
        """Make the kernel, and the left singular vector that is tracked."""
        super().build(input_shape)
        self.singular_vector = self.add_weight(
            shape=(self.filters,), initializer=keras.initializers.RandomNormal(seed=0), trainable=False,
            name="singular_vector", aggregation="only_first_replica",
        )  # fmt: skip

    def call(self, inputs, training=False):
        """Return what Conv2D returns, with the kernel normalised."""
        matrix = ops.cast(ops.reshape(self.kernel, (-1, self.filters)), "float32")
        fixed, vector = ops.stop_gradient(matrix), ops.cast(self.singular_vector, "float32")
        other = ops.normalize(ops.matmul(fixed, vector))
        vector = ops.normalize(ops.matmul(other, fixed))
        if training:
            self.singular_vector.assign(vector)
        largest = ops.dot(other, ops.matmul(matrix, vector))
        kernel = self.kernel / ops.cast(largest, self.kernel.dtype)
        return ops.conv(inputs, kernel, list(self.strides), self.padding) + self.bias

    # Conv2D's own would leave the singular vector out.
    save_own_variables = keras.layers.Layer.save_own_variables
    load_own_variables = keras.layers.Layer.load_own_variables


@keras.saving.register_keras_serializable("models")
class OpticalFlow(keras.layers.Layer):
    """The optical flow from each frame of a window to the next, and the change that it leaves unexplained.

    The method of Lucas and Kanade (1981): of each block of 5x5 grey pixels the motion that explains best, by least
    squares, how they change. So a discriminator sees what stacked frames hide from it: whether the ground flows towards
    the camera, and whether things move or melt. Has no weights; accurate for motion of up to a pixel.
    """

    DAMPING = 0.003  # added to mean squared gradients of grey values: flow of blocks without contrast is 0

    def __init__(self, **options):
        super().__init__(**options | {"dtype": "float32"})  # squares of small differences underflow in float16

    def call(self, inputs):
        """Return flow (batch, height, width, 3 * (window - 1)) of windows (batch, height, width, 3 * window or more).

        Windows are RGB frames in [-1, 1], stacked on channels; further channels are ignored. Of every frame but the
        last there are three channels: the unexplained change (0.04 to about 8), and how many pixels down and to the
        right things move (their hyperbolic tangent).
        """
        # All filters are matrix products: four times as fast on a CPU as shifted sums and poolings.
        height, width, channels = inputs.shape[1:]
        to_grey = (np.arange(channels)[:, None] // 3 == np.arange(channels // 3)).astype("float32") / 3
        frames = ops.moveaxis(ops.matmul(inputs, to_grey), 3, 0)  # (window, batch, height, width)
        before, after = frames[:-1], frames[1:]
        mean = (before + after) / 2
        dy, dx = ops.matmul(gradient_matrix(height), mean), ops.matmul(mean, gradient_matrix(width).T)
        dt = after - before
        products = ops.stack([dy * dy, dx * dx, dy * dx, dy * dt, dx * dt, dt * dt])
        blocks = ops.matmul(mean_matrix(height), ops.matmul(products, mean_matrix(width).T))
        yy, xx, yx, yt, xt, tt = ops.unstack(blocks)
        yy, xx = yy + self.DAMPING, xx + self.DAMPING
        determinant = yy * xx - yx * yx
        down, right = (yx * xt - xx * yt) / determinant, (yx * yt - yy * xt) / determinant
        # Times 4, about as large as the values of frames; the root has a gradient at 0.
        unexplained = 4 * ops.sqrt(ops.relu(tt + down * yt + right * xt) + 1e-4)
        flow = ops.stack([unexplained, ops.tanh(down), ops.tanh(right)], 1)
        return ops.moveaxis(ops.reshape(flow, (3 * flow.shape[0], -1, height, width)), 0, 3)

    def compute_output_shape(self, input_shape):
        """Return the shape of what `call` returns."""
        return *input_shape[:3], 3 * (input_shape[3] // 3 - 1)


def gradient_matrix(size):
    """Return the matrix (size, size) of central differences between neighbours; outside, values are 0."""
    return ((np.eye(size, k=1) - np.eye(size, k=-1)) / 2).astype("float32")


def mean_matrix(size, length=5):
    """Return the matrix (size, size) of means over blocks of some length, which are shorter at the ends."""
    positions = np.arange(size)
    near = (np.abs(positions - positions[:, None]) <= length // 2).astype("float32")
    return near / near.sum(1, keepdims=True)
