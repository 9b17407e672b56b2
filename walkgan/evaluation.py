"""Score a generator and its walks against real frames, with scores of real frames for comparison."""

import json
import math

import numpy as np

from walkgan import metrics
from walkgan.dataset import list_frames, read_timeline, usable_frames
from walkgan.errors import SettingError
from walkgan.files import atomic_write
from walkgan.generators import load_generator, predict_frames, scenes_of, steps_per_second
from walkgan.images import image_grid, read_frame, write_frame
from walkgan.latents import latent_from_seed, rotated_latent, slerp_latent
from walkgan.motion_metrics import motion, motion_distances, patch_distance, speeds_and_expansions
from walkgan.point_tracks import tracked_motion
from walkgan.run_folder import find_generator, load_settings
from walkgan.sampling import evenly_spaced
from walkgan.scenes import move_to_scenes
from walkgan.scoring_network import describe_network, extract_features, load_network

NUM_WALKS, WALK_STEPS = 8, 64
NUM_PAIRS = 128  # pairs of frames, whose pace and steps forward are known better than those of 8 walks, by far
SAME_MOMENT = 0.5  # seconds: frames nearer in time are near-copies
PATH_SPEEDS = [2.0**power for power in range(-8, 0)]  # in latents per step, where no motion has been learned
NUM_NEAREST = 8  # fakes in nearest.png


