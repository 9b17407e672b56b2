"""Batches: every frame in every epoch, windows within scenes, a function of seed and step."""

import json
import os

import cv2
import numpy as np
import pytest
from conftest import write_frames

from walkgan.dataset import batches, fingerprint, list_frames, read_timeline, usable_frames
from walkgan.errors import InputError
from walkgan.images import write_frame
from walkgan.settings import TrainingSettings


@pytest.fixture
def paths(tmp_path):
    for number in range(10):
        write_frame(tmp_path / f"{number}.png", np.full((8, 16, 3), 25 * number, "uint8"))
    return list_frames(tmp_path)


def brightness(frames):
    """The number of each frame of `paths`, from what a batch shows of it."""
    return np.rint((frames[:, 0, 0, ::3] + 1) * 127.5 / 25).astype(int)


def test_batches_in_video_order_are_consecutive_frames(paths):
    stream = batches(paths, TrainingSettings(shuffle=False, batch_size=4, latent_dim=3), 0, (8, 16, 3))
    seen = [brightness(next(stream)[0]["frames"])[:, 0].tolist() for _ in range(4)]
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9], [0, 1, 2, 3]]


def test_windows_are_frames_of_one_scene_in_order_with_their_true_times(paths):
    videos = [0] * 6 + [1] * 4
    times = [0.1 * number for number in range(6)] + [0, 0.1, 0.3, 0.4]  # one frame is missing
    (paths[0].parent / "frames.json").write_text(json.dumps({"time": times, "video": videos}))
    timeline = read_timeline(paths)
    assert timeline.scene_ends.tolist() == [6] * 6 + [10] * 4
    np.testing.assert_allclose(timeline.frame_interval, 0.1)
    settings = TrainingSettings(window=3, batch_size=5, latent_dim=4)
    stream, strides = batches(paths, settings, 0, (8, 16, 3), timeline), set()
    for _ in range(40):
        batch = next(stream)[0]
        assert batch["frames"].shape == (5, 8, 16, 9) and batch["frame_offsets"].dtype == np.float32
        for window, passed in zip(brightness(batch["frames"]), batch["frame_offsets"], strict=True):
            first, last = window[0], window[-1]
            assert (np.diff(window) == window[1] - first).all() and last < timeline.scene_ends[first]
            expected = (np.array(times)[window] - times[first]) / 0.1
            np.testing.assert_allclose(passed, expected, atol=1e-5)
            strides.add(int(window[1] - first))
    assert strides == {1, 2}  # 4 does not fit


def test_hard_cuts_separate_scenes_and_walking_does_not(tmp_path):
    rng = np.random.default_rng(0)
    scenes = [cv2.GaussianBlur(rng.uniform(0, 255, (40, 300, 3)), (0, 0), 4) for _ in range(2)]
    scenes = [cv2.normalize(scene, None, 0, 255, cv2.NORM_MINMAX).astype("uint8") for scene in scenes]
    frames = [scene[:, 2 * step : 2 * step + 80] for scene in scenes for step in range(12)]
    write_frames(tmp_path, frames)
    timeline = read_timeline(list_frames(tmp_path))
    assert timeline.scene_ends.tolist() == [12] * 12 + [24] * 12
    np.testing.assert_allclose(timeline.times, np.arange(24) / 30)
    (tmp_path / "frames.json").write_text(json.dumps({"time": [0.0], "video": [0]}))
    with pytest.raises(InputError, match=r"frames\.json"):
        read_timeline(list_frames(tmp_path))


def test_shuffled_batches_show_every_frame_in_every_epoch_in_another_order(paths):
    stream = batches(paths, TrainingSettings(batch_size=5, latent_dim=3), 0, (8, 16, 3))
    seen = [np.rint((next(stream)[0]["frames"][:, 0, 0, 0] + 1) * 127.5 / 25).astype(int).tolist() for _ in range(4)]
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == list(range(10))
    assert seen[0] + seen[1] != seen[2] + seen[3] != list(range(10))


def test_a_batch_depends_on_seed_and_step_alone(paths):
    settings = TrainingSettings(batch_size=4, latent_dim=3, seed=5)
    stream = batches(paths, settings, 0, (8, 16, 3))
    later = batches(paths, settings, 7, (8, 16, 3))
    for _ in range(7):
        next(stream)
    for _ in range(4):
        first, second = next(stream)[0], next(later)[0]
        assert first.keys() == second.keys() == {"frames", "latents"}
        assert (first["frames"] == second["frames"]).all() and (first["latents"] == second["latents"]).all()
        assert first["frames"].dtype == first["latents"].dtype == np.float32
        assert first["frames"].min() >= -1 and first["frames"].max() <= 1
    other = next(batches(paths, TrainingSettings(batch_size=4, latent_dim=3, seed=6), 0, (8, 16, 3)))[0]
    assert (other["latents"] != next(batches(paths, settings, 0, (8, 16, 3)))[0]["latents"]).all()


def test_numbers_in_names_are_in_the_order_of_numbers(tmp_path):
    names = ["10.png", "2.png", "frame_1.png", "frame_10.png", "frame_2.png", "a.png"]
    for name in names:
        (tmp_path / name).touch()
    listed = [path.name for path in list_frames(tmp_path)]
    assert listed == ["2.png", "10.png", "a.png", "frame_1.png", "frame_2.png", "frame_10.png"]


@pytest.mark.parametrize("times", [[0.0] * 10, list(range(9, -1, -1)), [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]])
def test_time_never_stands_still_or_jumps_back_in_a_window(paths, times):
    (paths[0].parent / "frames.json").write_text(json.dumps({"time": times, "video": [0] * 10}))
    timeline = read_timeline(paths)
    assert timeline.frame_interval > 0
    settings = TrainingSettings(window=3, batch_size=5, latent_dim=4)
    stream = batches(paths, settings, 0, (8, 16, 3), timeline)
    for _ in range(10):
        offsets = next(stream)[0]["frame_offsets"]
        assert np.isfinite(offsets).all() and (np.diff(offsets) >= 0).all()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_frames_whose_names_are_not_utf8(tmp_path):
    for index in range(3):
        content = cv2.imencode(".png", np.full((8, 16, 3), 50 * index, "uint8"))[1].tobytes()
        with open(os.fsencode(tmp_path) + b"/caf\xe9%d.png" % index, "wb") as file:
            file.write(content)
    paths, shape = usable_frames(list_frames(tmp_path))
    assert len(paths) == 3 and shape == (8, 16, 3) and fingerprint(paths) > 0


def test_frames_of_an_interrupted_extraction_are_not_trained_on(tmp_path):
    paths = list_frames(write_frames(tmp_path, np.zeros((4, 8, 8, 3), "uint8")))
    for content in ('{"complete": true}', "{}", "[]", "no JSON"):
        (tmp_path / "frames.json").write_text(content)
        assert usable_frames(paths) == (paths, (8, 8, 3))
    (tmp_path / "frames.json").write_text('{"complete": false, "time": []}')
    with pytest.raises(InputError, match="interrupted"):
        usable_frames(paths)
