"""Errors: one line for what a user can act on, a traceback for mistakes in the code and with --debug."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import REPO, TINY, checkpoint_weights, read_metrics, run, start

import models
from train_unconditional_gan import SETTINGS
from walkgan import distribution, gan_builder
from walkgan.cli import run_script
from walkgan.errors import InputError, SettingError
from walkgan.generators import load_generator
from walkgan.scoring_network import load_network

SCRIPT = "train_unconditional_gan.py"


def outcome(monkeypatch, capsys, error, *arguments):
    """The exit code and the message of a script that ends with an error."""

    def fail(settings):
        raise error

    monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
    with pytest.raises(SystemExit) as caught:
        run_script(fail, SETTINGS, "a script")
    return caught.value.code, capsys.readouterr().err


def printed_by_one_of_two_hosts(monkeypatch, capsys, error):
    """The message of a host whose training ends with an error."""
    ended = []
    monkeypatch.setattr(distribution, "process_index_and_count", lambda: (0, 2))
    monkeypatch.setattr(distribution.os, "_exit", ended.append)
    with distribution.abort_all_on_error():
        raise error
    assert ended == [1]
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (SettingError("--width is bad."), 2, "--width is bad."),
        (InputError("a.jpg is bad."), 1, "a.jpg is bad."),
        (PermissionError(13, "Permission denied", "a/b"), 1, "a/b: Permission denied"),
        (FileNotFoundError(2, "No such file or directory", "c"), 1, "c: No such file"),
        (OSError(28, "No space left on device"), 1, "No space left on device: free some space"),
        (MemoryError(), 1, "not enough memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: OOM when allocating"), 1, "not enough memory"),
        (KeyboardInterrupt(), 1, "stopped"),
    ],
)
def test_errors_of_users_are_one_line(monkeypatch, capsys, error, code, message):
    found, printed = outcome(monkeypatch, capsys, error)
    assert found == code and message in printed and printed.startswith(SCRIPT) and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("load", "part"),
    [
        (lambda: load_generator("a.keras"), "keras.models.load_model"),
        (lambda: load_network("a.keras", (16, 32, 3)), "keras.models.load_model"),
        (lambda: load_network("lite2", (16, 32, 3)), "walkgan.scoring_network.extract_features"),
    ],
)
@pytest.mark.parametrize("hosts", [1, 2])
def test_a_full_memory_is_not_blamed_on_a_file(monkeypatch, capsys, load, part, hosts):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(part, fail)
    with pytest.raises(InputError) as caught:
        load()
    if hosts == 1:
        assert outcome(monkeypatch, capsys, caught.value)[1].startswith(f"{SCRIPT}: not enough memory")
    else:
        assert "Traceback" in printed_by_one_of_two_hosts(monkeypatch, capsys, caught.value)


@pytest.mark.parametrize("error", [ValueError("shapes differ"), KeyError("x"), OSError("odd"), ValueError("ZOOM_walk")])
def test_mistakes_in_the_code_keep_their_traceback(monkeypatch, error):
    monkeypatch.setattr(sys, "argv", [SCRIPT])
    with pytest.raises(type(error), match=str(error.args[0])):
        run_script(lambda settings: (_ for _ in ()).throw(error), SETTINGS, "a script")


def test_a_mistake_in_models_does_not_ask_for_other_frames(monkeypatch):
    def broken(*_, **__):
        raise ValueError("Inputs have incompatible shapes")

    monkeypatch.setattr(gan_builder, "build_discriminators", broken)
    with pytest.raises(ValueError, match="incompatible") as caught:
        gan_builder.build_gan(SETTINGS, (16, 32, 3))
    assert not isinstance(caught.value, SettingError)
    assert models.build_discriminators is not broken


@pytest.mark.slow
def test_debug_shows_the_traceback(tmp_path):
    process = start(SCRIPT, "--frames", "nowhere", "--debug", cwd=tmp_path)
    error = process.communicate(timeout=100)[1]
    assert process.returncode == 1 and "Traceback" in error and "InputError: no frames in nowhere" in error
    assert "--debug" in run(SCRIPT, "--help", cwd=tmp_path)


@pytest.mark.parametrize("backend", ["abacus", "numpy", "json", ""])
def test_backends_that_cannot_train_are_rejected(tmp_path, frames_dir, backend):
    output = run(SCRIPT, "--frames", frames_dir, *TINY, cwd=tmp_path, expect=2, env={"KERAS_BACKEND": backend})
    assert repr(backend) in output and "tensorflow, jax, torch" in output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("RESOURCE_EXHAUSTED: out of memory"), "Traceback"),
        (RuntimeError("UNAVAILABLE: Socket closed"), "lost the connection to another host"),
        (InputError("a.jpg is missing."), "a.jpg is missing."),
    ],
)
def test_of_several_hosts_each_reports_its_own_error(monkeypatch, capsys, error, expected):
    printed = printed_by_one_of_two_hosts(monkeypatch, capsys, error)
    assert expected in printed
    assert ("lost the connection" in printed) == ("Socket" in str(error))


@pytest.mark.slow
@pytest.mark.parametrize(("gone", "number"), [("reader", signal.SIGINT), ("disk", signal.SIGTERM)])
def test_everything_is_saved_whatever_becomes_of_the_output(tmp_path, frames_dir, gone, number):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, REPO / SCRIPT, "--frames", frames_dir, *TINY]
    output = subprocess.PIPE if gone == "reader" else open("/dev/full", "w")  # noqa: SIM115
    process = subprocess.Popen(list(map(str, command)), cwd=tmp_path, env=environment, stdout=output, stderr=output)
    if gone == "reader":
        for stream in (process.stdout, process.stderr):
            stream.close()  # as `| tee log` when Ctrl-C ends tee too
    run_dir = tmp_path / "saved_models/0001-shuffled"
    while not (run_dir / "samples/epoch-0002.png").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(100) == 0
    assert int(checkpoint_weights(run_dir)["vars/step"]) == read_metrics(run_dir)[-1]["step"] >= 6


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_names_that_the_terminal_cannot_show(video, tmp_path, encoding):
    arguments = ("--video", video, "--height", 16, "--width", 32, "--frames", "散")
    output = run("extract_frames.py", *arguments, cwd=tmp_path, env={"PYTHONIOENCODING": encoding})
    assert "60 16x32 frames" in output and (tmp_path / "散/frames.json").exists()
