"""Videos to frames, by FFmpeg's libraries (PyAV)."""

import heapq
import math
import os
import threading
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from tqdm import tqdm

from walkgan.errors import InputError

LONGEST_PAUSE = 1.0  # seconds between frames of one scene
LONGEST_GAP = 60.0  # seconds without a frame that are kept: the time of slide shows, but not of broken timestamps
MAX_REORDER = 16  # frames that can be shown before one that is decoded first
IMAGE_CODECS = "mjpeg", "png", "bmp", "gif", "webp"  # of covers and thumbnails, where there is another stream
HDR_TRANSFERS, BT709, BT2020, FULL_RANGE = (16, 18), 1, 9, 2  # as FFmpeg numbers them; the first are PQ and HLG
REFORMATTERS = threading.local()  # one per thread, since HDR needs seconds to build its tables


class Clock:
    """Turns the timestamps of a file into seconds from its first frame, which always increase.

    Timestamps may be missing, jump back or far ahead: in raw streams, and in files that were cut or joined. Then time
    advances by one frame interval. After a jump or a pause a new scene begins.
    """

    def __init__(self, frame_interval):
        self.frame_interval, self.time, self.timestamp = frame_interval, None, None

    def tick(self, timestamp):
        """Return (seconds, whether a new scene begins) of the next frame, with its timestamp in seconds or None."""
        if self.time is None:
            self.time, self.timestamp = 0.0, timestamp
            return 0.0, True
        elapsed, new_scene = self.frame_interval, False
        if timestamp is None:
            timestamp = None if self.timestamp is None else self.timestamp + self.frame_interval
        elif self.timestamp is not None:
            since = timestamp - self.timestamp
            new_scene = not 0 < since <= max(LONGEST_PAUSE, 10 * self.frame_interval)
            elapsed = since if 0 < since <= LONGEST_GAP else self.frame_interval
        self.time, self.timestamp = self.time + elapsed, timestamp
        return self.time, new_scene


class Video:
    """A video file, or the part of it between two times, read once from beginning to end.

    path; frame_rate: frames per second; size: (width, height) as shown, upright and in square pixels; seconds: length
    of the part; times, new_scenes, in_part: of each frame of the file its seconds, whether it begins a scene, and
    whether it is in the part.
    """

    def __init__(self, path, start=0.0, end=None):
        """Open `path` for the frames from `start` to before `end` seconds; raise InputError when it has none."""
        self.path, self.start = path, start
        with _open(path) as container:
            stream = _video_stream(container, path)
            self.frame_rate = float(stream.guessed_rate or stream.average_rate or 0)
            if not 0 < self.frame_rate < 1000:
                self.frame_rate = 30.0  # not stated by the file
            first = next(_decode(container, stream), None)
            if first is None:
                raise InputError(f"{path}: no frame can be decoded. Is it damaged? Try to play it.")
            self.shape = first.height, max(1, round(first.width * float(stream.sample_aspect_ratio or 1)))
            self.mirrored, self.quarter_turns = _orientation(first)
            self.size = self.to_rgb(first).shape[1::-1]
        self.stamps, self.times, self.new_scenes = self._read_times()
        whole = self.times[-1] + 1 / self.frame_rate
        self.end = whole if end is None else min(end, whole)
        self.seconds = self.end - start
        self.in_part = (self.times >= start - 1e-6) & (self.times < self.end - 1e-6)

    def _read_times(self):
        """Return the timestamps, seconds and starts of scenes of all frames, without decoding any."""
        last, packets = 0.0, []
        with _open(self.path) as container:
            index, timed = _video_stream(container, self.path).index, _has_timestamps(container)
            for packet in _until_damage(container.demux()):
                if packet.pts is not None and packet.stream.type in ("video", "audio"):
                    last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream.index == index and packet.size:
                    stamps = (packet.pts, packet.dts) if timed else (None, None)
                    stamps = [stamp and float(stamp * packet.time_base) for stamp in stamps]
                    packets.append((packet.is_keyframe, packet.is_discard, stamps))
            stated = ((container.start_time or 0) + (container.duration or 0)) / av.time_base  # may be a guess
        # Frames before the first key frame cannot be decoded. A cut may begin with one that is not shown.
        first_key = next((number for number, (is_key, *_) in enumerate(packets) if is_key), 0)
        shown = [stamps for _, is_discard, stamps in packets[first_key:] if not is_discard]
        stamps = list(_in_presentation_order(shown)) or [None]
        clock = Clock(1 / self.frame_rate)
        times, new_scenes = map(np.array, zip(*map(clock.tick, stamps), strict=True))
        if last < stated - max(1.0, 0.02 * stated) and not new_scenes[1:].any():
            tqdm.write(f"{self.path} ends after {last:.1f} of {stated:.1f} s: is it truncated or damaged?")
        return stamps, times, new_scenes

    def frames(self, chosen):
        """Yield (index, frame as PyAV decodes it, deinterlaced) of the chosen frames, a bool for each of the file."""
        index, last = -1, int(np.flatnonzero(chosen)[-1]) if chosen.any() else -1
        with _open(self.path) as container:
            timed = _has_timestamps(container)
            for frame in _deinterlace(_decode(container, _video_stream(container, self.path))):
                index = self._find(frame.time if timed else None, index + 1)
                if index > last:
                    return
                if chosen[index]:
                    yield index, frame
        if index < last - max(self.frame_rate, 0.02 * last):
            tqdm.write(f"{self.path}: only {index + 1} of {last + 1} frames could be decoded. Is it damaged?")

    def _find(self, stamp, index):
        """Return the index, from `index` on, of the frame with a timestamp: later where frames could not be decoded."""
        if stamp is not None and index < len(self.stamps) and self.stamps[index] is not None:
            for later in range(index, min(index + 1000, len(self.stamps))):
                if self.stamps[later] is not None and abs(self.stamps[later] - stamp) < 1e-4:
                    return later
        return index

    def to_rgb(self, frame):
        """Return a decoded frame as (height, width, 3) uint8 RGB: upright, in square pixels, in a screen's colours.

        Frames of another size than the first are resized to it. Raises InputError where the colours are unknown.
        """
        if not hasattr(REFORMATTERS, "own"):
            REFORMATTERS.own = VideoReformatter()
        is_hdr = frame.color_trc in HDR_TRANSFERS
        options = {"dst_color_trc": BT709, "dst_color_primaries": BT709} if is_hdr else {}
        options |= {"dst_color_range": FULL_RANGE, "interpolation": "BICUBIC"}
        height, width = self.shape
        for colours in ({}, {"src_colorspace": BT2020 if is_hdr else BT709}):  # as stated, or else as is usual
            with suppress(av.FFmpegError, OSError, ValueError):
                rgb = REFORMATTERS.own.reformat(frame, width, height, "rgb24", **colours, **options)
                return np.rot90(rgb.to_ndarray()[:, :: -1 if self.mirrored else 1], self.quarter_turns)
        raise InputError(f"{self.path}: its colours (matrix {frame.colorspace}) are not supported: convert it first.")


