"""Adversarial losses, gradient penalties and the thumbnail loss: arrays in, numbers out."""

import math

from keras import ops

from models import count_halvings

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
