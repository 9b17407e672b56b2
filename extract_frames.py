"""Sample a video evenly in time into frames for training.

The built-in night walk: python extract_frames.py

A file, without its intro: python extract_frames.py --video walk.mp4 --start 12

A URL: python extract_frames.py --video https://www.youtube.com/watch?v=vHr4qSQ-5XU
"""

from dataclasses import dataclass
from pathlib import Path

from walkgan.cli import run_script
from walkgan.errors import SettingError
from walkgan.extraction import BUILT_IN, extract, is_url
from walkgan.settings import check_range


@dataclass(frozen=True)
class ExtractionSettings:
    """Extraction settings."""

    video: str = BUILT_IN
    """A video file, a folder of videos (read in the order of their names), or an http(s) URL (YouTube included); by
    default a night walk that this project renders itself."""
    frames: Path = Path("data/frames")
    """Folder to write the frames to."""
    target_frames: int = 10_000
    """Frames to sample, evenly in time; every frame of a video that has no more."""
    height: int = 160
    """Height of a frame in pixels."""
    width: int = 320
    """Width of a frame in pixels."""
    start: float = 0.0
    """Second of each video to start at, to skip an intro."""
    end: float | None = None
    """Second of each video to end before."""
    crop: tuple[int, int, int, int] | None = None
    """X Y WIDTH HEIGHT of the part of the video to use, to leave out a watermark, in pixels of the video as a player
    shows it (upright, square pixels); a frame is the largest centred part of it with the frame's proportions. Takes a
    file or a folder, not a URL."""

    def check(self):
        """Raise SettingError for the first value out of its range."""
        check_range(self, 1, "target_frames")
        check_range(self, 1, "height", "width", maximum=8192)
        if not 0 <= self.start < float("inf") or (self.end is not None and not self.end > self.start):
            raise SettingError(f"--start {self.start} and --end {self.end} (seconds) leave nothing of the video.")
        if self.crop and (min(self.crop) < 0 or 0 in self.crop[2:]):
            raise SettingError(f"--crop takes X Y WIDTH HEIGHT in pixels of the video, not {self.crop}.")
        if self.crop and is_url(self.video):
            raise SettingError(
                "--crop is in pixels of a file: download the video first, without --crop, then give --video the file "
                f"in {self.frames.parent / 'videos'}."
            )


SETTINGS = ExtractionSettings(
    video=BUILT_IN,
    frames=Path("data/frames"),
    target_frames=10_000,
    height=160,
    width=320,
)


if __name__ == "__main__":
    run_script(extract, SETTINGS, __doc__)
