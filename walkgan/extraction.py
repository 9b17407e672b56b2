"""Sample videos evenly in time into a folder of frames."""

import json
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from walkgan.errors import InputError, SettingError
from walkgan.files import atomic_write, folder_lock
from walkgan.images import crop_and_resize, write_frame
from walkgan.synthetic_walk import render_walk
from walkgan.video import Video, ensure_decodable

DOWNLOAD_TIMEOUT = 30  # seconds without a byte, after which a download is restarted where it stopped
BUILT_IN = "built-in walk"
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")
OS_FILES = ("thumbs.db", "desktop.ini")  # that Windows adds to folders; other systems begin theirs with a dot


def extract(settings):
    """Write FRAMES/000000.jpg and so on, and FRAMES/frames.json, which says where each frame comes from.

    Raises SettingError for settings that cannot work and InputError for videos that cannot be read.
    """
    settings.check()
    info = json.loads(json.dumps(asdict(settings) | {"frames": None}, default=str))
    if frames_are_complete(settings, info):
        return
    paths = [ensure_decodable(path, settings.frames.parent / "videos") for path in find_videos(settings)]
    videos = [Video(path, settings.start, settings.end) for path in paths]
    for video in videos:
        check_inside(settings, video)
    settings.frames.mkdir(parents=True, exist_ok=True)
    with folder_lock(settings.frames, "written"):
        sample_videos(settings, videos, info)


def sample_videos(settings, videos, info):
    """Write the frames of all videos and frames.json, with the settings `info`."""
    index_file = settings.frames / "frames.json"
    num_frames = sum(video.frame_count for video in videos)
    keep_all = num_frames <= settings.target_frames
    interval = 0 if keep_all else sum(video.seconds for video in videos) / settings.target_frames
    index = {"complete": False, "settings": info, "interval": interval, "videos": [], "video": [], "time": []}
    save_index(index_file, index)
    expected = num_frames if keep_all else settings.target_frames
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
    print(f"{count} {settings.height}x{settings.width} frames in {settings.frames}.")


def check_inside(settings, video):
    """Raise SettingError where --start or --crop lie outside a video."""
    if video.seconds <= 0:
        raise SettingError(f"{video.path} is {video.end:.1f} s long: --start {settings.start} leaves nothing of it.")
    x, y, width, height = settings.crop or (0, 0, *video.size)
    if x + width > video.size[0] or y + height > video.size[1]:
        raise SettingError(f"--crop {settings.crop} reaches outside {video.path}, which is {video.size} pixels.")


def frames_are_complete(settings, info):
    """Return whether an extraction with the settings `info` is finished already.

    Raises SettingError where the folder holds other files, InputError where its frames.json is damaged.
    """
    index_file = settings.frames / "frames.json"
    if index_file.exists():
        try:
            found = json.loads(index_file.read_text())
            same, complete, count = found["settings"] == info, found["complete"], len(found["time"])
            content = f"frames of {found['settings']['video']}, extracted with other settings"
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{index_file} is damaged: delete {settings.frames} and extract again.") from error
        if same:
            if complete:
                print(f"{settings.frames} already holds the {count} frames of {settings.video}.")
            return complete
    elif settings.frames.exists() and any(map(is_foreign, settings.frames.iterdir())):
        content = "files that this script did not write"
    else:
        return False
    raise SettingError(f"{settings.frames} holds {content}: delete that folder, or choose another with --frames.")


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
    if settings.video.startswith(("http://", "https://")):
        return [download(settings.video, folder / "videos", settings.height, settings.width)]
    path = Path(settings.video)
    if path.is_dir():
        files = sorted(file for file in path.glob("[!.]*") if file.suffix.lower() in VIDEO_SUFFIXES)
        if not files:
            raise SettingError(f"no videos in {path}: none of its files ends in {', '.join(VIDEO_SUFFIXES)}.")
        return files
    if not path.is_file():
        raise SettingError(f"there is no video {path}: give --video a file, a folder of videos or an http(s) URL.")
    return [path]


def download(url, folder, height, width):
    """Download the smallest version of a video that covers height x width and return its path. Raises InputError."""
    import yt_dlp

    covering = f"[height>=?{height}][width>=?{width}]"
    without_av1 = covering + "[vcodec!^=?av01]"  # AV1 has to be converted first
    options = {
        "format": f"bestvideo{without_av1}/best{without_av1}/bestvideo{covering}/best{covering}/bestvideo/best",
        "format_sort": ["+res"],  # smallest first
        "outtmpl": str(folder / "%(title).80B-%(id).80B.%(ext)s"),
        "noplaylist": True,
        "fixup": "never",  # OpenCV reads it as it is
        "socket_timeout": DOWNLOAD_TIMEOUT,
        "retries": 10,  # each continues where the one before stopped
        "fragment_retries": 10,
        "quiet": True,
        "noprogress": False,
    }
    try:
        with yt_dlp.YoutubeDL(options) as downloader:
            return Path(downloader.extract_info(url)["requested_downloads"][0]["filepath"])
    except (yt_dlp.utils.YoutubeDLError, KeyError) as error:
        raise InputError(f"{url} could not be downloaded (the part that arrived is kept): {error}") from None


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

    def is_missing(self):
        """Return whether the next frame is not written yet."""
        return not self._path().exists()

    def write(self, frame):
        """Write the next frame, (height, width, 3) uint8 BGR as OpenCV reads it; None keeps the one that exists."""
        if frame is not None:
            self.pending.append(self.pool.submit(self._write, frame, self._path()))
        if len(self.pending) > 32:  # keeps memory bounded, and raises errors such as a full disk early
            self.pending.popleft().result()
        self.count += 1

    def _path(self):
        return self.settings.frames / f"{self.count:06}.jpg"

    def _write(self, frame, path):
        x, y, width, height = self.settings.crop or (0, 0, frame.shape[1], frame.shape[0])
        frame = crop_and_resize(frame[y : y + height, x : x + width], self.settings.height, self.settings.width)
        write_frame(path, frame[..., ::-1])


def save_index(path, index):
    """Write frames.json."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(index))
