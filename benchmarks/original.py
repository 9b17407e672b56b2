"""The recipe this project grew from (2019), ported to today's Keras: same layers, same loop, same numbers.

One thing had to change: it compiled the discriminator first and froze it afterwards, which Keras 2 took to
mean "train it alone, freeze it inside the generator's model"; Keras 3 would never train it. Here `trainable`
is set before each of the two calls, which has the effect it was meant to have.
"""

import keras
import numpy as np
from keras import layers

LATENT_DIM = 256
BATCH_SIZE = 64  # the generator's; the discriminator sees half as many real and half as many fake frames


def build_discriminator(frame_shape=(160, 320, 3)):
    init = keras.initializers.RandomNormal(stddev=0.02)
    model = keras.Sequential([keras.Input(frame_shape)])
    for _ in range(5):
        model.add(layers.Conv2D(64, 4, 2, "same", kernel_initializer=init))
        model.add(layers.LeakyReLU(0.2))
    for layer in (layers.Flatten(), layers.Dropout(0.4), layers.Dense(1, "sigmoid")):
        model.add(layer)
    return model


def build_generator(frame_shape=(160, 320, 3)):
    init = keras.initializers.RandomNormal(stddev=0.02)
    base = (frame_shape[0] // 16, frame_shape[1] // 16, 32)
    model = keras.Sequential([keras.Input((LATENT_DIM,))])
    model.add(layers.Dense(int(np.prod(base)), kernel_initializer=init))
    model.add(layers.LeakyReLU(0.2))
    model.add(layers.Reshape(base))
    for _ in range(4):
        model.add(layers.UpSampling2D())
        model.add(layers.Conv2D(64, 4, padding="same", kernel_initializer=init))
        model.add(layers.LeakyReLU(0.2))
    model.add(layers.Conv2D(3, 7, activation="tanh", padding="same", kernel_initializer=init))
    return model


class Original:
    """Both networks and the step of the original's loop."""

    def __init__(self, frame_shape=(160, 320, 3), batch_size=BATCH_SIZE, seed=0):
        keras.utils.set_random_seed(seed)
        self.generator, self.discriminator = build_generator(frame_shape), build_discriminator(frame_shape)
        self.chain = keras.Sequential([self.generator, self.discriminator])
        self.batch_size, self.random = batch_size, np.random.default_rng(seed)
        loss = "binary_crossentropy"
        self.discriminator.compile(loss=loss, optimizer=keras.optimizers.Adam(1e-4, beta_1=0.5), metrics=["accuracy"])
        self.chain.compile(loss=loss, optimizer=keras.optimizers.Adam(2e-4, beta_1=0.5))

    def step(self, frames):
        """Train one step on all `frames` (count, height, width, 3) float32 in [-1, 1]; it draws its batch itself."""
        half = self.batch_size // 2
        real = frames[self.random.integers(len(frames), size=half)]
        fake = self.generator.predict(self._latents(half), verbose=0)
        self.discriminator.trainable = True
        d_real = self.discriminator.train_on_batch(real, np.ones((half, 1)))[0]
        d_fake = self.discriminator.train_on_batch(fake, np.zeros((half, 1)))[0]
        self.discriminator.trainable = False
        g_loss = self.chain.train_on_batch(self._latents(self.batch_size), np.ones((self.batch_size, 1)))
        return float(d_real), float(d_fake), float(g_loss)

    def _latents(self, count):
        return self.random.standard_normal((count, LATENT_DIM), "float32")
