"""extract_frames.py: order, colour, crop and time by content; videos that are none; nothing mixed, nothing lost."""

import functools
import http.server
import json
import subprocess
import sys
import threading
import time

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from conftest import KILLS, REAL_VIDEOS, REPO, moving_picture, run, start

from extract_frames import ExtractionSettings
from walkgan import extraction, synthetic_walk
from walkgan.dataset import list_frames
from walkgan.extraction import extract
from walkgan.images import crop_and_resize, read_frame
from walkgan.video import write_video

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def ffmpeg(*arguments):
    subprocess.run([FFMPEG, "-v", "error", "-y", *map(str, arguments)], check=True)


def extracted(video, folder, **settings):
    """Extract 32x64 frames and return (frames, frames.json)."""
    extract(ExtractionSettings(**{"video": str(video), "frames": folder, "height": 32, "width": 64} | settings))
    frames = np.stack([read_frame(path) for path in list_frames(folder)])
    return frames, json.loads((folder / "frames.json").read_text())


def bar_brightness(frames):
    height, width = frames.shape[1:3]
    return frames[:, height // 2 - 4 : height // 2 + 4, width // 4 : -width // 4].mean((1, 2, 3))


def test_script_writes_frames_in_video_order_with_true_colours(video, tmp_path):
    output = run("extract_frames.py", "--video", video, "--height", 32, "--width", 64, cwd=tmp_path)
    assert "60 frames" in output
    paths = list_frames(tmp_path / "data/frames")
    assert [path.name for path in paths] == [f"{number:06}.jpg" for number in range(60)]
    frames = np.stack([read_frame(path) for path in paths])
    assert frames.shape == (60, 32, 64, 3)
    assert (np.diff(bar_brightness(frames)) > 1).all()
    np.testing.assert_allclose(bar_brightness(frames), np.linspace(20, 235, 60), atol=4)
    np.testing.assert_allclose(frames[:, 2:5, 4:24].mean((0, 1, 2)), [200, 0, 0], atol=12)  # red, not blue
    np.testing.assert_allclose(frames[:, 2:5, 40:60].mean((0, 1, 2)), [0, 0, 200], atol=12)


def test_samples_evenly_in_time(video, tmp_path):
    frames, index = extracted(video, tmp_path / "f", target_frames=20)
    assert len(frames) == 20
    np.testing.assert_allclose(index["time"], np.arange(20) / 10, atol=1e-3)
    np.testing.assert_allclose(bar_brightness(frames), np.linspace(20, 235, 60)[::3], atol=4)
    assert index["videos"] == [{"source": str(video), "frame_rate": 30.0}]


@pytest.mark.parametrize("target", [7, 37, 59])
def test_samples_any_number(video, tmp_path, target):
    frames, index = extracted(video, tmp_path / "f", target_frames=target)
    assert len(frames) == target
    gaps = np.diff(index["time"])
    assert gaps.max() - gaps.min() < 1.1 / 30


def test_variable_frame_rate_is_sampled_in_time_not_in_frames(tmp_path):
    steady = tmp_path / "steady.mp4"
    write_video(steady, moving_picture(90), 30)
    # One second with every frame, then two with every fifth.
    ffmpeg("-i", steady, "-vf", "select='lt(n,30)+not(mod(n,5))'", "-fps_mode", "vfr", tmp_path / "v.mp4")
    frames, index = extracted(tmp_path / "v.mp4", tmp_path / "f", target_frames=18)
    assert 6 <= sum(time < 1 for time in index["time"]) <= 7  # sampling frames would give 12
    expected = np.interp(index["time"], np.arange(90) / 30, np.linspace(20, 235, 90))
    np.testing.assert_allclose(bar_brightness(frames), expected, atol=5)


def test_decodes_only_what_it_keeps_and_never_seeks(video, tmp_path, monkeypatch):
    calls = []

    class Spy:
        def __init__(self, *arguments):
            self.capture = capture(*arguments)

        def __getattr__(self, name):
            calls.append(name)
            return getattr(self.capture, name)

    capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Spy)
    extracted(video, tmp_path / "f", target_frames=20)
    assert calls.count("grab") == 62  # the first one to see that it can be decoded, the last one finds the end
    assert calls.count("retrieve") == 20
    assert not {"set", "read"} & set(calls)


def test_start_and_end(video, tmp_path):
    _, index = extracted(video, tmp_path / "f", start=0.5, end=1.0)
    np.testing.assert_allclose(index["time"], np.arange(15, 30) / 30, atol=1e-3)


