"""Train on windows of frames in video order, to learn motion.    python train_unconditional_gan_big.py --minutes 60"""

from pathlib import Path

from walkgan.cli import run_script
from walkgan.settings import TrainingSettings

SETTINGS = TrainingSettings(
    frames=Path("data/frames"),
    name="ordered",
    window=3,  # frames that the discriminator sees together; 3 show a speed and its change
    shuffle=True,  # the windows: in video order a batch would show only one street
    epochs=500,
    batch_size=8,  # windows: 24 frames
    latent_dim=128,
    width=16,  # for a CPU, where time grows with width squared; 32 on a GPU gives finer images at little cost
    loss="relativistic",
    augment=("translation",),  # colour and cutout too: slower, and no better on 336 frames
    grow=True,
    learning_rate=4e-4,  # twice DCGAN's: learned as steadily here, and sooner
    beta_1=0.0,  # no momentum: the other network has moved on; DCGAN's 0.5 learned more slowly here
    beta_2=0.99,
    gamma=0.1,  # R1 and R2; 1.0 learned a little more slowly, and without it the discriminator overpowers the generator
    feature_weight=1.0,  # with 0, KID was 1.2 times as large on one clip; with 3, walks had a third of the pace
    thumbnail_weight=0.0,  # with 6, as for shuffled frames, KID was 1.2 times as large on one clip
)


def main(settings):
    from walkgan.training import train  # not above: TensorFlow takes seconds to load, and --help should not

    train(settings)


if __name__ == "__main__":
    run_script(main, SETTINGS, __doc__)
