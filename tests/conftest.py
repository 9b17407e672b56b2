"""What the tests share: small videos and frames made here, real scripts run as a user runs them, checkpoints read."""

import csv
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path

import walkgan  # noqa: F401  # isort: skip  # first, as in the scripts: TensorFlow then uses oneDNN

import h5py
import imageio_ffmpeg
import keras
import numpy as np
import pytest

from extract_frames import ExtractionSettings
from walkgan.cli import run_script
from walkgan.dataset import list_frames
from walkgan.extraction import extract
from walkgan.images import read_frame, write_frame
from walkgan.video import Video
from walkgan.video_writer import write_video

REPO = Path(__file__).parent.parent
KERAS2 = REPO / "tests" / "keras2"
REAL_VIDEOS = REPO.parent / "shared" / "videos"
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
FRAME_SHAPE = (16, 32, 3)
# So that JAX compiles the same step once, and not in every process.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # pytest's workers inherit it
    JAX_CACHE = tempfile.TemporaryDirectory(prefix="jax-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = JAX_CACHE.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# Compiling takes longer than what is compiled here: in half the time without optimisation.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
KILLS = int(os.environ.get("KILLS", "2"))  # in each test that kills; 100 take half an hour
TINY = (
    "--latent-dim", "8", "--width", "4", "--batch-size", "4", "--sample-every", "1", "--feature-width", "4",
    "--features", "None",
)  # fmt: skip


def start(script, *arguments, cwd, **options):
    """Start a script of the project as a user would, and return the process."""
    command = [sys.executable, str(REPO / script), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""} | options.pop("env", {})
    environment.pop("DISPLAY", None)
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes, **options)


def run(script, *arguments, cwd, expect=0, **options):
    """Run a script to its end, check its exit code, and return everything it printed."""
    process = start(script, *arguments, cwd=cwd, **options)
    output = "".join(process.communicate(timeout=600))
    assert process.returncode == expect, output
    if expect:
        assert "Traceback" not in output, output
    return output


def call(script, *arguments, cwd, expect=0):
    """Like run, but in this process: in one of its own, loading TensorFlow takes longer than most scripts."""
    module, printed = importlib.import_module(Path(script).stem), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        with pytest.raises(SystemExit) if expect else nullcontext() as ended:
            run_script(module.main, module.SETTINGS, "")
    output = printed.getvalue()
    if expect:
        assert ended.value.code == expect and "Traceback" not in output, output
    return output


def refuse(script, *arguments, cwd, expect=2):
    """Call a script that must end with an error; return what it printed."""
    return call(script, *arguments, cwd=cwd, expect=expect)


def moving_frames(count, height=64, width=128):
    """Frames whose content says what they are: red left, blue right, a grey bar that brightens with time."""
    frames = np.zeros((count, height, width, 3), "uint8")
    frames[:, :, : width // 2, 0] = 200
    frames[:, :, width // 2 :, 2] = 200
    frames[:, height // 4 : -height // 4] = np.linspace(20, 235, count).astype("uint8")[:, None, None, None]
    return frames


def write_frames(folder, frames, suffix=".png"):
    """Write numbered frames into a folder and return it."""
    for number, frame in enumerate(frames):
        write_frame(folder / f"{number:06}{suffix}", frame)
    return folder


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same random numbers, whichever tests ran before it in its process."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """A video of 60 frames, 64x128, 30 per second, of moving_frames."""
    path = tmp_path_factory.mktemp("video") / "walk.mp4"
    write_video(path, moving_frames(60), 30)
    return path


@pytest.fixture(scope="session")
def frames_dir(tmp_path_factory):
    """A folder of 10 frames, 16x32."""
    folder = tmp_path_factory.mktemp("frames")
    return write_frames(folder, moving_frames(10, 16, 32), ".jpg")


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """A small network that scores: untrained, but enough to tell pictures apart."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(24, 5, 2, activation="relu")(keras.layers.Rescaling(1 / 127.5, -1)(pixels))
    model = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(x), name="small")
    path = tmp_path_factory.mktemp("network") / "small.keras"
    model.save(path)
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, frames_dir):
    """The folder with the saved_models of a finished run of 3 epochs (9 steps), and what the script printed."""
    folder = tmp_path_factory.mktemp("trained")
    output = run("train_unconditional_gan.py", "--frames", frames_dir, *TINY, "--epochs", 3, cwd=folder)
    return folder / "saved_models" / "0001-shuffled", output


@pytest.fixture(scope="session")
def trained_with_features(tmp_path_factory):
    """The folder of a finished run with feature discriminators, of 2 epochs (4 steps) on 6 frames of 128x128.

    Its learning rate is so high that its weights are far from untrained ones.
    """
    folder = tmp_path_factory.mktemp("features")
    (folder / "frames").mkdir()
    frames = write_frames(folder / "frames", moving_frames(6, 128, 128), ".jpg")
    arguments = ("--no-grow", "--epochs", 2, "--learning-rate", 0.02)
    call("train_unconditional_gan.py", "--frames", frames, *TINY, *arguments, cwd=folder)
    return folder / "saved_models" / "0001-shuffled"


def checkpoint_weights(run_dir, name="*.h5"):
    """Everything in a checkpoint of a run, the newest of those whose name matches, by name."""
    found = {}
    with h5py.File(sorted((run_dir / "checkpoints").glob(name))[-1]) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def assert_same_weights(first, second):
    first, second = checkpoint_weights(first), checkpoint_weights(second)
    assert first.keys() == second.keys() and len(first) > 40
    assert any("optimizer" in name for name in first)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def read_metrics(run_dir):
    with open(run_dir / "metrics.csv") as file:
        return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]


def ffmpeg(*arguments):
    subprocess.run([FFMPEG, "-v", "error", "-y", *map(str, arguments)], check=True)


def extracted(video, folder, **settings):
    """Extract 32x64 frames and return (frames, frames.json)."""
    extract(ExtractionSettings(**{"video": str(video), "frames": folder, "height": 32, "width": 64} | settings))
    frames = np.stack([read_frame(path) for path in list_frames(folder)])
    return frames, json.loads((folder / "frames.json").read_text())


def random_batches(batch_size=8, shape=FRAME_SHAPE):
    rng = np.random.default_rng(0)
    while True:
        frames = rng.uniform(-1, 1, (batch_size, *shape)).astype("float32")
        yield ({"frames": frames, "latents": rng.standard_normal((batch_size, 4), "float32")},)


def weights_of(network):
    return [weight.numpy().copy() for weight in network.trainable_variables]


def decode_all(path):
    """Every frame of a video, (count, height, width, 3) uint8 RGB."""
    video = Video(path)
    return np.stack([video.to_rgb(frame) for _, frame in video.frames(video.in_part)])
