"""The built-in video: a synthetic first-person night walk through a city.

The street is a corridor: two walls of facades and a wet ground between them. A ray of the camera meets a wall
at a depth that depends on the image's column only, and the ground at one that depends on its row, so each
frame is a few look-ups in large textures. What stands in the street (signs, lamps, people) is a flat sprite,
pasted from far to near. Units are metres and seconds; colours are RGB in [0, 1], linear enough to add up.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import cv2
import numpy as np
from tqdm import tqdm

from walkgan.synthetic_street import FACADE_HEIGHT, SIGHT, STREET_LENGTH, TEXELS, WALL_X, street
from walkgan.video_writer import write_video

HEIGHT, WIDTH, FRAME_RATE, SECONDS = 320, 640, 30, 30
FOCAL_LENGTH = 0.62 * WIDTH  # pixels; a phone's wide lens
SPEED = 1.4  # walking pace, metres per second
EYE_HEIGHT = 1.65
HAZE = np.array([0.17, 0.11, 0.23], "float32")


def render_walk(path):
    """Render the walk into a video file: 30 seconds of 320x640 (height x width) at 30 frames per second."""
    count = SECONDS * FRAME_RATE
    street()  # once, before the threads ask for it
    with ThreadPoolExecutor(2) as pool, tqdm(total=count, unit="frame", desc="rendering the walk") as bar:

        def frames():
            for start in range(0, count, 16):  # a few at a time, so that memory stays small
                for frame in pool.map(render_frame, range(start, min(start + 16, count))):
                    bar.update()
                    yield frame

        write_video(path, frames(), FRAME_RATE)


def render_frame(number):
    """Return frame `number` of the walk: (320, 640, 3) uint8 RGB, the same for the same number."""
    time = number / FRAME_RATE
    z = SPEED * time
    stride = 2 * np.pi * 0.9 * time  # two steps per cycle; the head sways once, and bobs twice
    camera_x = 0.5 + 0.04 * math.sin(stride) + 0.5 * math.sin(0.21 * time)
    eye = EYE_HEIGHT + 0.025 * math.cos(2 * stride)
    yaw = 0.06 * math.sin(0.37 * time) + 0.006 * math.sin(stride)
    horizon = 0.54 * HEIGHT + 4 * math.sin(0.5 * time)

    column = (np.arange(WIDTH, dtype="float32") - WIDTH / 2) / FOCAL_LENGTH
    row = (horizon - np.arange(HEIGHT, dtype="float32")) / FOCAL_LENGTH
    ray_x, ray_z = column * math.cos(yaw) + math.sin(yaw), math.cos(yaw) - column * math.sin(yaw)
    image = _draw_walls(row, ray_x, ray_z, camera_x, eye, z)
    image = _draw_ground(image, row, ray_x, ray_z, camera_x, eye, z)
    for sprite, (x, y, distance) in _sprites_in_sight(z, time):
        # Into the camera's own axes, then into pixels.
        depth = distance * math.cos(yaw) + (x - camera_x) * math.sin(yaw)
        if depth > 0.8:
            side = (x - camera_x) * math.cos(yaw) - distance * math.sin(yaw)
            scale = FOCAL_LENGTH / depth
            fade = min(1.0, (SIGHT - distance) / 8, (depth - 0.8) / 0.6)
            _paste(image, sprite, WIDTH / 2 + side * scale, horizon + (eye - y) * scale, scale, _clearness(depth), fade)
    small = cv2.resize(image, (WIDTH // 4, HEIGHT // 4), interpolation=cv2.INTER_AREA)
    bloom = cv2.GaussianBlur(np.maximum(small - 0.55, 0), (0, 0), 5)
    image += 0.9 * cv2.resize(bloom, (WIDTH, HEIGHT))
    return (255 * (1 - np.exp(-1.9 * np.clip(image, 0, 4)))).astype("uint8")  # bright lights burn out softly


def _clearness(depth):
    """How much of a thing is left in the haze at a depth."""
    return np.exp(-depth / 34.0)


def _draw_walls(row, ray_x, ray_z, camera_x, eye, z):
    """Return the image of sky and facades, (HEIGHT, WIDTH, 3); below the street, that of their reflection."""
    sky = np.clip(1.0 - row * 1.6, 0.15, 1.0)[:, None, None] * (HAZE * 0.9)
    image = np.broadcast_to(sky, (HEIGHT, WIDTH, 3)).astype("float32")
    for facades, wall_x in ((street()["towers"], 3.2 * WALL_X), (street()["facades"], WALL_X)):
        reach = np.where(ray_x > 0, wall_x - camera_x, wall_x + camera_x) / np.maximum(np.abs(ray_x), 0.01)
        depth = reach * ray_z
        height = np.abs(eye + reach * row[:, None])  # below the ground: the reflection of what is above it
        level = np.clip(np.log2(np.maximum(depth, 0.1) * TEXELS / FOCAL_LENGTH), 0, len(facades) - 1).round()
        for number, (left, right) in enumerate(facades):
            texels = TEXELS / 2**number
            for texture, side in ((left, ray_x <= 0), (right, ray_x > 0)):
                columns = np.flatnonzero((level == number) & side)
                if columns.size:
                    u = np.broadcast_to((depth[columns] + z) % STREET_LENGTH * texels, (HEIGHT, columns.size))
                    v = (FACADE_HEIGHT - height[:, columns]) * texels
                    seen = cv2.remap(texture, u.astype("float32"), v.astype("float32"), cv2.INTER_LINEAR)
                    clear = _clearness(depth[columns])[None, :, None]
                    colour, opaque = seen[..., :3] * clear + HAZE * (1 - clear) * seen[..., 3:], seen[..., 3:]
                    image[:, columns] = image[:, columns] * (1 - opaque) + colour
    return image


def _draw_ground(image, row, ray_x, ray_z, camera_x, eye, z):
    """Lay the wet ground over the lower part of the image, in which the walls are mirrored already."""
    reach = eye / np.maximum(-row, 1e-3)
    x = camera_x + reach[:, None] * ray_x
    depth = reach[:, None] * ray_z
    is_ground = ((row < -0.004)[:, None] & (np.abs(x) < WALL_X)).astype("float32")[..., None]
    u = np.clip((x + WALL_X) * TEXELS, 0, 2 * WALL_X * TEXELS - 1).astype("float32")
    v = ((depth + z) % STREET_LENGTH * TEXELS).astype("float32")
    texture = cv2.remap(street()["ground"], u, v, cv2.INTER_LINEAR)
    clear = _clearness(depth)[..., None]
    wetness = texture[..., 3:]
    mirrored = cv2.blur(image, (3, 25))
    lit = texture[..., :3] * (0.35 + 1.3 * cv2.blur(image, (61, 61)))
    ground = lit * clear + HAZE * (1 - clear) * 0.8 + mirrored * wetness
    return image * (1 - is_ground) + ground * is_ground


def _sprites_in_sight(z, time):
    """Yield (sprite, (x, y, distance)), farthest first."""
    placed = []
    for sprites, (x, y, start, speed) in street()["sprites"]:
        distance = (start + speed * time - z) % STREET_LENGTH if speed == 0 else (start + speed * time - z) % SIGHT
        if distance < SIGHT:
            phase = int(time * 8 + start * 3) % len(sprites)
            placed.append((distance, sprites[phase], (x, y, distance)))
    for _, sprite, place in sorted(placed, key=lambda entry: -entry[0]):
        yield sprite, place


def _paste(image, sprite, x, y, scale, clear, fade):
    """Paste a sprite with the middle of its lower edge at pixel (x, y); `scale` is pixels per metre."""
    rgba, texels = sprite
    zoom = scale / texels
    while zoom < 0.5 and min(rgba.shape[:2]) > 3:  # far away: shrink by halves first, so that nothing flickers
        rgba, zoom = _half(rgba.tobytes(), rgba.shape), zoom * 2
    width, height = rgba.shape[1] * zoom, rgba.shape[0] * zoom
    left, top = x - width / 2, y - height
    x0, y0 = max(0, int(left)), max(0, int(top))
    x1, y1 = min(WIDTH, int(left + width) + 2), min(HEIGHT, int(top + height) + 2)
    if x0 < x1 and y0 < y1:
        move = np.array([[zoom, 0, left - x0], [0, zoom, top - y0]], "float32")
        seen = cv2.warpAffine(rgba, move, (x1 - x0, y1 - y0)) * fade
        part = image[y0:y1, x0:x1]
        part *= 1 - seen[..., 3:]
        part += seen[..., :3] * clear + HAZE * (1 - clear) * seen[..., 3:]


@cache
def _half(content, shape):
    rgba = np.frombuffer(content, "float32").reshape(shape)
    return cv2.resize(rgba, (max(1, shape[1] // 2), max(1, shape[0] // 2)), interpolation=cv2.INTER_AREA)
