"""Videos as cameras, discs and downloads make them: pictures, order, shape, colour and time by content."""

import os
import shutil

import numpy as np
import pytest
from conftest import FFMPEG, extracted, ffmpeg, moving_frames, run

from walkgan.dataset import list_frames, read_timeline
from walkgan.errors import InputError
from walkgan.video import Clock, Video
from walkgan.video_writer import write_video


def decode(path, lost=0):
    """The frames of a video as one array, their seconds, and which of them begin a scene."""
    video = Video(path)
    found = [(index, video.to_rgb(frame)) for index, frame in video.frames(video.in_part)]
    assert 0 <= len(video.times) - len(found) <= lost
    indices, frames = zip(*found, strict=True)
    scenes = np.flatnonzero(video.new_scenes[list(indices)]).tolist()
    return np.stack(frames), video.times[list(indices)], scenes


def brightness(frames):
    """The grey bar of moving_frames, which brightens with time."""
    height, width = frames.shape[1:3]
    return frames[:, height // 2 - 4 : height // 2 + 4, width // 4 : -width // 4].mean((1, 2, 3))


EXPECTED = np.linspace(20, 235, 60)
INTERLACED = ("-vf", "format=yuv420p,tinterlace=interleave_top,fieldorder=tff", "-flags", "+ilme+ildct")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("avchd.mts", ("-c:v", "libx264", "-x264opts", "tff=1")),
        ("broadcast.mpg", ("-c:v", "mpeg2video", "-q:v", "2")),
        ("disc.vob", ("-c:v", "mpeg2video", "-q:v", "2", "-f", "vob")),
        ("tape.mkv", ("-c:v", "ffv1")),
        ("studio.mov", ("-c:v", "prores_ks")),
    ],
)
def test_interlaced_videos_are_deinterlaced(tmp_path, name, options):
    frames = np.zeros((60, 64, 128, 3), "uint8")
    for index in range(60):
        frames[index, :, index : index + 40] = 200  # a bar that moves by a pixel per field
    write_video(tmp_path / "fields.mp4", frames, 50)
    ffmpeg("-i", tmp_path / "fields.mp4", *INTERLACED, *options, "-field_order", "tt", tmp_path / name)
    seen, times, _ = decode(tmp_path / name)
    assert len(seen) == 30
    np.testing.assert_allclose(np.diff(times), 1 / 25, atol=2e-3)
    edges = np.abs(np.diff(seen[5:25].astype(int).mean(-1), axis=1))[:, 8:-8]  # between rows: combs, if there are any
    assert edges.max(axis=(1, 2)).mean() < 100 and edges.mean() < 4
    centre = [np.flatnonzero(frame[32, :, 0] > 100).mean() for frame in seen[5:25]]
    np.testing.assert_allclose(np.diff(centre), 2, atol=1)


def test_an_interlaced_stretch_is_decoded_too(tmp_path):
    progressive, interlaced = tmp_path / "p.ts", tmp_path / "i.ts"
    write_video(tmp_path / "walk.mp4", moving_frames(60), 50)
    ffmpeg("-i", tmp_path / "walk.mp4", "-c:v", "mpeg2video", "-q:v", "2", "-r", "50", progressive)
    ffmpeg("-i", tmp_path / "walk.mp4", *INTERLACED, "-c:v", "mpeg2video", "-q:v", "2", interlaced)
    (tmp_path / "both.ts").write_bytes(progressive.read_bytes() + interlaced.read_bytes())
    frames, times, scenes = decode(tmp_path / "both.ts", lost=1)
    assert 85 <= len(frames) <= 90 and (np.diff(times) > 0).all() and len(scenes) == 2
    changes = np.abs(np.diff(brightness(frames)))
    assert (changes[changes < 100] > 1).mean() > 0.95  # no frame is repeated


@pytest.mark.parametrize("name", ["raw.h264", "raw.m4v", "raw.m2v"])
def test_streams_without_timestamps_have_the_times_of_their_frame_rate(video, tmp_path, name):
    codec = {"raw.h264": "libx264", "raw.m4v": "mpeg4", "raw.m2v": "mpeg2video"}[name]
    ffmpeg("-i", video, "-c:v", codec, "-bf", "0", "-q:v", "2", tmp_path / name)
    frames, index = extracted(tmp_path / name, tmp_path / "f", target_frames=20)
    assert len(frames) == 20
    np.testing.assert_allclose(index["time"], np.arange(20) / 10, atol=1e-2)
    np.testing.assert_allclose(brightness(frames), EXPECTED[::3], atol=8)
    timeline = read_timeline(list_frames(tmp_path / "f"))
    assert timeline.frame_interval > 0


