"""Download a video from a URL, for as long as it takes."""

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path

import yt_dlp

from walkgan.errors import InputError

DOWNLOAD_TIMEOUT = 30  # seconds without a byte, after which a download is restarted where it stopped


def download(url, folder, height, width):
    """Download the smallest version of a video that covers height x width and return its path.

    A file is used again for the same URL and frame size only, and so is the part of one that arrived. Raises
    InputError where there is no single video, or it cannot be downloaded.
    """
    covering = f"[height>=?{height}][width>=?{width}]"
    name = hashlib.sha256(f"{url} {height}x{width}".encode()).hexdigest()[:16]
    options = {
        "format": f"bestvideo{covering}/best{covering}/bestvideo/best",
        "format_sort": ["+hdr", "+res"],  # no HDR where there is a choice, and the smallest
        "outtmpl": f"%(title).80B-{name}.%(ext)s",
        "noplaylist": True,  # of a video in a playlist, the video
        "extract_flat": "in_playlist",
        "fixup": "never",  # it is read as it is
        "socket_timeout": DOWNLOAD_TIMEOUT,
        "retries": 10,  # each continues where the one before stopped
        "fragment_retries": 10,
        "quiet": True,
        "noprogress": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with working_directory(folder), yt_dlp.YoutubeDL(options) as downloader:
            info = downloader.extract_info(url, download=False)
            if "entries" in info:
                raise InputError(f"{url} is a list of videos: give the URL of one, or a folder of downloaded videos.")
            info = downloader.process_ie_result(info, download=True)
            return folder / Path(info["requested_downloads"][0]["filepath"]).name
    except (yt_dlp.utils.YoutubeDLError, KeyError) as error:
        raise InputError(f"{url} could not be downloaded (the part that arrived is kept): {error}") from None


@contextmanager
def working_directory(folder):
    """While active, relative paths are in this folder, whose name yt-dlp would otherwise expand if it has a % or $."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
