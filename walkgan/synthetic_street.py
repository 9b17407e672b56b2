"""The textures and sprites of the built-in walk: facades, shops, a wet ground, signs, lamps, people.

Units are metres; colours are RGB in [0, 1], linear enough to add up.
"""

import math
from functools import cache

import cv2
import numpy as np

WALL_X = 4.6  # from the middle of the street to the facades
STREET_LENGTH = 96.0  # after which the street repeats
FACADE_HEIGHT = 20.0
TEXELS = 32  # per metre, on walls and ground
SIGHT = 60.0  # where sprites fade in
NEON = np.array(
    [[1, 0.2, 0.5], [0.2, 0.8, 1], [1, 0.7, 0.2], [1, 0.25, 0.15], [0.3, 1, 0.5], [0.7, 0.4, 1], [1, 0.95, 0.85]],
    "float32",
)


@cache
def street():
    """Build the textures and the sprites of the street, always the same."""
    rng = np.random.default_rng(2019)
    facades = [_facade(rng, heights=(7, 15)) for _ in range(2)]
    towers = [_facade(rng, heights=(13, FACADE_HEIGHT), shops=False) * 0.6 for _ in range(2)]
    sprites = []
    for start in np.arange(2, STREET_LENGTH, 3.1):
        side = rng.choice([-1, 1])
        sign = _sign(rng, width=rng.uniform(0.6, 0.9), height=rng.uniform(1.6, 3.6))
        sprites.append(([sign], (side * (WALL_X - 0.55), rng.uniform(2.9, 5.5), start, 0.0)))
    for number, start in enumerate(np.arange(5, STREET_LENGTH, 8.0)):
        sprites.append(([_lamp()], ((-1) ** number * (WALL_X - 1.1), 0.0, start, 0.0)))
    for start in np.arange(0, SIGHT, 3.7):
        side = rng.choice([-1, 1]) * rng.uniform(1.3, 3.2)
        speed = rng.choice([-1.0, 1.0]) * rng.uniform(0.9, 1.25)
        sprites.append((_person(rng), (side, 0.0, start + rng.uniform(0, 3), speed)))
    return {
        "facades": _levels(facades), "towers": _levels(towers), "ground": _ground(rng), "sprites": sprites,
    }  # fmt: skip


def _levels(sides):
    """Return [(left, right), ...], each level half the size of the one before, for what is farther away."""
    levels = [tuple(sides)]
    for _ in range(4):
        levels.append(tuple(cv2.resize(side, None, None, 0.5, 0.5, cv2.INTER_AREA) for side in levels[-1]))
    return levels


