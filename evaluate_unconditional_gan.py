"""Score a generator against the frames it was trained on, its walks too, with scores of real frames beside its own.

The newest run in saved_models: python evaluate_unconditional_gan.py

Another: python evaluate_unconditional_gan.py --generator saved_models/0001-shuffled
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inference_unconditional_gan import latent, walk_latent, wander_latent
from settings import SettingError, check_positive, check_range, command_line, find_generator, load_settings

WALKS, WALK_STEPS = 8, 64  # how many walks are scored, and how long
SAME_MOMENT = 0.5  # seconds: frames nearer in time are near-copies
WANDER_SPEEDS = [2.0**power for power in range(-8, 0)]  # tried, in latents a step, without a walk learned


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation."""

    generator: Path | None = None
    """Run folder or Keras file; by default the newest run in saved_models."""
    frames: Path | None = None
    """Folder of real frames; by default those that the run was trained on."""
    features: Path = Path("lite2")
    """Network for KID and FID: `lite2`, EfficientNet-Lite2, which takes no part in training; `InceptionV3`, Keras's
    (96 MB, downloaded once); or a Keras file, from RGB frames of 0 to 255 to features."""
    count: int = 500
    """Fakes to score, against as many real frames; fewer where there are fewer than twice as many real ones."""
    seed: int = 0
    """First seed of the fakes."""
    speed: float = 1.0
    """Speed of the walks of a generator that has learned to walk."""
    output: Path = Path("output")
    """Folder to write scores.json and nearest.png to."""


SETTINGS = EvaluationSettings(count=500, output=Path("output"))


