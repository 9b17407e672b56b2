"""Several devices and several hosts train as one."""

import json
import os
import signal
import socket
import time

import keras
import numpy as np
import pytest
from conftest import TINY, checkpoint_weights, moving_frames, read_metrics, refuse, run, start, write_frames

from walkgan import distribution
from walkgan.errors import SettingError

SCRIPT = "train_unconditional_gan.py"
pytestmark = pytest.mark.slow

TWO_PROCESSORS = """
import tensorflow as tf
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
"""


def assert_trained_alike(first, second, checkpoint="*.h5"):
    """Check that two runs have the same checkpoint (the newest of that name) and score, up to rounding."""
    one, two = checkpoint_weights(first, checkpoint), checkpoint_weights(second, checkpoint)
    assert one.keys() == two.keys()
    for name in one:
        # Adam's first steps make much of the last digits where a gradient is next to nothing.
        assert np.isclose(one[name], two[name], rtol=1e-3, atol=1e-4).mean() > 0.98, name
    np.testing.assert_allclose(*(read_metrics(run_dir)[1]["kid"] for run_dir in (first, second)), rtol=0.01)


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_train_like_one(tmp_path, network, backend):
    pytest.importorskip(backend)
    (tmp_path / "frames").mkdir()
    write_frames(tmp_path / "frames", moving_frames(11, 16, 32))  # of which two devices cannot score a half each
    two_scenes = {"time": [number / 30 for number in range(11)], "video": [0] * 6 + [1] * 5}
    (tmp_path / "frames/frames.json").write_text(json.dumps(two_scenes))
    two_devices = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    environment = {"KERAS_BACKEND": backend, "XLA_FLAGS": two_devices}
    if backend == "tensorflow":
        (tmp_path / "sitecustomize.py").write_text(TWO_PROCESSORS)  # which Python runs first
        environment["PYTHONPATH"] = str(tmp_path)
    # No random numbers within a step, of which two devices draw twice as many, and no nearest frame, which
    # a device seeks in its own part of the batch.
    no_chance = ("--augment", "--gamma", 0, "--thumbnail-weight", 0)
    arguments = (SCRIPT, "--frames", "frames", *TINY, "--features", network, "--epochs", 2, *no_chance)
    for devices in (1, 2):
        run(*arguments, "--devices", devices, "--name", f"on-{devices}", cwd=tmp_path, env=environment)
    assert_trained_alike(tmp_path / "saved_models/0001-on-1", tmp_path / "saved_models/0002-on-2")
    run(SCRIPT, "--resume", "--epochs", 3, cwd=tmp_path, env=environment)
    run(SCRIPT, "--frames", "frames", *TINY, "--epochs", 1, "--devices", 2, cwd=tmp_path, env=environment)


def test_numbers_of_devices_that_cannot_be(tmp_path, frames_dir):
    arguments = (SCRIPT, "--frames", frames_dir, *TINY, "--devices")
    assert "cannot be divided" in refuse(*arguments, 3, cwd=tmp_path)
    assert "tensorflow finds 1" in refuse(*arguments, 2, cwd=tmp_path)


def test_more_devices_than_jax_finds(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(distribution, "is_multi_process", lambda: False)
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0", "cpu:1"])
    with pytest.raises(SettingError, match="jax finds 2"):
        distribution.distribution_scope(4)


def test_several_hosts_train_on_all_their_devices(monkeypatch):
    monkeypatch.setattr(distribution, "is_multi_process", lambda: True)
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0", "cpu:1"])
    with pytest.raises(SettingError, match="--devices must be 2"):
        distribution.distribution_scope(4)


def test_two_hosts_train_like_one_and_stop_together(tmp_path, frames_dir, network):
    pytest.importorskip("jax")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    together = {"KERAS_DISTRIBUTION_JOB_ADDRESSES": address, "KERAS_DISTRIBUTION_NUM_PROCESSES": "2"}

    def on_both(*arguments):
        return [
            start(
                SCRIPT, *arguments, "--runs", f"host-{number}", cwd=tmp_path,
                env=environment | together | {"KERAS_DISTRIBUTION_PROCESS_ID": str(number)},
            )
            for number in (0, 1)
        ]  # fmt: skip

    def trained_on_both(*arguments):
        rows = tmp_path / "host-0/0001-shuffled/metrics.csv"

        def count():
            return len(rows.read_text().splitlines()) if rows.exists() else 0

        enough, processes = count() + 4, on_both(*arguments, "--epochs", 10_000)
        while count() < enough:
            time.sleep(0.05)
            assert processes[0].poll() is None, processes[0].communicate()
        return processes

    arguments = ("--frames", frames_dir, *TINY, "--no-grow", "--augment", "--gamma", 0, "--evaluate-every", 1)
    arguments += ("--features", network, "--checkpoint-minutes", 1e-6, "--keep-checkpoints", 100)
    run(SCRIPT, *arguments, "--epochs", 2, cwd=tmp_path, env=environment)
    processes = trained_on_both(*arguments, "--devices", 2)
    processes[1].send_signal(signal.SIGINT)
    for process, words in zip(processes, ("stopped by another host", "interrupted, saved"), strict=True):
        output = "".join(process.communicate(timeout=600))
        assert process.returncode == 0 and words in output, output
    newest = [max((tmp_path / f"host-{number}").rglob("step-*.h5")).name for number in (0, 1)]
    assert newest[0] == newest[1]
    for host in ("host-0", "host-1"):
        runs = [tmp_path / folder / "0001-shuffled" for folder in ("saved_models", host)]
        assert_trained_alike(*runs, "step-00000004.*")  # hosts agree to save after the first step of an epoch of three
    processes = trained_on_both("--resume")
    processes[1].kill()
    assert "lost the connection to another host" in processes[0].communicate(timeout=600)[1]
    assert processes[0].returncode == 1


def test_several_processes_agree_every_tenth_batch(monkeypatch):
    exchanged = []
    monkeypatch.setattr(distribution, "process_index_and_count", lambda: (0, 2))
    monkeypatch.setattr(distribution, "all_gather", lambda flag: exchanged.append(flag) or np.array([flag, False]))
    assert [batch for batch in range(30) if distribution.any_process(True, batch)] == [0, 10, 20]
    assert not distribution.any_process(False, 10) and len(exchanged) == 4
    monkeypatch.setattr(distribution, "process_index_and_count", lambda: (0, 1))
    assert all(distribution.any_process(True, batch) for batch in range(30))