def test_centre_crop_never_squashes(tmp_path):
    tall = np.zeros((5, 128, 64, 3), "uint8")
    tall[..., 1] = 200  # green above and below ...
    tall[:, 48:80] = [200, 0, 0]  # ... the middle part that has the frame's proportions
    write_video(tmp_path / "tall.mp4", tall, 30)
    frames, _ = extracted(tmp_path / "tall.mp4", tmp_path / "f")
    np.testing.assert_allclose(frames[:, 2:-2].mean((0, 1, 2)), [200, 0, 0], atol=12)


def test_circle_stays_a_circle():
    picture = np.zeros((300, 500, 3), "uint8")
    cv2.circle(picture, (250, 150), 60, (255, 255, 255), -1)
    seen = crop_and_resize(picture, 160, 320)[..., 0] > 127
    assert abs(int(seen.any(0).sum()) - int(seen.any(1).sum())) <= 1


def test_crop_box(video, tmp_path):
    frames, _ = extracted(video, tmp_path / "f", crop=(64, 0, 64, 16))  # the blue corner, upper right
    np.testing.assert_allclose(frames.mean((0, 1, 2)), [0, 0, 200], atol=25)
    output = run("extract_frames.py", "--video", video, "--crop", 100, 0, 64, 64, cwd=tmp_path, expect=2)
    assert "outside" in output
    assert not (tmp_path / "data").exists()


def test_rotation_metadata_is_honoured(tmp_path, video):
    ffmpeg("-display_rotation", "90", "-i", video, "-c", "copy", tmp_path / "turned.mp4")
    frames, _ = extracted(tmp_path / "turned.mp4", tmp_path / "f", height=64, width=32)
    # The red left half lies below now.
    np.testing.assert_allclose(frames[:, 40:60, 3:6].mean((0, 1, 2)), [200, 0, 0], atol=15)


def test_folder_of_videos(tmp_path):
    (tmp_path / "videos").mkdir()
    for name, brightness in (("b.mp4", 180), ("a.mp4", 60)):
        write_video(tmp_path / "videos" / name, np.full((10, 32, 64, 3), brightness, "uint8"), 25)
    (tmp_path / "videos" / "notes.txt").write_text("not a video")
    frames, index = extracted(tmp_path / "videos", tmp_path / "f")
    assert index["video"] == [0] * 10 + [1] * 10
    assert index["time"][10] == 0
    np.testing.assert_allclose(frames.mean((1, 2, 3)), [60] * 10 + [180] * 10, atol=4)


def test_second_run_refuses_to_mix_and_says_how_to_go_on(video, tmp_path):
    arguments = ("extract_frames.py", "--video", video, "--height", 32, "--width", 64)
    run(*arguments, cwd=tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "data/frames").iterdir()}
    assert "already holds" in run(*arguments, cwd=tmp_path)
    output = run(*arguments, "--start", 1, cwd=tmp_path, expect=2)
    assert "delete" in output and "--frames" in output
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.jpg").write_text("precious")
    run(*arguments, "--frames", "mine", cwd=tmp_path, expect=2)
    assert {path: path.read_bytes() for path in (tmp_path / "data/frames").iterdir()} == before
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["holiday.jpg"]


def test_interrupted_extraction_goes_on_where_it_stopped(video, tmp_path):
    whole, index = extracted(video, tmp_path / "f")
    for path in list_frames(tmp_path / "f")[20:]:
        path.unlink()
    marker = list_frames(tmp_path / "f")[3]
    written = marker.stat().st_mtime_ns
    (tmp_path / "f/frames.json").write_text(json.dumps(index | {"complete": False, "time": [], "video": []}))
    again, index_again = extracted(video, tmp_path / "f")
    assert (again == whole).all() and index_again == index
    assert marker.stat().st_mtime_ns == written


def test_killed_at_any_moment_extraction_goes_on(video, tmp_path):
    ffmpeg("-stream_loop", "19", "-i", video, "-c", "copy", tmp_path / "long.mp4")
    arguments = ("extract_frames.py", "--video", "long.mp4", "--height", 64, "--width", 128)
    run(*arguments, "--frames", "whole", cwd=tmp_path)
    random, seen = np.random.default_rng(0), set()
    for _ in range(KILLS):
        process = start(*arguments, "--frames", "killed", cwd=tmp_path)
        time.sleep(random.uniform(0.3, 1.5))
        process.kill()
        process.communicate()
        for path in (tmp_path / "killed").glob("[!.]*.jpg"):
            assert read_frame(path).shape == (64, 128, 3)
            seen.add((path.name, path.stat().st_mtime_ns))
    run(*arguments, "--frames", "killed", cwd=tmp_path)
    whole, killed = (sorted((tmp_path / name).iterdir()) for name in ("whole", "killed"))
    assert [path.name for path in whole] == [path.name for path in killed]  # nothing half-written is left either
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(whole, killed, strict=True))
    assert seen and seen <= {(path.name, path.stat().st_mtime_ns) for path in killed}  # none written twice


