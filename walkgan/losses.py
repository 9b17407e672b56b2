"""Adversarial losses, gradient penalties and the thumbnail loss: arrays in, scalars out."""

import math

from keras import ops

from models import num_downsamplings

# Losses: logits (batch, 1) of real frames, of fakes, and of fakes with the discriminator frozen, to (d_loss, g_loss).


def non_saturating(real_logits, fake_logits, fake_logits_for_generator):
    """Cross-entropy, the generator maximising log D (Goodfellow et al. 2014, section 3)."""
    d_loss = ops.mean(ops.softplus(-real_logits)) + ops.mean(ops.softplus(fake_logits))
    return d_loss, ops.mean(ops.softplus(-fake_logits_for_generator))


def hinge(real_logits, fake_logits, fake_logits_for_generator):
    """Hinge loss: what is classified right by a margin counts no more (Lim & Ye 2017, arXiv:1705.02894)."""
    d_loss = ops.mean(ops.relu(1 - real_logits)) + ops.mean(ops.relu(1 + fake_logits))
    return d_loss, -ops.mean(fake_logits_for_generator)


def least_squares(real_logits, fake_logits, fake_logits_for_generator):
    """Squared distance to 1 for real and 0 for fake (Mao et al. 2017, arXiv:1611.04076)."""
    d_loss = (ops.mean((real_logits - 1) ** 2) + ops.mean(fake_logits**2)) / 2
    return d_loss, ops.mean((fake_logits_for_generator - 1) ** 2) / 2


def wasserstein(real_logits, fake_logits, fake_logits_for_generator):
    """Difference of means under a Lipschitz-constrained critic (Arjovsky et al. 2017, arXiv:1701.07875).

    Not the authors' recipe: one step of the critic for each of the generator, not five, and a weaker penalty, whose
    gradient is scaled like that of the other losses. Its fakes are not diverse enough here.
    """
    return ops.mean(fake_logits) - ops.mean(real_logits), -ops.mean(fake_logits_for_generator)


def relativistic(real_logits, fake_logits, fake_logits_for_generator):
    """Cross-entropy of the difference between the logits of a real frame and a fake.

    RpGAN (Jolicoeur-Martineau 2018, arXiv:1807.00734), as in R3GAN (Huang et al. 2024, arXiv:2501.05441).
    """
    g_loss = ops.mean(ops.softplus(ops.stop_gradient(real_logits) - fake_logits_for_generator))
    return ops.mean(ops.softplus(fake_logits - real_logits)), g_loss


def thumbnail_loss(real, fake):
    """Return the mean distance from the thumbnail of each real frame to that of the nearest fake.

    real, fake: (batch, height, width, channels) float32. Returns a scalar in the frames' units. Thumbnails are twice as
    large as the base of the pyramid. So the generator learns from its first step where sky, walls and street belong,
    before the discriminator knows. Implicit maximum likelihood (Li & Malik 2018, arXiv:1809.09087): every real frame
    draws the fake that is most like it, so none is ignored, and the fakes that are not the nearest to any are free.
    """
    size = 2 ** (num_downsamplings(real.shape[1:]) - 1)
    # Explicit strides: Keras 3.15 on JAX mishandles the default, which is the pool size.
    real, fake = (ops.average_pool(frames, size, strides=size, padding="same") for frames in (real, fake))
    distances = ops.mean(ops.abs(real[:, None] - fake[None]), (2, 3, 4))
    return ops.mean(ops.min(distances, 1))


def mismatch_loss(real_logits, mismatched_logits, offsets):
    """Cross-entropy of the difference between the logits of real windows and of the same with each other's lengths.

    real_logits, mismatched_logits: (batch, 1); offsets: (batch, window), and those of the mismatched rolled by one
    window. Returns a scalar, to which windows count that have another length than the one before them. So the
    discriminator learns how fast a walk is, from real windows alone.
    After the matching-aware discriminator (Reed et al. 2016, arXiv:1605.05396).
    """
    lengths = ops.convert_to_tensor(offsets[:, -1:])
    differ = ops.cast(ops.abs(lengths - ops.roll(lengths, 1, 0)) > 0.5, "float32")
    return ops.mean(differ * ops.softplus(mismatched_logits - real_logits))


# Penalties: the directional derivatives (batch, 1) of the discriminator along a random step from a frame to a nearby
# one, to a scalar. Their mean square estimates the squared norm of the gradient, without a second derivative (Lin et
# al. 2025, arXiv:2501.08316).


def zero_centred_penalty(derivatives):
    """Squared norm of the gradient (R1, Mescheder et al. 2018, arXiv:1801.04406; on fakes, R2)."""
    return ops.mean(derivatives**2)


def one_centred_penalty(derivatives):
    """Squared distance of the gradient's norm from 1 (WGAN-GP, Gulrajani et al. 2017, arXiv:1704.00028).

    Along random steps, a gradient of norm g has derivatives from a normal distribution of deviation g, so their mean
    magnitude is g sqrt(2 / pi) and their mean square g^2.
    """
    return ops.mean(derivatives**2 - (2 * math.pi) ** 0.5 * ops.abs(derivatives) + 1)


LOSSES = {  # name: (loss, penalty, the frames on which the penalty is computed)
    "non-saturating": (non_saturating, zero_centred_penalty, ("real",)),
    "hinge": (hinge, zero_centred_penalty, ("real",)),
    "least-squares": (least_squares, zero_centred_penalty, ("real",)),
    "wasserstein-gp": (wasserstein, one_centred_penalty, ("interpolated",)),
    "relativistic": (relativistic, zero_centred_penalty, ("real", "fake")),
}
