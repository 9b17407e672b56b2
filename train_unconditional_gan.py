"""Train on shuffled frames.    python train_unconditional_gan.py --minutes 60"""

from pathlib import Path

from walkgan.cli import run_script
from walkgan.settings import TrainingSettings

SETTINGS = TrainingSettings(
    frames=Path("data/frames"),
    name="shuffled",
    shuffle=True,
    epochs=500,
    batch_size=8,  # more steps per minute than 16: a lower KID after six minutes on one core
    latent_dim=128,
    width=16,  # for a CPU, where time grows with width squared; 32 on a GPU gives finer images at little cost
    loss="relativistic",
    augment=("translation",),  # colour and cutout too: slower, and no better on 336 frames
    grow=True,
    learning_rate=4e-4,  # twice DCGAN's: learned as steadily here, and sooner
    beta_1=0.0,  # no momentum: the other network has moved on; DCGAN's 0.5 learned more slowly here
    beta_2=0.99,
    gamma=0.1,  # R1 and R2; 1.0 learned a little more slowly, and without it the discriminator overpowers the generator
    feature_weight=3.0,  # the older version, pixels only, had 2.6 and 1.5 times the KID on two clips (README)
    thumbnail_weight=6.0,  # 0 turns it off: then the layout of the scene takes many times as long to appear
)


def main(settings):
    from walkgan.training import train  # not above: TensorFlow takes seconds to load, and --help should not

    train(settings)


if __name__ == "__main__":
    run_script(main, SETTINGS, __doc__)
