"""Which frames of odd files are taken, and their times and scenes: cut, joined, uneven and mirrored ones."""

import numpy as np
import pytest
from conftest import decode_all, extracted, ffmpeg, moving_frames, run

from walkgan.video import Video
from walkgan.video_writer import write_video


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libxvid"])
def test_b_frames_in_avi(video, tmp_path, codec):
    ffmpeg("-i", video, "-c:v", codec, "-bf", "2", "-q:v", "2", tmp_path / "b.avi")
    frames, index = extracted(tmp_path / "b.avi", tmp_path / "f", target_frames=20)
    assert len(frames) == 20 and set(index["scene"]) == {0} and (np.diff(index["time"]) > 0).all()
    assert len(decode_all(tmp_path / "b.avi")) >= 58


def test_b_frames_seconds_apart(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=128x64:rate=1:duration=12", "-c:v", "libx264", tmp_path / "slow.mp4")
    frames, index = extracted(tmp_path / "slow.mp4", tmp_path / "f")
    assert len(frames) == 12 and index["time"] == list(range(12)) and set(index["scene"]) == {0}


def test_every_second_frame_of_times_in_milliseconds(tmp_path):
    write_video(tmp_path / "whole.mp4", moving_frames(120), 30)
    ffmpeg("-i", tmp_path / "whole.mp4", "-c", "copy", tmp_path / "rounded.mkv")
    _, index = extracted(tmp_path / "rounded.mkv", tmp_path / "f", target_frames=60)
    assert np.diff(index["time"]).max() < 0.07  # and not three frames now and then


def test_every_clip_of_a_folder_is_a_scene_whatever_its_start(video, tmp_path):
    (tmp_path / "clips").mkdir()
    for name in ("1.mp4", "2.mp4"):
        (tmp_path / "clips" / name).write_bytes(video.read_bytes())
    _, index = extracted(tmp_path / "clips", tmp_path / "f", start=1.0)
    assert len(index["time"]) == 60
    scenes = np.array(index["scene"])
    assert (scenes[:30] == scenes[0]).all() and (scenes[30:] == scenes[30]).all() and scenes[0] != scenes[30]


@pytest.mark.parametrize("key_frame_distance", [100, 25])  # with the only key frame before the cut, and one after it
def test_a_cut_without_encoding_again(video, tmp_path, key_frame_distance):
    options = ("-c:v", "libx264", "-g", key_frame_distance, "-sc_threshold", 0, "-bf", 2)
    ffmpeg("-i", video, *options, tmp_path / "whole.mp4")
    ffmpeg("-ss", "1", "-i", tmp_path / "whole.mp4", "-c", "copy", tmp_path / "cut.mp4")
    output = run("extract_frames.py", "--video", "cut.mp4", "--target-frames", 20, cwd=tmp_path)
    assert "20 160x320 frames" in output and "damaged" not in output


def test_a_stream_that_begins_between_key_frames(video, tmp_path):
    ffmpeg("-stream_loop", "1", "-i", video, "-c:v", "libx264", "-g", "25", "-bf", "2", tmp_path / "a.ts")
    content = (tmp_path / "a.ts").read_bytes()
    (tmp_path / "tail.ts").write_bytes(content[len(content) // 5 // 188 * 188 :])
    frames, _ = extracted(tmp_path / "tail.ts", tmp_path / "f", target_frames=20)
    assert len(frames) == 20


def test_uneven_clips_give_as_many_frames_as_asked_for(tmp_path):
    (tmp_path / "clips").mkdir()
    for index, (count, rate) in enumerate([(20, 10), (120, 60), (1, 1), (1, 1), (30, 30)]):
        write_video(tmp_path / f"clips/{index}.mp4", moving_frames(count), rate)
    for target in (5, 20, 55, 100, 171):
        frames, index = extracted(tmp_path / "clips", tmp_path / f"f{target}", target_frames=target)
        assert len(frames) == target
        order = list(zip(index["video"], index["time"], strict=True))
        assert order == sorted(set(order))


@pytest.mark.parametrize(
    ("option", "change"),
    [("-display_hflip", lambda frame: frame[:, ::-1]), ("-display_vflip", lambda frame: frame[::-1])],
)
def test_mirrored_videos(tmp_path, option, change):
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc=s=128x64:r=25:d=0.4", "-c:v", "libx264", "-pix_fmt", "yuv420p", tmp_path / "a.mp4"
    )
    ffmpeg(option, "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "mirrored.mp4")
    np.testing.assert_allclose(decode_all(tmp_path / "mirrored.mp4")[3], change(decode_all(tmp_path / "a.mp4")[3]))


def test_the_main_stream_is_taken(video, tmp_path):
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=64x48:r=5:d=2", "-i", video, "-map", "0", "-map", "1", "-c:v", "libx264",
        "-pix_fmt", "yuv420p", "-disposition:v:0", "0", "-disposition:v:1", "default", tmp_path / "two.mkv",
    )  # fmt: skip
    assert Video(tmp_path / "two.mkv").size == (128, 64)
    ffmpeg("-i", video, "-frames:v", "1", "-vf", "scale=600:600", tmp_path / "cover.png")
    ffmpeg("-i", tmp_path / "cover.png", "-i", video, "-map", "0", "-map", "1", "-c", "copy", tmp_path / "cover.mkv")
    assert Video(tmp_path / "cover.mkv").size == (128, 64)


@pytest.mark.parametrize("matrix", ["ycgco", "bt2020c"])
def test_rare_colour_matrices_are_converted_as_usual_ones(tmp_path, matrix):
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=128x64:r=25:d=0.4", "-vf", f"format=yuv420p,setparams=colorspace={matrix}",
        "-c:v", "libx264", tmp_path / "a.mp4",
    )  # fmt: skip
    assert decode_all(tmp_path / "a.mp4").std() > 20


def test_a_change_of_size_keeps_the_crop_in_place(tmp_path):
    for index, size in enumerate(("640x360", "320x180")):
        source = ("-f", "lavfi", "-i", f"testsrc=s={size}:r=25:d=1", "-pix_fmt", "yuv420p")
        ffmpeg(*source, "-c:v", "mpeg2video", "-q:v", "2", tmp_path / f"{index}.ts")
    (tmp_path / "both.ts").write_bytes((tmp_path / "0.ts").read_bytes() + (tmp_path / "1.ts").read_bytes())
    frames, index = extracted(tmp_path / "both.ts", tmp_path / "f", crop=(400, 180, 200, 100))
    assert len(frames) >= 48 and len(set(index["scene"])) == 2
    assert np.abs(frames[5].astype(int) - frames[-20]).mean() < 12


@pytest.mark.parametrize(
    "options",
    [
        ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=0.1:d=30", "-pix_fmt", "yuv420p", "slow.mp4"),
        ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=0.5:d=10", "slow.gif"),
    ],
)
def test_slow_videos_are_not_called_damaged(tmp_path, options):
    ffmpeg(*options[:-1], tmp_path / options[-1])
    output = run("extract_frames.py", "--video", options[-1], "--height", 16, "--width", 32, cwd=tmp_path)
    assert "damaged" not in output
    video = Video(tmp_path / options[-1])
    assert video.times[-1] > 7  # as long as a player takes


def test_a_start_behind_the_last_frame(video, tmp_path):
    output = run("extract_frames.py", "--video", video, "--start", 1.98, cwd=tmp_path, expect=2)
    assert "leaves nothing of it" in output
