"""The library behind the scripts."""

import ctypes
import os
import sys

# Before TensorFlow and OpenCV are imported: their own messages would hide those of this project.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# By default, TensorFlow uses oneDNN on processors with AVX512_VNNI only; on others its steps take half the time, too.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def reuse_freed_memory():
    """Have Linux's C library keep freed memory for the next array, and not give it back to the system.

    Otherwise the system clears the pages of every large array again, in every step: a third of a step's CPU time.
    """
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8  # of malloc.h
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):  # glibc, not musl
        libc.mallopt(m_trim_threshold, -1)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_arena_max, 1)  # threads with arenas of their own would still return what is large


reuse_freed_memory()
