"""How long it takes to decode a video, to extract a sixth of its frames, and to do so with the ffmpeg command."""

import subprocess
import time


def loop_video(video, folder, height):
    """Write the video, scaled to so many lines and looped to 12,000 frames, and return its path."""
    import imageio_ffmpeg

    once, looped = folder / f"once-{height}.mp4", folder / f"looped-{height}.mp4"
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error"]
    scale = ["-an", "-vf", f"scale=-2:{height}", "-c:v", "libx264", "-preset", "veryfast", once]
    subprocess.run([*ffmpeg, "-i", video, *scale], check=True)
    subprocess.run([*ffmpeg, "-stream_loop", "-1", "-i", once, "-c", "copy", "-frames:v", "12000", looped], check=True)
    return looped


def decode(video):
    """Return the seconds that OpenCV takes to decode a video from beginning to end."""
    import cv2

    began, capture = time.perf_counter(), cv2.VideoCapture(str(video))
    while capture.read()[0]:
        pass
    return time.perf_counter() - began


def extract_sixth(video, folder):
    """Return the seconds that it takes to extract a sixth of 12,000 frames, as 10,000 of 60,000."""
    from extract_frames import ExtractionSettings
    from walkgan.extraction import extract

    began = time.perf_counter()
    extract(ExtractionSettings(video=str(video), frames=folder, target_frames=2000))
    return time.perf_counter() - began


def extract_sixth_by_ffmpeg(video, folder):
    """Return the seconds that the ffmpeg command takes for the same frames."""
    import imageio_ffmpeg

    folder.mkdir()
    began = time.perf_counter()
    sampled = "select=not(mod(n\\,6)),scale=320:160:force_original_aspect_ratio=increase,crop=320:160"
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", video, "-vf", sampled, "-fps_mode", "vfr",
         "-q:v", "3", folder / "%06d.jpg"], check=True,
    )  # fmt: skip
    return time.perf_counter() - began
