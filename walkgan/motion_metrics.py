"""Scores of how walks move, against real ones: arrays in, numbers out."""

from functools import cache
from itertools import pairwise

import cv2
import numpy as np

from walkgan.images import to_grey
from walkgan.metrics import laplacian_pyramid, random_patches, sliced_distance

MIN_FLOW_SIDE = 12  # of the longer side of a frame: OpenCV finds no optical flow in smaller ones
LAGS = 1, 2, 4, 8, 16, 32, 64  # steps, for the similarity of colours
PATCH_GAPS = 0, 2, 4  # steps after which a patch is seen again
PATCHES_PER_FRAME, PATCH_DIRECTIONS = 32, 256


def motion(walks):
    """Measure how walks move: each (length, height, width, 3) uint8 RGB, frames in order.

    Returns, by name: of every step the "similarity" (structural, Wang et al. 2004, of grey frames), the "speed" (mean
    optical flow, in frame heights) and the "expansion" (its mean part away from the centre: above 0 walking forward);
    and "colour", the mean similarity of colours at each of LAGS (Brooks et al. 2022, arXiv:2206.03429).
    """
    similarity, flows, colour = [], [], []
    for walk in walks:
        grey = to_grey(walk)
        similarity += [structural_similarity(before, after) for before, after in pairwise(grey)]
        flows += map(speed_and_expansion, optical_flow(pairwise(grey)))
        histograms = np.stack([_colour_histogram(frame) for frame in walk])
        lags = [lag for lag in LAGS if lag < len(walk)]
        colour.append([np.minimum(histograms[:-lag], histograms[lag:]).sum(1).mean() for lag in lags])
    speed, expansion = np.transpose(flows)
    curves = {"similarity": similarity, "speed": speed, "expansion": expansion, "colour": np.mean(colour, 0)}
    return {name: np.array(curve) for name, curve in curves.items()}


def optical_flow(pairs):
    """Yield the optical flow (height, width, 2) in pixels of x and y, for pairs of grey uint8 images."""
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    for pair in pairs:
        flow.setFinestScale(0 if len(pair[0]) < 80 else 1)
        yield flow.calc(*pair, None)


def speeds_and_expansions(before, after):
    """Return the speed and the expansion of pairs of frames (count, height, width, 3) uint8: two arrays (count,)."""
    flows = optical_flow(zip(to_grey(before), to_grey(after), strict=True))
    return np.transpose([speed_and_expansion(flow) for flow in flows])


def speed_and_expansion(flow):
    """Return the mean length of an optical flow, and its mean part away from the centre, in frame heights."""
    height = flow.shape[0]
    away = directions_from_centre(*flow.shape[:2])
    return np.linalg.norm(flow, axis=-1).mean() / height, (flow * away).sum(-1).mean() / height


@cache
def directions_from_centre(height, width):
    """Return the unit vector, x and y, from the centre to each pixel: (height, width, 2)."""
    positions = np.stack(np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2), -1)
    return positions / np.maximum(np.linalg.norm(positions, axis=-1, keepdims=True), 0.5)


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


def patch_distance(real, fake, seed=0):
    """Return the sliced Wasserstein distance x 1000 of patches in space and time; 0 means identical.

    real, fake: as many walks each, as for `motion`. A patch is one of 7x7 pixels at a level of a Laplacian pyramid, and
    how it has changed two and four steps later. As `sliced_wasserstein` in metrics.py, which is for single frames; a
    video-level distance like FVD (Unterthiner et al. 2018, arXiv:1812.01717), but without a network.
    """
    distances = []
    for real_level, fake_level in zip(*map(_pyramid_of_walks, (real, fake)), strict=True):
        rows = [_changing_patches(level, real_level, np.random.default_rng(seed)) for level in (real_level, fake_level)]
        scale = rows[0].std((0, 2), keepdims=True) + 1e-8  # of patches, and of each change, which is far smaller
        scaled = [(each / scale).reshape(len(each), -1) for each in rows]
        distances.append(sliced_distance(*scaled, PATCH_DIRECTIONS, seed))
    return 1000 * float(np.mean(distances))


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


def _pyramid_of_walks(walks):
    """Return the levels of a Laplacian pyramid, finest first: each (walks, length, height, width, 3)."""
    return [np.stack(level) for level in zip(*map(laplacian_pyramid, walks), strict=True)]


def _changing_patches(walks, real, rng):
    """Return patches (count, 3, 7 * 7 * 3) of walks: as they are, relative to the real ones, and their two changes."""
    walks = (walks - real.mean((0, 1, 2, 3))) / (real.std((0, 1, 2, 3)) + 1e-8)
    moments = [walks[:, gap : walks.shape[1] - PATCH_GAPS[-1] + gap] for gap in PATCH_GAPS]
    stacked = np.concatenate(moments, -1).reshape(-1, *walks.shape[2:4], 3 * len(PATCH_GAPS))
    patches = random_patches(stacked, PATCHES_PER_FRAME, rng).reshape(-1, 7 * 7, len(PATCH_GAPS), 3)
    patches[:, :, 1:] -= patches[:, :, :1]
    return patches.transpose(0, 2, 1, 3).reshape(len(patches), len(PATCH_GAPS), -1)


def _colour_histogram(frame):
    """Return the normalised histogram of 8 x 8 x 8 colours of a frame."""
    return cv2.calcHist([frame], [0, 1, 2], None, [8] * 3, [0, 256] * 3).ravel() / (frame.shape[0] * frame.shape[1])