@pytest.mark.parametrize(
    "name, options",
    {
        "hevc.mp4": ("-c:v", "libx265", "-x265-params", "log-level=error"),
        "hevc_10_bit.mkv": ("-c:v", "libx265", "-x265-params", "log-level=error", "-pix_fmt", "yuv420p10le"),
        "h264_10_bit.mp4": ("-c:v", "libx264", "-pix_fmt", "yuv420p10le"),
        "vp9.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime"),
        "av1.mp4": ("-c:v", "libaom-av1", "-cpu-used", "8"),
        "odd.mkv": ("-c:v", "libx264", "-pix_fmt", "yuv444p", "-vf", "scale=127:63"),
    }.items(),
)
def test_any_codec_depth_and_size_gives_its_frames(video, tmp_path, name, options):
    ffmpeg("-i", video, *options, tmp_path / name)
    frames, _ = extracted(tmp_path / name, tmp_path / "f", target_frames=10)
    assert len(frames) == 10
    np.testing.assert_allclose(bar_brightness(frames), np.linspace(20, 235, 60)[::6], atol=6)
    np.testing.assert_allclose(frames[:, 2:5, 4:24].mean((0, 1, 2)), [200, 0, 0], atol=16)


def test_a_still_picture_is_one_frame(video, tmp_path):
    ffmpeg("-i", video, "-frames:v", "1", tmp_path / "still.png")
    frames, index = extracted(tmp_path / "still.png", tmp_path / "f")
    assert len(frames) == 1 and index["time"] == [0]


@pytest.fixture
def broken(tmp_path, video):
    ffmpeg("-i", video, "-c", "copy", tmp_path / "index_last.mp4")  # as cameras write it
    content = (tmp_path / "index_last.mp4").read_bytes()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 100)
    (tmp_path / "truncated.mp4").write_bytes(content[: len(content) // 2])
    (tmp_path / "noise.mp4").write_bytes(content[:64] + np.random.default_rng(0).bytes(5000))
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "audio.mp4")
    return tmp_path


@pytest.mark.parametrize("name", ["empty.mp4", "text.mp4", "truncated.mp4", "noise.mp4", "audio.mp4"])
def test_broken_videos_are_told_and_leave_nothing(broken, name):
    output = run("extract_frames.py", "--video", name, cwd=broken, expect=1)
    assert name in output and len(output.strip().splitlines()) == 1
    assert not (broken / "data").exists()


def test_missing_video(tmp_path):
    assert "8192" in run("extract_frames.py", "--height", 8193, cwd=tmp_path, expect=2)
    assert "there is no video" in run("extract_frames.py", "--video", "none.mp4", cwd=tmp_path, expect=2)


def test_video_cut_short_gives_its_frames_and_says_so(video, tmp_path):
    ffmpeg("-stream_loop", "2", "-i", video, "-c:v", "libx264", "-g", "10", tmp_path / "whole.mkv")
    content = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    output = run("extract_frames.py", "--video", "cut.mkv", "--height", 32, "--width", 64, cwd=tmp_path)
    assert "cut short" in output
    assert 20 < len(list_frames(tmp_path / "data/frames")) < 175


def test_unwritable_folder(video, tmp_path):
    (tmp_path / "file").write_text("in the way")
    output = run("extract_frames.py", "--video", video, "--frames", "file/frames", cwd=tmp_path, expect=1)
    assert output.endswith("file/frames: Not a directory. Choose another path, or make this one usable.\n")


def test_full_disk_is_told_and_resumable(video, tmp_path):
    resource = pytest.importorskip("resource", reason="limits file sizes as only Unix can")
    arguments = ("extract_frames.py", "--video", video, "--height", 64, "--width", 128)

    def nearly_full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))

    output = run(*arguments, cwd=tmp_path, expect=1, preexec_fn=nearly_full)
    assert "too large" in output
    assert not [path for path in (tmp_path / "data/frames").glob("*.jpg") if path.stat().st_size == 700]
    run(*arguments, cwd=tmp_path)
    assert len(list_frames(tmp_path / "data/frames")) == 60


@pytest.fixture
def server(video):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=video.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_address_is_downloaded(server, tmp_path):
    output = run("extract_frames.py", "--video", f"{server}/walk.mp4", "--height", 32, "--width", 64, cwd=tmp_path)
    assert "60 frames" in output
    output = run("extract_frames.py", "--video", f"{server}/none.mp4", "--frames", "f", cwd=tmp_path, expect=1)
    assert "none.mp4" in output and "404" in output
    assert not (tmp_path / "f").exists()


