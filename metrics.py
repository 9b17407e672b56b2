"""Scores of fake frames against real ones: arrays in, numbers out.

Frames are (count, height, width, 3) uint8 RGB; features are (count, numbers) float, from `extract_features`.
Whatever is compared should be equally many, since all of these scores depend on the count, some strongly.
"""

import hashlib
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from settings import InputError


def load_network(features):
    """Load the network that scores: one of EfficientNet-Lite's by name, `InceptionV3`, or a Keras file.

    Raises InputError when it cannot be loaded, or InceptionV3 not downloaded.
    """
    import keras

    from features import NETWORKS, build_scorer

    if str(features) in NETWORKS:
        return build_scorer(str(features))
    if str(features) != "InceptionV3":
        try:
            return keras.models.load_model(features, compile=False)
        except Exception as error:  # whatever the file makes Keras raise
            raise InputError(f"--features {features} cannot be loaded: {str(error).splitlines()[0]}") from error
    pixels = keras.Input((None, None, 3))
    scaled = keras.layers.Rescaling(1 / 127.5, -1.0)(keras.layers.Resizing(299, 299)(pixels))
    try:
        inception = keras.applications.InceptionV3(include_top=False, pooling="avg")
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise InputError("InceptionV3 could not be downloaded: name another network with --features.") from error
    return keras.Model(pixels, inception(scaled), name="Keras-InceptionV3")


def describe_network(features):
    """Return what names a network beyond doubt: {"features": file or name, "features_sha256": of its weights' file}."""
    from features import NETWORKS

    if str(features) in NETWORKS:
        weights = NETWORKS[str(features)]
        return {"features": f"{weights.package}/{weights.file}", "features_sha256": weights.sha256}
    if Path(features).is_file():
        digest = hashlib.sha256(Path(features).read_bytes()).hexdigest()
        return {"features": str(features), "features_sha256": digest}
    return {"features": f"{features} of Keras {version('keras')}, ImageNet", "features_sha256": None}


def extract_features(frames, network, batch_size=32):
    """Return the features (count, numbers) float64 that a Keras model finds in frames.

    `network` takes RGB values from 0 to 255 and gives one vector a frame (spatial outputs are averaged).
    """
    # predict, and not a call, so that batch normalisation runs on what it has learned.
    outputs = network.predict(frames.astype("float32"), batch_size=batch_size, verbose=0)
    return outputs.reshape(len(frames), -1, outputs.shape[-1]).mean(1).astype("float64")


