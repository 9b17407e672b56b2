"""Downloads: the smallest version that is large enough, continued after interruptions."""

import functools
import http.server
import shutil
import threading

import cv2
import numpy as np
import pytest
from conftest import extracted, ffmpeg, run

from walkgan import download
from walkgan.dataset import list_frames
from walkgan.video_writer import write_video


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


def test_a_url_is_downloaded(server, tmp_path):
    output = run("extract_frames.py", "--video", f"{server}/walk.mp4", "--height", 32, "--width", 64, cwd=tmp_path)
    assert "60 32x64 frames" in output
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
    (folder / "sizes.m3u8").write_text("\n".join(playlist) + "\n")
    run("extract_frames.py", "--video", f"{server}/sizes.m3u8", cwd=tmp_path)
    (downloaded,) = (tmp_path / "data/videos").iterdir()
    assert cv2.VideoCapture(str(downloaded)).get(cv2.CAP_PROP_FRAME_HEIGHT) == 192
    assert len(list_frames(tmp_path / "data/frames")) == 60


@pytest.mark.slow
@pytest.mark.parametrize("stalls", [False, True])
def test_a_broken_or_stalled_download_continues(video, tmp_path, monkeypatch, stalls):
    monkeypatch.setattr(download, "DOWNLOAD_TIMEOUT", 1)
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


def test_files_of_the_same_name_are_told_apart_by_their_url(server, video, tmp_path):
    for index, name in enumerate("ab"):
        (video.parent / name).mkdir(exist_ok=True)
        write_video(video.parent / name / "video.mp4", np.full((5, 64, 128, 3), 60 + 100 * index, "uint8"), 30)
        frames, _ = extracted(f"{server}/{name}/video.mp4", tmp_path / f"data/{name}")
        np.testing.assert_allclose(frames.mean(), 60 + 100 * index, atol=4)
    assert len(list((tmp_path / "data/videos").iterdir())) == 2
    extracted(f"{server}/b/video.mp4", tmp_path / "data/larger", height=48, width=96)  # of another size, so asked again
    assert len(list((tmp_path / "data/videos").iterdir())) == 3


def test_a_list_of_videos_is_rejected_before_anything_is_downloaded(server, video, tmp_path):
    items = "".join(
        f"<item><title>{n}</title><enclosure url='{server}/{n}.mp4' type='video/mp4'/></item>" for n in "ab"
    )
    (video.parent / "feed.xml").write_text(f"<rss version='2.0'><channel><title>walks</title>{items}</channel></rss>")
    output = run("extract_frames.py", "--video", f"{server}/feed.xml", cwd=tmp_path, expect=1)
    assert "list of videos" in output
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_folders_with_a_percent_or_a_dollar(server, tmp_path):
    odd = tmp_path / "50%(title)s $HOME ~"
    frames, _ = extracted(f"{server}/walk.mp4", odd / "frames")
    assert len(frames) == 60 and len(list((odd / "videos").iterdir())) == 1


def test_finished_extractions_need_no_network(server, tmp_path):
    url = f"{server}/walk.mp4"
    extracted(url, tmp_path / "frames")
    shutil.rmtree(tmp_path / "videos")
    frames, _ = extracted(url, tmp_path / "frames")
    assert len(frames) == 60 and not (tmp_path / "videos").exists()
