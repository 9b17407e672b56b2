"""The adversarial model: a generator, a discriminator and both their losses in one Keras model, trained by `fit`."""

import math
import warnings

import keras
from keras import ops

from models import build_discriminator, build_generator, count_halvings, rotate, smaller_shapes, step_angles
from settings import SettingError

# How near a frame the penalty looks, in frames' units of -1 to 1. Nearer, bfloat16's rounding outweighs the slope:
# at 0.05 the mean square of a trained discriminator's came out 8 times too large, at 0.2 right.
NOISE = {"float32": 0.05, "float16": 0.05, "bfloat16": 0.2}
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
PENALISED = 4  # frames of a batch whose slopes are penalised; all of them would cost a quarter of the step more


def build_gan(settings, frame_shape, steps_a_second=None):
    """Build and compile the adversarial model, its first weights drawn from the settings' seed.

    `steps_a_second` is kept with a generator that learns to walk, from windows of more than one frame.
    """
    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(PRECISIONS[settings.precision])  # of the layers built until it is set back
    sizes = settings.latent_dim, frame_shape, settings.width
    try:
        generator = build_generator(*sizes, fused=True)
        # A window of frames is one picture of many channels, and one more that says how far they are apart.
        channels = frame_shape[2] * settings.window + (settings.window > 1)
        discriminator = build_discriminator((*frame_shape[:2], channels), settings.width)
        smaller = smaller_shapes(frame_shape)[:-1]
        generators = [
            build_generator(settings.latent_dim, shape, settings.width, generator, fused=True) for shape in smaller
        ]
        judges = [build_discriminator((*shape[:2], channels), settings.width, discriminator) for shape in smaller]
    except ValueError as error:
        raise SettingError(f"{settings.frames}: {error} Extract the frames again, larger.") from None
    finally:
        keras.config.set_dtype_policy("float32")
    gan = GAN(
        [*generators, generator], [*judges, discriminator], build_generator(*sizes, steps_a_second=steps_a_second),
        settings.loss, settings.penalty, settings.layout, settings.augment, settings.ema_decay, settings.seed,
    )  # fmt: skip
    optimizer = keras.optimizers.Adam(
        settings.learning_rate,
        beta_1=settings.beta_1,
        beta_2=settings.beta_2,
        # Far above any sound gradient. Its norm also makes every update wait for all gradients: TensorFlow
        # on the CPU changed weights in place that oneDNN was still reading, about once in 2,000 steps.
        global_clipnorm=1e4,
    )
    if settings.precision == "float16":  # whose smallest numbers are larger than many a gradient
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    if settings.devices > 1 and keras.backend.backend() == "tensorflow":
        gan.replicas = settings.devices
        for layer in generator.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True  # by the whole batch, as on JAX
    gan.compile(
        optimizer=optimizer,
        # XLA made TensorFlow's step on the CPU a third slower; JAX is nothing without it.
        jit_compile=keras.backend.backend() == "jax",
    )
    gan.optimizer.build(gan.trainable_variables)  # so that a checkpoint finds it
    return gan


# The parts of the networks for larger frames than those in training have none, as they should.
warnings.filterwarnings("ignore", message="Gradients do not exist for variables")


