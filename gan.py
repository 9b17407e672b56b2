"""The adversarial model: a generator, a discriminator and both their losses in one Keras model, trained by `fit`."""

import keras
from keras import ops

from models import build_discriminator, build_generator
from settings import SettingError

NOISE = 0.05  # in frames' units of -1 to 1: how near a frame the penalty looks


def build_gan(settings, frame_shape):
    """Build and compile the adversarial model, its first weights drawn from the settings' seed."""
    keras.utils.set_random_seed(settings.seed)
    try:
        generator = build_generator(settings.latent_dim, frame_shape, settings.width)
        discriminator = build_discriminator(frame_shape, settings.width)
    except ValueError as error:
        raise SettingError(f"{settings.frames}: {error} Extract the frames again with --height and --width.") from None
    gan = GAN(generator, discriminator, settings.penalty, settings.ema_decay, settings.seed)
    gan.compile(
        optimizer=keras.optimizers.Adam(
            settings.learning_rate,
            beta_1=settings.beta_1,
            # Far above any sound gradient. Its norm also makes every update wait for all gradients: TensorFlow
            # on the CPU changed weights in place that oneDNN was still reading, about once in 2,000 steps.
            global_clipnorm=1e4,
        ),
        # XLA made TensorFlow's step on the CPU a third slower; JAX is nothing without it.
        jit_compile=keras.backend.backend() == "jax",
    )
    gan.optimizer.build(gan.trainable_variables)  # so that a checkpoint finds it
    return gan


class GAN(keras.Model):
    """Generator against discriminator, with a running average of the generator beside them.

    One step draws one batch of fakes and updates both networks with it. The sum of the two losses is handed
    to one optimizer; each network is shielded from the other's loss, so the result is that of two optimizers
    with equal settings, at the price of a single generator pass.

    `fit` reads batches {"frames": (batch, height, width, channels) float32 in [-1, 1],
    "latents": (batch, latent_dim) float32, standard normal}.

    After Goodfellow et al. 2014 (arXiv:1406.2661) and Radford et al. 2016 (arXiv:1511.06434); the averaged
    generator after Karras et al. 2018 (arXiv:1710.10196).
    """

    def __init__(self, generator, discriminator, penalty, ema_decay, seed):
        super().__init__(name="gan")
        self.generator = generator
        self.discriminator = discriminator
        self.ema_generator = keras.models.clone_model(generator)
        self.ema_generator.set_weights(generator.get_weights())
        self.ema_generator.trainable = False
        self.penalty, self.ema_decay = penalty, ema_decay
        self.random = keras.random.SeedGenerator(seed)
        self.step = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False, name="step")
        self.d_loss = keras.metrics.Mean(name="d_loss")
        self.g_loss = keras.metrics.Mean(name="g_loss")
        self.built = True  # its two networks are; so weights can be loaded before the first batch

    def call(self, batch, training=False):
        """Draw one fake for each real frame and score them all.

        Returns logits (batch, 1): `real`, `real_nearby` (of the same frames, slightly noisy) and `fake` move only
        the discriminator, `fake_frozen` (the same numbers as `fake`) moves only the generator.
        """
        real_frames = batch["frames"]
        fake_frames = self.generator(batch["latents"], training=training)
        frozen_weights = [ops.stop_gradient(weight) for weight in self.discriminator.trainable_variables]
        state = [variable.value for variable in self.discriminator.non_trainable_variables]
        fake_frozen, _ = self.discriminator.stateless_call(frozen_weights, state, fake_frames, training=training)
        noise = NOISE * keras.random.normal(ops.shape(real_frames), seed=self.random)
        return {
            "real": self.discriminator(real_frames, training=training),
            "real_nearby": self.discriminator(real_frames + noise, training=training),
            "fake": self.discriminator(ops.stop_gradient(fake_frames), training=training),
            "fake_frozen": fake_frozen,
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return d_loss + g_loss + penalty, each of which has gradients for its own network only."""
        d_loss, g_loss = non_saturating(y_pred["real"], y_pred["fake"], y_pred["fake_frozen"])
        self.d_loss.update_state(d_loss)
        self.g_loss.update_state(g_loss)
        if training:
            self._average_generator()
        return d_loss + g_loss + self.penalty / 2 * gradient_penalty(y_pred["real"], y_pred["real_nearby"])

    def save_own_variables(self, store):
        """Keep the step and the random state with the weights: a training stands where its checkpoint says."""
        store["step"], store["random"] = map(ops.convert_to_numpy, (self.step, self.random.state))

    def load_own_variables(self, store):
        """Take up the step and the random state of a checkpoint."""
        self.step.assign(store["step"])
        self.random.state.assign(store["random"])

    def _average_generator(self):
        """Move the averaged generator a step towards the trained one, batch statistics included.

        The average starts short (a tenth of the steps so far) and grows to `ema_decay`, so that the noise
        it began as is soon forgotten.
        """
        step = ops.cast(self.step, "float32")
        decay = ops.minimum(self.ema_decay, (1.0 + step) / (10.0 + step))
        for average, weight in zip(self.ema_generator.variables, self.generator.variables, strict=True):
            average.assign(decay * average + (1.0 - decay) * ops.stop_gradient(weight))
        self.step.assign(self.step + 1)


def non_saturating(real_logits, fake_logits, fake_logits_frozen):
    """Return (d_loss, g_loss): cross-entropy, the generator maximising log D (Goodfellow et al. 2014, section 3)."""
    d_loss = ops.mean(ops.softplus(-real_logits)) + ops.mean(ops.softplus(fake_logits))
    g_loss = ops.mean(ops.softplus(-fake_logits_frozen))
    return d_loss, g_loss


def gradient_penalty(logits, nearby_logits):
    """Return the mean squared slope of the discriminator at real frames, which keeps it from winning outright.

    R1 of Mescheder et al. 2018 (arXiv:1801.04406), with the slope taken from a random step to a nearby frame
    (Lin et al. 2025, arXiv:2501.08316): its mean square is the gradient's, and it needs no second derivative.
    """
    return ops.mean(ops.square(nearby_logits - logits)) / NOISE**2
