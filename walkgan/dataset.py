"""The data pipeline: frames in a folder, when they were filmed, and the batches that training reads."""

import itertools
import json
import math
import os
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from walkgan.distribution import process_index_and_count
from walkgan.errors import InputError
from walkgan.files import natural_order
from walkgan.images import crop_and_resize, read_frame, to_float
from walkgan.sampling import evenly_spaced
from walkgan.scenes import move_to_scenes
from walkgan.windows import choose_windows

CUT_THRESHOLD = 20  # mean change of brightness, of 255, between frames that may be a cut
PREFETCH_BATCHES = min(os.cpu_count() or 1, 8)


def list_frames(folder):
    """Return the paths of a folder's frames in video order, which is the order of their names.

    Raises InputError when the folder is missing or holds no frames.
    """
    folder = Path(folder)
    paths = natural_order(path for path in folder.glob("[!.]*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise InputError(f"no frames in {folder}: run extract_frames.py first, or name their folder with --frames.")
    return paths


def usable_frames(paths):
    """Return the paths of the frames that can be trained on, and the shape (height, width, 3) they all have.

    These are the images of the most frequent size; how many are left out is printed, with the first of them. Reads
    about 2,000 frames per second. Raises InputError where at most half of the files, or fewer than two, are usable, and
    where their extraction was interrupted.
    """
    require_complete(paths[0].parent)

    def shape_of(path):
        try:
            return read_frame(path).shape
        except InputError:
            return "damaged, or no image"

    with ThreadPoolExecutor() as pool:
        shapes = list(pool.map(shape_of, paths))
    sizes = [shape for shape in shapes if not isinstance(shape, str)]
    common = max(set(sizes), key=sizes.count, default=None)
    usable = [path for path, shape in zip(paths, shapes, strict=True) if shape == common]
    if len(usable) < len(paths):
        path, shape = next((path, shape) for path, shape in zip(paths, shapes, strict=True) if shape != common)
        reason = shape if isinstance(shape, str) else "{}x{}, not {}x{} as most".format(*shape[:2], *common[:2])
        left_out = f"{len(paths) - len(usable)} of {len(paths)} frames cannot be used; the first, {path}, is {reason}"
        if len(usable) <= len(paths) / 2:
            raise InputError(f"{left_out}: delete their folder and extract the frames again.")
        print(f"{left_out}. They are left out.")
    if len(usable) < 2:
        raise InputError(f"{paths[0].parent} holds only one frame: extract more.")
    return usable, common


def require_complete(folder):
    """Raise InputError where the extraction of the frames in a folder was interrupted."""
    with suppress(OSError, ValueError, AttributeError):  # no frames.json, or none of this project: nothing to say
        if json.loads((folder / "frames.json").read_text()).get("complete") is False:
            raise InputError(
                f"the extraction into {folder} was interrupted, or still runs: run the same command again to finish "
                "it. To train on the part that is there, delete its frames.json."
            )


def fingerprint(paths):
    """Return a number that changes with the names or the sizes in bytes of files."""
    return zlib.crc32(b"".join(os.fsencode(path.name) + f" {path.stat().st_size}\n".encode() for path in paths))


def read_evenly_spaced(paths, count):
    """Return `count` frames (fewer where there are fewer), evenly spaced in time, as one array."""
    return np.stack([read_frame(paths[index]) for index in evenly_spaced(len(paths), min(count, len(paths)))])


@dataclass(frozen=True)
class Timeline:
    """When the frames of a folder were filmed.

    times: (count,) seconds; scene_ends: (count,) the index after the last frame of each frame's scene, within which
    there is no cut; frame_interval: seconds between neighbouring frames, usually.
    """

    times: np.ndarray
    scene_ends: np.ndarray
    frame_interval: float

    @property
    def scene_starts(self):
        """The index of the first frame of each frame's scene, (count,)."""
        return np.searchsorted(self.scene_ends, self.scene_ends)  # the first frame with the same end


def read_timeline(paths):
    """Return the Timeline of frames: times and scenes as in frames.json, and a new scene at each hard cut.

    Without a frames.json there are 30 frames per second. Raises InputError where it is damaged.
    """
    numbers = np.arange(len(paths))
    times, scenes = numbers / 30, np.zeros(len(paths), int)
    index_file = paths[0].parent / "frames.json"
    if index_file.exists():
        try:
            index = json.loads(index_file.read_text())
            chosen = [int(path.stem) for path in paths]  # some may have been deleted
            times = np.array(index["time"], "float64")[chosen]
            scenes = np.array(index.get("scene", index["video"]), "int64")[chosen]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
            raise InputError(
                f"{index_file} does not match the frames beside it: delete {index_file.parent} and extract again."
            ) from error
    with ThreadPoolExecutor() as pool:
        thumbnails = pool.map(lambda path: crop_and_resize(read_frame(path), 8, 16).astype("float32"), paths)
        changes = np.abs(np.diff(np.stack(list(thumbnails)), axis=0)).mean((1, 2, 3))
    # A cut changes the frame a lot, and far more than the frames around it change.
    cuts = (changes > CUT_THRESHOLD) & (changes > 4 * np.median(changes)) | (np.diff(scenes) != 0)
    cuts |= ~(np.diff(times) > 0)  # time goes on within a scene, whatever frames.json says
    ends = np.array([*numbers[1:][cuts], len(paths)])
    intervals = np.diff(times)[~cuts]
    frame_interval = float(np.median(intervals)) if len(intervals) else 1 / 30
    return Timeline(times, ends[np.searchsorted(ends, numbers, "right")], frame_interval)


def batches(paths, settings, step, frame_shape, timeline=None, scenes=(1.0,)):
    """Yield the batches of a run from `step` on, without end, with frames resized to frame_shape.

    Each batch is a tuple of one dictionary as GAN reads it. Batch number `step` is a function of the seed and that
    number alone, on every backend, so a resumed training sees the frames and latents it would have seen. Every frame is
    used in every epoch; the last batch is filled up with frames before it. To learn motion, every frame chooses a
    window on the timeline, see `choose_windows`. `scenes`: as of find_scenes. Threads make the next batches while the
    network trains, since a GPU would wait for them longer than it computes. Of several processes, each makes its own
    part of every batch.
    """
    steps_per_epoch = math.ceil(len(paths) / settings.batch_size)

    @lru_cache(2)  # at an epoch's end the next one's batches are already being made
    def order_of(epoch):
        if not settings.shuffle:
            return np.arange(len(paths))
        return np.random.default_rng((settings.seed, 0, epoch)).permutation(len(paths))

    def make(step):
        epoch, batch = divmod(step, steps_per_epoch)
        start = min(batch * settings.batch_size, len(paths) - settings.batch_size)
        chosen = order_of(epoch)[start : start + settings.batch_size]
        return (make_batch(paths, chosen, settings, step, frame_shape, timeline, scenes),)

    with ThreadPoolExecutor(PREFETCH_BATCHES) as pool:
        pending = deque()
        for index in itertools.count(step):
            pending.append(pool.submit(make, index))
            if len(pending) > PREFETCH_BATCHES:
                yield pending.popleft().result()


def make_batch(paths, chosen, settings, step, frame_shape, timeline, scenes):
    """Return this process's part of batch number `step`, of the frames with the indices `chosen` (batch_size,)."""
    rng = np.random.default_rng((settings.seed, 1, step))
    batch = {"latents": rng.standard_normal((settings.batch_size, settings.latent_dim), "float32")}
    windows, steps = chosen[:, None], 0
    if timeline:
        windows = choose_windows(chosen, settings.window, timeline, rng)
        offsets = timeline.times[windows] - timeline.times[windows[:, :1]]
        batch["frame_offsets"] = (offsets / timeline.frame_interval).astype("float32")
        steps = batch["frame_offsets"][:, -1]
    if len(scenes) > 1:
        shares = windows[:, 0] / len(paths)
        batch["latents"], batch["scene"] = move_to_scenes(batch["latents"], shares, scenes, steps, rng)
    process, num_processes = process_index_and_count()
    share = settings.batch_size // num_processes
    own = slice(process * share, (process + 1) * share)
    windows, batch = windows[own], {name: values[own] for name, values in batch.items()}
    images = {index: crop_and_resize(read_frame(paths[index]), *frame_shape[:2]) for index in np.unique(windows)}
    frames = np.stack([[images[index] for index in window] for window in windows])
    # The frames of a window are stacked on channels.
    batch["frames"] = to_float(np.moveaxis(frames, 1, 3).reshape(len(windows), *frame_shape[:2], -1))
    return batch
