"""Generate with a saved generator: a grid of samples, single frames, and walks.

A generator that has learned motion walks; any other moves through latent space from image to image.

The newest run in saved_models: python inference_unconditional_gan.py

Another: python inference_unconditional_gan.py --generator saved_models/0001-shuffled --seed 7
"""

from dataclasses import dataclass
from pathlib import Path

from walkgan.cli import run_script
from walkgan.errors import SettingError
from walkgan.settings import check_positive, check_range


@dataclass(frozen=True)
class InferenceSettings:
    """Inference settings."""

    generator: Path | None = None
    """Run folder or Keras file (.keras, or .h5 of Keras 2 too); by default the newest run in saved_models, or else a
    shipped generator."""
    output: Path = Path("output")
    """Folder to write plot.png, frames/, walk.mp4, walks.mp4 and strip.png to. Files of these names are replaced."""
    rows: int = 4
    """Rows of plot.png."""
    columns: int = 4
    """Columns of plot.png."""
    count: int = 16
    """Frames to write into frames/, one per seed, from --seed on; each file is named after its seed."""
    seed: int = 0
    """First seed of plot.png, frames/ and the walks."""
    truncation: float = 1.0
    """Below 1, latents are scaled towards the mean: more typical frames, less diversity."""
    walk_seconds: float = 8.0
    """Length of walk.mp4 and walks.mp4 in seconds; 0 writes neither, and no strip.png."""
    walks: int = 3
    """Walks side by side in walks.mp4 and strip.png (12 frames, 4 apart), for the seeds from --seed on; 1 writes no
    walks.mp4."""
    frame_rate: float = 30.0
    """Frames per second of the videos."""
    speed: float = 1.0
    """Speed of the walks, relative to that of the video they were learned from; 0.5 is slow motion."""
    project: Path | None = None
    """An image file: the nearest frame that the generator can produce is found by gradient descent; both are written
    side by side to projected.png, and walk.mp4 starts there."""

    def check(self):
        """Raise SettingError for the first value out of its range."""
        check_range(self, 1, "rows", "columns", maximum=100)  # in one image
        check_range(self, 1, "walks", maximum=16)  # in one video
        check_range(self, 0, "count", "seed", "truncation", "walk_seconds")
        check_range(self, 0.1, "frame_rate", maximum=1000)
        check_positive(self, "speed")
        if self.project and not self.project.is_file():
            raise SettingError(f"there is no image {self.project}: --project takes an image file.")


SETTINGS = InferenceSettings(
    output=Path("output"),
    rows=4,
    columns=4,
    count=16,
    seed=0,
    truncation=1.0,
    walk_seconds=8.0,
)


def main(settings):
    from walkgan.inference import infer  # not above: TensorFlow takes seconds to load, and --help should not

    infer(settings)


if __name__ == "__main__":
    run_script(main, SETTINGS, __doc__)
