"""Sample a video evenly in time into frames for training.

The built-in night walk: python extract_frames.py

A file, without its intro: python extract_frames.py --video walk.mp4 --start 12

An address: python extract_frames.py --video https://www.youtube.com/watch?v=vHr4qSQ-5XU
"""

import json
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from frames import Video, decodable, fit_frame, replacing, write_frame
from settings import InputError, SettingError, check_range, command_line

STALLED = 30  # seconds without a byte, after which a download is begun again where it stopped
BUILT_IN = "built-in walk"
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")


@dataclass(frozen=True)
class ExtractionSettings:
    """Settings of an extraction."""

    video: str = BUILT_IN
    """A video file, a folder of videos (taken in the order of their names), or an http(s) address (YouTube
    included); by default a night walk that this project draws itself."""
    frames: Path = Path("data/frames")
    """Folder to write the frames to."""
    target_frames: int = 10_000
    """Frames to sample, evenly in time; every frame when the video has no more than these."""
    height: int = 160
    """Height of a frame in pixels."""
    width: int = 320
    """Width of a frame in pixels."""
    start: float = 0.0
    """Second of each video to start at, to leave out an intro."""
    end: float | None = None
    """Second of each video to end before."""
    crop: tuple[int, int, int, int] | None = None
    """X Y WIDTH HEIGHT of the part of the picture to take, in the video's pixels, to leave out a watermark; the
    frame is then the largest centred part of it that has the frame's proportions."""

    def check(self):
        """Raise SettingError for the first value out of its range."""
        check_range(self, 1, "target_frames")
        check_range(self, 1, "height", "width", most=8192)
        if not 0 <= self.start < float("inf") or (self.end is not None and not self.end > self.start):
            raise SettingError(f"--start {self.start} and --end {self.end} (seconds) leave nothing of the video.")
        if self.crop and (min(self.crop) < 0 or 0 in self.crop[2:]):
            raise SettingError(f"--crop takes X Y WIDTH HEIGHT in pixels of the video, not {self.crop}.")


SETTINGS = ExtractionSettings(
    video=BUILT_IN,
    frames=Path("data/frames"),
    target_frames=10_000,
    height=160,
    width=320,
)


def extract(settings):
    """Write FRAMES/000000.jpg and so on, and FRAMES/frames.json, which says where each frame comes from.

    Raises SettingError for settings that cannot work and InputError for videos that cannot be read.
    """
    settings.check()
    index_file = settings.frames / "frames.json"
    wanted = json.loads(json.dumps(asdict(settings) | {"frames": None}, default=str))
    if refuse_or_resume(settings, index_file, wanted):
        return
    paths = [decodable(path, settings.frames.parent / "videos") for path in find_videos(settings)]
    videos = [Video(path, settings.start, settings.end) for path in paths]
    for video in videos:
        check_inside(settings, video)
    total_seconds = sum(video.seconds for video in videos)
    keep_all = sum(video.frame_count for video in videos) <= settings.target_frames
    interval = 0 if keep_all else total_seconds / settings.target_frames

    settings.frames.mkdir(parents=True, exist_ok=True)
    index = {"complete": False, "settings": wanted, "interval": interval, "videos": [], "video": [], "time": []}
    save_index(index_file, index)
    expected = settings.target_frames if interval else sum(video.frame_count for video in videos)
    with FrameWriter(settings) as writer, tqdm(total=expected, unit="frame", desc="extracting") as bar:
        for number, video in enumerate(videos):
            for time, frame in video.sample(interval, writer.is_missing):
                writer.write(frame)
                index["video"].append(number)
                index["time"].append(round(time, 4))
                bar.update()
            index["videos"].append({"source": str(video.path), "frame_rate": video.frame_rate})
    count = len(index["time"])
    if count == 0:
        index_file.unlink()
        raise InputError(f"no frames could be read from {settings.video}: is it a video, and --start inside it?")
    save_index(index_file, index | {"complete": True})
    print(f"{count} frames of {settings.height}x{settings.width} in {settings.frames}.")


def check_inside(settings, video):
    """Raise SettingError where --start or --crop lie outside a video."""
    if video.seconds <= 0:
        raise SettingError(f"{video.path} is {video.end:.1f} s long: --start {settings.start} leaves nothing of it.")
    x, y, width, height = settings.crop or (0, 0, *video.size)
    if x + width > video.size[0] or y + height > video.size[1]:
        raise SettingError(f"--crop {settings.crop} reaches outside {video.path}, which is {video.size} pixels.")


