"""Scores of how walks move, against real ones: arrays in, numbers out."""

from itertools import pairwise

import cv2
import numpy as np

LAGS = 1, 2, 4, 8, 16, 32, 64  # steps, for the similarity of colours


def motion(walks):
    """Measure how walks move: each (length, height, width, 3) uint8 RGB, frames in order.

    Returns, by name: of every step the "similarity" (structural, Wang et al. 2004, of grey frames), the "speed" (mean
    optical flow, in frame heights) and the "expansion" (its mean part away from the centre: above 0 walking forward);
    and "colour", the mean similarity of colours at each of LAGS (Brooks et al. 2022, arXiv:2206.03429).
    """
    similarity, speed, expansion, colour = [], [], [], []
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow.setFinestScale(0 if walks[0].shape[1] < 80 else 1)
    height, width = walks[0].shape[1:3]
    radial_direction = np.stack(
        np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2), -1
    )
    radial_direction /= np.maximum(np.linalg.norm(radial_direction, axis=-1, keepdims=True), 0.5)
    for walk in walks:
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in walk]
        for before, after in pairwise(grey):
            moved = flow.calc(before, after, None)
            speed.append(np.linalg.norm(moved, axis=-1).mean() / height)
            expansion.append((moved * radial_direction).sum(-1).mean() / height)
            similarity.append(structural_similarity(before, after))
        histograms = np.stack([_colour_histogram(frame) for frame in walk])
        lags = [lag for lag in LAGS if lag < len(walk)]
        colour.append([np.minimum(histograms[:-lag], histograms[lag:]).sum(1).mean() for lag in lags])
    curves = {"similarity": similarity, "speed": speed, "expansion": expansion, "colour": np.mean(colour, 0)}
    return {name: np.array(curve) for name, curve in curves.items()}


def motion_distances(real, fake):
    """Return the distance between two results of `motion`, by name; 0 means identical.

    Between distributions it is the Wasserstein distance, since smoothness alone would reward a frozen image; between
    the curves of colour the mean difference.
    """
    distances = {}
    for name in ("similarity", "speed", "expansion"):
        levels = np.linspace(0, 1, 101)
        distances[name] = float(np.abs(np.quantile(real[name], levels) - np.quantile(fake[name], levels)).mean())
    return distances | {"colour": float(np.abs(real["colour"] - fake["colour"]).mean())}


def structural_similarity(first, second):
    """Return the mean structural similarity of two grey uint8 images (Wang et al. 2004, sigma 1.5), 1 if identical."""
    first, second = first.astype("float64"), second.astype("float64")

    def blur(image):
        return cv2.GaussianBlur(image, (11, 11), 1.5)

    means = blur(first), blur(second)
    variances = blur(first**2) - means[0] ** 2, blur(second**2) - means[1] ** 2
    shared = blur(first * second) - means[0] * means[1]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    above = (2 * means[0] * means[1] + c1) * (2 * shared + c2)
    return float((above / ((means[0] ** 2 + means[1] ** 2 + c1) * (sum(variances) + c2))).mean())


def _colour_histogram(frame):
    """Return the normalised histogram of 8 x 8 x 8 colours of a frame."""
    return cv2.calcHist([frame], [0, 1, 2], None, [8] * 3, [0, 256] * 3).ravel() / (frame.shape[0] * frame.shape[1])
