"""A trained volume model of the catalog, opened for drawing."""

from dataclasses import asdict, replace
from typing import cast

import torch

from configs import Config
from data_catalog import Catalog
from gem3d_core.codec import KL
from gem3d_core.errors import BadInput, Gem3dError
from gem3d_core.memory import budget_on, slices_that_decode, weight_bytes, windows_that_fit
from gem3d_core.models import load_network
from gem3d_core.networks import VolumeNetwork
from gem3d_core.resampling import VolumeModel
from gem3d_core.schedule import make_schedule
from gem3d_core.settings import SampleSpec
from tasks.latents import open_codec


def sampling_identity(config: Config) -> dict[str, object]:
    """The sampler's settings without the batch, on which a volume depends by rounding only."""
    return {name: value for name, value in asdict(config.resample).items() if name != "batch"}


def sampler(config: Config, model: VolumeModel) -> SampleSpec:
    """The sampler's settings, with as many windows a call as the memory budget holds: a GPU's own, or the one set."""
    budget, (height, width) = budget_on(model.device, config.runtime.memory_bytes), config.prepare.slice_size
    if budget is None:
        return config.resample
    size = (height // model.codec.factor, width // model.codec.factor)
    if isinstance(model.codec, KL):
        model.codec.batch = slices_that_decode(model.codec.model, size, budget - weight_bytes(model.network))
        budget -= weight_bytes(model.codec.model)
    return replace(config.resample, batch=windows_that_fit(model.network, size, budget))


def open_volume_model(catalog: Catalog, model: str, latents: str, config: Config, device: str) -> VolumeModel:
    """A volume model with the codec and the labels that it was trained with. Raises Gem3dError for another kind."""
    artifact = catalog.get(model)
    where = torch.device(device)
    network = load_network(catalog.path(artifact, "network.json"), catalog.path(artifact, "weights.safetensors"), where)
    if not isinstance(network, VolumeNetwork):
        raise Gem3dError(f"{model} is a {artifact.meta['network']} model: re-sampling needs a volume model")
    for section in ("condition", "diffusion"):
        if asdict(getattr(config, section)) != artifact.meta[section]:
            raise BadInput(
                f"{model} was trained with {section} {artifact.meta[section]}, this run has "
                f"{asdict(getattr(config, section))}: use the profile that it was trained with"
            )
    if config.runtime.compile:
        network.compile_for_sampling()
    encoded = catalog.get(latents)
    return VolumeModel(
        network=network,
        codec=open_codec(catalog, latents, device),
        schedule=make_schedule(config.diffusion),
        condition=config.condition,
        labels=tuple(cast("list[int]", encoded.meta["label_ids"])),
        device=where,
    )
