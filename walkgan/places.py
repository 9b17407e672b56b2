"""Places: the scenes of a video that the networks keep apart, and the latents that belong to each.

A generator is a continuous function of its latents, and what lies between those of two scenes used to be both at once.
So each scene has a part of the latents to itself (see `place_of` in models.py), as large as its share of the frames,
and in training each frame meets a fake of its own scene.
"""

import numpy as np

from walkgan.latents import ROTATION_PERIODS

MAX_PLACES = 16  # so that a walk stays in each for six seconds, of 30 steps each
MIN_SHARE = 0.02  # of the frames


def find_places(scene_ends):
    """Return the share of the frames up to the end of each place, the last of them 1.

    scene_ends: (count,) as in Timeline. A place is a scene, or neighbouring scenes that are too short, or too many, to
    be places of their own: the shortest joins the shorter of its neighbours.
    """
    ends = np.unique(scene_ends).tolist()
    while len(ends) > 1:
        lengths = np.diff([0, *ends])
        shortest = int(np.argmin(lengths))
        if len(ends) <= MAX_PLACES and lengths[shortest] >= MIN_SHARE * ends[-1]:
            break
        first = shortest == 0
        last = shortest == len(ends) - 1
        with_next = first or (not last and lengths[shortest + 1] < lengths[shortest - 1])
        del ends[shortest if with_next else shortest - 1]
    return tuple(end / ends[-1] for end in ends)


def move_to_places(latents, shares, places, steps, rng):
    """Return latents moved to the places of frames, and these places as one-hot (batch, number of places) float32.

    latents: (batch, latent_dim) float32, standard normal, and so they stay where frames are drawn evenly; shares:
    (batch,) the position of each frame in the video, from 0 to 1; places: as of find_places; steps: of a walk that has
    to stay in the place.
    """
    bounds = np.array([0, *places])
    place = np.searchsorted(bounds, shares, "right") - 1
    room = np.maximum(np.diff(bounds)[place] - steps / ROTATION_PERIODS[1], 0)
    angle = 2 * np.pi * (bounds[place] + rng.uniform(0.001, 0.999, len(latents)) * room)
    slowest = [latents.shape[1] // 2 - 1, -1]  # the pair whose direction is the place
    moved = latents.copy()
    length = np.linalg.norm(latents[:, slowest], axis=1)
    moved[:, slowest] = (length * [np.cos(angle), np.sin(angle)]).T
    return moved, np.eye(len(places), dtype="float32")[place]
