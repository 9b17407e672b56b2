"""Images: conversions and the grid."""

import numpy as np
import pytest

from walkgan.errors import InputError
from walkgan.images import read_frame, to_float, to_uint8


def test_frames_survive_conversion_to_floats_and_back():
    everything = np.arange(256, dtype="uint8")
    assert (to_uint8(to_float(everything)) == everything).all()


def test_a_frame_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path.name} cannot be read: "):
        read_frame(tmp_path)
