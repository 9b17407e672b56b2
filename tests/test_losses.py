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


def test_thumbnail_loss_draws_a_fake_to_every_real_frame():
    rng = np.random.default_rng(0)
    real, fake = rng.uniform(-1, 1, (2, 5, 16, 32, 3)).astype("float32")  # thumbnails of 16x32 are 8x16
    small = [frames.reshape(5, 8, 2, 16, 2, 3).mean((2, 4)) for frames in (real, fake)]
    between = np.array([[np.abs(one - other).mean() for other in small[1]] for one in small[0]])
    np.testing.assert_allclose(losses.thumbnail_loss(real, fake), between.min(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(losses.thumbnail_loss(real, real[::-1]), 0, atol=1e-6)
    only_one = np.repeat(real[:1], 5, 0)  # fakes that are all the same leave the other real frames out
    assert float(losses.thumbnail_loss(real, only_one)) > 0.1
    assert float(losses.thumbnail_loss(only_one, real)) < 1e-6  # a fake unlike all real frames costs nothing


def test_windows_of_another_length_must_have_lower_logits():
    offsets = np.array([[0, 1, 2], [0, 2, 4], [0, 2, 4], [0, 4, 8]], "float32")  # the third is as long as the second
    real, mismatched = (np.array(logits, "float32")[:, None] for logits in ([1, 2, 3, 4], [5, 2, 9, 1]))
    expected = np.log1p(np.exp([4.0, 0.0, -3.0])).sum() / 4
    np.testing.assert_allclose(losses.mismatch_loss(real, mismatched, offsets), expected, rtol=1e-5)
    assert float(losses.mismatch_loss(real[:1], mismatched[:1], offsets[:1])) == 0


def test_one_centred_penalty_is_the_distance_of_the_gradient_norm_from_1():
    steps = np.random.default_rng(0).standard_normal((200_000, 10))
    for norm in (0.3, 1.0, 3.0):
        gradient = np.full(10, norm / np.sqrt(10))
        derivatives = ops.convert_to_tensor((steps @ gradient)[:, None].astype("float32"))
        estimate = float(losses.one_centred_penalty(derivatives))
        np.testing.assert_allclose(estimate, (norm - 1) ** 2, atol=0.05)
