"""Train a small KL-f8 autoencoder on a dataset's own slices, for those who have no pretrained one."""

import torch
from diffusers import AutoencoderKL
from einops import repeat
from torch import Tensor

from gem3d_core.codec import KL
from gem3d_core.settings import CodecSpec

KL_WEIGHT = 1e-6
"""Weight of the Kullback-Leibler term of latent diffusion's autoencoders."""
BATCH = 16
LEARNING_RATE = 4e-4


def train_kl(spec: CodecSpec, slices: Tensor, seed: int) -> KL:
    """Fit reconstruction (L1) with a weak KL term on slices (N, H, W); the latent scale makes the spread one."""
    torch.manual_seed(seed)
    width = spec.base_channels
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(width, width, 2 * width, 2 * width),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=min(32, width),
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    rng = torch.Generator().manual_seed(seed)

    for _ in range(spec.train_steps):
        batch = slices[torch.randint(len(slices), (BATCH,), generator=rng)]
        x = repeat(batch, "n h w -> n c h w", c=3)
        posterior = model.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=rng)
        loss = (model.decode(z).sample - x).abs().mean() + KL_WEIGHT * posterior.kl().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    codec = KL(model, scale=1.0)
    codec.scale = float(1 / codec.encode(slices[:: max(1, len(slices) // 256)]).std())
    model.register_to_config(scaling_factor=codec.scale)  # so that `open_kl` finds it in the folder
    return codec
