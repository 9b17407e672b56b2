"""The adversarial model: the networks and their losses in one Keras model, trained by `fit`."""

import math

import keras
from keras import ops

from walkgan.augmentation import diff_augment, feature_views
from walkgan.keyframes import between_keyframes
from walkgan.losses import LOSSES, mismatch_loss, thumbnail_loss
from walkgan.windows import append_time_channel

# The size of the random step of the gradient penalty, in the frames' units of -1 to 1. With a smaller one, bfloat16's
# rounding outweighs the change of the logits: at 0.05 the mean square of a trained discriminator's derivatives came out
# 8 times too large, at 0.2 right.
PERTURBATION_STD = {"float32": 0.05, "float16": 0.05, "bfloat16": 0.2}
LOGITS = "real_logits", "fake_logits", "fake_logits_for_generator"  # what a loss is a function of
PENALTY_BATCH_SIZE = 4  # frames of a batch with a penalty; all of them would make the step a quarter slower


class GAN(keras.Model):
    """Generator and discriminators, with an exponential moving average (EMA) of the generator.

    One step generates one batch of fakes and updates all networks with it. The sum of all losses is given to one
    optimizer; stopped gradients keep each network's loss away from the others, so the result is that of separate
    optimizers with equal settings, at the cost of a single generator pass.

    generators, discriminators: the networks for all frame sizes, smallest first, which share layers. The size of the
    frames in a batch decides which are trained. ema_generator: another generator of the full size, for the average.
    projector, feature_discriminators: a frozen network, and what sees frames through it; None and () without.

    `fit` reads batches {"frames": (batch, height, width, channels) float32 in [-1, 1],
    "latents": (batch, latent_dim) float32, standard normal}. To learn motion it reads windows of frames, stacked on
    channels (batch, height, width, window * channels), and "frame_offsets": (batch, window) float32, how many frame
    intervals each frame is after the first of its window. The fakes of a window are generated from one latent, rotated
    by as many steps, all of them between two keyframes. Of several scenes it reads "scene": (batch, scenes) float32,
    one-hot, of frames and latents alike.

    After Goodfellow et al. 2014 (arXiv:1406.2661) and Radford et al. 2016 (arXiv:1511.06434); the EMA after Karras et
    al. 2018 (arXiv:1710.10196); the feature discriminators after Sauer et al. 2021 (arXiv:2111.01007).
    """

    def __init__(
        self, generators, discriminators, ema_generator, loss, gamma, thumbnail_weight, augment, ema_decay, seed,
        projector=None, feature_discriminators=(), feature_weight=0.0,
    ):  # fmt: skip
        super().__init__(name="gan")
        self.generators, self.discriminators = generators, discriminators
        self.generator, self.discriminator = generators[-1], discriminators[-1]
        self.ema_generator = ema_generator
        self.ema_generator.trainable = False
        self.reset_ema()
        self.projector, self.feature_discriminators = projector, list(feature_discriminators)
        self.feature_weight = feature_weight
        self.loss_function, self.penalty_function, self.penalty_inputs = LOSSES[loss]
        self.perturbation_std = PERTURBATION_STD[self.discriminator.get_layer("stem").compute_dtype]
        self.thumbnail_weight, self.augment, self.ema_decay = thumbnail_weight, tuple(augment), ema_decay
        self.random = keras.random.SeedGenerator(seed)
        counter = {"initializer": "zeros", "dtype": "int32", "trainable": False, "aggregation": "only_first_replica"}
        self.step, self.growth_step = (self.add_weight(**counter, name=name) for name in ("step", "growth_step"))
        # A variable, so that a rollback can change it while the training runs.
        constant = keras.initializers.Constant(gamma)
        self.gamma = self.add_weight(shape=(), initializer=constant, trainable=False, name="gamma")
        names = ["d_loss", "g_loss", *(["feature_d_loss", "feature_g_loss"] if self.feature_discriminators else [])]
        self.loss_metrics = {name: keras.metrics.Mean(name=name) for name in names}
        self.was_diverse = False  # whether the fakes have ever been; kept in checkpoints, to detect a collapse
        self.replicas = 1  # on TensorFlow, where tf.distribute sums the gradients of the parts of a batch
        self.built = True  # its networks are; so weights can be loaded before the first batch

    def call(self, batch, training=False):
        """Generate one fake per real frame and return the logits of all, by name, and the thumbnail loss.

        `real_logits`, `fake_logits` and, where the loss needs them, `interpolated_logits` are (batch, 1) and have
        gradients for the discriminator only, and so have the `..._perturbed_logits` of those that get a penalty (of
        their first frames, after a small random step), and with windows `mismatched_logits`, of real ones with each
        other's lengths. `fake_logits_for_generator`, the same values as `fake_logits`, has gradients for the generator
        only. With feature discriminators there are the three `feature_..._logits` as well, (batch, logits).
        """
        real, latents, offsets, scene = (batch.get(name) for name in ("frames", "latents", "frame_offsets", "scene"))
        size = [generator.output_shape[1] for generator in self.generators].index(real.shape[1])
        latents = latents if offsets is None else between_keyframes(latents, offsets)
        fake = self.generators[size](latents, training=training)
        outputs = {"thumbnail_loss": thumbnail_loss(real[..., :3], fake[..., :3])} if self.thumbnail_weight else {}
        if self.augment:
            real, fake = ops.split(diff_augment(ops.concatenate([real, fake]), self.augment, self.random), 2)
        # Augmented in one batch with the fakes, the real frames would have gradients computed for nothing.
        real = ops.stop_gradient(real)
        outputs |= self._pixel_logits(self.discriminators[size], real, fake, offsets, scene, training)
        if self.projector and real.shape[1] >= self.projector.input_shape[1]:
            outputs |= self._feature_logits(real, fake, scene, training)
        return outputs

    def _pixel_logits(self, discriminator, real, fake, offsets, scene, training):
        """Return the logits of the discriminator that sees pixels."""
        logits_for_generator = frozen_logits(discriminator, discriminator_inputs([fake], offsets, scene), training)
        inputs = {"real": real, "fake": ops.stop_gradient(fake)}
        if "interpolated" in self.penalty_inputs:
            some_real, some_fake = (inputs[name][:PENALTY_BATCH_SIZE] for name in ("real", "fake"))
            alpha = keras.random.uniform((ops.shape(some_real)[0], 1, 1, 1), seed=self.random)
            inputs["interpolated"] = alpha * some_real + (1 - alpha) * some_fake
        # The same for all: to draw another for each took 3% of a step at 160x320.
        noise = self.perturbation_std * keras.random.normal(ops.shape(real[:PENALTY_BATCH_SIZE]), seed=self.random)
        for name in self.penalty_inputs:
            inputs[f"{name}_perturbed"] = inputs[name][:PENALTY_BATCH_SIZE] + noise
        outputs, start = {"fake_logits_for_generator": logits_for_generator}, 0
        if offsets is not None:
            mismatched = discriminator_inputs([real], ops.roll(offsets, 1, 0), scene)
            outputs["mismatched_logits"] = discriminator(mismatched, training=training)
        logits = discriminator(discriminator_inputs(list(inputs.values()), offsets, scene), training=training)
        for name, frames in inputs.items():
            outputs[f"{name}_logits"] = logits[start : start + ops.shape(frames)[0]]
            start += ops.shape(frames)[0]
        return outputs

    def _feature_logits(self, real, fake, scene, training):
        """Return the logits of the discriminators that see single frames through the projector."""
        real_logits, fake_logits, fake_logits_for_generator = [], [], []
        views = feature_views(real, fake, scene, self.projector.input_shape[1:3], self.random)
        for (real_view, fake_view, view_scene), discriminator in zip(views, self.feature_discriminators, strict=False):
            real_features, fake_features = self.projector(real_view), self.projector(fake_view)
            both = [ops.stop_gradient(ops.concatenate(pair)) for pair in zip(real_features, fake_features, strict=True)]
            if view_scene is not None:
                both.append(ops.concatenate([view_scene, view_scene]))
                fake_features = [*fake_features, view_scene]
            logits = ops.split(discriminator(both, training=training), 2)
            real_logits.append(logits[0])
            fake_logits.append(logits[1])
            fake_logits_for_generator.append(frozen_logits(discriminator, fake_features))
        lists = real_logits, fake_logits, fake_logits_for_generator
        return {f"feature_{name}": ops.concatenate(logits) for name, logits in zip(LOGITS, lists, strict=True)}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return the sum of all losses, each with gradients for one network only."""
        loss = self.gamma / 2 * self._penalty(y_pred, x["frames"].shape)
        loss += self.thumbnail_weight * y_pred.get("thumbnail_loss", 0.0)
        if "mismatched_logits" in y_pred:
            loss += mismatch_loss(y_pred["real_logits"], y_pred["mismatched_logits"], x["frame_offsets"])
        for kind, weight in (("", 1.0), ("feature_", self.feature_weight)):
            if f"{kind}real_logits" in y_pred:
                d_loss, g_loss = self.loss_function(*(y_pred[f"{kind}{name}"] for name in LOGITS))
                self.loss_metrics[f"{kind}d_loss"].update_state(d_loss)
                self.loss_metrics[f"{kind}g_loss"].update_state(g_loss)
                loss += weight * (d_loss + g_loss)
        if training:
            self._update_ema()
        return loss / self.replicas

    def _penalty(self, outputs, frames_shape):
        """Return the gradient penalty, by finite differences along random steps."""
        # Multiplies the squared gradient by pixels / 1,000: the same change, spread over more pixels, has a smaller
        # gradient, so gamma means the same at every size.
        scale = self.perturbation_std / (math.prod(frames_shape[1:3]) / 1000) ** 0.5
        return sum(
            self.penalty_function(
                (outputs[f"{name}_perturbed_logits"] - outputs[f"{name}_logits"][:PENALTY_BATCH_SIZE]) / scale
            )
            for name in self.penalty_inputs
        )

    @property
    def steps(self):
        """How many steps have been trained."""
        return int(ops.convert_to_numpy(self.step))

    @property
    def saved_networks(self):
        """The networks that a run keeps as Keras files, by name: for warm starts."""
        networks = {"discriminator": self.discriminator, "generator": self.ema_generator}
        names = ("feature_discriminator", "feature_discriminator_of_crops")
        return networks | dict(zip(names, self.feature_discriminators, strict=False))

    def stabilise(self):
        """Halve the learning rate and double the gradient penalty, after a divergence."""
        self.optimizer.learning_rate.assign(self.optimizer.learning_rate / 2)
        self.gamma.assign(2 * self.gamma)

    def begin_size(self):
        """Set Adam's moments and its count of steps back to zero, and average the generator over few steps again.

        Without it, the layers that a growth adds move ten learning rates in their first step: their moments are zero
        then, and the correction for that counts the steps of all. And the average would remember them untrained.
        """
        self.growth_step.assign(self.steps)
        adam = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        for variable in adam.variables:
            if variable is not adam.learning_rate:
                variable.assign(ops.zeros(variable.shape, variable.dtype))

    def reset_ema(self):
        """Copy the weights of the trained generator to the averaged one."""
        for average, weight in self._ema_pairs():
            average.assign(ops.convert_to_numpy(weight))  # a copy: on JAX they would share one buffer

    def _ema_pairs(self):
        """Yield each variable of the averaged generator and of the trained one; Keras may order each differently."""
        for layer in self.generator.layers:
            if layer.variables:
                yield from zip(self.ema_generator.get_layer(layer.name).variables, layer.variables, strict=True)

    def _update_ema(self):
        """Move the averaged generator a step towards the trained one, batch statistics included.

        It is over a fifth of the steps at this size, up to `ema_decay`: untrained weights are soon forgotten.
        """
        step = ops.cast(self.step - self.growth_step, "float32")
        decay = ops.minimum(self.ema_decay, (1.0 + step) / (5.0 + step))
        for average, weight in self._ema_pairs():
            average.assign(decay * average + (1.0 - decay) * ops.stop_gradient(weight))
        self.step.assign(self.step + 1)

    def save_own_variables(self, store):
        """Keep both steps, gamma, random state and whether fakes were diverse with the weights of a checkpoint."""
        for name, variable in (("step", self.step), ("growth_step", self.growth_step), ("penalty", self.gamma)):
            store[name] = ops.convert_to_numpy(variable)
        store["random"] = ops.convert_to_numpy(self.random.state)
        store["was_diverse"] = self.was_diverse

    def load_own_variables(self, store):
        """Restore them from a checkpoint."""
        self.step.assign(store["step"])
        self.growth_step.assign(store["growth_step"] if "growth_step" in store.keys() else 0)  # noqa: SIM118
        self.gamma.assign(store["penalty"])
        self.random.state.assign(store["random"])
        self.was_diverse = "was_diverse" in store.keys() and bool(store["was_diverse"][()])  # noqa: SIM118

    def _maybe_symbolic_build(self, **_):
        """Build nothing, since all is built: on several devices Keras would read batches for it, and lose them."""


def frozen_logits(discriminator, inputs, training=False):
    """Return a discriminator's logits of inputs, with gradients for the inputs but not for its weights."""
    weights = [ops.stop_gradient(weight) for weight in discriminator.trainable_variables]
    state = [variable.value for variable in discriminator.non_trainable_variables]
    return discriminator.stateless_call(weights, state, inputs, training=training)[0]


def discriminator_inputs(parts, offsets, scene):
    """Return what a discriminator sees of batches of frames or windows, `parts`: one batch, with the scene of each.

    offsets: see append_time_channel; scene: (batch, scenes), one-hot, or None: then frames alone. A part may have only
    the first frames of the batch.
    """
    frames = append_time_channel(parts, offsets)
    return frames if scene is None else [frames, ops.concatenate([scene[: ops.shape(part)[0]] for part in parts])]
