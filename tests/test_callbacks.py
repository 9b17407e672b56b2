"""Callbacks: logs, scores, the best generator, no memory lost."""

import signal
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import TINY, call, moving_frames, read_metrics, write_frames

from walkgan import callbacks
from walkgan.callbacks import CSVLog, EpochTensorBoard, GracefulStop, PeriodicEvaluation, SampleGrid
from walkgan.dataset import list_frames
from walkgan.errors import InputError, is_out_of_memory
from walkgan.generators import load_generator
from walkgan.images import read_frame
from walkgan.pace import Pace
from walkgan.run_folder import load_run_info
from walkgan.settings import TrainingSettings

SCRIPT = "train_unconditional_gan.py"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for the memory in use")
def test_no_memory_is_lost_with_every_step(tmp_path):
    pytest.importorskip("tensorflow", reason="writes for TensorBoard")
    board = EpochTensorBoard(tmp_path, write_graph=False)
    board.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    board.on_train_begin()

    def pages_after(steps):
        for step in range(steps):
            board.on_train_batch_begin(step)
            board.on_train_batch_end(step, {f"loss_{number}": 0.5 for number in range(10)})
        return int(Path("/proc/self/statm").read_text().split()[1])

    before = pages_after(500)
    assert pages_after(5000) - before < 200  # of 4 KB; with Keras's own callback it is 900
    board.on_train_end()


def test_the_generator_with_the_best_score_is_kept(tmp_path, monkeypatch):
    write_frames(tmp_path, moving_frames(8, 16, 32))
    paths = list_frames(tmp_path)
    real = np.stack([read_frame(path) for path in paths])
    settings, pace = TrainingSettings(evaluate_every=1, epochs=9), Pace(paths, None, 0)
    evaluation = PeriodicEvaluation(tmp_path, settings, paths, None, [], pace, GracefulStop(None))
    generator = SimpleNamespace()
    evaluation.set_model(SimpleNamespace(ema_generator=generator))
    kept = []
    for epoch, noise in enumerate([90, 40, 60, 10, 20]):
        fakes = np.clip(real.astype(int) + noise, 0, 255).astype("uint8")
        monkeypatch.setattr(callbacks, "generate", lambda gan, latents, fakes=fakes: fakes)
        generator.save = lambda path, epoch=epoch: path.write_text(str(epoch))
        logs = {}
        evaluation.on_epoch_end(epoch, logs)
        assert logs["sliced_wasserstein"] > 0 and logs["diversity"] > 0
        kept.append((tmp_path / "best_generator.keras").read_text())
    assert kept == ["0", "1", "1", "3", "3"]


def test_a_full_disk_under_the_log_is_reported(tmp_path, monkeypatch):
    errors = pytest.importorskip("tensorflow").errors

    def full(*_):
        raise errors.ResourceExhaustedError(None, None, "logs/events.v2\n\tFailed to flush 5 events.")

    monkeypatch.setattr(keras.callbacks.TensorBoard, "on_epoch_end", full)
    with pytest.raises(InputError, match=r"cannot be written.* free some space") as caught:
        EpochTensorBoard(tmp_path, write_graph=False).on_epoch_end(0, {})
    assert not is_out_of_memory(caught.value)


@pytest.mark.slow
def test_scores_are_logged_and_the_best_generator_kept(tmp_path, frames_dir, network):
    arguments = (*TINY, "--epochs", 5, "--evaluate-every", 2, "--features", network)
    call(SCRIPT, "--frames", frames_dir, *arguments, cwd=tmp_path)
    run_dir = tmp_path / "saved_models/0001-shuffled"
    for column in ("kid", "sliced_wasserstein", "diversity"):
        assert np.isfinite([row[column] for row in read_metrics(run_dir)]).tolist() == [False, True, False, True, True]
    load_generator(run_dir / "best_generator.keras")
    best = (run_dir / "best_generator.keras").read_bytes()
    # A score that nothing will beat, of before the resume, keeps the generator that had it.
    lines = (run_dir / "metrics.csv").read_text().splitlines()
    cells = lines[-1].split(",")
    cells[lines[0].split(",").index("kid")] = "-1000"
    (run_dir / "metrics.csv").write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")
    call(SCRIPT, "--resume", "--epochs", 8, cwd=tmp_path)
    assert (run_dir / "best_generator.keras").read_bytes() == best
    # The scores of one network say nothing about those of another.
    call(SCRIPT, "--resume", "--epochs", 9, "--features", "None", cwd=tmp_path)
    assert (run_dir / "best_generator.keras").read_bytes() != best
    assert load_run_info(run_dir)["scored_since"] == 24  # eight epochs of three steps
    # Stopped by its minutes within the first epoch, and scored all the same; by the default network.
    call(SCRIPT, "--frames", frames_dir, *TINY, "--minutes", 1e-6, "--features", "lite2", cwd=tmp_path)
    assert read_metrics(tmp_path / "saved_models/0002-shuffled")[-1]["kid"] > 100
    assert "cannot be loaded" in call(
        SCRIPT, "--frames", frames_dir, *TINY, "--features", frames_dir / "000000.jpg", cwd=tmp_path, expect=1
    )