class GAN(keras.Model):
    """Generator against discriminator, with a running average of the generator beside them.

    One step draws one batch of fakes and updates both networks with it. The sum of the two losses is handed
    to one optimizer; each network is shielded from the other's loss, so the result is that of two optimizers
    with equal settings, at the price of a single generator pass.

    generators, discriminators: the parts of both networks for smaller frames, smallest first, the whole networks
    last. The size of the frames decides which are trained. ema_generator: another generator of the whole size, for the
    average.

    `fit` reads batches {"frames": (batch, height, width, channels) float32 in [-1, 1],
    "latents": (batch, latent_dim) float32, standard normal}. To learn a walk it reads windows of frames, stacked on
    channels (batch, height, width, window * channels), and "times": (batch, window) float32, the steps from the
    first frame of a window to each. The fakes of a window are drawn from one latent, turned on by these steps.

    After Goodfellow et al. 2014 (arXiv:1406.2661) and Radford et al. 2016 (arXiv:1511.06434); the averaged
    generator after Karras et al. 2018 (arXiv:1710.10196).
    """

    def __init__(self, generators, discriminators, ema_generator, loss, penalty, layout, augment, ema_decay, seed):
        super().__init__(name="gan")
        self.generators, self.discriminators = generators, discriminators
        self.generator, self.discriminator = generators[-1], discriminators[-1]
        self.ema_generator = ema_generator
        self.ema_generator.trainable = False
        self.begin_average()
        self.loss_function, self.penalty_function, self.penalised = LOSSES[loss]
        self.noise = NOISE[self.discriminator.get_layer("look").compute_dtype]
        self.layout, self.augment, self.ema_decay = layout, tuple(augment), ema_decay
        self.random = keras.random.SeedGenerator(seed)
        self.step = self.add_weight(
            shape=(), initializer="zeros", dtype="int32", trainable=False, name="step", aggregation="only_first_replica"
        )
        # A variable, so that a training in trouble can be softened as it runs.
        self.penalty = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(penalty), trainable=False, name="penalty"
        )
        self.d_loss = keras.metrics.Mean(name="d_loss")
        self.g_loss = keras.metrics.Mean(name="g_loss")
        self.replicas = 1  # on TensorFlow, whose tf.distribute adds up the gradients of the parts of a batch
        self.built = True  # its networks are; so weights can be loaded before the first batch

    def call(self, batch, training=False):
        """Draw one fake for each real frame and score them all.

        Returns logits (batch, 1) by name: `real`, `fake` and, where the loss asks for it, `between` move only the
        discriminator, as does `..._nearby` of each of them that is penalised (its first frames, slightly noisy).
        `fake_frozen`, the same numbers as `fake`, moves only the generator, and so does the number `layout`.
        """
        real = batch["frames"]
        size = [generator.output_shape[1] for generator in self.generators].index(real.shape[1])
        generator, discriminator = self.generators[size], self.discriminators[size]
        times, latents = batch.get("times"), batch["latents"]
        if times is None:
            fake = generator(latents, training=training)
        else:
            angles = times[..., None] * step_angles(latents.shape[1]).astype("float32")
            latents = ops.reshape(rotate(latents[:, None], angles), (-1, latents.shape[1]))
            fake = stack_windows(generator(latents, training=training), times.shape[1])
        scores = {"layout": layout_distance(real[..., :3], fake[..., :3])} if self.layout else {}
        if self.augment:
            real, fake = ops.split(diff_augment(ops.concatenate([real, fake]), self.augment, self.random), 2)
        frozen_weights = [ops.stop_gradient(weight) for weight in discriminator.trainable_variables]
        state = [variable.value for variable in discriminator.non_trainable_variables]
        fake_seen = with_times([fake], times)
        fake_frozen, _ = discriminator.stateless_call(frozen_weights, state, fake_seen, training=training)

        # Both stopped: augmented as one batch, the real ones would else have gradients made for nothing.
        judged = {"real": ops.stop_gradient(real), "fake": ops.stop_gradient(fake)}
        if "between" in self.penalised:
            some_real, some_fake = real[:PENALISED], judged["fake"][:PENALISED]
            part = keras.random.uniform((ops.shape(some_real)[0], 1, 1, 1), seed=self.random)
            judged["between"] = part * some_real + (1 - part) * some_fake
        for name in self.penalised:
            frames = judged[name][:PENALISED]
            judged[name + "_nearby"] = frames + self.noise * keras.random.normal(ops.shape(frames), seed=self.random)
        logits, start = discriminator(with_times(list(judged.values()), times), training=training), 0
        scores["fake_frozen"] = fake_frozen
        for name, frames in judged.items():
            scores[name] = logits[start : start + ops.shape(frames)[0]]
            start += ops.shape(frames)[0]
        return scores

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return d_loss + g_loss + penalty + layout, each of which has gradients for one network only."""
        d_loss, g_loss = self.loss_function(y_pred["real"], y_pred["fake"], y_pred["fake_frozen"])
        # A change that fills the frame is spread over more pixels in a larger one: so the slope counts alike in all.
        step = self.noise / (math.prod(x["frames"].shape[1:3]) / 1000) ** 0.5
        slopes = [(y_pred[name + "_nearby"] - y_pred[name][:PENALISED]) / step for name in self.penalised]
        penalty = self.penalty / 2 * sum(map(self.penalty_function, slopes))
        layout = self.layout * y_pred.get("layout", 0.0)  # not sought where it has no weight
        self.d_loss.update_state(d_loss)
        self.g_loss.update_state(g_loss)
        if training:
            self._average_generator()
        return (d_loss + g_loss + penalty + layout) / self.replicas

    @property
    def steps(self):
        """How many steps have been trained."""
        return int(ops.convert_to_numpy(self.step))

    def soften(self):
        """Make the training gentler, after trouble: half the learning rate, twice the penalty."""
        self.optimizer.learning_rate.assign(self.optimizer.learning_rate / 2)
        self.penalty.assign(2 * self.penalty)

    def begin_average(self):
        """Give the averaged generator the weights of the trained one."""
        for average, weight in self._averaged():
            average.assign(ops.convert_to_numpy(weight))  # on JAX they would be one buffer else

    def save_own_variables(self, store):
        """Keep step, penalty and random state with the weights: a training stands where its checkpoint says."""
        store["step"], store["penalty"] = map(ops.convert_to_numpy, (self.step, self.penalty))
        store["random"] = ops.convert_to_numpy(self.random.state)

    def load_own_variables(self, store):
        """Take up step, penalty and random state of a checkpoint."""
        self.step.assign(store["step"])
        self.penalty.assign(store["penalty"])
        self.random.state.assign(store["random"])

    def _maybe_symbolic_build(self, **_):
        """Build nothing, since all is built: on several devices Keras would ask the data, and those batches be lost."""

    def _averaged(self):
        """Yield each variable of the averaged generator and the trained one's: Keras may order each its own way."""
        for layer in self.generator.layers:
            if layer.variables:
                yield from zip(self.ema_generator.get_layer(layer.name).variables, layer.variables, strict=True)

    def _average_generator(self):
        """Move the averaged generator a step towards the trained one, batch statistics included.

        The average starts short (a tenth of the steps so far) and grows to `ema_decay`, so that the noise
        it began as is soon forgotten.
        """
        step = ops.cast(self.step, "float32")
        decay = ops.minimum(self.ema_decay, (1.0 + step) / (10.0 + step))
        for average, weight in self._averaged():
            average.assign(decay * average + (1.0 - decay) * ops.stop_gradient(weight))
        self.step.assign(self.step + 1)


