"""Sample videos evenly in time into a folder of frames."""

import json
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from walkgan.errors import InputError, SettingError
from walkgan.files import atomic_write, folder_lock, natural_order
from walkgan.images import crop_and_resize, read_frame, write_frame
from walkgan.sampling import evenly_spaced
from walkgan.synthetic_walk import render_walk
from walkgan.video import Video

BUILT_IN = "built-in walk"
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp",
    ".3g2", ".vob", ".ogv", ".gif", ".dv", ".mxf", ".asf", ".mod", ".tod", ".f4v", ".divx", ".m2v", ".mp2", ".h264",
    ".h265", ".hevc", ".264", ".265", ".y4m",
)  # fmt: skip
ROUNDING = 1.5e-3  # seconds: many formats round times to milliseconds
OS_FILES = ("thumbs.db", "desktop.ini")  # that Windows adds to folders; other systems begin theirs with a dot


def extract(settings):
    """Write FRAMES/000000.jpg and so on, and FRAMES/frames.json, which says where each frame comes from.

    Raises SettingError for settings that cannot work and InputError for videos that cannot be read.
    """
    settings.check()
    info = json.loads(json.dumps(asdict(settings) | {"frames": None}, default=str))
    is_local = settings.video != BUILT_IN and not is_url(settings.video)
    if not is_local and frames_are_complete(settings, info):
        return  # before anything is rendered or downloaded again
    paths = find_videos(settings)
    sources = [{"name": path.name, "bytes": path.stat().st_size, "changed": path.stat().st_mtime} for path in paths]
    if is_local and frames_are_complete(settings, info, sources):
        return
    videos = [Video(path, settings.start, settings.end) for path in paths]
    for video in videos:
        check_inside(settings, video)
    settings.frames.mkdir(parents=True, exist_ok=True)
    with folder_lock(settings.frames, "written"):
        sample_videos(settings, videos, info, sources)


def sample_videos(settings, videos, info, sources):
    """Write the frames of all videos and frames.json, with the settings `info` and the files `sources`."""
    index_file = settings.frames / "frames.json"
    chosen, scenes = choose_frames(videos, settings.target_frames)
    index = {
        "complete": False,
        "settings": info,
        "sources": sources,
        "videos": [],
        "video": [],
        "scene": [],
        "time": [],
    }
    save_index(index_file, index)
    total = sum(int(part.sum()) for part in chosen)
    with FrameWriter(settings) as writer, tqdm(total=total, unit="frame", desc="extracting") as bar:
        for number, video in enumerate(videos):
            for place, frame in video.frames(chosen[number]):
                writer.write(lambda frame=frame, video=video: video.to_rgb(frame))
                index["video"].append(number)
                index["scene"].append(int(scenes[number][place]))
                index["time"].append(round(float(video.times[place]), 4))
                bar.update()
            index["videos"].append({"source": str(video.path), "frame_rate": video.frame_rate})
    count = len(index["time"])
    if count == 0:
        index_file.unlink()
        raise InputError(f"no frames could be read from {settings.video}: is it a video?")
    save_index(index_file, index | {"complete": True})
    print(f"{count} {settings.height}x{settings.width} frames in {settings.frames}.")


def choose_frames(videos, count):
    """Return, for each video, which of its frames are taken (bool) and the scene of each (int).

    `count` frames evenly in time over all videos, the first of each interval; where an interval has none, others
    instead. All where there are no more.
    """
    part = np.concatenate([video.in_part for video in videos])
    starts = np.cumsum([0, *(video.seconds for video in videos)])
    times = np.concatenate([begin + video.times - video.start for begin, video in zip(starts, videos, strict=False)])
    inside = np.flatnonzero(part)
    chosen = part.copy()
    if len(inside) > count:
        slots = ((times[inside] + ROUNDING) / (starts[-1] / count)).astype(int)
        firsts = inside[np.unique(slots, return_index=True)[1]][:count]
        others = np.setdiff1d(inside, firsts)
        chosen[:] = False
        chosen[firsts] = chosen[others[evenly_spaced(len(others), count - len(firsts))]] = True
    ends = np.cumsum([len(video.times) for video in videos])[:-1]
    scenes = np.cumsum(np.concatenate([video.new_scenes for video in videos])) - 1
    return np.split(chosen, ends), np.split(scenes, ends)