def kernel_distance(real, fake, blocks=10):
    """Return (KID x 1000, its standard error) of features; 0 is alike, and noise may take it a little below.

    Unbiased squared MMD with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018, arXiv:1801.01401). The standard
    error is the jackknife's over `blocks` parts of both sets (Efron & Stein 1981). Real frames must be in video order:
    the parts are contiguous, since neighbours in a video are near-copies, of which none tells what another would not.
    """
    cubic = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3  # noqa: E731
    kernels = cubic(real, real), cubic(fake, fake), cubic(real, fake)

    def distance(kept_real, kept_fake):
        within = 0.0
        for kernel, kept in ((kernels[0], kept_real), (kernels[1], kept_fake)):
            part = kernel[np.ix_(kept, kept)]
            within += (part.sum() - np.trace(part)) / (len(kept) * (len(kept) - 1))
        return within - 2 * kernels[2][np.ix_(kept_real, kept_fake)].mean()

    everything = np.arange(len(real)), np.arange(len(fake))
    without = [distance(*(part[part * blocks // len(part) != block] for part in everything)) for block in range(blocks)]
    error = np.sqrt((blocks - 1) / blocks * ((without - np.mean(without)) ** 2).sum())
    return 1000 * distance(*everything), 1000 * error


def frechet_distance(real, fake):
    """Return the FID of features (Heusel et al. 2017, arXiv:1706.08500); 0 is alike, few frames raise it."""
    (mean_real, root_real, trace_real), (mean_fake, root_fake, trace_fake) = map(_gaussian, (real, fake))
    # tr sqrt(C1 C2) is the sum of the singular values of C1^1/2 C2^1/2.
    overlap = np.linalg.svd(root_real @ root_fake.T, compute_uv=False).sum()
    return float(((mean_real - mean_fake) ** 2).sum() + trace_real + trace_fake - 2 * overlap)


def _gaussian(features):
    """Return the mean, a root R of the covariance (it is R^T R), and the covariance's trace."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return features.mean(0), np.linalg.qr(centred, mode="r"), (centred**2).sum()


def precision_and_recall(real, fake, same_moment=None, k=3):
    """Return (precision, recall) of features, both from 0 to 1 (Kynkaanniemi et al. 2019, arXiv:1904.06991).

    Precision: the part of the fakes that lie among the reals (within some real's distance to its k-th nearest
    real). Recall: the part of the reals that lie among the fakes. same_moment: (len(real), len(real)) bool, which
    reals are no neighbours of each other, since they were filmed at almost the same moment: near-copies would make
    the distances to neighbours so small that no other frame lies within them. By default, only each itself.
    """
    between = _distances(real, fake)
    return (
        float((between <= _radii(real, k, same_moment)[:, None]).any(0).mean()),
        float((between <= _radii(fake, k)[None, :]).any(1).mean()),
    )


def density_and_coverage(real, fake, same_moment=None, k=5):
    """Return (density, coverage) of features (Naeem et al. 2020, arXiv:2002.09797); radii as in precision_and_recall.

    Density: by how many reals' k nearest neighbours a fake could be one, against k; it may pass 1. Coverage, from 0 to
    1: the part of the reals that have a fake among their k nearest neighbours.
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


def memorisation(real, fake, blocks=8):
    """Return how near fakes lie to the frames they were trained on, against frames of the video that are new.

    real, fake: features, the real ones of consecutive frames in video order. Returns the median distance of a
    fake to its nearest real frame, divided by that of a real frame to the nearest one outside its own block of
    time (neighbours in a video are near-copies of each other). Near 0: copies. About 1: as new as the next street.
    """
    block = np.arange(len(real)) * blocks // len(real)
    distances = _distances(real, real)
    held_out = np.where(block[:, None] == block, np.inf, distances).min(1)
    return float(np.median(nearest(fake, real)[0]) / np.median(held_out))


def spread(fake, real):
    """Return how much fakes differ from each other, pixel by pixel, against how much real frames do."""
    return float(fake.std(0).mean() / real.std(0).mean())


def _distances(first, second):
    """Return the Euclidean distances (len(first), len(second)) between all pairs."""
    squared = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2 * first @ second.T
    return np.sqrt(np.maximum(squared, 0))


def sliced_wasserstein(real, fake, seed=0, patches=128, directions=512):
    """Return the sliced Wasserstein distance x 1000 of frames at each level of a Laplacian pyramid, finest first.

    Karras et al. 2018 (arXiv:1710.10196), section 5: 7x7 patches, 128 a frame and level, projected on 512 random
    directions. Unlike there, both sets are normalised by the real one's mean and spread, so that a shift in colour
    counts. Needs no network. Both sets must be equally many.
    """
    if len(real) != len(fake):
        raise ValueError(f"{len(real)} real and {len(fake)} fake frames: they must be equally many.")
    distances = []
    for real_level, fake_level in zip(_laplacian_pyramid(real), _laplacian_pyramid(fake), strict=True):
        mean, spread = real_level.mean((0, 1, 2)), real_level.std((0, 1, 2)) + 1e-8
        random = np.random.default_rng(seed)
        axes = random.standard_normal((7 * 7 * 3, directions)).astype("float32")
        axes /= np.linalg.norm(axes, axis=0)
        projected = []
        for level in (real_level, fake_level):
            cut = _patches((level - mean) / spread, patches, np.random.default_rng(seed))
            projected.append(np.sort(cut @ axes, axis=0))
        distances.append(1000 * float(np.abs(projected[0] - projected[1]).mean()))
    return distances


def _laplacian_pyramid(frames):
    """Return the levels of frames, float32: details at each halving, then what is left (at least 16 pixels high)."""
    levels, rest = [], frames.astype("float32") / 255
    while min(rest.shape[1:3]) >= 32:
        height, width = rest.shape[1:3]
        smaller = np.stack([cv2.pyrDown(frame) for frame in rest])
        larger = np.stack([cv2.pyrUp(frame, dstsize=(width, height)) for frame in smaller])
        levels.append(rest - larger)
        rest = smaller
    return [*levels, rest]


def _patches(frames, patches, random):
    """Return `patches` random 7x7 patches of each frame, as rows."""
    rows = random.integers(frames.shape[1] - 6, size=(len(frames), patches, 1, 1)) + np.arange(7)[:, None]
    columns = random.integers(frames.shape[2] - 6, size=(len(frames), patches, 1, 1)) + np.arange(7)
    cut = frames[np.arange(len(frames))[:, None, None, None], rows, columns]
    return cut.reshape(len(frames) * patches, -1)


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
    away = np.stack(np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2), -1)
    away /= np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 0.5)
    for walk in walks:
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in walk]
        for before, after in pairwise(grey):
            moved = flow.calc(before, after, None)
            speed.append(np.linalg.norm(moved, axis=-1).mean() / height)
            expansion.append((moved * away).sum(-1).mean() / height)
            similarity.append(structural_similarity(before, after))
        colours = np.stack([_colours(frame) for frame in walk])
        lags = [lag for lag in LAGS if lag < len(walk)]
        colour.append([np.minimum(colours[:-lag], colours[lag:]).sum(1).mean() for lag in lags])
    parts = {"similarity": similarity, "speed": speed, "expansion": expansion, "colour": np.mean(colour, 0)}
    return {name: np.array(part) for name, part in parts.items()}


def motion_distances(real, fake):
    """Return how far two results of `motion` are apart, by name; 0 is alike.

    Between distributions it is the Wasserstein distance, since smoothness alone would reward a frozen picture; between
    the curves of colour the mean difference.
    """
    distances = {}
    for name in ("similarity", "speed", "expansion"):
        levels = np.linspace(0, 1, 101)
        distances[name] = float(np.abs(np.quantile(real[name], levels) - np.quantile(fake[name], levels)).mean())
    return distances | {"colour": float(np.abs(real["colour"] - fake["colour"]).mean())}


def structural_similarity(first, second):
    """Return the mean structural similarity of two grey uint8 pictures (Wang et al. 2004, sigma 1.5); 1 is alike."""
    first, second = first.astype("float64"), second.astype("float64")
    blur = lambda picture: cv2.GaussianBlur(picture, (11, 11), 1.5)  # noqa: E731
    means = blur(first), blur(second)
    variances = blur(first**2) - means[0] ** 2, blur(second**2) - means[1] ** 2
    shared = blur(first * second) - means[0] * means[1]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    above = (2 * means[0] * means[1] + c1) * (2 * shared + c2)
    return float((above / ((means[0] ** 2 + means[1] ** 2 + c1) * (sum(variances) + c2))).mean())


def _colours(frame):
    """Return the shares of 8 x 8 x 8 colours in a frame."""
    return cv2.calcHist([frame], [0, 1, 2], None, [8] * 3, [0, 256] * 3).ravel() / (frame.shape[0] * frame.shape[1])
