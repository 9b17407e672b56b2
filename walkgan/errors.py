"""The errors that a user can act on: a script prints their message alone, without a traceback."""


class SettingError(ValueError):
    """A setting that cannot work. The message says which, why and what to do; the script exits with 2."""


class InputError(RuntimeError):
    """A file or a URL that cannot be used. The message names it and the remedy; the script exits with 1."""
