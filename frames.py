"""Frames in folders and videos to arrays and back.

Outside, on disk and on screen, a frame is (height, width, 3) uint8 RGB; inside the networks it is float32
in [-1, 1]. Only this module converts between the two.
"""

import json
import os
import subprocess
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # before OpenCV: this project tells the errors itself
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
import cv2
import imageio_ffmpeg
import numpy as np
from tqdm import tqdm

from settings import InputError

CUT = 20  # mean change of brightness, of 255, from one frame to the next that may be a cut


def to_float(frames):
    """Convert frames from uint8 to float32 in [-1, 1], any shape."""
    scaled = np.divide(frames, 127.5, dtype="float32")
    scaled -= 1  # in place, here and below: fresh memory takes longer than the arithmetic
    return scaled


def to_uint8(frames):
    """Convert frames from float in [-1, 1], clipped, to uint8, any shape."""
    scaled = np.multiply(frames, 127.5, dtype="float32")
    scaled += 127.5
    return np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype("uint8")


def list_frames(folder):
    """Return the paths of a folder's frames in video order, which is the order of their names.

    Raises InputError when the folder is missing or holds no frames.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise InputError(f"no frames in {folder}: run extract_frames.py first, or name their folder with --frames.")
    return paths


def read_frame(path):
    """Read one frame: (height, width, 3) uint8 RGB, of a grey or transparent picture too.

    Raises InputError, naming the file, when it is no picture or gone.
    """
    # Not cv2.imread, which prints warnings of its own and cannot open every path on Windows.
    try:
        content = np.fromfile(path, "uint8")
    except FileNotFoundError:
        raise InputError(f"{path} is gone: put it back, or extract the frames again.") from None
    frame = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB) if content.size else None
    if frame is None:
        raise InputError(f"{path} is not a picture, or is damaged: delete it, or extract the frames again.")
    return frame


def usable_frames(paths):
    """Return the paths of the frames that can be trained on, and the shape (height, width, 3) they all have.

    These are the pictures of the size that most have; how many are left out, and the first of them, is said. About
    2,000 frames a second are read for it. Raises InputError where they are fewer than two, or not most of the files.
    """

    def shape_of(path):
        try:
            return read_frame(path).shape
        except InputError:
            return "damaged, or no picture"

    with ThreadPoolExecutor() as pool:
        shapes = list(pool.map(shape_of, paths))
    sizes = [shape for shape in shapes if not isinstance(shape, str)]
    wanted = max(set(sizes), key=sizes.count, default=None)
    usable = [path for path, shape in zip(paths, shapes, strict=True) if shape == wanted]
    if len(usable) < len(paths):
        path, shape = next((path, shape) for path, shape in zip(paths, shapes, strict=True) if shape != wanted)
        what = shape if isinstance(shape, str) else "{}x{}, not {}x{} as most".format(*shape[:2], *wanted[:2])
        left_out = f"{len(paths) - len(usable)} of {len(paths)} frames cannot be used; the first, {path}, is {what}"
        if len(usable) <= len(paths) / 2:
            raise InputError(f"{left_out}: extract the frames again.")
        print(f"{left_out}. Training without them.")
    if len(usable) < 2:
        raise InputError(f"{paths[0].parent} holds one frame only: extract more.")
    return usable, wanted


def fingerprint(paths):
    """Return a number that changes with the names or the sizes in bytes of files: another one, other frames."""
    return zlib.crc32("".join(f"{path.name} {path.stat().st_size}\n" for path in paths).encode())


@dataclass(frozen=True)
class Timeline:
    """When the frames of a folder were filmed.

    times: (count,) seconds; scene_ends: (count,) the index after the last frame of each frame's scene, within which
    the camera moves on without a cut; step: seconds from a frame to the next one, as a rule.
    """

    times: np.ndarray
    scene_ends: np.ndarray
    step: float


def read_timeline(paths):
    """Return the Timeline of frames: their times as frames.json has them, their scenes parted at videos and hard cuts.

    Frames without a frames.json are taken to be 30 a second. Raises InputError where it is damaged.
    """
    numbers = np.arange(len(paths))
    times, videos = numbers / 30, np.zeros(len(paths), int)
    index_file = paths[0].parent / "frames.json"
    if index_file.exists():
        try:
            index = json.loads(index_file.read_text())
            chosen = [int(path.stem) for path in paths]  # some may have been deleted
            times, videos = np.array(index["time"])[chosen], np.array(index["video"])[chosen]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise InputError(f"{index_file} does not fit the frames beside it: extract them again.") from error
    with ThreadPoolExecutor() as pool:
        thumbnails = np.stack(list(pool.map(lambda path: fit_frame(read_frame(path), 8, 16).astype("float32"), paths)))
    changes = np.abs(np.diff(thumbnails, axis=0)).mean((1, 2, 3))
    # A cut changes much, and far more than the walk does around it.
    starts = (changes > CUT) & (changes > 4 * np.median(changes)) | (np.diff(videos) != 0)
    ends = [*numbers[1:][starts], len(paths)]
    steps = np.diff(times)[~starts]
    scene_ends = np.array(ends)[np.searchsorted(ends, numbers, "right")]
    return Timeline(times, scene_ends, float(np.median(steps)) if len(steps) else 1 / 30)


def write_frame(path, frame):
    """Write one (height, width, 3) uint8 RGB frame, as the path's suffix says. Raises OSError, naming the file."""
    encoded, content = cv2.imencode(path.suffix, frame[..., ::-1])
    if not encoded:
        raise InputError(f"{path}: a frame of shape {frame.shape} cannot be written as {path.suffix}.")
    with replacing(path) as partial:
        partial.write_bytes(content)  # not tofile, which a full disk cuts short without an error