def check_inside(settings, video):
    """Raise SettingError where --start or --crop lie outside a video."""
    if video.seconds <= 0 or not video.in_part.any():
        raise SettingError(f"{video.path} is {video.end:.1f} s long: --start {settings.start} leaves nothing of it.")
    x, y, width, height = settings.crop or (0, 0, *video.size)
    if x + width > video.size[0] or y + height > video.size[1]:
        shown = "{}x{} (width x height, upright, in square pixels)".format(*video.size)
        raise SettingError(f"--crop {settings.crop} reaches outside {video.path}, which is {shown}.")


def is_url(video):
    """Return whether a video is to be downloaded."""
    return video.startswith(("http://", "https://"))


def frames_are_complete(settings, info, sources=None):
    """Return whether an extraction with the settings `info` from the files `sources` is finished, and all is there.

    Raises SettingError where the folder holds other files, InputError where its frames.json is damaged.
    """
    index_file = settings.frames / "frames.json"
    if index_file.exists():
        try:
            found = json.loads(index_file.read_text())
            same, complete, count = found["settings"] == info, found["complete"], len(found["time"])
            content = f"frames of {found['settings']['video']}, extracted with other settings"
            if same and sources and found.get("sources", sources) != sources:
                same, content = False, f"frames of {settings.video} as it was: the file has changed since"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{index_file} is damaged: delete {settings.frames} and extract again.") from error
        if same:
            broken = delete_damaged(settings.frames, count) if complete else 0
            if complete and not broken:
                print(f"{settings.frames} already holds the {count} frames of {settings.video}.")
            elif complete:
                print(f"{broken} of {count} frames in {settings.frames} are missing or damaged: writing them again.")
            return complete and not broken
    elif settings.frames.exists() and any(map(is_foreign, settings.frames.iterdir())):
        content = "files that this script did not write"
    else:
        return False
    raise SettingError(f"{settings.frames} holds {content}: delete that folder, or choose another with --frames.")


def delete_damaged(folder, count):
    """Delete the damaged ones of a folder's `count` frames; return how many are damaged or missing."""

    def is_damaged(index):
        path = folder / f"{index:06}.jpg"
        try:
            read_frame(path)
        except InputError:
            path.unlink(missing_ok=True)
            return True
        return False

    with ThreadPoolExecutor() as pool:
        return sum(pool.map(is_damaged, range(count)))


def is_foreign(path):
    """Return whether a file is neither a partial one of this project nor one that an operating system adds."""
    return not path.name.startswith(".") and path.name.lower() not in OS_FILES


def find_videos(settings):
    """Return the paths of the video files to read, after rendering the built-in walk or downloading a URL."""
    folder = settings.frames.parent
    if settings.video == BUILT_IN:
        path = folder / "built_in_walk.mp4"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as partial:
                render_walk(partial)
        return [path]
    if is_url(settings.video):
        from walkgan.download import download  # late, since yt-dlp takes long to load

        return [download(settings.video, folder / "videos", settings.height, settings.width)]
    path = Path(settings.video)
    if path.is_dir():
        files = natural_order(
            file for file in path.glob("[!.]*") if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file()
        )
        if not files:
            raise SettingError(f"no videos in {path}: none of its files ends in {', '.join(VIDEO_SUFFIXES)}.")
        return files
    if not path.is_file():
        raise SettingError(f"there is no video {path}: give --video a file, a folder of videos or an http(s) URL.")
    return [path]


class FrameWriter:
    """Crops, resizes and writes frames in background threads, numbered from 000000 on."""

    def __init__(self, settings):
        self.settings, self.count = settings, 0
        self.pool, self.pending = ThreadPoolExecutor(2), deque()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.pool.shutdown(cancel_futures=error[0] is not None)
        while self.pending and error[0] is None:
            self.pending.popleft().result()

    def write(self, convert):
        """Write the next frame, (height, width, 3) uint8 RGB as convert() returns it, unless it is there already."""
        path = self.settings.frames / f"{self.count:06}.jpg"
        if not path.exists():
            self.pending.append(self.pool.submit(self._write, convert, path))
        if len(self.pending) > 8:  # keeps memory bounded, and raises errors such as a full disk early
            self.pending.popleft().result()
        self.count += 1

    def _write(self, convert, path):
        frame = convert()
        x, y, width, height = self.settings.crop or (0, 0, frame.shape[1], frame.shape[0])
        frame = crop_and_resize(frame[y : y + height, x : x + width], self.settings.height, self.settings.width)
        write_frame(path, frame)


def save_index(path, index):
    """Write frames.json."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(index))
