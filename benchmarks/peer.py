"""lightweight-gan by Phil Wang, what one would install instead of this project: `pip install lightweight-gan`.

A GAN for few images on one small GPU, after Liu et al. 2021 (arXiv:2101.04775). Its own trainer, with its defaults but
for three: images of 128x128, since a step on 256x256 takes minutes on a CPU; one batch of 8 per step, not four of 10,
so that there are steps enough; and no samples or checkpoints on the way. It wants a GPU with CUDA: here it is made to
compute on the CPU. It knows square images only: frames are squeezed to a square, and stretched back when generated.
"""

from types import SimpleNamespace

import numpy as np

from walkgan.errors import InputError
from walkgan.images import read_frame, resize, to_uint8, write_frame

SIZE, BATCH_SIZE = 128, 8


class LightweightGAN:
    """The package's trainer, and the frames it generates."""

    def __init__(self, paths, folder, seed=0):
        torch, package = import_on_cpu()
        torch.manual_seed(seed)
        self.torch, self.frame_shape = torch, read_frame(paths[0]).shape
        squares = folder / "squares"
        squares.mkdir(parents=True, exist_ok=True)
        for path in paths:
            write_frame(squares / f"{path.stem}.png", resize(read_frame(path), SIZE, SIZE))
        self.trainer = package.Trainer(
            base_dir=folder, image_size=SIZE, batch_size=BATCH_SIZE, attn_res_layers=[32], disc_output_size=1,
            num_workers=0, use_aim=False,
        )  # fmt: skip
        self.trainer.save = self.trainer.evaluate = lambda *_, **__: None
        self.trainer.set_data_src(squares)

    def step(self):
        """Train one step."""
        self.trainer.train()

    def generate(self, count, seed):
        """Return `count` frames as uint8, of the generator itself: its average begins after 20,000 steps."""
        gan, random = self.trainer.GAN.eval(), self.torch.Generator().manual_seed(seed)
        latents = self.torch.randn((count, gan.latent_dim), generator=random)
        with self.torch.no_grad():
            images = self.trainer.generate_(gan.G, latents)
        images = to_uint8(2 * images.permute(0, 2, 3, 1).numpy() - 1)
        return np.stack([resize(image, *self.frame_shape[:2]) for image in images])


def import_on_cpu():
    """Import torch and the package, which refuses a machine without CUDA and puts all on `cuda:0`."""
    try:
        import torch

        available, torch.cuda.is_available = torch.cuda.is_available, lambda: True
        try:
            import lightweight_gan.lightweight_gan as package
        finally:
            torch.cuda.is_available = available
    except ImportError as error:
        raise InputError(f"the recipe lightweight-gan needs another package: pip install {error.name}.") from error
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_: self
    package.torch = SimpleNamespace(**vars(torch) | {"device": lambda _: torch.device("cpu")})
    return torch, package