def _facade(rng, heights, shops=True):
    """Draw one side of the street: (FACADE_HEIGHT, STREET_LENGTH) metres, RGBA, colour already times alpha."""
    rgba = np.zeros((int(FACADE_HEIGHT * TEXELS), int(STREET_LENGTH * TEXELS), 4), "float32")

    def box(x, y, width, height, colour):  # metres, y upwards from the ground
        top, left = int((FACADE_HEIGHT - y - height) * TEXELS), int(x * TEXELS)
        part = rgba[max(top, 0) : int((FACADE_HEIGHT - y) * TEXELS), left : int((x + width) * TEXELS)]
        part[..., :3], part[..., 3] = colour, 1
        return part

    x = 0.0
    while x < STREET_LENGTH - 1:
        width = min(rng.uniform(5, 10), STREET_LENGTH - x)
        height = rng.uniform(*heights)
        wall = rng.uniform(0.04, 0.13) * (NEON[rng.integers(len(NEON))] * 0.3 + 0.7)
        box(x, 0, width, height, wall)
        lamp_light = rng.choice([0.15, 0.4, 0.7])  # offices at rest, homes, a hotel
        warm = np.array([1.0, 0.72, 0.4]) if rng.random() < 0.6 else np.array([0.65, 0.85, 1.0])
        columns = max(2, int(width / rng.uniform(1.3, 2.2)))
        pitch = width / columns
        for floor in np.arange(3.9, height - 1.6, rng.uniform(2.5, 3.1)):
            for column in range(columns):
                lit = rng.random() < lamp_light
                glow = warm * rng.uniform(0.35, 0.95) if lit else wall * 0.35
                pane = box(x + pitch * (column + 0.18), floor, pitch * 0.64, 1.5, glow)
                if lit and pane.size:
                    pane[: len(pane) * rng.integers(0, 3) // 4, :, :3] *= 0.55  # a blind
                    pane[:, pane.shape[1] // 2 : pane.shape[1] // 2 + 2, :3] *= 0.3
        if shops:
            _shop(box, rng, x + 0.2, width - 0.4)
            neon = NEON[rng.integers(len(NEON))]
            board = box(x + 0.2, 2.75, width - 0.4, 0.75, neon * rng.uniform(0.15, 1.0))
            board[..., :3] = _write(board[..., :3], rng, vertical=False)
        x += width
    return rgba


def _shop(box, rng, x, width):
    """Draw a shop window 2.7 m high: light from above, shelves of goods, a door and frames."""
    light = (NEON[rng.integers(len(NEON))] * 0.35 + 0.65) * rng.uniform(0.35, 0.8)
    window = box(x, 0, width, 2.7, light)
    window[..., :3] *= np.linspace(1.25, 0.45, len(window), dtype="float32")[:, None, None]
    for shelf in (0.4, 0.85, 1.3, 1.75):
        for left in np.arange(x + 0.1, x + width - 0.3, rng.choice([0.14, 0.2, 0.33])):
            if rng.random() < 0.75:
                box(left, shelf, 0.11, rng.uniform(0.1, 0.36), light * rng.uniform(0.1, 1.3, 3))
        box(x, shelf - 0.05, width, 0.05, light * 0.3)
    door = rng.uniform(x, x + width - 1.2)
    box(door, 0.05, 1.2, 2.2, light * 1.4)
    for left in [*np.arange(x, x + width, 1.7), door, door + 0.6, door + 1.14]:
        box(left, 0, 0.06, 2.7, 0.03)


def _ground(rng):
    """Draw the street's ground: (STREET_LENGTH, 2 * WALL_X) metres, RGB and wetness."""
    rows, columns = int(STREET_LENGTH * TEXELS), int(2 * WALL_X * TEXELS)
    ground = np.full((rows, columns, 3), 0.17, "float32")
    for size, strength in ((1, 0.05), (6, 0.04), (40, 0.05)):
        grain = rng.standard_normal((rows // size + 1, columns // size + 1, 1), "float32")
        ground += strength * cv2.resize(grain, (columns, rows))[..., None] * 0.5
    kerb = int(1.7 * TEXELS)
    for side in (slice(0, kerb), slice(columns - kerb, columns)):
        ground[:, side] += 0.1
        ground[:: TEXELS // 2, side] *= 0.6  # paving stones
    ground[:, [kerb, columns - kerb]] = 0.04
    for start in np.arange(14, STREET_LENGTH, 27):
        for left in np.arange(2.0, 2 * WALL_X - 2.2, 0.9):  # a crossing
            stripe = slice(int(left * TEXELS), int((left + 0.45) * TEXELS))
            ground[int(start * TEXELS) : int((start + 2.6) * TEXELS), stripe] += 0.5
        centre = int((start + 9) * TEXELS), int(rng.uniform(2.5, 6) * TEXELS)
        cv2.circle(ground, centre[::-1], int(0.33 * TEXELS), (0.07, 0.07, 0.08), -1)
    puddles = rng.standard_normal((rows // 48, columns // 32), "float32")
    puddles = cv2.resize(puddles, (columns, rows), interpolation=cv2.INTER_CUBIC)
    wetness = np.clip(0.3 + 0.22 * puddles, 0.12, 0.75)
    return np.dstack([ground * [0.9, 0.92, 1.0], wetness]).astype("float32")


def _write(board, rng, vertical):
    """Return a board with a line of made-up letters on it, dark on bright or bright on dark."""
    board = np.ascontiguousarray(board)
    rows, columns = board.shape[:2]
    size = min(rows, columns)
    ink = [1.3, 1.25, 1.1] if board.mean() < 0.45 else [0.06, 0.04, 0.08]
    for start in range(size // 6, max(rows, columns) - size, size):
        if rng.random() < 0.85:
            y, x = (start, 0) if vertical else (0, start)
            for _ in range(5):
                ends = rng.integers(size // 5, max(size // 5 + 1, size * 4 // 5), 4)
                if rng.random() < 0.7:  # most strokes lie or stand
                    ends[rng.integers(2) + 2] = ends[0] if rng.random() < 0.5 else ends[1]
                first, second = (int(x + ends[0]), int(y + ends[1])), (int(x + ends[2]), int(y + ends[3]))
                cv2.line(board, first, second, ink, max(1, size // 12))
    return board


def _sign(rng, width, height):
    """Draw a lit board that stands out from a wall."""
    texels = 64
    neon = NEON[rng.integers(len(NEON))]
    board = np.empty((int(height * texels), int(width * texels), 3), "float32")
    board[:] = neon * rng.choice([0.12, 0.9])
    board = _write(board, rng, vertical=True)
    cv2.rectangle(board, (1, 1), (board.shape[1] - 2, board.shape[0] - 2), (neon * 1.3).tolist(), 3)
    return np.dstack([board, np.ones(board.shape[:2], "float32")]), texels


def _lamp():
    """Draw a street lamp, 4.4 m high."""
    texels = 64
    rgba = np.zeros((int(4.4 * texels), texels, 4), "float32")
    cv2.rectangle(rgba, (30, 24), (34, len(rgba)), (0.03, 0.03, 0.04, 1), -1)
    cv2.ellipse(rgba, (32, 18), (13, 16), 0, 0, 360, (2.6, 2.1, 1.4, 1), -1)
    return cv2.GaussianBlur(rgba, (0, 0), 0.8), texels


def _person(rng):
    """Draw somebody walking: sprites of the phases of a step."""
    texels, phases = 100, 8
    size = rng.uniform(0.92, 1.08) * texels
    coat, legs = (rng.uniform(0.03, 0.25) * rng.uniform(0.5, 1.2, 3)), rng.uniform(0.01, 0.08, 3)
    skin, bag = [0.42, 0.28, 0.2], NEON[rng.integers(len(NEON))] * 0.3
    sprites = []
    for phase in range(phases):
        rgba = np.zeros((190, 110, 4), "float32")
        swing = math.sin(2 * np.pi * phase / phases)

        def limb(x0, y0, x1, y1, thickness, colour, rgba=rgba):  # heights in metres above the ground
            ends = [(int(55 + x * size), int(188 - y * size)) for x, y in ((x0, y0), (x1, y1))]
            cv2.line(rgba, *ends, (*map(float, colour), 1.0), int(thickness * size), cv2.LINE_AA)

        for side in (-1, 1):
            limb(side * 0.07, 0.85, side * (0.09 + 0.04 * swing), 0.06 + 0.06 * max(0, side * swing), 0.13, legs)
            limb(side * 0.15, 1.38, side * 0.2, 0.85 + 0.05 * side * swing, 0.1, coat)
        limb(0, 1.32, 0, 0.85, 0.3, coat)
        if bag[0] > 0.15:
            limb(0.25, 0.75, 0.25, 0.6, 0.16, bag)
        limb(0, 1.62, 0, 1.56, 0.2, skin)
        limb(0, 1.66, 0, 1.63, 0.2, [0.02, 0.015, 0.02])
        sprites.append((cv2.GaussianBlur(rgba, (0, 0), 0.9), texels))
    return sprites
