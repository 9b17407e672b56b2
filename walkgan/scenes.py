"""The scenes of a video, and latents that belong to them.

A generator is a continuous function of its latents: between those of two scenes, it generated both at once. So each
scene has latents of its own (see `scene_of` in models.py), and the discriminators compare each real frame with a fake
of its scene.
"""

import numpy as np

from walkgan.latents import SCENE_PERIOD, slowest_pair

MAX_SCENES = 16  # each has scales, shifts and logits of its own, which learn from its frames alone
MIN_SHARE = 0.02  # of the frames


def find_scenes(scene_ends):
    """Return where each scene ends, as shares of all frames; the last is 1.

    scene_ends: (count,) as in Timeline. Scenes with less than MIN_SHARE of the frames count as one with the shorter of
    their neighbours, and so do the shortest of more than MAX_SCENES.
    """
    ends = np.unique(scene_ends).tolist()
    while len(ends) > 1:
        lengths = np.diff([0, *ends])
        shortest = int(np.argmin(lengths))
        if len(ends) <= MAX_SCENES and lengths[shortest] >= MIN_SHARE * ends[-1]:
            break
        before, _, after = [np.inf, *lengths, np.inf][shortest : shortest + 3]
        del ends[shortest if after < before else shortest - 1]
    return tuple(end / ends[-1] for end in ends)


def scene_numbers(latents, scenes):
    """Return which scene each of the latents (batch, latent_dim) belongs to, (batch,), as scene_of in models.py."""
    cosine, sine = latents[:, slowest_pair(latents.shape[1])].T
    return np.digitize(np.arctan2(sine, cosine) / (2 * np.pi) % 1, scenes[:-1])


def move_to_scenes(latents, shares, scenes, steps, rng):
    """Return latents turned so that each belongs to the scene of a frame, and these scenes.

    latents: (batch, latent_dim) float32, standard normal, which they stay if all frames are equally likely; shares:
    (batch,) the position of each frame in the video, 0 to 1; scenes: see find_scenes; steps: how many steps of a walk
    must stay in the scene. Returns the latents and the scenes, one-hot (batch, number of scenes) float32. Latents of a
    single scene stay as they are.
    """
    if len(scenes) == 1:
        return latents, np.ones((len(latents), 1), "float32")
    bounds = np.array([0, *scenes])
    scene = np.searchsorted(bounds, shares, "right") - 1
    room = np.maximum(np.diff(bounds)[scene] - steps / SCENE_PERIOD, 0)
    angle = 2 * np.pi * (bounds[scene] + rng.uniform(0.001, 0.999, len(latents)) * room)
    slowest = slowest_pair(latents.shape[1])
    moved = latents.copy()
    length = np.linalg.norm(latents[:, slowest], axis=1)
    moved[:, slowest] = (length * [np.cos(angle), np.sin(angle)]).T
    return moved, np.eye(len(scenes), dtype="float32")[scene]
