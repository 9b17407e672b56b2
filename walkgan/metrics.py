"""Scores of fake frames against real ones: arrays in, numbers out.

Frames are (count, height, width, 3) uint8 RGB; features are (count, size) float, from `extract_features`.
Both sets should be equally large, since all of these scores depend on the count, some strongly.
"""

import cv2
import numpy as np


def kernel_inception_distance(real, fake, blocks=10):
    """Return (KID x 1000, its standard error) of features; 0 means identical, and noise may take it a little below.

    Unbiased squared MMD with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018, arXiv:1801.01401). The standard
    error is the jackknife's over `blocks` parts of both sets (Efron & Stein 1981). Real frames must be in video order:
    the parts are contiguous, since neighbours in a video are near-copies and not independent.
    """
    kernels = [
        (first @ second.T / real.shape[1] + 1) ** 3 for first, second in ((real, real), (fake, fake), (real, fake))
    ]

    def distance(kept_real, kept_fake):
        within = 0.0
        for kernel, kept in ((kernels[0], kept_real), (kernels[1], kept_fake)):
            pairs = kernel[np.ix_(kept, kept)]
            within += (pairs.sum() - np.trace(pairs)) / (len(kept) * (len(kept) - 1))
        return within - 2 * kernels[2][np.ix_(kept_real, kept_fake)].mean()

    indices = np.arange(len(real)), np.arange(len(fake))
    without = [distance(*(each[each * blocks // len(each) != block] for each in indices)) for block in range(blocks)]
    error = np.sqrt((blocks - 1) / blocks * ((without - np.mean(without)) ** 2).sum())
    return 1000 * distance(*indices), 1000 * error


def frechet_inception_distance(real, fake):
    """Return the FID of features (Heusel et al. 2017, arXiv:1706.08500); 0 means identical, few frames raise it."""
    (mean_real, root_real, trace_real), (mean_fake, root_fake, trace_fake) = map(_gaussian, (real, fake))
    # tr sqrt(C1 C2) is the sum of the singular values of C1^1/2 C2^1/2.
    overlap = np.linalg.svd(root_real @ root_fake.T, compute_uv=False).sum()
    return float(((mean_real - mean_fake) ** 2).sum() + trace_real + trace_fake - 2 * overlap)


def _gaussian(features):
    """Return the mean, a root R of the covariance (it is R^T R), and the covariance's trace."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return features.mean(0), np.linalg.qr(centred, mode="r"), (centred**2).sum()


def precision_and_recall(real, fake, same_moment=None, k=3):
    """Return (precision, recall) of features, both from 0 to 1 (Kynkäänniemi et al. 2019, arXiv:1904.06991).

    Precision: the share of the fakes that lie among the reals (within some real's distance to its k-th nearest
    real). Recall: the share of the reals that lie among the fakes. same_moment: (len(real), len(real)) bool, which
    reals do not count as neighbours, since they were filmed at almost the same moment: near-copies would make
    the distances to neighbours so small that no other frame lies within them. By default, only each itself.
    """
    distances = _distances(real, fake)
    return (
        float((distances <= _radii(real, k, same_moment)[:, None]).any(0).mean()),
        float((distances <= _radii(fake, k)[None, :]).any(1).mean()),
    )


def density_and_coverage(real, fake, same_moment=None, k=5):
    """Return (density, coverage) of features (Naeem et al. 2020, arXiv:2002.09797); radii as in precision_and_recall.

    Density: by how many reals' k nearest neighbours a fake could be one, against k; it may pass 1. Coverage, from 0 to
    1: the share of the reals that have a fake among their k nearest neighbours.
    """
    inside = _distances(real, fake) <= _radii(real, k, same_moment)[:, None]
    return float(inside.sum(0).mean() / k), float(inside.any(1).mean())


def _radii(points, k, same_moment=None):
    """Return the distance from each point to its k-th nearest neighbour, infinite where it has fewer."""
    distances = _distances(points, points)
    distances[np.eye(len(points), dtype=bool) if same_moment is None else same_moment] = np.inf
    return np.partition(distances, k - 1, axis=1)[:, k - 1]


def nearest(queries, candidates):
    """Return (distance to, index of) the nearest candidate of each query, both features."""
    distances = _distances(queries, candidates)
    return distances.min(1), distances.argmin(1)


def novelty(real, fake, blocks=8):
    """Return how far fakes are from the frames they were trained on, relative to new frames of the same video.

    real, fake: features, the real ones of consecutive frames in video order. Returns the median distance of a
    fake to its nearest real frame, divided by that of a real frame to the nearest one outside its own block of
    time (neighbours in a video are near-copies). Near 0: copies. About 1: as new as the next street.
    """
    block = np.arange(len(real)) * blocks // len(real)
    distances = _distances(real, real)
    held_out = np.where(block[:, None] == block, np.inf, distances).min(1)
    return float(np.median(nearest(fake, real)[0]) / np.median(held_out))


def diversity(fake, real):
    """Return how much fakes differ from each other, relative to real frames: the ratio of mean deviations per pixel."""
    return float(fake.std(0).mean() / real.std(0).mean())


def _distances(first, second):
    """Return the Euclidean distances (len(first), len(second)) between all pairs."""
    squared = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
    return np.sqrt(np.maximum(squared, 0))


def sliced_wasserstein(real, fake, seed=0, patches=128, directions=512):
    """Return the sliced Wasserstein distance x 1000 of frames at each level of a Laplacian pyramid, finest first.

    Karras et al. 2018 (arXiv:1710.10196), section 5: 7x7 patches, 128 per frame and level, projected on 512 random
    directions. Unlike there, both sets are normalised by the real one's mean and deviation, so that a shift in colour
    counts. Needs no network. Both sets must be equally large.
    """
    if len(real) != len(fake):
        raise ValueError(f"{len(real)} real and {len(fake)} fake frames: they must be equally many.")
    distances = []
    for real_level, fake_level in zip(laplacian_pyramid(real), laplacian_pyramid(fake), strict=True):
        mean, std = real_level.mean((0, 1, 2)), real_level.std((0, 1, 2)) + 1e-8
        cuts = [
            random_patches((level - mean) / std, patches, np.random.default_rng(seed))
            for level in (real_level, fake_level)
        ]
        distances.append(1000 * sliced_distance(*cuts, directions, seed))
    return distances


def sliced_distance(first, second, directions, seed):
    """Return the mean Wasserstein distance of equally many points (count, dimensions) on random directions."""
    axes = np.random.default_rng(seed).standard_normal((first.shape[1], directions)).astype("float32")
    axes /= np.linalg.norm(axes, axis=0)
    projected = [np.sort(points @ axes, axis=0) for points in (first, second)]
    return float(np.abs(projected[0] - projected[1]).mean())


def laplacian_pyramid(frames):
    """Return the levels of frames, float32: details at each halving, then what is left (at least 16 pixels high)."""
    levels, rest = [], frames.astype("float32") / 255
    while min(rest.shape[1:3]) >= 32:
        height, width = rest.shape[1:3]
        smaller = np.stack([cv2.pyrDown(frame) for frame in rest])
        larger = np.stack([cv2.pyrUp(frame, dstsize=(width, height)) for frame in smaller])
        levels.append(rest - larger)
        rest = smaller
    return [*levels, rest]


def random_patches(frames, patches, rng):
    """Return `patches` random 7x7 patches of each frame (count, height, width, channels), as rows."""
    rows = rng.integers(frames.shape[1] - 6, size=(len(frames), patches, 1, 1)) + np.arange(7)[:, None]
    columns = rng.integers(frames.shape[2] - 6, size=(len(frames), patches, 1, 1)) + np.arange(7)
    cut = frames[np.arange(len(frames))[:, None, None, None], rows, columns]
    return cut.reshape(len(frames) * patches, -1)
