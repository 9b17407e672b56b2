"""The adversarial model: a generator, a discriminator and both their losses in one Keras model, trained by `fit`."""

import math
import warnings

import keras
from keras import ops

from augmentation import diff_augment
from features import build_projector
from losses import LOSSES, hinge, layout_distance
from models import (
    build_discriminator,
    build_feature_discriminator,
    build_generator,
    rotate,
    smaller_shapes,
    step_angles,
)
from settings import SettingError

# How near a frame the penalty looks, in frames' units of -1 to 1. Nearer, bfloat16's rounding outweighs the slope:
# at 0.05 the mean square of a trained discriminator's came out 8 times too large, at 0.2 right.
NOISE = {"float32": 0.05, "float16": 0.05, "bfloat16": 0.2}
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
FEATURE_SIDE = 64  # least shorter side, in pixels, of the frames whose features are seen; from twice that on, of halves
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
        projector, feature_discriminators = build_feature_networks(frame_shape, settings)
    except ValueError as error:
        raise SettingError(f"{settings.frames}: {error} Extract the frames again, larger.") from None
    finally:
        keras.config.set_dtype_policy("float32")
    gan = GAN(
        [*generators, generator], [*judges, discriminator], build_generator(*sizes, steps_a_second=steps_a_second),
        settings.loss, settings.penalty, settings.layout, settings.augment, settings.ema_decay, settings.seed,
        projector, feature_discriminators, settings.feature_weight,
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


def sees_features(settings, frame_shape):
    """Return whether a GAN of these settings has feature discriminators."""
    return settings.feature_weight > 0 and min(frame_shape[:2]) >= FEATURE_SIDE


def build_feature_networks(frame_shape, settings):
    """Build the frozen projector and the feature discriminators: (None, []) where the frames are too small for them.

    The first of them sees whole frames, halved until their shorter side is below 128. Where they had to be halved, a
    second one sees crops of that size from the frames as they are.
    """
    if not sees_features(settings, frame_shape):
        return None, []
    factor = 2 ** int(math.log2(min(frame_shape[:2]) / FEATURE_SIDE))
    projector = build_projector(
        (*(-(-side // factor) for side in frame_shape[:2]), 3), settings.feature_width, settings.seed
    )
    shapes = [features.shape[1:] for features in projector.outputs]
    views = 1 if factor == 1 else 2
    return projector, [build_feature_discriminator(shapes, settings.feature_width) for _ in range(views)]


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

    def __init__(
        self, generators, discriminators, ema_generator, loss, penalty, layout, augment, ema_decay, seed,
        projector=None, feature_discriminators=(), feature_weight=0.0,
    ):  # fmt: skip
        super().__init__(name="gan")
        self.generators, self.discriminators = generators, discriminators
        self.generator, self.discriminator = generators[-1], discriminators[-1]
        self.ema_generator = ema_generator
        self.ema_generator.trainable = False
        self.begin_average()
        self.projector, self.feature_discriminators = projector, list(feature_discriminators)
        self.feature_weight = feature_weight
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
        if self.feature_discriminators:
            self.feature_d_loss = keras.metrics.Mean(name="feature_d_loss")
            self.feature_g_loss = keras.metrics.Mean(name="feature_g_loss")
        self.replicas = 1  # on TensorFlow, whose tf.distribute adds up the gradients of the parts of a batch
        self.built = True  # its networks are; so weights can be loaded before the first batch

    def call(self, batch, training=False):
        """Draw one fake for each real frame and score them all.

        Returns logits (batch, 1) by name: `real`, `fake` and, where the loss asks for it, `between` move only the
        discriminator, as does `..._nearby` of each of them that is penalised (its first frames, slightly noisy).
        `fake_frozen`, the same numbers as `fake`, moves only the generator, and so does the number `layout`. From
        80x160 on there are `feature_real`, `feature_fake` and `feature_fake_frozen` as well, (batch, logits).
        """
        real, latents, times = batch["frames"], batch["latents"], batch.get("times")
        size = [generator.output_shape[1] for generator in self.generators].index(real.shape[1])
        fake = self._draw(self.generators[size], latents, times, training)
        scores = {"layout": layout_distance(real[..., :3], fake[..., :3])} if self.layout else {}
        if self.augment:
            real, fake = ops.split(diff_augment(ops.concatenate([real, fake]), self.augment, self.random), 2)
        # The real ones are stopped: augmented as one batch, they would else have gradients made for nothing.
        real = ops.stop_gradient(real)
        scores |= self._pixel_logits(self.discriminators[size], real, fake, times, training)
        if self.projector and real.shape[1] >= self.projector.input_shape[1]:
            scores |= self._feature_logits(real[..., :3], fake[..., :3], training)
        return scores

    def _draw(self, generator, latents, times, training):
        """Draw frames from latents, or with times, windows of frames from latents that turn."""
        if times is None:
            return generator(latents, training=training)
        angles = times[..., None] * step_angles(latents.shape[1]).astype("float32")
        latents = ops.reshape(rotate(latents[:, None], angles), (-1, latents.shape[1]))
        return stack_windows(generator(latents, training=training), times.shape[1])

    def _pixel_logits(self, discriminator, real, fake, times, training):
        """Score frames by their pixels."""
        fake_frozen = frozen(discriminator, with_times([fake], times), training)
        judged = {"real": real, "fake": ops.stop_gradient(fake)}
        if "between" in self.penalised:
            some_real, some_fake = real[:PENALISED], judged["fake"][:PENALISED]
            part = keras.random.uniform((ops.shape(some_real)[0], 1, 1, 1), seed=self.random)
            judged["between"] = part * some_real + (1 - part) * some_fake
        for name in self.penalised:
            frames = judged[name][:PENALISED]
            judged[name + "_nearby"] = frames + self.noise * keras.random.normal(ops.shape(frames), seed=self.random)
        logits, start = discriminator(with_times(list(judged.values()), times), training=training), 0
        scores = {"fake_frozen": fake_frozen}
        for name, frames in judged.items():
            scores[name] = logits[start : start + ops.shape(frames)[0]]
            start += ops.shape(frames)[0]
        return scores

    def _feature_logits(self, real, fake, training):
        """Score single frames by the features that the projector finds in each of their views."""
        scores = {"feature_real": [], "feature_fake": [], "feature_fake_frozen": []}
        views = self._views(real, fake)
        for (real_view, fake_view), discriminator in zip(views, self.feature_discriminators, strict=False):
            real_features, fake_features = self.projector(real_view), self.projector(fake_view)
            both = [ops.stop_gradient(ops.concatenate(pair)) for pair in zip(real_features, fake_features, strict=True)]
            real_logits, fake_logits = ops.split(discriminator(both, training=training), 2)
            scores["feature_real"].append(real_logits)
            scores["feature_fake"].append(fake_logits)
            scores["feature_fake_frozen"].append(frozen(discriminator, fake_features))
        return {name: ops.concatenate(parts) for name, parts in scores.items()}

    def _views(self, real, fake):
        """Return pairs of views, real and fake, as large as the projector wants them.

        Where frames are larger, half of the batch is seen whole, averaged to that size, and half of it in crops at
        full resolution, from one random place: together they cost a quarter of the whole batch as it is.
        """
        height, width = self.projector.input_shape[1:3]
        factor = round(real.shape[1] / height)
        if factor == 1:
            return [(real, fake)]
        half = ops.shape(real)[0] // 2
        top = keras.random.randint((), 0, real.shape[1] - height + 1, seed=self.random)
        left = keras.random.randint((), 0, real.shape[2] - width + 1, seed=self.random)
        whole = [ops.average_pool(frames[:half], factor, strides=factor, padding="same") for frames in (real, fake)]
        crops = [
            ops.slice(frames[half:], (0, top, left, 0), (ops.shape(frames)[0] - half, height, width, 3))
            for frames in (real, fake)
        ]
        return [whole, crops]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return d_loss + g_loss + penalty + layout + feature losses, each with gradients for one network only."""
        d_loss, g_loss = self.loss_function(y_pred["real"], y_pred["fake"], y_pred["fake_frozen"])
        # A change that fills the frame is spread over more pixels in a larger one: so the slope counts alike in all.
        step = self.noise / (math.prod(x["frames"].shape[1:3]) / 1000) ** 0.5
        slopes = [(y_pred[name + "_nearby"] - y_pred[name][:PENALISED]) / step for name in self.penalised]
        penalty = self.penalty / 2 * sum(map(self.penalty_function, slopes))
        layout = self.layout * y_pred.get("layout", 0.0)  # not sought where it has no weight
        self.d_loss.update_state(d_loss)
        self.g_loss.update_state(g_loss)
        loss = d_loss + g_loss + penalty + layout
        if "feature_real" in y_pred:
            d_loss, g_loss = hinge(*(y_pred[name] for name in ("feature_real", "feature_fake", "feature_fake_frozen")))
            self.feature_d_loss.update_state(d_loss)
            self.feature_g_loss.update_state(g_loss)
            loss += self.feature_weight * (d_loss + g_loss)
        if training:
            self._average_generator()
        return loss / self.replicas

    @property
    def steps(self):
        """How many steps have been trained."""
        return int(ops.convert_to_numpy(self.step))

    def soften(self):
        """Make the training gentler, after trouble: half the learning rate, twice the penalty."""
        self.optimizer.learning_rate.assign(self.optimizer.learning_rate / 2)
        self.penalty.assign(2 * self.penalty)

    @property
    def saved_networks(self):
        """The networks that a run keeps as Keras files, by name: all that another training needs to start from it."""
        networks = {"discriminator": self.discriminator, "generator": self.ema_generator}
        names = ("feature_discriminator", "feature_discriminator_of_crops")
        return networks | dict(zip(names, self.feature_discriminators, strict=False))

    def restart_optimizer(self):
        """Set Adam's moments and its count of steps back to zero.

        Without it, the layers that a growth adds move nine learning rates in their first step: their moments begin at
        zero then, and the correction for that counts the steps of all.
        """
        adam = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        for variable in adam.variables:
            if variable is not adam.learning_rate:
                variable.assign(ops.zeros(variable.shape, variable.dtype))

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


def frozen(discriminator, inputs, training=False):
    """Return a discriminator's logits of inputs, with gradients for the inputs but not for its weights."""
    weights = [ops.stop_gradient(weight) for weight in discriminator.trainable_variables]
    state = [variable.value for variable in discriminator.non_trainable_variables]
    return discriminator.stateless_call(weights, state, inputs, training=training)[0]


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
