"""How every script reads its settings and reports its errors.

Imports nothing heavy: `--help` answers at once.
"""

import errno
import os
import sys
from contextlib import suppress
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path

import tyro

from walkgan.errors import InputError, SettingError, is_out_of_memory
from walkgan.run_folder import find_run, load_settings
from walkgan.settings import TrainingSettings, option_name

BACKENDS = "tensorflow", "jax", "torch"
DEBUG_HELP = "Any script takes --debug, too, which shows the traceback of every error."


def run_script(main, settings, description):
    """Run a script: call main(settings as changed by the command line); report what the user can act on in one line.

    The exit code is 2 for a setting that cannot work, 1 for any other error. With --debug, errors keep their traceback.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    sys.stdout, sys.stderr = SafeStream(sys.stdout), SafeStream(sys.stderr)
    try:
        main(_parse(arguments, settings, f"{description}\n\n{DEBUG_HELP}"))
    except (Exception, KeyboardInterrupt) as error:
        message = _message(error)
        if message is None or "--debug" in sys.argv:
            raise
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SettingError) else 1)


class SafeStream:
    """A stream that never raises: saving must not depend on whether a message can be printed.

    What the encoding lacks is escaped; where the reader is gone or the disk full, the rest is dropped.
    """

    def __init__(self, stream):
        self.stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text):
        try:
            return self.stream.write(text)
        except (OSError, ValueError):
            self._drop()
            return len(text)

    def flush(self):
        try:
            self.stream.flush()
        except (OSError, ValueError):
            self._drop()

    def _drop(self):
        """Let the rest go nowhere, so that Python does not complain about it at the end either."""
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name):
        return getattr(self.stream, name)


def _message(error):
    """Return what to print instead of a traceback; None for a bug."""
    if is_out_of_memory(error):
        return "not enough memory: use a smaller --batch-size, a smaller --width or smaller frames."
    if isinstance(error, SettingError | InputError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "stopped."
    if isinstance(error, PermissionError | FileExistsError | NotADirectoryError | IsADirectoryError) and error.filename:
        return f"{error.filename}: {error.strerror}. Choose another path, or make this one usable."
    if isinstance(error, OSError) and error.filename and error.errno:
        return f"{error.filename}: {error.strerror} (--debug shows where)."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # of a file that was open: it has no name
        return f"{error.strerror}: free some space and try again; what was saved is intact."
    return None


def _parse(arguments, settings, description):
    """Return the settings as changed by the command line; on --resume, those of the run."""
    chosen = tyro.cli(type(settings), args=arguments, default=settings, description=description)
    if isinstance(chosen, TrainingSettings) and chosen.resume:
        chosen = _parse_resumed(arguments, chosen, description)
    backend = os.environ.get("KERAS_BACKEND")  # unset, Keras takes that of its own settings
    if backend is not None and not (backend in BACKENDS and find_spec(backend)):
        raise SettingError(
            f"KERAS_BACKEND is {backend!r}: set it to one of {', '.join(BACKENDS)} that is installed, or unset it."
        )
    return chosen


def _parse_resumed(arguments, chosen, description):
    """Return the resumed run's own settings, with those of the command line that may change."""
    run_dir = find_run(chosen.runs, chosen.run)
    saved = replace(load_settings(run_dir), minutes=None, resume=True, run=run_dir.name)
    default = replace(saved, runs=chosen.runs)
    again = tyro.cli(TrainingSettings, args=arguments, default=default, description=description)
    again = replace(again, resume=True, run=run_dir.name)
    for field in fields(TrainingSettings):
        before, now = getattr(saved, field.name), getattr(again, field.name)
        if before != now and field.name not in TrainingSettings.CHANGEABLE_ON_RESUME:
            changeable = ", ".join(map(option_name, TrainingSettings.CHANGEABLE_ON_RESUME))
            raise SettingError(
                f"{run_dir.name} was trained with {option_name(field.name)} {before} and cannot continue with {now}: "
                f"leave the option out. Only {changeable} may change."
            )
    return again
