"""What importing the library changes in the process."""

import ctypes
import subprocess
import sys

import pytest
from conftest import REPO

# In a process of its own, as the scripts are: threads older than the import keep their memory apart from the rest.
PAGE_FAULTS = """
import walkgan
import resource
from concurrent.futures import ThreadPoolExecutor

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    len(b"x" * 100_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(page_faults(), page_faults())
with ThreadPoolExecutor(1) as thread:
    print(thread.submit(page_faults).result(), thread.submit(page_faults).result())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc can be told to keep memory"
)
def test_freed_memory_is_used_again_without_page_faults():
    printed = subprocess.run([sys.executable, "-c", PAGE_FAULTS], cwd=REPO, capture_output=True, text=True, check=True)
    for line in printed.stdout.splitlines():
        _, again = map(int, line.split())  # the first may ask for the memory
        assert again < 1000, printed.stdout  # of 24,414 pages
