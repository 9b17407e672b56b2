"""What importing the library changes in the process."""

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import walkgan  # noqa: F401


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc can be told to keep memory"
)
def test_freed_memory_is_used_again_without_page_faults():
    import resource

    def page_faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        len(b"x" * 100_000_000)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with ThreadPoolExecutor(1) as thread:
        for call in (lambda function: function(), lambda function: thread.submit(function).result()):
            call(page_faults)  # the first may ask for the memory
            assert call(page_faults) < 1000  # of 24,414 pages
