"""A volume model with random weights, for measurements in which only the arithmetic counts."""

from collections.abc import Iterator

import torch

from configs import Config
from gem3d_core.bench.training import paper_codec
from gem3d_core.codec.haar import fit_haar
from gem3d_core.diffusion.schedule import make_schedule
from gem3d_core.networks.files import build
from gem3d_core.networks.volumetric import VolumeNetwork
from gem3d_core.sampling.volumes import Recipe, VolumeModel
from gem3d_core.spec.method import NetworkFacts


def random_model(config: Config, size: tuple[int, int], labels: int = 2) -> VolumeModel:
    """The network of a profile on latents of slices (H, W), on the CPU; a KL codec is of the paper's size."""
    cpu, condition = torch.device("cpu"), config.condition
    kl = config.codec.kind == "kl"
    codec = paper_codec(cpu) if kl else fit_haar(config.codec, torch.rand(8, *size) * 2 - 1)
    mask_channels = codec.channels if condition.mask == "codec" else labels + 1
    facts = NetworkFacts("volume", config.unet, codec.channels, mask_channels, condition)
    network = build(facts, 0)
    assert isinstance(network, VolumeNetwork)
    network.requires_grad_(False).eval()
    return VolumeModel(network, codec, make_schedule(config.diffusion), tuple(range(1, labels + 1)), cpu)


def random_recipes(Z: int, volumes: int, size: tuple[int, int], labels: int = 2) -> Iterator[Recipe]:
    """Volumes of Z slices (H, W) to draw, each begun in its middle."""
    rng = torch.Generator().manual_seed(0)
    shape = (Z, *size)
    for index in range(volumes):
        yield Recipe(
            name=str(index),
            mask=torch.randint(labels + 1, shape, generator=rng),
            outline=torch.ones(shape, dtype=torch.bool),
            informed=torch.rand(shape[1:], generator=rng) * 2 - 1,
            p=0.5,
            seed=index,
        )