def _orientation(frame):
    """Return how a frame's display matrix turns it: whether mirrored first, and quarter turns to the left."""
    matrix = frame.side_data.get("DISPLAYMATRIX")  # of one frame only: asking keeps a frame until garbage is collected
    a, b, _, c, d = np.frombuffer(bytes(matrix), "int32")[:5].astype(float) if matrix else (1, 0, 0, 0, 1)
    mirrored = a * d - b * c < 0
    a, b = (-a, -b) if mirrored else (a, b)
    return mirrored, round(-math.degrees(math.atan2(b, a)) / 90) % 4


def _has_timestamps(container):
    """Return whether timestamps can be relied on: AVI has none, and FFmpeg's own for its B-frames are out of order."""
    return container.format.name != "avi"


def _in_presentation_order(packets):
    """Yield the timestamps of packets (pts, dts), which come in decoding order, as frames are shown."""
    pending, last_pts, last_dts = [], None, None
    for pts, dts in packets:
        jumps = pts is None or (dts is None and last_pts is not None and abs(pts - last_pts) > LONGEST_PAUSE)
        if jumps or (dts is not None and last_dts is not None and dts < last_dts):
            yield from sorted(pending)
            pending = []
        if pts is None:
            yield None
        else:
            heapq.heappush(pending, pts)
        # No frame is shown before it is decoded, so none of those to come is shown before the last dts.
        while pending and (len(pending) > MAX_REORDER or (dts is not None and pending[0] <= dts)):
            yield heapq.heappop(pending)
        last_pts, last_dts = pts, dts
    yield from sorted(pending)


def _open(path):
    try:
        return av.open(f"file:{os.fspath(path)}", metadata_errors="ignore")
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} is not a video, or is damaged: try to play it ({reason}).") from error


def _video_stream(container, path):
    """Return the video stream that a player shows: not a cover, by default, the largest."""

    def rank(stream):
        return stream.codec_context.name not in IMAGE_CODECS, bool(stream.disposition & 1), stream.width * stream.height

    streams = [stream for stream in container.streams.video if stream.codec_context]  # of a known codec
    streams = [stream for stream in streams if not stream.disposition & stream.disposition.attached_pic]
    if not streams:
        raise InputError(f"{path} has no video stream that can be decoded: try to play it.")
    stream = max(streams, key=rank)
    stream.thread_type = "AUTO"
    return stream


def _until_damage(packets):
    """Yield packets as far as the file can be read."""
    with suppress(av.FFmpegError, OSError):
        yield from packets


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
