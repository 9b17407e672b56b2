"""Files that are never half-written, and folders that one process uses at a time."""

import os
import re
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from walkgan.errors import InputError, SettingError


@contextmanager
def atomic_write(path):
    """Yield a path to write to, and move it over `path` once the block has ended well.

    A kill at any moment leaves the previous file intact. The suffix is kept, since writers choose a format by it.
    Raises InputError, naming `path`, where it cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        with open(partial, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def natural_order(paths):
    """Return paths in the order of their names, numbers in the order of numbers: frame_2 before frame_10."""

    def key(path):
        parts = re.split(r"(\d+)", path.name)  # text and numbers in turn
        return [(int(part), part) if index % 2 else (0, part) for index, part in enumerate(parts)]

    return sorted(paths, key=key)


@contextmanager
def folder_lock(folder, verb):
    """While active, no other process uses the folder; raise SettingError where one does already.

    The operating system holds the lock, and releases it however the process ends.
    """
    try:
        lock = FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout:
        raise SettingError(f"{folder} is being {verb} by another process: wait for its end, or stop it.") from None
    with lock:
        yield