def test_joined_files_are_scenes_whose_time_goes_on(video, tmp_path):
    ffmpeg("-i", video, "-c", "copy", tmp_path / "a.ts")
    (tmp_path / "two.ts").write_bytes(2 * (tmp_path / "a.ts").read_bytes())
    frames, times, scenes = decode(tmp_path / "two.ts")
    assert scenes == [0, 60]
    np.testing.assert_allclose(times, np.arange(120) / 30, atol=2e-3)
    np.testing.assert_allclose(brightness(frames), np.tile(EXPECTED, 2), atol=4)
    sampled, index = extracted(tmp_path / "two.ts", tmp_path / "f", target_frames=40)
    assert len(sampled) == 40 and index["scene"] == [0] * 20 + [1] * 20
    assert read_timeline(list_frames(tmp_path / "f")).scene_ends.tolist() == [20] * 20 + [40] * 20


@pytest.mark.parametrize(
    "name", ["b_frames.avi", "late.mkv", "longer_sound.mkv", "hls/list.m3u8", "walk.gif", "walk.flv"]
)
def test_lengths_and_times_are_those_of_the_frames(video, tmp_path, name):
    (tmp_path / "hls").mkdir()
    options = {
        "b_frames.avi": ("-i", video, "-c:v", "mpeg4", "-bf", "2", "-q:v", "2"),
        "late.mkv": (
            "-itsoffset", "5", "-i", video, "-f", "lavfi", "-i", "sine=d=9", "-map", "0:v", "-map", "1:a",
            "-c:v", "copy",
        ),
        "longer_sound.mkv": ("-i", video, "-f", "lavfi", "-i", "sine=d=20", "-c:v", "copy"),
        "hls/list.m3u8": ("-i", video, "-c", "copy", "-hls_time", "0.5"),
        "walk.gif": ("-i", video),
        "walk.flv": ("-i", video, "-c:v", "flv1", "-q:v", "2"),
    }[name]  # fmt: skip
    ffmpeg(*options, tmp_path / name)
    output = run("extract_frames.py", "--video", name, "--target-frames", 20, cwd=tmp_path)
    assert "damaged" not in output and "20 160x320 frames" in output
    frames, times, scenes = decode(tmp_path / name)
    assert len(frames) == 60 and scenes == [0] and times[0] == 0
    np.testing.assert_allclose(times, np.arange(60) / 30, atol=0.02)
    np.testing.assert_allclose(brightness(frames), EXPECTED, atol=10)


