"""A walk is as fast as the video it was learned from, whatever the generator's own speed."""

from types import SimpleNamespace

import cv2
import keras
import numpy as np
import pytest
from conftest import write_frames

from walkgan import pace
from walkgan.dataset import list_frames, read_timeline
from walkgan.generators import steps_per_second
from walkgan.pace import Pace, median_speed, steps_per_frame

TEXTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 128, 3), "uint8"), (0, 0), 2)


@pytest.fixture
def panned_frames(tmp_path):
    """A video in which everything moves by two pixels a frame."""
    return list_frames(write_frames(tmp_path, [np.roll(TEXTURE, 2 * number, 1) for number in range(20)]))


def shift(pixels):
    matrix = np.float32([[1, 0, pixels], [0, 1, 0]])
    return cv2.warpAffine(TEXTURE, matrix, (128, 64), borderMode=cv2.BORDER_WRAP)


def test_the_speed_of_pairs_of_frames():
    assert median_speed(TEXTURE[None], shift(3)[None]) == pytest.approx(3 / 64, rel=0.1)
    assert median_speed(TEXTURE[None], TEXTURE[None]) < 0.01 / 64


@pytest.mark.parametrize("own_speed", [0.8, 1.25, 2, 2.5])
def test_a_generator_walks_as_fast_as_the_video(panned_frames, monkeypatch, own_speed):
    generator = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)], name="walker_30")
    gan = SimpleNamespace(generator=generator, ema_generator=generator, steps=1)
    fast_angle = pace.step_angles(8)[0]

    def generate(_, latents):  # moves by own_speed pixels a step
        steps = (np.arctan2(latents[:, 4], latents[:, 0]) - start) / fast_angle
        return np.stack([shift(own_speed * step) for step in steps])

    drawn = np.random.default_rng((3, 4)).standard_normal((pace.NUM_PAIRS, 8), "float32")
    start = np.arctan2(drawn[:, 4], drawn[:, 0])
    monkeypatch.setattr(pace, "generate", generate)
    walks = Pace(panned_frames, read_timeline(panned_frames), seed=3)
    walks.set(gan)
    assert steps_per_second(generator) == pytest.approx(30 * 2 / own_speed, rel=0.1)

    own_speed, generated = 1.1 * own_speed, []  # as it is learned, and only looked at once
    monkeypatch.setattr(pace, "generate", lambda *arguments: generated.append(1) or generate(*arguments))
    walks.set(gan)
    assert steps_per_second(generator) == pytest.approx(min(30 * 2 / own_speed, 90), rel=0.1)
    assert len(generated) == 2

    walks.forget()
    walks.set(gan)
    from_scratch = generator.name
    Pace(panned_frames, read_timeline(panned_frames), seed=3).set(gan)
    assert generator.name == from_scratch


def test_steps_stay_within_bounds():
    assert steps_per_frame(lambda steps: 0.0, 1.0) == pytest.approx(pace.MAX_STEPS, rel=0.02)
    assert steps_per_frame(lambda steps: 100.0, 1.0) == pytest.approx(pace.MIN_STEPS, rel=0.02)
    for power in (0.5, 1, 3):
        assert steps_per_frame(lambda steps, power=power: steps**power, 2**power) == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("power", [0.3, 0.5, 1, 1.5])
def test_with_every_later_checkpoint_the_steps_are_better(power):
    steps = steps_per_frame(lambda steps: 0.5 * steps**0.2, 1.0)  # blurred, early in a training
    for _ in range(10):
        steps = steps_per_frame(lambda steps: 0.8 * steps**power, 1.0, steps)
    assert 0.8 * steps**power == pytest.approx(1, rel=0.05)


def test_frames_without_a_speed_leave_the_name(panned_frames):
    gan = SimpleNamespace(ema_generator=SimpleNamespace(name="walker_2"), steps=1)
    timeline = read_timeline(panned_frames)
    slow = SimpleNamespace(frame_interval=0.5, scene_ends=timeline.scene_ends)
    cuts = SimpleNamespace(frame_interval=1 / 30, scene_ends=np.arange(1, 21), times=np.arange(20) / 30)
    for each in (None, slow, cuts):
        Pace(panned_frames, each, 0).set(gan)
        assert gan.ema_generator.name == "walker_2"


def test_the_speed_is_that_of_the_usual_interval(panned_frames):
    # 15 frames a second of a video of 30, in times as frames.json rounds them: every second frame, at last every frame.
    numbers = np.array([*range(0, 14, 2), *range(14, 20)])
    times = np.round(numbers / 30, 4)
    timeline = SimpleNamespace(frame_interval=0.0667, scene_ends=np.full(13, 13), times=times)
    speed = Pace([panned_frames[number] for number in numbers], timeline, 0).speed
    assert speed == pytest.approx(4 / 64, rel=0.1)


def test_an_untrained_generator_keeps_its_name(panned_frames):
    gan = SimpleNamespace(ema_generator=SimpleNamespace(name="walker_2"), steps=0)
    Pace(panned_frames, read_timeline(panned_frames), 0).set(gan)
    assert gan.ema_generator.name == "walker_2"
