"""Write docs/settings.md, the table of all settings with their help.    python tools/write_settings_table.py"""

import ast
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from walkgan.settings import option_name

REPO = Path(__file__).parent.parent

PAGE = REPO / "docs" / "settings.md"
SCRIPTS = (
    "extract_frames", "train_unconditional_gan", "inference_unconditional_gan", "evaluate_unconditional_gan"
)  # fmt: skip
ORDERED = "train_unconditional_gan_big"


def page():
    """Return the page in Markdown."""
    written_by = "Written by `python tools/write_settings_table.py`, from the scripts themselves."
    lines = ["# All settings", "", written_by, ""]
    for script in SCRIPTS:
        settings = import_module(script).SETTINGS
        is_training = script == "train_unconditional_gan"
        others = import_module(ORDERED).SETTINGS if is_training else settings
        note = f", in brackets `{ORDERED}.py`" if is_training else ""
        lines += [f"## `{script}.py`{note}", "", "| setting | default | |", "|---|---|---|"]
        helps = help_texts(type(settings))
        for field in fields(settings):
            default, other = (as_text(getattr(each, field.name)) for each in (settings, others))
            default += f" ({other})" if other != default else ""
            text = helps[field.name].replace("|", "\\|")
            lines.append(f"| `{option_name(field.name)}` | {default} | {text} |")
        lines.append("")
    return "\n".join(lines)


def help_texts(dataclass):
    """Return the string below each field of a dataclass, by field, as --help prints it."""
    tree = ast.parse(Path(sys.modules[dataclass.__module__].__file__).read_text())
    (found,) = (node for node in tree.body if getattr(node, "name", None) == dataclass.__name__)
    pairs = zip(found.body, found.body[1:], strict=False)
    return {
        field.target.id: " ".join(ast.literal_eval(text.value).split())
        for field, text in pairs
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def as_text(value):
    """Return a default as the table shows it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


if __name__ == "__main__":
    PAGE.write_text(page())
