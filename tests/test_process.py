"""What importing the library changes in the process."""

import ctypes
import sys

import pytest

import walkgan  # noqa: F401


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc can be told to keep memory"
)
def test_freed_memory_is_used_again_without_page_faults():
    import resource

    def page_faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        len(b"x" * 50_000_000)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    page_faults()  # the first may ask for the memory
    assert page_faults() < 1000  # of 12,207 pages
