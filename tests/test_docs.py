"""The README and docs/ agree with the code: the table of settings, links, commands."""

import re
import sys

import pytest
from conftest import REPO

sys.path.insert(0, str(REPO / "tools"))
import write_settings_table

PAGES = [REPO / "README.md", REPO / "saved_models/README.md", *sorted((REPO / "docs").glob("*.md"))]


def test_table_of_settings_is_up_to_date():
    assert write_settings_table.PAGE.read_text() == write_settings_table.page(), "run tools/write_settings_table.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_images_exist(page):
    for target, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        assert not heading or heading in anchors(linked), f"{target}#{heading}"


def anchors(page):
    """Return what links to the headings of a page are called, as GitHub does."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_is_mentioned_exists(page):
    known = set(re.findall(r"`(--[a-z0-9-]+)`", write_settings_table.page()))
    known |= {f"--no-{name[2:]}" for name in known}
    known |= {"--debug", "--help", "--logdir", "--recipes"}  # of all scripts, TensorBoard and the benchmarks
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", page.read_text())) <= known


def test_readme_is_short_and_has_the_commands_of_the_gate():
    readme = (REPO / "README.md").read_text()
    assert len(readme.split()) <= 1500
    for line in (REPO / ".ci/run").read_text().splitlines():
        if line.startswith("from_readme "):
            assert re.search(rf"^{re.escape(line.split(' ', 1)[1].strip(chr(39)))}$", readme, re.MULTILINE), line