def stack_windows(frames, window):
    """Stack frames (batch * window, height, width, channels) on channels: (batch, height, width, window * channels)."""
    height, width, channels = frames.shape[1:]
    frames = ops.transpose(ops.reshape(frames, (-1, window, height, width, channels)), (0, 2, 3, 1, 4))
    return ops.reshape(frames, (-1, height, width, window * channels))


def with_times(parts, times):
    """Join batches of windows; give each a channel that says how far its frames are apart (none without times)."""
    frames = ops.concatenate(parts)
    if times is None:
        return frames
    length = ops.concatenate([times[: ops.shape(part)[0], -1] for part in parts])
    return ops.concatenate([frames, ops.reshape(length / 8, (-1, 1, 1, 1)) * ops.ones_like(frames[..., :1])], -1)


# Losses: logits (batch, 1) of real frames, of fakes, and of fakes with the discriminator frozen, to (d_loss, g_loss).


def non_saturating(real, fake, fake_frozen):
    """Cross-entropy, the generator maximising log D (Goodfellow et al. 2014, section 3)."""
    return ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake)), ops.mean(ops.softplus(-fake_frozen))


def hinge(real, fake, fake_frozen):
    """Hinge loss: what is judged right by a margin counts no more (Lim & Ye 2017, arXiv:1705.02894)."""
    return ops.mean(ops.relu(1 - real)) + ops.mean(ops.relu(1 + fake)), -ops.mean(fake_frozen)