def tile(frames, columns):
    """Lay frames (count, height, width, 3) out row by row in one picture, black where the last row is short."""
    count, height, width, channels = frames.shape
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, height, width, channels), frames.dtype)
    sheet[:count] = frames
    sheet = sheet.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return sheet.reshape(rows * height, columns * width, channels)


def fit_frame(frame, height, width):
    """Cut the largest centred part with the proportions height : width out of a frame and scale it to that size."""
    rows, columns = frame.shape[:2]
    part_rows = min(rows, max(1, round(columns * height / width)))
    part_columns = min(columns, max(1, round(rows * width / height)))
    top, left = (rows - part_rows) // 2, (columns - part_columns) // 2
    part = frame[top : top + part_rows, left : left + part_columns]
    shrinks = part_rows >= height
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def decodable(path, folder):
    """Return a video's path, or where OpenCV opens but cannot decode it (AV1, as a rule), that of a copy in H.264.

    The copy is made once, in `folder`. Raises InputError, naming the video, where that fails too.
    """
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened() or capture.grab():
        return path
    copy = folder / f"{path.stem}-{path.stat().st_size}.mp4"
    if not copy.exists():
        print(f"OpenCV cannot decode {path}: converting it to {copy} first.")
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(copy) as partial:
            command = [
                imageio_ffmpeg.get_ffmpeg_exe(),
                "-v",
                "error",
                "-stats",
                "-i",
                path,
                "-an",
                "-fps_mode",
                "passthrough",
            ]
            if subprocess.run([*command, "-c:v", "libx264", "-preset", "veryfast", "-crf", "16", partial]).returncode:
                raise InputError(f"{path} cannot be decoded: is it damaged? Try to play it.")
    return copy


class Video:
    """A video file, or the part of it between two times, read once from beginning to end.

    path; frame_rate: frames a second; size: (width, height) in pixels; end: in seconds; seconds: length of the
    part; frame_count: frames in it, as far as the file says.
    """

    def __init__(self, path, start=0.0, end=None):
        """Open `path` for the frames from `start` to before `end` seconds; raise InputError when it has no picture."""
        self.path, self.start = path, start
        self.capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)  # turns pictures upright as their metadata says
        if not self.capture.isOpened():
            raise InputError(f"{path} is not a video, or is damaged, or has no picture: try to play it.")
        self.frame_rate = self.capture.get(cv2.CAP_PROP_FPS)
        if not 0 < self.frame_rate < 1000:
            self.frame_rate = 30.0  # a file that does not say
        whole = self.capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if whole <= 0:  # a container written as a stream does not know its length
            whole = sum(iter(self.capture.grab, False))
            self.capture.open(str(path), cv2.CAP_FFMPEG)
        self.size = tuple(int(self.capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        self.asked_end = float("inf") if end is None else end
        self.end = min(self.asked_end, whole / self.frame_rate)
        self.seconds = self.end - start
        self.frame_count = round(self.seconds * self.frame_rate)

    def sample(self, interval, is_wanted):
        """Yield (time in seconds, frame) of the first frame in each `interval` seconds; of every frame if it is 0.

        frame: (height, width, 3) uint8 BGR, or None where is_wanted() says no. What is not yielded is not
        converted to pixels, and nothing is ever sought.
        """
        # Some files hold more than they say: taken whole, but not in samples, which would be too many.
        stop = self.end if interval else self.asked_end
        taken, time = -1, 0.0
        while self.capture.grab():
            time = self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if time < self.start - 1e-6:
                continue
            slot = int((time - self.start) / interval + 1e-6) if interval else taken + 1
            if time >= stop - 1e-6:
                return
            if slot > taken:
                taken = slot
                yield time, self.capture.retrieve()[1] if is_wanted() else None
        if time < self.end - max(1.0, 0.02 * self.end):
            tqdm.write(f"{self.path} ended after {time:.1f} of {self.end:.1f} s: cut short, or damaged?")


def write_video(path, frames, frame_rate):
    """Write frames, each (height, width, 3) uint8 RGB, as video_writer does; holds one at a time."""
    with video_writer(path, frame_rate) as write:
        for frame in frames:
            write(frame)


@contextmanager
def video_writer(path, frame_rate):
    """Give a function that adds a frame (height, width, 3) uint8 RGB to an H.264 file that browsers play.

    Odd sides get one more row or column, since H.264 has none. Raises OSError where the file cannot be written.
    """
    encoder = None

    def write(frame):
        nonlocal encoder
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        if encoder is None:
            size = "{1}x{0}".format(*frame.shape)
            read = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(frame_rate), "-i", "-"]
            encode = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-movflags", "+faststart", path]
            # Not imageio's own writer: it takes no notice when a full disk cuts the file short.
            encoder = subprocess.Popen(
                [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *read, *encode],
                stdin=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        encoder.stdin.write(np.ascontiguousarray(frame))

    try:
        yield write
    except BrokenPipeError:
        pass  # it has ended, with an error
    finally:
        errors = encoder.communicate()[1].decode(errors="replace").strip() if encoder else ""
    if encoder and encoder.returncode:
        raise OSError(errors.splitlines()[0] if errors else "the encoder failed")


@contextmanager
def replacing(path):
    """Give a path to write to, and move it over `path` once the block has ended well.

    A kill at any moment leaves the previous file whole. The suffix is kept, since writers go by it.
    Raises OSError, naming `path`, where it cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        with open(partial, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OSError(f"{path}: {error.strerror or error}") from error  # often it does not name the file
    finally:
        partial.unlink(missing_ok=True)
