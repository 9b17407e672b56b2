"""Evenly spaced samples."""

import numpy as np


def evenly_spaced(length, count):
    """Return `count` indices from 0 to length - 1, evenly spaced."""
    return np.linspace(0, length - 1, count).round().astype(int)