def log_epochs(log, count):
    for epoch in range(count):
        log.on_epoch_begin(epoch)
        log.on_train_batch_end(0)
        log.on_epoch_end(epoch, {"d_loss": 0.5, "g_loss": 0.25})


def test_a_locked_metrics_file_does_not_end_the_training(tmp_path, monkeypatch):
    log = CSVLog(tmp_path / "metrics.csv", 0, 1, TrainingSettings())

    def locked(*_, **__):
        raise PermissionError(13, "Permission denied")  # as Windows answers while a spreadsheet has it open

    monkeypatch.setattr(callbacks, "open", locked, raising=False)
    log_epochs(log, 2)
    assert read_metrics(tmp_path) == []
    monkeypatch.undo()
    log_epochs(log, 1)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]


def test_metrics_of_a_million_steps(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,d_loss\n1,1e+06,0.5\n")  # as older versions wrote them
    log = CSVLog(tmp_path / "metrics.csv", 1_000_002, 500_001, TrainingSettings())
    log_epochs(log, 1)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1e6, 1_000_003]
    CSVLog(tmp_path / "metrics.csv", 1_000_002, 500_001, TrainingSettings())
    assert [row["step"] for row in read_metrics(tmp_path)] == [1e6]


def test_feature_losses_are_left_empty_where_there_are_none(tmp_path):
    log = CSVLog(tmp_path / "metrics.csv", 0, 1, TrainingSettings())
    for loss in (0.0, 0.5):
        log.on_epoch_begin(0)
        log.on_train_batch_end(0)
        log.on_epoch_end(0, {"d_loss": 0.0, "feature_d_loss": loss})
    rows = read_metrics(tmp_path)
    assert np.isnan(rows[0]["feature_d_loss"]) and rows[1]["feature_d_loss"] == 0.5
    assert [row["d_loss"] for row in rows] == [0, 0]


def test_metrics_of_older_versions_are_kept(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,d_loss,g_loss,spread\n1,3,0.5,0.25,0.75\n2,6,0.5,0.25,0.5\n")
    CSVLog(tmp_path / "metrics.csv", 3, 3, TrainingSettings())
    (row,) = read_metrics(tmp_path)
    assert row["step"] == 3 and row["diversity"] == 0.75


def test_latest_sample_is_always_the_newest(tmp_path, monkeypatch):
    write_frames(tmp_path, moving_frames(4, 16, 32))
    samples = SampleGrid(tmp_path, TrainingSettings(sample_every=2), list_frames(tmp_path))
    for epoch in range(4):
        drawn = np.full((16, 16, 32, 3), 50 * epoch, "uint8")
        monkeypatch.setattr(callbacks, "generate", lambda gan, latents, drawn=drawn: drawn)
        samples.on_epoch_end(epoch)
        if epoch % 2:
            latest = read_frame(tmp_path / "samples/latest.png")
            assert (latest == 50 * epoch).all()
            assert (latest == read_frame(tmp_path / f"samples/epoch-{epoch + 1:04}.png")).all()


def test_a_second_ctrl_c_stops_at_once():
    stop = GracefulStop(None)
    with stop.on_signals():
        signal.raise_signal(signal.SIGINT)
        assert stop.requested and not stop.agreed
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_after_the_time_limit_does_not_stop_the_saving():
    stop = GracefulStop(1e-9)
    stop.set_model(SimpleNamespace(stop_training=False))
    stop.on_train_batch_end(0)
    assert stop.agreed and stop.out_of_time
    with stop.on_signals():
        signal.raise_signal(signal.SIGINT)
