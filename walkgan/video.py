"""Videos to frames and back, by FFmpeg's libraries (PyAV)."""

import heapq
import os
from contextlib import contextmanager, suppress
from fractions import Fraction

import av
import numpy as np
from tqdm import tqdm

from walkgan.errors import InputError

LONGEST_PAUSE = 1.0  # seconds between frames of one scene
MAX_REORDER = 16  # frames that can be shown before one that is decoded first
HDR_TRANSFERS = 16, 18  # PQ and HLG, as FFmpeg numbers them
BT709, LIMITED_RANGE, FULL_RANGE = 1, 1, 2  # likewise


class Clock:
    """Turns the timestamps of a file into seconds from its first frame, which always increase.

    Timestamps may be missing, jump back or pause: in raw streams, and in files that were cut or joined. Then time
    advances by one frame interval, and after a jump or a pause a new scene begins.
    """

    def __init__(self, frame_interval):
        self.frame_interval, self.time, self.timestamp = frame_interval, None, None

    def tick(self, timestamp):
        """Return (seconds, whether a new scene begins) of the next frame, with its timestamp in seconds or None."""
        if self.time is None:
            self.time, self.timestamp = 0.0, timestamp
            return 0.0, True
        elapsed, restarts = self.frame_interval, False
        if timestamp is not None and self.timestamp is not None:
            since = timestamp - self.timestamp
            restarts = not 0 < since <= max(LONGEST_PAUSE, 10 * self.frame_interval)
            elapsed = self.frame_interval if restarts else since
        if timestamp is None and self.timestamp is not None:
            timestamp = self.timestamp + self.frame_interval
        self.time, self.timestamp = self.time + elapsed, timestamp
        return self.time, restarts


class Video:
    """A video file, or the part of it between two times, read once from beginning to end.

    path; frame_rate: frames per second; size: (width, height) as shown, upright and in square pixels; seconds: length
    of the part; frame_count: frames in it.
    """

    def __init__(self, path, start=0.0, end=None):
        """Open `path` for the frames from `start` to before `end` seconds; raise InputError when it has none."""
        self.path, self.start = path, start
        with _open(path) as container:
            stream = _video_stream(container, path)
            self.frame_rate = float(stream.guessed_rate or stream.average_rate or 0)
            if not 0 < self.frame_rate < 1000:
                self.frame_rate = 30.0  # not stated by the file
            self.pixel_ratio = float(stream.sample_aspect_ratio or 1) or 1.0
            first = next(_decode(container, stream), None)
            if first is None:
                raise InputError(f"{path}: no frame can be decoded. Is it damaged? Try to play it.")
            self.size = to_rgb(first, self.pixel_ratio).shape[1::-1]
        times = self._read_times()
        whole = times[-1] + 1 / self.frame_rate
        self.end = whole if end is None else min(end, whole)
        self.seconds = self.end - start
        self.frame_count = int(((times >= start - 1e-6) & (times < self.end - 1e-6)).sum())

    def _read_times(self):
        """Return the seconds of all frames, without decoding: the length that a container states may be a guess."""
        clock, last = Clock(1 / self.frame_rate), 0.0
        with _open(self.path) as container:
            index = _video_stream(container, self.path).index

            def stamps():
                nonlocal last
                for packet in container.demux():
                    stamp = None if packet.pts is None else float(packet.pts * packet.time_base)
                    last = max(last, stamp or 0.0)
                    if packet.stream.index == index and packet.size:
                        yield stamp

            times = [clock.tick(stamp)[0] for stamp in _in_presentation_order(_until_damage(stamps()))]
            stated = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
        if last < stated - max(1.0, 0.02 * stated):  # sound may be longer than the picture, but not both shorter
            tqdm.write(f"{self.path} ends after {last:.1f} of {stated:.1f} s: is it truncated or damaged?")
        return np.array(times)

    def frames(self):
        """Yield (seconds, whether a new scene begins, frame as PyAV decodes it) of the part, deinterlaced."""
        clock, time = Clock(1 / self.frame_rate), 0.0
        with _open(self.path) as container:
            stream = _video_stream(container, self.path)
            for frame in _deinterlace(_decode(container, stream)):
                time, new_scene = clock.tick(frame.time)
                if time >= self.end - 1e-6:
                    return
                if time >= self.start - 1e-6:
                    yield time, new_scene, frame
        if time < self.end - max(1.0, 0.02 * self.end):
            tqdm.write(f"{self.path}: frames could be decoded for {time:.1f} of {self.end:.1f} s only. Is it damaged?")


