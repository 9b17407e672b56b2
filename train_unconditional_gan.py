"""Train on shuffled frames.    python train_unconditional_gan.py --minutes 60"""

from pathlib import Path

from walkgan.cli import run_script
from walkgan.settings import TrainingSettings

SETTINGS = TrainingSettings(
    frames=Path("data/frames"),
    name="shuffled",
    shuffle=True,
    epochs=500,
    batch_size=8,  # more steps a minute: KID of 1208 after six minutes of a core, with 16 1449
    latent_dim=128,
    width=16,  # for a CPU; 32 or 64 on a GPU draws finer, a step's time grows with its square
    loss="relativistic",
    augment=("translation",),  # colour and cutout too: slower, and no better on 336 frames
    grow=True,
    learning_rate=4e-4,  # twice DCGAN's: learned as steadily here, and sooner
    beta_1=0.0,  # no momentum: the other network has moved on; DCGAN's 0.5 learned more slowly here
    beta_2=0.99,
    gamma=0.1,  # R1 and R2; 1.0 learned a little more slowly, and without it the discriminator wins
    feature_weight=3.0,  # 0, pixels alone: KID three times as large after twelve minutes of a core
    thumbnail_weight=3.0,  # 0 is as good after 40 minutes, and takes ten times as long to a KID of 340
)


def main(settings):
    from walkgan.training import train  # not above: TensorFlow takes seconds to load, and --help should not

    train(settings)


if __name__ == "__main__":
    run_script(main, SETTINGS, __doc__)