def least_squares(real, fake, fake_frozen):
    """Squared distance to 1 for real and 0 for fake (Mao et al. 2017, arXiv:1611.04076)."""
    return (ops.mean((real - 1) ** 2) + ops.mean(fake**2)) / 2, ops.mean((fake_frozen - 1) ** 2) / 2


def wasserstein(real, fake, fake_frozen):
    """Difference of means under a critic of bounded slope (Arjovsky et al. 2017, arXiv:1701.07875).

    Its authors take five steps of the critic for one of the generator. Here it is one, and the fakes vary too little.
    """
    return ops.mean(fake) - ops.mean(real), -ops.mean(fake_frozen)


def relativistic(real, fake, fake_frozen):
    """Cross-entropy of the difference between a real frame and a fake (R3GAN, Huang et al. 2024, arXiv:2501.05441)."""
    return ops.mean(ops.softplus(fake - real)), ops.mean(ops.softplus(ops.stop_gradient(real) - fake_frozen))


def layout_distance(real, fake):
    """Distance of two batches as thumbnails: from each frame to the nearest of the other, averaged, both ways added.

    real, fake: (batch, height, width, channels) float32. Returns a number, in the frames' units. Thumbnails are twice
    as large as the base of the pyramid. So the generator hears from its first step where sky, walls and street belong,
    before the discriminator knows. From each real frame to the nearest fake, as in implicit maximum likelihood (Li &
    Malik 2018, arXiv:1809.09087), none is left out; from each fake to the nearest real frame, none strays.
    """
    side = 2 ** (count_halvings(real.shape[1:]) - 1)
    # Strides said outright: Keras 3.15 on JAX would spread a size that stands for them once too often.
    real, fake = (ops.average_pool(frames, side, strides=side, padding="same") for frames in (real, fake))
    distances = ops.mean(ops.abs(real[:, None] - fake[None]), (2, 3, 4))
    return ops.mean(ops.min(distances, 0)) + ops.mean(ops.min(distances, 1))


# Penalties: slopes (batch, 1) of the discriminator on a random step from a frame to a nearby one, to a number. Their
# mean square is that of the gradient, and needs no second derivative (Lin et al. 2025, arXiv:2501.08316).


def zero_centred(slopes):
    """Mean squared slope, which keeps the discriminator from winning (R1, Mescheder et al. 2018, arXiv:1801.04406)."""
    return ops.mean(slopes**2)


def one_centred(slopes):
    """Mean squared distance of the slope's norm from 1 (WGAN-GP, Gulrajani et al. 2017, arXiv:1704.00028).

    A random step with a gradient of norm g has slopes from a normal distribution of spread g, so their mean
    magnitude is g sqrt(2 / pi) and their mean square g^2.
    """
    return ops.mean(slopes**2 - (2 * math.pi) ** 0.5 * ops.abs(slopes) + 1)


LOSSES = {  # name: (loss, penalty, frames where the slope is penalised)
    "non-saturating": (non_saturating, zero_centred, ("real",)),
    "hinge": (hinge, zero_centred, ("real",)),
    "least-squares": (least_squares, zero_centred, ("real",)),
    "wasserstein-gp": (wasserstein, one_centred, ("between",)),
    "relativistic": (relativistic, zero_centred, ("real", "fake")),
}


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