def to_rgb(frame, pixel_ratio=1.0):
    """Return a decoded frame as (height, width, 3) uint8 RGB: upright, in square pixels, in the colours of a screen."""
    hdr = {"dst_color_trc": BT709, "dst_color_primaries": BT709} if frame.color_trc in HDR_TRANSFERS else {}
    width = max(1, round(frame.width * pixel_ratio))
    rgb = frame.reformat(width, frame.height, "rgb24", dst_color_range=FULL_RANGE, interpolation="BICUBIC", **hdr)
    return np.rot90(rgb.to_ndarray(), round(frame.rotation / 90) % 4)


def _in_presentation_order(stamps):
    """Yield the timestamps of packets, which come in the order of decoding, as their frames are shown."""
    pending, last = [], None
    for stamp in stamps:
        if stamp is None or (last is not None and abs(stamp - last) > LONGEST_PAUSE):
            yield from sorted(pending)
            pending = []
        if stamp is None:
            yield None
        else:
            heapq.heappush(pending, stamp)
        if len(pending) > MAX_REORDER:
            yield heapq.heappop(pending)
        last = stamp
    yield from sorted(pending)


def _open(path):
    try:
        return av.open(f"file:{os.fspath(path)}", metadata_errors="ignore")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a video, or is damaged: try to play it ({error}).") from error


def _video_stream(container, path):
    """Return the first video stream that is not a cover image."""
    streams = [stream for stream in container.streams.video if not stream.disposition & stream.disposition.attached_pic]
    if not streams:
        raise InputError(f"{path} has no video stream: try to play it.")
    streams[0].thread_type = "AUTO"
    return streams[0]


def _until_damage(packets):
    """Yield packets, or what is made of them, as far as the file can be read."""
    try:
        yield from packets
    except (av.FFmpegError, OSError):
        return


def _decode(container, stream):
    """Yield the frames of a stream, without those that are damaged."""
    for packet in _until_damage(container.demux(stream)):
        with suppress(av.FFmpegError):
            yield from (frame for frame in packet.decode() if not frame.is_corrupt)


def _deinterlace(frames):
    """Yield frames, from the first interlaced one on through FFmpeg's bwdif, which leaves others as they are."""
    graph, shape = None, None
    for frame in frames:
        if graph and (frame.width, frame.height, frame.format.name) != shape:
            yield from _drain(graph)
            graph = None
        if graph is None and frame.interlaced_frame:
            graph, shape = _deinterlacer(frame), (frame.width, frame.height, frame.format.name)
        if graph is None:
            yield frame
        else:
            graph.push(frame)
            yield from _pull(graph)
    if graph:
        yield from _drain(graph)


def _deinterlacer(frame):
    """Return a filter graph for frames like this one."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 90_000)
    )
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
    graph.configure()
    return graph


def _pull(graph):
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _drain(graph):
    graph.vpush(None)
    yield from _pull(graph)


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

    def write(frame):
        nonlocal container, stream
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        if container is None:
            container = av.open(f"file:{os.fspath(path)}", "w", options={"movflags": "+faststart"})
            stream = _add_stream(container, frame.shape, frame_rate)
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
        container.mux(stream.encode(image.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")))

    try:
        yield write
        if container:
            container.mux(stream.encode(None))
    finally:
        if container:
            container.close()


def _add_stream(container, frame_shape, frame_rate):
    rate = Fraction(frame_rate).limit_denominator(1001)
    stream = container.add_stream("libx264", rate=rate, options={"crf": "20"})
    stream.height, stream.width = frame_shape[:2]
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = BT709  # so that players show the same colours
    context.color_range = LIMITED_RANGE
    return stream