def refuse_or_resume(settings, index_file, wanted):
    """Return True when the frames are there already; raise SettingError when the folder holds other frames."""
    if index_file.exists():
        found = json.loads(index_file.read_text())
        if found["settings"] == wanted:
            if found["complete"]:
                print(f"{settings.frames} already holds the {len(found['time'])} frames of {settings.video}.")
            return found["complete"]
        described = f"frames of {found['settings']['video']}, extracted with other settings"
    elif settings.frames.exists() and any(settings.frames.iterdir()):
        described = "files that this script did not write"
    else:
        return False
    raise SettingError(f"{settings.frames} holds {described}: delete that folder, or name another with --frames.")


def find_videos(settings):
    """Return the paths of the video files to read; draw the built-in walk or download an address when asked."""
    beside_frames = settings.frames.parent
    if settings.video == BUILT_IN:
        from drawn_walk import render_walk

        path = beside_frames / "drawn_walk.mp4"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial:
                render_walk(partial)
        return [path]
    if settings.video.startswith(("http://", "https://")):
        return [download(settings.video, beside_frames / "videos", settings.height, settings.width)]
    path = Path(settings.video)
    if path.is_dir():
        files = sorted(file for file in path.glob("[!.]*") if file.suffix.lower() in VIDEO_SUFFIXES)
        if not files:
            raise SettingError(f"no videos in {path}: none of its files ends in {', '.join(VIDEO_SUFFIXES)}.")
        return files
    if not path.is_file():
        raise SettingError(f"there is no video {path}: give --video a file, a folder of videos or an http(s) address.")
    return [path]


def download(address, folder, height, width):
    """Download the smallest version of a video that covers height x width and return its path. Raises InputError."""
    import yt_dlp

    covering = f"[height>=?{height}][width>=?{width}]"
    quick = covering + "[vcodec!^=?av01]"  # AV1 would have to be converted first
    options = {
        "format": f"bestvideo{quick}/best{quick}/bestvideo{covering}/best{covering}/bestvideo/best",
        "format_sort": ["+res"],  # smallest first
        "outtmpl": str(folder / "%(title).80B-%(id).80B.%(ext)s"),
        "noplaylist": True,
        "fixup": "never",  # OpenCV reads it as it comes
        "socket_timeout": STALLED,
        "retries": 10,  # each goes on where the one before broke off
        "fragment_retries": 10,
        "quiet": True,
        "noprogress": False,
    }
    try:
        with yt_dlp.YoutubeDL(options) as downloader:
            return Path(downloader.extract_info(address)["requested_downloads"][0]["filepath"])
    except (yt_dlp.utils.YoutubeDLError, KeyError) as error:
        raise InputError(f"{address} could not be downloaded (what came is kept): {error}") from None


class FrameWriter:
    """Crops, shrinks and writes frames behind the decoder's back, numbered from 000000 on."""

    def __init__(self, settings):
        self.settings, self.count = settings, 0
        self.pool, self.pending = ThreadPoolExecutor(2), deque()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.pool.shutdown(cancel_futures=error[0] is not None)
        while self.pending and error[0] is None:
            self.pending.popleft().result()

    def is_missing(self):
        """Return whether the next frame is still to be written."""
        return not self._path().exists()

    def write(self, frame):
        """Write the next frame, (height, width, 3) uint8 BGR as OpenCV reads it; None leaves the one that is there."""
        if frame is not None:
            self.pending.append(self.pool.submit(self._write, frame, self._path()))
        if len(self.pending) > 32:  # keeps memory bounded, and brings up an error such as a full disk
            self.pending.popleft().result()
        self.count += 1

    def _path(self):
        return self.settings.frames / f"{self.count:06}.jpg"

    def _write(self, frame, path):
        x, y, width, height = self.settings.crop or (0, 0, frame.shape[1], frame.shape[0])
        frame = fit_frame(frame[y : y + height, x : x + width], self.settings.height, self.settings.width)
        write_frame(path, frame[..., ::-1])


def save_index(path, index):
    """Write frames.json."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(index))


if __name__ == "__main__":
    command_line(extract, SETTINGS, __doc__)
