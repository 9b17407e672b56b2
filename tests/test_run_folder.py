"""Run folders: numbers beyond 9999 and shared ones, settings of older versions, damaged files."""

import json

import pytest
from conftest import TINY, refuse

from walkgan.errors import InputError, SettingError
from walkgan.run_folder import find_generator, find_run, load_settings, new_run_dir


def make_run(runs, name, **settings):
    (runs / name).mkdir(parents=True)
    (runs / name / "settings.json").write_text(json.dumps({"settings": settings}))
    return runs / name


def test_runs_are_counted_beyond_9999(tmp_path):
    make_run(tmp_path, "9999-a")
    assert new_run_dir(tmp_path, "b").name == "10000-b"
    assert new_run_dir(tmp_path, "c").name == "10001-c"
    newest = make_run(tmp_path, "10002-d")
    assert find_run(tmp_path) == newest
    for file in (tmp_path / "9999-a/generator.keras", newest / "generator.keras"):
        file.touch()
    assert find_generator(runs=tmp_path) == newest / "generator.keras"


def test_a_number_finds_its_run_and_a_shared_one_asks_for_the_name(tmp_path):
    first = make_run(tmp_path, "0001-a")
    assert find_run(tmp_path, "1") == find_run(tmp_path, "0001") == find_run(tmp_path, "0001-a") == first
    second = make_run(tmp_path, "0001-b")  # started at the same moment
    with pytest.raises(SettingError, match="0001-a or 0001-b"):
        find_run(tmp_path, "0001")
    assert find_run(tmp_path, "0001-b") == second
    with pytest.raises(SettingError, match="no run"):
        find_run(tmp_path, "2")


def test_settings_of_older_versions_are_read(tmp_path):
    old = {"penalty": 0.5, "layout": 2.0, "picture_epochs": 7, "score_epochs": 9, "augment": ["colour"], "width": 8}
    settings = load_settings(make_run(tmp_path, "0001-old", **old))
    assert (settings.gamma, settings.thumbnail_weight, settings.sample_every, settings.evaluate_every) == (
        0.5,
        2.0,
        7,
        9,
    )
    assert settings.augment == ("colour",) and settings.width == 8 and settings.feature_weight == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"frame_shape": [1, 2, 3]}', '{"settings": 3}'])
def test_a_damaged_settings_file_is_reported(tmp_path, content):
    run_dir = make_run(tmp_path, "0001-a")
    (run_dir / "settings.json").write_text(content)
    with pytest.raises(InputError, match=r"settings\.json is damaged"):
        load_settings(run_dir)


@pytest.mark.slow
def test_every_script_reports_a_damaged_settings_file(tmp_path, frames_dir):
    run_dir = make_run(tmp_path / "saved_models", "0001-a")
    (run_dir / "settings.json").write_text("{")
    (run_dir / "generator.keras").touch()
    commands = [
        ("train_unconditional_gan.py", "--resume"),
        ("train_unconditional_gan.py", "--frames", frames_dir, *TINY, "--start-from", run_dir),
        ("evaluate_unconditional_gan.py", "--generator", run_dir),
    ]
    for command in commands:
        assert "settings.json is damaged" in refuse(*command, cwd=tmp_path, expect=1)
