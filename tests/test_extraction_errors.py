"""Extraction of broken videos, into full disks and used folders, and after interruptions."""

import json
import shutil
import time

import numpy as np
import pytest
from conftest import KILLS, extracted, ffmpeg, moving_frames, run, start

from walkgan.dataset import list_frames
from walkgan.errors import InputError, SettingError
from walkgan.files import folder_lock
from walkgan.images import read_frame
from walkgan.video_writer import write_video


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
def test_broken_videos_are_reported_and_leave_nothing(broken, name):
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
    assert "truncated" in output
    assert 20 < len(list_frames(tmp_path / "data/frames")) < 175


def test_unwritable_folder(video, tmp_path):
    (tmp_path / "file").write_text("in the way")
    output = run("extract_frames.py", "--video", video, "--frames", "file/frames", cwd=tmp_path, expect=1)
    assert output.endswith("file/frames: Not a directory. Choose another path, or make this one usable.\n")


def test_full_disk_is_reported_and_resumable(video, tmp_path):
    resource = pytest.importorskip("resource", reason="limits file sizes as only Unix can")
    arguments = ("extract_frames.py", "--video", video, "--height", 64, "--width", 128)

    def nearly_full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))

    output = run(*arguments, cwd=tmp_path, expect=1, preexec_fn=nearly_full)
    assert "too large" in output
    assert not [path for path in (tmp_path / "data/frames").glob("*.jpg") if path.stat().st_size == 700]
    run(*arguments, cwd=tmp_path)
    assert len(list_frames(tmp_path / "data/frames")) == 60


def test_second_extraction_is_not_mixed_with_the_first(video, tmp_path):
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


def test_interrupted_extraction_resumes_where_it_stopped(video, tmp_path):
    whole, index = extracted(video, tmp_path / "f")
    for path in list_frames(tmp_path / "f")[20:]:
        path.unlink()
    marker = list_frames(tmp_path / "f")[3]
    written = marker.stat().st_mtime_ns
    (tmp_path / "f/frames.json").write_text(json.dumps(index | {"complete": False, "time": [], "video": []}))
    again, index_again = extracted(video, tmp_path / "f")
    assert (again == whole).all() and index_again == index
    assert marker.stat().st_mtime_ns == written


@pytest.mark.slow
def test_killed_at_any_moment_extraction_resumes(video, tmp_path):
    ffmpeg("-stream_loop", "19", "-i", video, "-c", "copy", tmp_path / "long.mp4")
    arguments = ("extract_frames.py", "--video", "long.mp4", "--height", 64, "--width", 128)
    run(*arguments, "--frames", "whole", cwd=tmp_path)
    rng, seen = np.random.default_rng(0), set()
    for number in range(KILLS):
        process = start(*arguments, "--frames", "killed", cwd=tmp_path)
        while number and process.poll() is None and not list((tmp_path / "killed").glob("*.jpg")):
            time.sleep(0.01)  # the first kill may come before any frame
        time.sleep(rng.uniform(0, 1))
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


def test_files_of_the_operating_system_do_not_count(video, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / name).touch()
    assert len(extracted(video, folder)[0]) == 60
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").touch()
    with pytest.raises(SettingError, match="did not write"):
        extracted(video, tmp_path / "other")


def test_two_extractions_never_share_a_folder(video, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    with folder_lock(folder, "written"), pytest.raises(SettingError, match="another process"):
        extracted(video, folder)
    assert len(extracted(video, folder)[0]) == 60


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": {}}'])
def test_a_damaged_index_is_reported(video, tmp_path, content):
    extracted(video, tmp_path / "frames")
    (tmp_path / "frames/frames.json").write_text(content)
    with pytest.raises(InputError, match=r"frames\.json is damaged"):
        extracted(video, tmp_path / "frames")


def test_what_was_extracted_is_compared_when_it_is_repeated(video, tmp_path):
    source = tmp_path / "walk.mp4"
    shutil.copy(video, source)
    extracted(source, tmp_path / "f")
    write_video(source, moving_frames(40), 30)
    output = run(
        "extract_frames.py", "--video", source, "--height", 32, "--width", 64, "--frames", "f", cwd=tmp_path, expect=2
    )
    assert "has changed" in output


def test_missing_and_damaged_frames_are_written_again(video, tmp_path):
    whole, _ = extracted(video, tmp_path / "f")
    paths = list_frames(tmp_path / "f")
    paths[3].unlink()
    paths[7].write_bytes(b"damaged")
    kept = paths[5].stat().st_mtime_ns
    again, index = extracted(video, tmp_path / "f")
    assert (again == whole).all() and index["complete"] and paths[5].stat().st_mtime_ns == kept
