"""How the files here were made.    pip install tf_keras==2.21 && python make_files.py"""

import numpy as np
import tf_keras
from tf_keras import layers

LATENTS = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")


def dcgan():
    return tf_keras.Sequential(
        [
            layers.Dense(2 * 4 * 8, input_shape=(6,)),
            layers.LeakyReLU(0.2),
            layers.Reshape((2, 4, 8)),
            layers.Conv2DTranspose(4, 4, 2, "same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2DTranspose(3, 4, 2, "same", activation="tanh"),
        ]
    )


def nested():
    latents = tf_keras.Input((6,))
    return tf_keras.Model(latents, dcgan()(latents))


def separable():
    latents = tf_keras.Input((6,))
    x = layers.Reshape((2, 4, 8))(layers.Dense(2 * 4 * 8)(latents))
    x = layers.UpSampling2D(interpolation="bilinear")(x)
    x = layers.DepthwiseConv2D(3, padding="same")(layers.SeparableConv2D(4, 3, padding="same")(x))
    x = layers.PReLU(shared_axes=[1, 2])(x)
    return tf_keras.Model(latents, layers.Conv2D(3, 3, padding="same", activation="sigmoid")(x))


def mixed():
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    model = dcgan()
    model.add(layers.Activation("linear", dtype="float32"))
    tf_keras.mixed_precision.set_global_policy("float32")
    return model


def gan():
    discriminator = tf_keras.Sequential(
        [layers.Conv2D(2, 3, 2, input_shape=(8, 16, 3)), layers.Flatten(), layers.Dense(1)]
    )
    return tf_keras.Sequential([dcgan(), discriminator])


if __name__ == "__main__":
    tf_keras.utils.set_random_seed(0)
    expected = {"latents": LATENTS}
    for name, build in {"conv_t": dcgan, "nested": nested, "separable": separable, "mixed": mixed, "gan": gan}.items():
        model = build()
        for weight in model.weights:  # away from the initial values
            low, high, start = (0.5, 1.5, 0.0) if "moving" in weight.name else (-0.3, 0.3, weight)
            weight.assign(start + np.random.default_rng(2).uniform(low, high, weight.shape))
        generator = model.layers[0] if name == "gan" else model
        expected[name] = generator.predict(LATENTS, verbose=0).astype("float32")
        for suffix in ("h5", "keras"):
            model.save(f"{name}.{suffix}")
    np.savez_compressed("expected_by_kind.npz", **expected)