@pytest.mark.parametrize("rotation", [0, 90])
def test_pixels_that_are_not_square_become_so(tmp_path, rotation):
    ffmpeg(
        "-f", "lavfi", "-i", "color=black:s=1024x576:d=0.4",
        "-vf", "geq=lum='if(lt(hypot(X-512,Y-288),200),255,0)':cb=128:cr=128,scale=720:576,setsar=64/45",
        tmp_path / "a.mp4",
    )  # fmt: skip
    ffmpeg("-display_rotation", rotation, "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "disc.mp4")
    assert Video(tmp_path / "disc.mp4").size == ((1024, 576) if rotation == 0 else (576, 1024))
    circle = decode(tmp_path / "disc.mp4")[0][0, ..., 0] > 127
    assert abs(int(circle.any(0).sum()) - int(circle.any(1).sum())) <= 2
    frames, _ = extracted(tmp_path / "disc.mp4", tmp_path / "f", height=64, width=128)
    circle = frames[0, ..., 0] > 127
    if rotation == 0:
        assert abs(int(circle.any(0).sum()) - int(circle.any(1).sum())) <= 1


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_rotated_videos_are_upright(video, tmp_path, angle):
    ffmpeg("-display_rotation", angle, "-i", video, "-c", "copy", tmp_path / "phone.mp4")
    frame, expected = decode(tmp_path / "phone.mp4")[0][30], np.rot90(decode(video)[0][30], angle // 90)
    np.testing.assert_allclose(frame, expected, atol=2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bt709.mp4", ("-vf", "scale=out_color_matrix=bt709,format=yuv420p", "-colorspace", "bt709")),
        ("bt601.mp4", ("-vf", "scale=out_color_matrix=bt601,format=yuv420p", "-colorspace", "smpte170m")),
        ("full.mp4", ("-vf", "scale=out_range=full:out_color_matrix=bt709,format=yuvj420p", "-color_range", "pc",
                      "-colorspace", "bt709")),
        ("deep.mkv", ("-vf", "scale=out_color_matrix=bt709,format=yuv444p10le", "-colorspace", "bt709")),
    ],
)  # fmt: skip
def test_colours_are_right(tmp_path, name, options):
    colours = np.array(
        [[200, 30, 30], [30, 180, 40], [40, 50, 210], [240, 240, 240], [10, 10, 10], [128, 100, 60]], "uint8"
    )
    picture = np.repeat(colours[None].repeat(64, 0), 32, axis=1)
    (tmp_path / "raw").write_bytes(np.stack([picture] * 5).tobytes())
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{picture.shape[1]}x64", "-r", "25", "-i", tmp_path / "raw")
    ffmpeg(*raw, *options, "-c:v", "libx264", "-crf", "5", tmp_path / name)
    middles = decode(tmp_path / name)[0][2, 32, 16::32].astype(int)
    np.testing.assert_allclose(middles, colours, atol=4)


@pytest.mark.parametrize(("transfer", "off"), [("smpte2084", 20), ("arib-std-b67", 40)])
def test_hdr_becomes_sdr(tmp_path, transfer, off):
    colours = np.array([[200, 30, 30], [30, 180, 40], [40, 50, 210], [235, 235, 235], [16, 16, 16], [128, 128, 128]])
    picture = np.repeat(colours[None].repeat(64, 0), 32, axis=1).astype("uint8")
    (tmp_path / "raw").write_bytes(np.stack([picture] * 5).tobytes())
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{picture.shape[1]}x64", "-r", "25", "-i", tmp_path / "raw")
    sdr = "format=gbrp,setparams=color_primaries=bt709:color_trc=bt709:colorspace=gbr:range=pc"
    hdr = f"zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt2020:t={transfer}:m=bt2020nc:r=tv:npl=203"
    tags = ("-color_primaries", "bt2020", "-color_trc", transfer, "-colorspace", "bt2020nc")
    encode = ("-c:v", "libx265", "-x265-params", "log-level=error:crf=5")
    ffmpeg(*raw, "-vf", f"{sdr},{hdr},format=yuv420p10le", *encode, *tags, tmp_path / "hdr.mkv")
    seen = decode(tmp_path / "hdr.mkv")[0][2, 32, 16::32].astype(int)
    np.testing.assert_allclose(seen, colours, atol=off)
    np.testing.assert_allclose(seen[3:], colours[3:], atol=8)  # greys


def test_frames_are_sampled_evenly_over_a_folder(tmp_path):
    (tmp_path / "clips").mkdir()
    for index in range(12):
        write_video(tmp_path / f"clips/clip_{index}.mp4", np.full((6, 32, 64, 3), 20 * index, "uint8"), 30)
    frames, index = extracted(tmp_path / "clips", tmp_path / "f", target_frames=6)
    assert index["video"] == [0, 2, 4, 6, 8, 10]  # clip_10 after clip_9
    np.testing.assert_allclose(frames.mean((1, 2, 3)), [0, 40, 80, 120, 160, 200], atol=4)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_that_are_not_utf8(video, tmp_path):
    folder = os.fsencode(tmp_path) + b"/clips"
    os.mkdir(folder)
    shutil.copy(video, folder + b"/caf\xe9.mp4")
    output = run("extract_frames.py", "--video", "clips", "--target-frames", 10, cwd=tmp_path, env={"LC_ALL": "C"})
    assert "10 160x320 frames" in output


def test_a_cover_image_is_not_the_video(video, tmp_path):
    ffmpeg("-i", video, "-frames:v", "1", "-vf", "scale=600:600,negate", tmp_path / "cover.png")
    ffmpeg(
        "-i", tmp_path / "cover.png", "-i", video, "-map", "0", "-map", "1", "-c", "copy",
        "-disposition:v:0", "attached_pic", tmp_path / "covered.mp4",
    )  # fmt: skip
    frames, _, _ = decode(tmp_path / "covered.mp4")
    np.testing.assert_allclose(brightness(frames), EXPECTED, atol=4)


def test_damage_costs_the_damaged_frames_only(video, tmp_path):
    ffmpeg("-stream_loop", "2", "-i", video, "-c:v", "libx264", "-g", "10", "-bf", "0", tmp_path / "a.ts")
    content = bytearray((tmp_path / "a.ts").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 600] = np.random.default_rng(0).bytes(600)
    (tmp_path / "damaged.ts").write_bytes(content)
    frames, index = extracted(tmp_path / "damaged.ts", tmp_path / "f")
    assert 150 <= len(frames) <= 180 and (np.diff(index["time"]) > 0).all()
    assert (np.abs(brightness(frames)[:60] - EXPECTED) < 6).mean() > 0.9


def test_the_clock_only_goes_forward():
    clock = Clock(0.1)
    stamps = [5.0, 5.1, None, 5.3, 5.2, 0.0, 0.1, 90.0, 90.1, 90.1, 92.1]
    times, new_scenes = zip(*map(clock.tick, stamps), strict=True)
    np.testing.assert_allclose(times, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 2.9], atol=1e-9)
    assert np.flatnonzero(new_scenes).tolist() == [0, 4, 5, 7, 9, 10]


def test_a_file_without_a_frame_is_reported(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "sound.mp4")
    with pytest.raises(InputError, match="no video stream"):
        Video(tmp_path / "sound.mp4")


def test_written_videos_say_their_colours(tmp_path):
    import subprocess

    colours = np.array([[200, 30, 30], [30, 180, 40], [40, 50, 210], [240, 240, 240]], "uint8")
    write_video(tmp_path / "a.mp4", [np.repeat(colours[None].repeat(64, 0), 32, axis=1)] * 5, 29.97)
    info = subprocess.run([FFMPEG, "-i", tmp_path / "a.mp4"], capture_output=True, text=True).stderr
    assert "yuv420p(tv, bt709" in info and "29.97 fps" in info
    np.testing.assert_allclose(decode(tmp_path / "a.mp4")[0][2, 32, 16::32].astype(int), colours, atol=5)