def test_smallest_version_that_covers_a_frame_is_downloaded(server, video, tmp_path):
    folder = video.parent
    playlist = ["#EXTM3U"]
    for height in (384, 96, 192):  # as a site offers them: each a stream of its own
        stream = ["-vf", f"scale={2 * height}:{height}", "-c:v", "libx264", "-f", "hls", folder / f"{height}.m3u8"]
        ffmpeg("-i", video, *stream)
        playlist += [f"#EXT-X-STREAM-INF:BANDWIDTH={height * 1000},RESOLUTION={2 * height}x{height}", f"{height}.m3u8"]
    # Smaller and large enough, but OpenCV does not decode it.
    playlist += ['#EXT-X-STREAM-INF:BANDWIDTH=9,RESOLUTION=340x170,CODECS="av01.0.00M.08"', "none.m3u8"]
    (folder / "sizes.m3u8").write_text("\n".join(playlist) + "\n")
    run("extract_frames.py", "--video", f"{server}/sizes.m3u8", cwd=tmp_path)
    (downloaded,) = (tmp_path / "data/videos").iterdir()
    assert cv2.VideoCapture(str(downloaded)).get(cv2.CAP_PROP_FRAME_HEIGHT) == 192
    assert len(list_frames(tmp_path / "data/frames")) == 60


@pytest.mark.parametrize("stalls", [False, True])
def test_a_download_that_breaks_off_or_stalls_goes_on_where_it_stopped(video, tmp_path, monkeypatch, stalls):
    monkeypatch.setattr(extraction, "DOWNLOAD_TIMEOUT", 1)
    content, asked, over = video.read_bytes(), [], threading.Event()

    class BreaksOff(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
            asked.append(start)
            self.send_response(206 if start else 200)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Content-Type", "video/mp4")
            self.end_headers()
            self.wfile.write(content[start:][: len(content) // 2 + 1])
            if stalls and self.command == "GET" and not start:
                over.wait(60)

        def do_HEAD(self):
            self.do_GET()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), BreaksOff) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/walk.mp4"
        frames, _ = extracted(address, tmp_path / "data/frames")
        over.set()
        server.shutdown()
    (downloaded,) = (tmp_path / "data/videos").iterdir()
    assert downloaded.read_bytes() == content and max(asked) > 0 and len(frames) == 60


@pytest.mark.skipif(not REAL_VIDEOS.exists(), reason="the real videos lie beside the project only where it is made")
def test_real_video(tmp_path):
    run("extract_frames.py", "--video", REAL_VIDEOS / "nyc_walk.mp4", cwd=tmp_path)
    paths = list_frames(tmp_path / "data/frames")
    assert len(paths) == 336
    capture = cv2.VideoCapture(str(REAL_VIDEOS / "nyc_walk.mp4"))
    for path in paths[:40]:
        rows = capture.read()[1][20:340, :, ::-1]  # 640x360 to 2:1
        expected = cv2.resize(rows, (320, 160), interpolation=cv2.INTER_AREA)
        assert np.abs(read_frame(path).astype(int) - expected).mean() < 4


def test_drawn_walk_is_deterministic_and_walks_forward():
    height, width = synthetic_walk.HEIGHT, synthetic_walk.WIDTH
    y, x = np.mgrid[:height, :width].astype("float32")
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    for number in (0, 200, 450, 700, 895):
        first, second = (synthetic_walk.render_frame(number + ahead) for ahead in (0, 3))
        assert first.dtype == np.uint8 and first.shape == (height, width, 3)
        assert first.std() > 30
        assert (synthetic_walk.render_frame(number) == first).all()
        moved = flow.calc(cv2.cvtColor(first, cv2.COLOR_RGB2GRAY), cv2.cvtColor(second, cv2.COLOR_RGB2GRAY), None)
        radial = (moved[..., 0] * (x - width / 2) + moved[..., 1] * (y - height / 2)) / np.hypot(width, height)
        assert radial.mean() > 0


def test_drawn_walk_becomes_a_video(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_walk, "SECONDS", 1)
    monkeypatch.chdir(tmp_path)
    frames, _ = extracted("built-in walk", tmp_path / "data/frames")
    assert len(frames) == 30
    expected = crop_and_resize(synthetic_walk.render_frame(17), 32, 64).astype(int)
    assert np.abs(frames[17] - expected).mean() < 6


def test_help_is_quick_and_names_every_setting():
    command = [sys.executable, REPO / "extract_frames.py", "--help"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    for name in ("--video", "--frames", "--target-frames", "--height", "--width", "--start", "--end", "--crop"):
        assert name in output