def evaluate(settings):
    """Write scores.json and nearest.png and print the table."""
    check_range(settings, 0, "seed")
    check_positive(settings, "speed")
    path = find_generator(settings.generator)
    folder = settings.frames
    if folder is None:
        if not (path.parent / "settings.json").exists():
            raise SettingError(f"{path} is in no run folder that knows its frames: name them with --frames.")
        folder = load_settings(path.parent).frames

    from frames import list_frames, read_timeline, replacing, tile, to_uint8, write_frame
    from metrics import describe_network, extract_features, load_network, nearest
    from models import load_generator

    paths = list_frames(folder)
    count = min(settings.count, len(paths) // 2)
    if count < 10:
        raise SettingError(f"scores want at least 20 real frames and a --count of 10: {folder} holds {len(paths)}.")
    generator, network = load_generator(path), load_network(settings.features)
    timeline = read_timeline(paths)
    frames, times, second_half = real_frames(paths, timeline, 2 * count)
    if generator.output_shape[1:] != frames.shape[1:]:
        drawn, real = ("{}x{}".format(*shape[:2]) for shape in (generator.output_shape[1:], frames.shape[1:]))
        raise SettingError(f"{path} draws frames of {drawn}, and those in {folder} are {real}.")
    latents = np.stack([latent(generator.input_shape[-1], settings.seed + index) for index in range(count)])
    fakes = to_uint8(generator.predict(latents, batch_size=16, verbose=0))
    print(f"scoring {count} frames of {path} against {count} of {folder}")
    features = [extract_features(part, network) for part in (frames, fakes)]
    scores = score(frames, fakes, *features, times, second_half)
    motion_scores = score_motion(generator, paths, timeline, settings.seed, settings.speed)
    found = nearest(features[1][:8], features[0])[1]
    settings.output.mkdir(parents=True, exist_ok=True)
    write_frame(settings.output / "nearest.png", tile(np.concatenate([fakes[:8], frames[found]]), 8))
    facts = {"generator": str(path), "frames": str(folder), **describe_network(settings.features), "count": count}
    facts["speed"] = settings.speed
    with replacing(settings.output / "scores.json") as partial:
        partial.write_text(json.dumps(facts | scores | motion_scores, indent=2) + "\n")
    print(f"{'':24}{'fakes':>10}{'unseen real':>15}{'even/odd real':>15}")
    for name, numbers in scores.items():
        print(f"{name:24}{numbers[0]:10.2f}{numbers[1]:15.2f}{numbers[2]:15.2f}")
    for name, (fake, floor) in motion_scores.items():
        print(f"{name:24}{fake:10.4f}{'':15}{floor:15.4f}")
    print(f"Above, 8 fakes; below, the real frame nearest to each: {settings.output / 'nearest.png'}.")


def real_frames(paths, timeline, count):
    """Return `count` frames evenly in time, and of each its time and whether it is in the second half of its scene."""
    from frames import read_frame

    chosen = np.linspace(0, len(paths) - 1, count).round().astype(int)
    frames = np.stack([read_frame(paths[index]) for index in chosen])
    return frames, timeline.times[chosen], second_halves(timeline)[chosen]


def second_halves(timeline):
    """Return of each frame whether it is in the second half of its scene."""
    starts = np.searchsorted(timeline.scene_ends, timeline.scene_ends)
    return np.arange(len(starts)) >= (starts + timeline.scene_ends) / 2


def score(frames, fakes, frame_features, fake_features, times, second_half):
    """Return {name: (score of the fakes, of real frames that were not seen, of every second real frame)}.

    frames: twice as many as fakes, in video order, uint8; features likewise; times: of the frames, in seconds;
    second_half: of each frame whether it is in the second half of its scene.

    The fakes are scored against every second frame. "Unseen" are the second halves of all scenes against the first:
    real footage of the same walk that a generator trained on the first halves would not have seen. Even against odd
    frames are near-copies: no generator can score better, and none that does not copy comes near.
    """
    even = np.arange(len(frames)) % 2 == 0
    first, second = np.flatnonzero(~second_half), np.flatnonzero(second_half)
    count = min(len(first), len(second), len(fakes))
    first, second = (part[np.linspace(0, len(part) - 1, count).round().astype(int)] for part in (first, second))
    columns = [
        _compare(frames[even], fakes, frame_features[even], fake_features, times[even]),
        _compare(frames[first], frames[second], frame_features[first], frame_features[second], times[first]),
        _compare(frames[even], frames[~even], frame_features[even], frame_features[~even], times[even]),
    ]
    return {name: tuple(column[name] for column in columns) for name in columns[0]}


def _compare(real, others, real_features, other_features, times):
    """Return {name: score} of others against real frames, which are in video order."""
    import metrics

    same_moment = np.abs(times[:, None] - times) < SAME_MOMENT
    kid, error = metrics.kernel_distance(real_features, other_features)
    precision, recall = metrics.precision_and_recall(real_features, other_features, same_moment)
    density, coverage = metrics.density_and_coverage(real_features, other_features, same_moment)
    return {
        "KID x 1000": kid,
        "KID standard error": error,
        "Keras-FID": metrics.frechet_distance(real_features, other_features),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "sliced Wasserstein": float(np.mean(metrics.sliced_wasserstein(real, others))),
        "spread": metrics.spread(others, real),
        "novelty": metrics.memorisation(real_features, other_features),
    }


def score_motion(generator, paths, timeline, seed, speed=1.0):
    """Return {name: (score of the walks, floor of real against real)}; empty where the frames are too few.

    A generator that has not learned to walk is scored by its path through latent space, at its best speed. "pace" is
    the median speed of the walks, as a part of the real ones'.
    """
    from frames import read_frame, to_uint8
    from metrics import motion, motion_distances
    from models import steps_a_second

    length = min(WALK_STEPS, len(paths) // WALKS)
    starts = np.linspace(0, len(paths) - length, WALKS).astype(int)
    starts = [start for start in starts if start + length <= timeline.scene_ends[start]]
    if length < 8 or len(starts) < 2:
        return {}
    real = [np.stack([read_frame(path) for path in paths[start : start + length]]) for start in starts]
    whole, floor = motion(real), motion_distances(motion(real[::2]), motion(real[1::2]))

    def walk(latent_of):
        latents = [latent_of(first, number, step) for number, first in enumerate(firsts, seed) for step in steps]
        fakes = to_uint8(generator.predict(np.stack(latents), batch_size=16, verbose=0))
        return motion(np.split(fakes, len(starts)))

    steps = np.arange(length)
    firsts = [latent(generator.input_shape[-1], seed + number) for number in range(len(starts))]
    if steps_a_second(generator):
        found = walk(lambda first, number, step: walk_latent(first, step * speed))
    else:
        tried = [
            walk(lambda first, number, step, by=by: wander_latent(first, number, step * by)) for by in WANDER_SPEEDS
        ]
        found = min(tried, key=lambda one: motion_distances(whole, one)["speed"])
    distances = motion_distances(whole, found)
    scores = {f"motion, {name}": (distances[name], floor[name]) for name in distances}
    forward = [float((part["expansion"] > 0).mean()) for part in (found, whole)]
    pace = float(np.median(found["speed"]) / np.median(whole["speed"]))
    return scores | {"motion, steps forward": tuple(forward), "motion, pace": (pace, 1.0)}


if __name__ == "__main__":
    command_line(evaluate, SETTINGS, __doc__)
