"""Images at positions between their pixels: as OpenCV has them."""

import cv2
import numpy as np
import pytest
from keras import ops

from walkgan.interpolation import Sampling, sample

IMAGES, WINDOW = 2, 3


@pytest.mark.parametrize("sampled", [sample, Sampling()], ids=["sample", "Sampling"])
@pytest.mark.parametrize("shapes", [((4, 5), (4, 5)), ((4, 1), (1, 5))], ids=["any positions", "rows and columns"])
def test_is_as_in_opencv(sampled, shapes):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((IMAGES, 6, 7, 3), "float32")
    row, column = (rng.uniform(-2, 8, (IMAGES * WINDOW, *shape)).astype("float32") for shape in shapes)
    inputs = (ops.convert_to_tensor(each) for each in (images, row, column))
    seen = ops.convert_to_numpy(sampled(*inputs, window=WINDOW))
    row, column = np.broadcast_arrays(row, column)
    for number, frame in enumerate(seen):
        image, positions = images[number // WINDOW], (column[number], row[number])
        expected = cv2.remap(image, *positions, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        np.testing.assert_allclose(frame, expected, atol=0.15)  # OpenCV's positions are multiples of 1/32
    assert seen.std() > 0.5


def test_a_layer_of_it_takes_half_precision_too():
    images = np.arange(2 * 4 * 4 * 1, dtype="float32").reshape(2, 4, 4, 1)
    positions = np.full((2, 1, 1), 1.5, "float32")
    seen = Sampling(dtype="bfloat16")(ops.cast(images, "bfloat16"), positions, positions, window=1)
    np.testing.assert_allclose(ops.convert_to_numpy(ops.cast(seen, "float32")).ravel(), [7.5, 23.5], atol=0.2)
