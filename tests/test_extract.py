"""extract_frames.py: order, colour, crop and time by content; videos that are none; nothing mixed, nothing lost."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import REAL_VIDEOS, REPO, extracted, ffmpeg, moving_frames, run

from walkgan.dataset import list_frames
from walkgan.images import crop_and_resize, read_frame
from walkgan.video import Video
from walkgan.video_writer import write_video


def bar_brightness(frames):
    height, width = frames.shape[1:3]
    return frames[:, height // 2 - 4 : height // 2 + 4, width // 4 : -width // 4].mean((1, 2, 3))


def test_script_writes_frames_in_video_order_with_true_colours(video, tmp_path):
    output = run("extract_frames.py", "--video", video, "--height", 32, "--width", 64, cwd=tmp_path)
    assert "60 32x64 frames" in output
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
    write_video(steady, moving_frames(90), 30)
    # One second with every frame, then two with every fifth.
    ffmpeg("-i", steady, "-vf", "select='lt(n,30)+not(mod(n,5))'", "-fps_mode", "vfr", tmp_path / "v.mp4")
    frames, index = extracted(tmp_path / "v.mp4", tmp_path / "f", target_frames=18)
    assert 6 <= sum(time < 1 for time in index["time"]) <= 7  # sampling frames would give 12
    expected = np.interp(index["time"], np.arange(90) / 30, np.linspace(20, 235, 90))
    np.testing.assert_allclose(bar_brightness(frames), expected, atol=5)


def test_converts_only_what_it_keeps(video, tmp_path, monkeypatch):
    converted, convert = [], Video.to_rgb
    monkeypatch.setattr(Video, "to_rgb", lambda *arguments: converted.append(1) or convert(*arguments))
    extracted(video, tmp_path / "f", target_frames=20)
    assert len(converted) == 20 + 1  # and the first, for its size


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
    url = ("--video", "https://localhost/walk.mp4")  # whose size is known after the download only
    assert "in pixels of a file" in run("extract_frames.py", *url, "--crop", 0, 0, 8, 8, cwd=tmp_path, expect=2)
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


def test_a_still_image_is_one_frame(video, tmp_path):
    ffmpeg("-i", video, "-frames:v", "1", tmp_path / "still.png")
    frames, index = extracted(tmp_path / "still.png", tmp_path / "f")
    assert len(frames) == 1 and index["time"] == [0]


@pytest.mark.slow
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


def test_help_is_quick_and_names_every_setting():
    command = [sys.executable, REPO / "extract_frames.py", "--help"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    for name in ("--video", "--frames", "--target-frames", "--height", "--width", "--start", "--end", "--crop"):
        assert name in output
