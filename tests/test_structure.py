"""The layout: imports go one way, files and functions stay short, `--help` loads nothing heavy."""

import ast
import subprocess
import sys

import pytest
from conftest import REPO

FILES = sorted([*REPO.glob("*.py"), *(REPO / "walkgan").glob("*.py")])


def imported(path):
    """The modules that a file imports at its top level."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            yield from (
                f"{node.module}.{alias.name}" if node.module == "walkgan" else node.module for alias in node.names
            )
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_models_imports_only_keras_and_the_parts_of_networks():
    parts = {"walkgan.keyframes", "walkgan.layers", "walkgan.street"}
    assert set(imported(REPO / "models.py")) == {"keras", "math"} | parts
    assert set(imported(REPO / "walkgan" / "layers.py")) == {"keras", "numpy"}


def test_imports_have_no_cycles():
    graph = {f"walkgan.{path.stem}": set(imported(path)) for path in FILES if path.parent.name == "walkgan"}
    while graph:
        leaves = [name for name, used in graph.items() if not used & graph.keys()]
        assert leaves, f"a cycle among {sorted(graph)}"
        for name in leaves:
            del graph[name]


def test_no_module_imports_a_script():
    scripts = {path.stem for path in REPO.glob("*.py")} - {"models"}
    for path in FILES:
        assert not scripts & set(imported(path)), path


@pytest.mark.parametrize(
    "path", sorted(REPO.glob("[!.]*/**/*.py")) + sorted(REPO.glob("*.py")), ids=lambda path: path.name
)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= (300 if path.name == "models.py" else 250)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, node.name


@pytest.mark.parametrize("script", sorted(path.name for path in REPO.glob("*_*.py")))
def test_help_loads_no_backend(script):
    code = (
        f"import sys, runpy\nsys.argv = [{script!r}, '--help']\n"
        f"try:\n    runpy.run_path({script!r}, run_name='__main__')\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
