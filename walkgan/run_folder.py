"""The folder of a run: made, found, and its settings.json.

Imports nothing heavy: `--help` answers at once.
"""

import json
import re
from dataclasses import asdict, fields
from pathlib import Path

from walkgan.errors import InputError, SettingError
from walkgan.settings import TrainingSettings

RENAMED = {  # settings of runs from before version 1.0.0
    "penalty": "gamma", "layout": "thumbnail_weight", "picture_epochs": "sample_every", "score_epochs": "evaluate_every"
}  # fmt: skip


def find_run(runs, run=None):
    """Return the folder of a run: the newest one in `runs`, or the one whose name or number is `run`.

    Raises SettingError when there is none, or when two have that number.
    """
    found = [path for path in _numbered(runs) if (path / "settings.json").exists()]
    if run is not None:
        named = [path for path in found if run in (path.name, str(path))]
        found = named or [path for path in found if run.isdigit() and _number(path) == int(run)]
    if not found:
        raise SettingError(
            f"there is no run{f' {run}' if run else ''} in {runs}: train one first, or name its folder with --runs."
        )
    if run is not None and len(found) > 1:
        raise SettingError(f"--run {run} could be {' or '.join(path.name for path in found)}: give the whole name.")
    return found[-1]


def new_run_dir(runs, name):
    """Make and return the folder of a new run, numbered after the newest one in `runs`."""
    runs.mkdir(parents=True, exist_ok=True)
    while True:
        number = max(map(_number, _numbered(runs)), default=0) + 1
        run_dir = runs / f"{number:04}-{name}"
        try:
            run_dir.mkdir()
        except FileExistsError:  # another run started at the same moment
            continue
        return run_dir


def find_generator(path=None, runs=Path("saved_models")):
    """Return the Keras file of a generator: of a run folder or a file, or by default of the newest run that has one.

    A folder without a number holds a shipped generator, which is the default where there is no run.
    Raises SettingError when there is none.
    """
    if path is None:
        shipped = sorted(folder for folder in runs.glob("*/") if not folder.name[0].isdigit())
        files = [folder / "generator.keras" for folder in (*shipped, *_numbered(runs))]
        found = [file for file in files if file.is_file()]
        if not found:
            raise SettingError(f"there is no generator in {runs}: train one first, or name one with --generator.")
        return found[-1]
    file = path / "generator.keras" if path.is_dir() else path
    if not file.is_file():
        raise SettingError(f"there is no generator {file}: --generator takes a run folder or a Keras file.")
    return file


def load_run_info(run_dir):
    """Return what a run's settings.json holds: "settings", "frame_shape", "frame_count", "growth" and more.

    Raises InputError where the file is damaged.
    """
    path = run_dir / "settings.json"
    try:
        info = json.loads(path.read_text())
        info["settings"] = {RENAMED.get(name, name): value for name, value in info["settings"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged: put a copy back, or start a new run.") from error
    return info


def load_settings(run_dir):
    """Return the TrainingSettings a run was started with. Raises InputError where its settings.json is damaged."""
    saved = load_run_info(run_dir)["settings"]
    values = {field.name: saved[field.name] for field in fields(TrainingSettings) if field.name in saved}
    values |= {name: Path(values[name]) for name in ("frames", "features", "start_from") if values.get(name)}
    values |= {"runs": run_dir.parent, "augment": tuple(values.get("augment", ()))}
    return TrainingSettings(**values)


def settings_as_json(settings, **info):
    """Return the text of a settings.json: the settings, and information about the run beside them."""
    return json.dumps({"settings": asdict(settings), **info}, indent=2, default=str) + "\n"


def resume_options(run_dir):
    """Return the command-line options that continue a run."""
    runs = "" if run_dir.parent == Path("saved_models") else f"--runs {run_dir.parent} "
    return f"{runs}--resume --run {run_dir.name}"


def require_same_frames(run_dir, info):
    """Raise SettingError where a run to resume was trained on other frames than `info` describes."""
    saved = load_run_info(run_dir)
    if any(saved.get(name, value) != value for name, value in info.items()):
        raise SettingError(
            f"{run_dir.name} was trained on {saved['frame_count']} frames of {saved['frame_shape']}, and --frames now "
            f"holds {info['frame_count']} of {info['frame_shape']}, or others: put them back, or start a new run."
        )


def _numbered(runs):
    """Return the run folders in `runs` in the order of their numbers."""
    folders = [path for path in Path(runs).glob("*/") if re.match(r"\d{4,}-", path.name)]
    return sorted(folders, key=lambda path: (_number(path), path.name))


def _number(run_dir):
    return int(run_dir.name.split("-")[0])