def evaluate(settings):
    """Write scores.json and nearest.png and print the table."""
    settings.check()
    path = find_generator(settings.generator)
    folder = settings.frames
    if folder is None:
        if not (path.parent / "settings.json").exists():
            raise SettingError(f"{path} is in no run folder that knows its frames: name them with --frames.")
        folder = load_settings(path.parent).frames
    paths, frame_shape = usable_frames(list_frames(folder))
    count = min(settings.count, len(paths) // 2)
    if count < 10:
        raise SettingError(f"scores need at least 20 real frames: {folder} holds {len(paths)}.")
    generator, network = load_generator(path), load_network(settings.features, frame_shape)
    if generator.output_shape[1:] != frame_shape:
        fake, real = ("{}x{}".format(*shape[:2]) for shape in (generator.output_shape[1:], frame_shape))
        raise SettingError(f"{path} generates {fake} frames, and those in {folder} are {real}.")
    print(f"scoring {count} frames of {path} against {count} of {folder}")
    timeline = read_timeline(paths)
    frames, times, second_half = real_frames(paths, timeline, 2 * count)
    fakes = seeded_fakes(generator, count, settings.seed)
    features = [extract_features(part, network) for part in (frames, fakes)]
    scores = score(frames, fakes, *features, times, second_half)
    motion_scores = score_motion(generator, paths, timeline, settings.seed, settings.speed)
    settings.output.mkdir(parents=True, exist_ok=True)
    found = metrics.nearest(features[1][:NUM_NEAREST], features[0])[1]
    pairs = np.concatenate([fakes[:NUM_NEAREST], frames[found]])
    write_frame(settings.output / "nearest.png", image_grid(pairs, NUM_NEAREST))
    info = {"generator": str(path), "frames": str(folder), **describe_network(settings.features)}
    info |= {"count": count, "speed": settings.speed}
    with atomic_write(settings.output / "scores.json") as partial:
        partial.write_text(json.dumps(info | scores | motion_scores, indent=2) + "\n")
    print_table(scores, motion_scores)
    print(f"{NUM_NEAREST} fakes above the real frame nearest to each: {settings.output / 'nearest.png'}.")


def print_table(scores, motion_scores):
    """Print the scores, those of real frames beside them."""
    print(f"{'':24}{'fakes':>10}{'unseen real':>15}{'even/odd real':>15}")
    for name, (fake, unseen, even_odd) in scores.items():
        print(f"{name:24}{fake:10.2f}{unseen:15.2f}{even_odd:15.2f}")
    for name, pair in motion_scores.items():
        fake, real = ("-" if number is None else f"{number:.4f}" for number in pair)
        print(f"{name:24}{fake:>10}{'':15}{real:>15}")


def seeded_latents(generator, count, seed):
    """Return `count` latents (count, latent_dim) of a generator, of the seeds from `seed` on."""
    return np.stack([latent_from_seed(generator.input_shape[-1], seed + index) for index in range(count)])


def seeded_fakes(generator, count, seed):
    """Return the frames of `seeded_latents`, as uint8."""
    return predict_frames(generator, seeded_latents(generator, count, seed))


def real_frames(paths, timeline, count):
    """Return `count` frames evenly in time, and for each its time and whether it is in the second half of its scene."""
    chosen = evenly_spaced(len(paths), count)
    frames = np.stack([read_frame(paths[index]) for index in chosen])
    times = timeline.times + 1e6 * timeline.scene_starts  # those of each video begin at 0, but are other moments
    return frames, times[chosen], second_halves(timeline)[chosen]


def second_halves(timeline):
    """Return, for each frame, whether it is in the second half of its scene, or of all where most scenes have none."""
    numbers = np.arange(len(timeline.times))
    halves = numbers >= (timeline.scene_starts + timeline.scene_ends) / 2
    return halves if halves.mean() > 0.25 else numbers >= len(numbers) / 2  # scenes of a single frame


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
    first, second = (half[evenly_spaced(len(half), count)] for half in (first, second))
    columns = [
        _compare(frames[even], fakes, frame_features[even], fake_features, times[even]),
        _compare(frames[first], frames[second], frame_features[first], frame_features[second], times[first]),
        _compare(frames[even], frames[~even], frame_features[even], frame_features[~even], times[even]),
    ]
    return {name: tuple(column[name] for column in columns) for name in columns[0]}


def _compare(real, others, real_features, other_features, times):
    """Return {name: score} of others against real frames, which are in video order."""

    same_moment = np.abs(times[:, None] - times) < SAME_MOMENT
    kid, error = metrics.kernel_inception_distance(real_features, other_features)
    precision, recall = metrics.precision_and_recall(real_features, other_features, same_moment)
    density, coverage = metrics.density_and_coverage(real_features, other_features, same_moment)
    return {
        "KID x 1000": kid,
        "KID standard error": error,
        "Keras-FID": metrics.frechet_inception_distance(real_features, other_features),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "sliced Wasserstein": float(np.mean(metrics.sliced_wasserstein(real, others))),
        "diversity": metrics.diversity(others, real),
        "novelty": metrics.novelty(real_features, other_features),
    }


def score_motion(generator, paths, timeline, seed, speed=1.0):
    """Return {name: (score of the walks, the same of real walks)}; empty where the frames are too few.

    Distances are those from the real walks, beside those of real walks from each other. No walk goes through a cut. A
    generator that has not learned motion is scored by its path through latent space, at its best speed. "Pace" is the
    median speed relative to that of the real walks. A score that cannot be measured is None.
    """
    length = min(WALK_STEPS, len(paths) // NUM_WALKS)
    starts = np.linspace(0, len(paths) - length, NUM_WALKS).astype(int)
    starts = [start for start in starts if start + length <= timeline.scene_ends[start]]
    if length < 8 or len(starts) < 2:
        return {}
    real_walks = [np.stack([read_frame(path) for path in paths[start : start + length]]) for start in starts]
    real = motion(real_walks)
    steps = speed * timeline.frame_interval * (steps_per_second(generator) or 0)
    latents = walk_starts(generator, np.array(starts) / len(paths), length * steps, seed)
    walks = generated_walks(generator, real, latents, length, seed, steps)
    pairs = real_walks[: len(real_walks) // 2 * 2]
    fake, halves = motion(walks), (pairs[::2], pairs[1::2])
    distances = motion_distances(real, fake) | {"patches": patch_distance(real_walks, walks)}
    baseline = motion_distances(*map(motion, halves)) | {"patches": patch_distance(*halves)}
    scores = {name: (distances[name], baseline[name]) for name in distances}
    single_steps = motion_of_pairs(generator, seed, steps) if steps else fake
    scores["steps forward"] = tuple(float((measured["expansion"] > 0).mean()) for measured in (single_steps, real))
    scores["pace"] = (float(np.median(single_steps["speed"]) / np.median(real["speed"])), 1.0)
    tracked = [tracked_motion(each) for each in (walks, real_walks)]
    scores |= {name: tuple(each[name] for each in tracked) for name in tracked[0]}
    return {
        f"motion, {name}": tuple(None if math.isnan(number) else number for number in pair)
        for name, pair in scores.items()
    }


def motion_of_pairs(generator, seed, steps):
    """Return the "speed" and "expansion" of pairs of frames, each of another latent, so many steps apart."""
    starts = seeded_latents(generator, NUM_PAIRS, seed)
    ends = [rotated_latent(start, steps) for start in starts]
    pairs = [predict_frames(generator, np.stack(latents)) for latents in (starts, ends)]
    return dict(zip(("speed", "expansion"), speeds_and_expansions(*pairs), strict=True))


def walk_starts(generator, shares, steps, seed):
    """Return a latent (latent_dim,) for each real walk: in its scene, and so that `steps` later it is still there.

    shares: where the real walks begin in the video, 0 to 1.
    """
    latents = seeded_latents(generator, len(shares), seed)
    return move_to_scenes(latents, shares, scenes_of(generator), steps, np.random.default_rng(seed))[0]


def generated_walks(generator, real, starts, length, seed, steps):
    """Return walks of `length` frames, so many steps apart; without steps the path that moves most like real walks."""
    num_walks, keep_scene = len(starts), len(scenes_of(generator)) > 1

    def generate(latent_of):
        latents = [latent_of(walk, step) for walk in range(num_walks) for step in range(length)]
        return np.split(predict_frames(generator, np.stack(latents)), num_walks)

    if steps:
        return generate(lambda walk, step: rotated_latent(starts[walk], step * steps))
    paths = [
        generate(lambda walk, step, by=by: slerp_latent(starts[walk], seed + walk, step * by, keep_scene=keep_scene))
        for by in PATH_SPEEDS
    ]
    return min(paths, key=lambda path: motion_distances(real, motion(path))["speed"])
