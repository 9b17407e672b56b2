"""The camera of walks walks, turns and has its horizon as in the video."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from conftest import write_frames
from keras import ops

from models import build_generator
from walkgan.camera import Camera, camera_kernel, horizon_of, motion_of, shrink, walked_and_turned
from walkgan.dataset import list_frames, read_timeline
from walkgan.latents import rotate, rotation_periods, step_angles
from walkgan.pace import Pace
from walkgan.street import passed_at, positions

TEXTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 128, 3), "uint8"), (0, 0), 2)
ZOOMED = [cv2.resize(TEXTURE[i : 64 - i, 2 * i : 128 - 2 * i], (128, 64)) for i in range(16)]
WALKED, SPEEDS = np.array([0.03, 0.005, 0.02, 0.01]), (0.002, 0.004)


def flow_of(walked, turned=(0.0, 0.0), horizon=0.0):
    """Return the optical flow, in pixels, of frames of 160x320 of a street, by street.py."""
    down, right = positions(160, 320)
    down = down - np.float32(horizon)
    passed = ops.convert_to_numpy(passed_at(down[None, :, None], right[None, None], walked[None]))[0]
    moved = np.broadcast_arrays(right[None] * passed + turned[1], down[:, None] * passed + turned[0])
    return (160 * np.stack(moved, -1)).astype("float32")


def measured_flows(**options):
    return np.stack([shrink(flow_of(WALKED, turned, **options)) for turned in ((0.01, -0.02), (0.0, 0.0))])


def test_the_optical_flow_tells_how_one_walks_and_turns():
    walked, turned = walked_and_turned(measured_flows(), 0)
    np.testing.assert_allclose(walked, [WALKED] * 2, rtol=0.01, atol=1e-4)
    np.testing.assert_allclose(turned, [(0.01, -0.02), (0, 0)], atol=1e-4)


@pytest.mark.parametrize("horizon", [-0.2, 0.0, 0.15])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_optical_flow_tells_where_the_horizon_is(horizon, sign):
    flows = np.stack([shrink(flow_of(sign * WALKED, (turn, 0), horizon)) for turn in (-0.001, 0, 0.001)])
    walked, (found,), turned = motion_of(flows[:, None])
    assert found == pytest.approx(horizon, abs=0.03)
    np.testing.assert_allclose(sign * walked, WALKED, rtol=0.4)
    np.testing.assert_allclose(turned[:, 0], (-0.001, 0, 0.001), atol=1e-5)
    assert horizon_of(np.full((1, 40, 80, 2), 0.01)) == -0.3  # a camera that only turns down: nothing tells


def test_nothing_stands_still_for_good():
    walked, _, _ = motion_of(np.zeros((3, 1, 40, 80, 2), "float32"))
    assert (walked > 0).all()


@pytest.mark.parametrize("latent_dim", [2, 8, 128])
def test_walks_turn_as_fast_as_the_video_and_slowly(latent_dim):
    kernel = camera_kernel(SPEEDS, latent_dim)
    latents = np.random.default_rng(0).standard_normal((20_000, latent_dim), "float32")
    later = ops.convert_to_numpy(rotate(latents, step_angles(latent_dim).astype("float32")))
    turned = (later - latents) @ kernel
    np.testing.assert_allclose(np.sqrt((turned**2).mean(0)), SPEEDS, rtol=0.05)
    if latent_dim == 128:
        assert not kernel[np.tile(rotation_periods(latent_dim) < 64, 2)].any()
        assert (np.abs(latents @ kernel) < 0.5).mean() > 0.95  # of the frame's height: it stays in the street
        second = np.diff(
            [(np.asarray(rotate(latents, (k * step_angles(128)).astype("float32"))) @ kernel) for k in (0, 1, 2)], 2, 0
        )
        assert np.sqrt((second**2).mean()) < 0.1 * np.mean(SPEEDS)  # it does not shake


def test_what_is_usual_counts_and_not_the_corner_of_a_street():
    shares = np.random.default_rng(0).standard_normal(50)
    shares = [*shares, *-shares]
    turns = [(0.004 * share, 0.001 * share) for share in shares]
    straight = [shrink(flow_of(WALKED, turn)) for turn in turns]
    corner = [shrink(flow_of(WALKED, (0.0, 0.2)))] * 10
    one, other = (Camera([np.stack(flows)[:, None]]) for flows in (straight, straight + corner))
    np.testing.assert_allclose(one.turning, (0.004, 0.001), rtol=0.15)
    np.testing.assert_allclose(other.turning, one.turning, rtol=0.25)
    np.testing.assert_allclose(other.walked, one.walked, rtol=0.05)


def test_a_camera_that_shakes_does_not_turn():
    turns = 0.01 * np.sin(2 * np.pi * np.arange(128) / 8)
    slow = 0.004 * np.sign(np.sin(2 * np.pi * (np.arange(128) + 0.5) / 64))
    flows = np.stack([shrink(flow_of(WALKED, (turn, other))) for turn, other in zip(turns, slow, strict=True)])
    turning = Camera([flows.reshape(8, 16, *flows.shape[1:])]).turning
    assert turning[0] < 1e-4 and turning[1] == pytest.approx(0.004 / 0.67, rel=0.1)


@pytest.mark.parametrize("order", [1, -1])
def test_walks_start_in_the_direction_of_the_video(tmp_path, order):
    paths = list_frames(write_frames(tmp_path, ZOOMED[::order]))
    networks = [build_generator(8, (32, 64, 3), 4, walks=True) for _ in range(2)]
    gan = SimpleNamespace(generator=networks[0], ema_generator=networks[1])
    Pace(paths, read_timeline(paths), 0).set_camera(gan)
    for network in networks:
        assert (order * ops.convert_to_numpy(network.get_layer("distances").kernel) > 0).all()
        assert not any(network.get_layer(name).trainable_variables for name in ("distances", "horizon", "camera"))


def test_each_scene_has_its_direction_and_distances(tmp_path):
    paths = list_frames(write_frames(tmp_path, ZOOMED + ZOOMED[::-2] + [ZOOMED[0]]))
    scenes = (16 / 25, 24 / 25, 1.0)  # the last is too short to measure anything
    timeline = SimpleNamespace(
        frame_interval=1 / 30, times=np.arange(25) / 30, scene_ends=np.repeat([16, 24, 25], [16, 8, 1])
    )
    network = build_generator(64, (32, 64, 3), 4, walks=True, scenes=scenes)
    pace = Pace(paths, timeline, 0, scenes)
    pace.set_camera(SimpleNamespace(generator=network, ema_generator=network))
    forward, backward, unknown = ops.convert_to_numpy(network.get_layer("distances").kernel)
    assert (forward > 0).all() and (backward < -1.3 * forward).all()
    np.testing.assert_allclose(unknown, forward, rtol=1e-5)  # the longest scene, not something between
    assert pace.speed == pytest.approx(Pace(paths[:16], read_timeline(paths[:16]), 0).speed, rel=0.3)
