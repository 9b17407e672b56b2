"""Losses and penalties against their papers' values."""

import numpy as np
import pytest
from keras import ops

from walkgan import gan as gan_module
from walkgan import losses


@pytest.mark.parametrize(
    ("loss", "d_expected", "g_expected"),
    [
        ("non-saturating", np.log1p(np.exp(-0.5)) + np.log1p(np.exp(-1.0)), np.log1p(np.exp(1.0))),
        ("hinge", 0.5 + 0.0, 1.0),
        ("least-squares", (0.25 + 1.0) / 2, 4.0 / 2),
        ("wasserstein-gp", -1.5, 1.0),
        ("relativistic", np.log1p(np.exp(-1.5)), np.log1p(np.exp(1.5))),
    ],
)
def test_losses_have_their_papers_values(loss, d_expected, g_expected):
    real, fake = ops.full((4, 1), 0.5), ops.full((4, 1), -1.0)
    d_loss, g_loss = gan_module.LOSSES[loss][0](real, fake, fake)
    np.testing.assert_allclose([float(d_loss), float(g_loss)], [d_expected, g_expected], rtol=1e-5)


def test_one_centred_penalty_is_the_distance_of_the_gradient_norm_from_1():
    steps = np.random.default_rng(0).standard_normal((200_000, 10))
    for norm in (0.3, 1.0, 3.0):
        gradient = np.full(10, norm / np.sqrt(10))
        derivatives = ops.convert_to_tensor((steps @ gradient)[:, None].astype("float32"))
        estimate = float(losses.one_centred_penalty(derivatives))
        np.testing.assert_allclose(estimate, (norm - 1) ** 2, atol=0.05)
