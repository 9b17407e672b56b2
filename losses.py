"""Adversarial losses, gradient penalties and the thumbnail loss: arrays in, numbers out."""

import math

from keras import ops

from models import count_halvings

DISTANCE_EPSILON = 1e-3  # keeps the slope of a square root finite at 0

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


def energy_distance(real, fake):
    """Energy distance of two batches of features at each place, averaged over places; unbiased, about 0 where alike.

    real, fake: (batch, rows, columns, channels) float32. Returns a number: twice the mean distance between a real and a
    fake vector, less that between two fakes, over the square root of the channels; that between two real ones is left
    out, since nothing moves it. It is smallest where both are drawn from the same distribution (Szekely & Rizzo 2013,
    doi:10.1016/j.jspi.2013.03.018; for generators Bellemare et al. 2017, arXiv:1705.10743), so it teaches without a
    network that must first be taught itself.
    """
    places, channels = math.prod(real.shape[1:3]), real.shape[3]
    # The places come first: each has a batch of its own.
    real, fake = (
        ops.transpose(ops.reshape(ops.cast(part, "float32"), (-1, places, channels)), (1, 0, 2))
        for part in (real, fake)
    )

    def distances(first, second):
        products = ops.matmul(first, ops.transpose(second, (0, 2, 1)))
        squares = ops.sum(first**2, -1)[:, :, None] + ops.sum(second**2, -1)[:, None] - 2 * products
        return ops.sqrt(ops.maximum(squares, 0.0) + DISTANCE_EPSILON)

    count = ops.cast(ops.shape(fake)[1], "float32")
    itself = DISTANCE_EPSILON**0.5  # of each fake
    within = (ops.mean(ops.sum(distances(fake, fake), 2)) - itself) / (count - 1)
    return (2 * ops.mean(distances(real, fake)) - within) / channels**0.5


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
