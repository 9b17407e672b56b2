"""Frames to H.264 files that browsers play, by FFmpeg's libraries (PyAV)."""

import os
from contextlib import contextmanager
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import VideoReformatter

BT709, LIMITED_RANGE = 1, 1  # as FFmpeg numbers them
X264_OPTIONS = {"preset": "veryfast", "crf": "18"}  # as close to the frames as "medium" at 20, and twice as fast


def write_video(path, frames, frame_rate):
    """Write frames, each (height, width, 3) uint8 RGB, as video_writer does; holds one at a time."""
    with video_writer(path, frame_rate) as write:
        for frame in frames:
            write(frame)


@contextmanager
def video_writer(path, frame_rate):
    """Yield a function that appends a frame (height, width, 3) uint8 RGB to an H.264 file that browsers play.

    Odd sides get one more row or column, since H.264 has none. Raises OSError where the file cannot be written.
    """
    container = stream = None
    to_yuv = VideoReformatter()  # one for all frames: to set one up takes as long as to encode a frame

    def write(frame):
        nonlocal container, stream
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        if container is None:
            container = av.open(f"file:{os.fspath(path)}", "w", options={"movflags": "+faststart"})
            stream = _add_stream(container, frame.shape, frame_rate)
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
        image = to_yuv.reformat(image, format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        container.mux(stream.encode(image))

    try:
        yield write
        if container:
            container.mux(stream.encode(None))
    finally:
        if container:
            container.close()


def _add_stream(container, frame_shape, frame_rate):
    rate = Fraction(frame_rate).limit_denominator(1001)
    stream = container.add_stream("libx264", rate=rate, options=X264_OPTIONS)
    stream.height, stream.width = frame_shape[:2]
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = BT709  # so that players show the same colours
    context.color_range = LIMITED_RANGE
    return stream
