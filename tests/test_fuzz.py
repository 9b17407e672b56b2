"""Whatever bytes and settings come: one clear error, no hang, nothing damaged."""

import dataclasses

import numpy as np
import pytest
from conftest import moving_frames
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as some

from extract_frames import ExtractionSettings
from inference_unconditional_gan import InferenceSettings
from models import build_generator
from walkgan.dataset import list_frames, usable_frames
from walkgan.errors import InputError, SettingError
from walkgan.extraction import extract
from walkgan.generators import load_generator
from walkgan.images import read_frame, write_frame
from walkgan.settings import TrainingSettings
from walkgan.video_writer import write_video

quickly = examples(max_examples=60, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
numbers = {int: some.one_of(some.integers(-3, 3), some.just(10**9)), float: some.floats()}
damage = some.tuples(some.floats(0, 1), some.floats(0, 1), some.integers(0, 255), some.booleans())

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a sound frame, video and generator."""
    folder = tmp_path_factory.mktemp("whole")
    write_frame(folder / "frame.jpg", moving_frames(3)[1])
    write_frame(folder / "frame.png", moving_frames(3)[1])
    write_video(folder / "video.mp4", moving_frames(10, 16, 32), 30)
    build_generator(4, (8, 8, 3), width=4).save(folder / "generator.keras")
    build_generator(4, (8, 8, 3), width=4).save(folder / "generator.h5")
    return folder


def damaged(path, damage):
    """Return a file's bytes, some of them overwritten, perhaps cut short there."""
    start, end, value, cut = damage
    content = bytearray(path.read_bytes())
    first, last = sorted((int(start * len(content)), int(end * len(content))))
    content[first:last] = b"" if cut else bytes([value]) * (last - first)
    return bytes(content)


@quickly
@given(damage=damage, name=some.sampled_from(["frame.jpg", "frame.png"]))
def test_damaged_frames(whole, tmp_path, damage, name):
    (tmp_path / name).write_bytes(damaged(whole / name, damage))
    try:
        frame = read_frame(tmp_path / name)
    except InputError as error:
        assert name in str(error)
    else:
        assert frame.dtype == np.uint8 and frame.ndim == 3


@quickly
@given(content=some.binary(max_size=300))
def test_no_frames(tmp_path, content):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"0\.jpg"):
        usable_frames(list_frames(tmp_path))


@quickly
@given(damage=damage)
def test_damaged_videos(whole, tmp_path_factory, damage):
    folder = tmp_path_factory.mktemp("video")
    (folder / "video.mp4").write_bytes(damaged(whole / "video.mp4", damage))
    wanted = ExtractionSettings(video=str(folder / "video.mp4"), frames=folder / "frames", height=8, width=16)
    try:
        extract(wanted)
    except InputError as error:
        assert "video.mp4" in str(error)
        assert not list(folder.glob("frames/*.jpg"))
    else:
        assert {read_frame(path).shape for path in list_frames(folder / "frames")} == {(8, 16, 3)}


@examples(quickly, max_examples=30)
@given(damage=damage, name=some.sampled_from(["generator.keras", "generator.h5"]))
def test_damaged_generators(whole, tmp_path, damage, name):
    (tmp_path / name).write_bytes(damaged(whole / name, damage))
    try:
        load_generator(tmp_path / name)
    except InputError as error:
        assert name in str(error)


@pytest.mark.parametrize("kind", [TrainingSettings, ExtractionSettings, InferenceSettings])
def test_settings_are_valid_or_rejected(kind):
    pairs = some.one_of(
        some.tuples(some.just(field.name), numbers[field.type])
        for field in dataclasses.fields(kind)
        if field.type in numbers
    )

    @examples(quickly, max_examples=1000)
    @given(pairs=some.lists(pairs, min_size=1, max_size=3))
    def check(pairs):
        values = dict(pairs)
        try:
            kind(**values).check()
        except SettingError as error:
            assert any(name.replace("_", "-") in str(error) for name in values)
        else:
            assert all(np.isfinite(value) and value >= 0 for value in values.values())

    check()
