"""Videos to frames and back."""

import subprocess
from contextlib import contextmanager

import cv2
import imageio_ffmpeg
import numpy as np
from tqdm import tqdm

from walkgan.errors import InputError
from walkgan.files import atomic_write


def ensure_decodable(path, folder):
    """Return a video's path, or where OpenCV opens but cannot decode it (usually AV1), that of a copy in H.264.

    The copy is made once, in `folder`. Raises InputError, naming the video, where that fails too.
    """
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened() or capture.grab():
        return path
    copy = folder / f"{path.stem}-{path.stat().st_size}.mp4"
    if not copy.exists():
        print(f"OpenCV cannot decode {path}: converting it to {copy} first.")
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(copy) as partial:
            command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-stats", "-i", f"file:{path}", "-an"]
            encode = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "16", f"file:{partial}"]
            if subprocess.run([*command, "-fps_mode", "passthrough", *encode]).returncode:
                raise InputError(f"{path} cannot be decoded: is it damaged? Try to play it.")
    return copy


class Video:
    """A video file, or the part of it between two times, read once from beginning to end.

    path; frame_rate: frames per second; size: (width, height) in pixels; end: in seconds; seconds: length of the
    part; frame_count: frames in it, according to the file.
    """

    def __init__(self, path, start=0.0, end=None):
        """Open `path` for the frames from `start` to before `end` seconds; raise InputError when it has none."""
        self.path, self.start = path, start
        self.capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)  # rotates frames as the metadata says
        if not self.capture.isOpened():
            raise InputError(f"{path} is not a video, or is damaged, or has no video stream: try to play it.")
        self.frame_rate = self.capture.get(cv2.CAP_PROP_FPS)
        if not 0 < self.frame_rate < 1000:
            self.frame_rate = 30.0  # not stated by the file
        whole = self.capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if whole <= 0:  # unknown in a container written as a stream
            whole = sum(iter(self.capture.grab, False))
            self.capture.open(str(path), cv2.CAP_FFMPEG)
        self.size = tuple(int(self.capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        self.requested_end = float("inf") if end is None else end
        self.end = min(self.requested_end, whole / self.frame_rate)
        self.seconds = self.end - start
        self.frame_count = round(self.seconds * self.frame_rate)

    def sample(self, interval, is_wanted):
        """Yield (time in seconds, frame) of the first frame in each `interval` seconds; of every frame if it is 0.

        frame: (height, width, 3) uint8 BGR, or None where is_wanted() returns False. Frames that are not yielded are
        not converted to pixels, and there is no seeking.
        """
        # If the file understates its length, read on only where every frame is wanted: there would be too many samples.
        stop = self.end if interval else self.requested_end
        last_slot, time = -1, 0.0
        while self.capture.grab():
            time = self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if time < self.start - 1e-6:
                continue
            slot = int((time - self.start) / interval + 1e-6) if interval else last_slot + 1
            if time >= stop - 1e-6:
                return
            if slot > last_slot:
                last_slot = slot
                yield time, self.capture.retrieve()[1] if is_wanted() else None
        if time < self.end - max(1.0, 0.02 * self.end):
            tqdm.write(f"{self.path} ended after {time:.1f} of {self.end:.1f} s: is it truncated or damaged?")


def write_video(path, frames, frame_rate):
    """Write frames, each (height, width, 3) uint8 RGB, as video_writer does; holds one at a time."""
    with video_writer(path, frame_rate) as write:
        for frame in frames:
            write(frame)


class _EncoderEnded(Exception):
    """The encoder ended before all frames were written; its own message says why."""


@contextmanager
def video_writer(path, frame_rate):
    """Yield a function that appends a frame (height, width, 3) uint8 RGB to an H.264 file that browsers play.

    Odd sides get one more row or column, since H.264 has none. Raises OSError where the file cannot be written.
    """
    encoder = None

    def write(frame):
        nonlocal encoder
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        encoder = encoder or _start_encoder(path, frame.shape, frame_rate)
        try:
            encoder.stdin.write(np.ascontiguousarray(frame))
        except OSError as error:  # a broken pipe, or on Windows an invalid argument
            raise _EncoderEnded from error

    try:
        yield write
    except _EncoderEnded:
        pass
    finally:
        errors = encoder.communicate()[1].decode(errors="replace").strip() if encoder else ""
    if encoder and encoder.returncode:
        raise OSError(errors.splitlines()[0] if errors else "the encoder failed")


def _start_encoder(path, frame_shape, frame_rate):
    """Start ffmpeg; not by imageio's own writer, which does not notice when a full disk cuts the file short."""
    size = "{1}x{0}".format(*frame_shape)
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(frame_rate), "-i", "-"]
    encode = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-movflags", "+faststart", f"file:{path}"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *raw, *encode]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
