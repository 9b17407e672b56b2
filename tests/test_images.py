"""Images: conversions and the grid."""

import numpy as np

from walkgan.images import to_float, to_uint8


def test_frames_survive_conversion_to_floats_and_back():
    everything = np.arange(256, dtype="uint8")
    assert (to_uint8(to_float(everything)) == everything).all()
