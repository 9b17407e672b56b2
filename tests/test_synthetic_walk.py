"""The built-in walk."""

import cv2
import numpy as np
from conftest import extracted

from walkgan import synthetic_walk
from walkgan.images import crop_and_resize


def test_synthetic_walk_is_deterministic_and_walks_forward():
    height, width = synthetic_walk.HEIGHT, synthetic_walk.WIDTH
    y, x = np.mgrid[:height, :width].astype("float32")
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    for number in (0, 200, 450, 700, 895):
        first, second = (synthetic_walk.render_frame(number + ahead) for ahead in (0, 3))
        assert first.dtype == np.uint8 and first.shape == (height, width, 3)
        assert first.std() > 30
        assert (synthetic_walk.render_frame(number) == first).all()
        moved = flow.calc(cv2.cvtColor(first, cv2.COLOR_RGB2GRAY), cv2.cvtColor(second, cv2.COLOR_RGB2GRAY), None)
        radial = (moved[..., 0] * (x - width / 2) + moved[..., 1] * (y - height / 2)) / np.hypot(width, height)
        assert radial.mean() > 0


def test_synthetic_walk_becomes_a_video(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_walk, "SECONDS", 1)
    monkeypatch.chdir(tmp_path)
    frames, _ = extracted("built-in walk", tmp_path / "data/frames")
    assert len(frames) == 30
    expected = crop_and_resize(synthetic_walk.render_frame(17), 32, 64).astype(int)
    assert np.abs(frames[17] - expected).mean() < 6
