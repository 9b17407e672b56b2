"""The errors that a user can act on: a script prints their message alone, without a traceback."""

import re

# As the backends and OpenCV word it.
OUT_OF_MEMORY = r"out of memory|\bOOM\b|RESOURCE_EXHAUSTED|Insufficient memory|can't allocate memory"


class SettingError(ValueError):
    """A setting that cannot work. The message says which, why and what to do; the script exits with 2."""


class InputError(RuntimeError):
    """A file or a URL that cannot be used. The message names it and the remedy; the script exits with 1."""


def is_out_of_memory(error):
    """Return whether an error says that the memory of the computer or of the GPU is full.

    Of our own errors, whether the one they were raised from does: then the file they name is not at fault.
    """
    if isinstance(error, SettingError | InputError):
        error = error.__cause__
    return isinstance(error, MemoryError) or bool(re.search(OUT_OF_MEMORY, str(error)))


def shorten(error):
    """Return what an error says in a line: where it is long, its beginning and its end, which often has the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"
    return text if len(text) <= 300 else f"{text[:120]} ... {text[-170:]}"
