"""README.md says of every setting what --help says.    python tests/test_readme.py    brings it up to date."""

import ast
import sys
from dataclasses import fields
from pathlib import Path

REPO = Path(__file__).parent.parent
sys.path.insert(0, str(REPO))
BEGIN, END = "<!-- settings: written by tests/test_readme.py -->\n", "<!-- end of settings -->\n"
SCRIPTS = ("extract_frames", "train_unconditional_gan", "inference_unconditional_gan", "evaluate_unconditional_gan")


def docstrings(path, name):
    """The text below each field of a dataclass, by field."""
    (found,) = (node for node in ast.parse(path.read_text()).body if getattr(node, "name", None) == name)
    pairs = zip(found.body, found.body[1:], strict=False)
    return {
        field.target.id: " ".join(ast.literal_eval(text.value).split())
        for field, text in pairs
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def shown(value):
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


def tables():
    """All settings of all scripts, as Markdown."""
    lines = []
    big = __import__("train_unconditional_gan_big").SETTINGS
    for script in SCRIPTS:
        settings = __import__(script).SETTINGS
        kind = type(settings)
        texts = docstrings(Path(sys.modules[kind.__module__].__file__), kind.__name__)
        lines += [
            f"`{script}.py`" + (", in brackets `train_unconditional_gan_big.py`" if "train" in script else ""),
            "",
        ]
        lines += ["| setting | default | |", "|---|---|---|"]
        for field in fields(kind):
            default = shown(getattr(settings, field.name))
            if "train" in script and getattr(big, field.name) != getattr(settings, field.name):
                default += f" ({shown(getattr(big, field.name))})"
            text = texts[field.name].replace("|", "\\|")
            lines.append(f"| `--{field.name.replace('_', '-')}` | {default} | {text} |")
        lines.append("")
    return "\n".join(lines)


def test_readme_explains_every_setting_as_help_does():
    readme = (REPO / "README.md").read_text()
    written = readme[readme.index(BEGIN) + len(BEGIN) : readme.index(END)]
    assert written == tables(), "run python tests/test_readme.py"


if __name__ == "__main__":
    readme = (REPO / "README.md").read_text()
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    (REPO / "README.md").write_text(before + BEGIN + tables() + END + after)
