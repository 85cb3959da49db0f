"""A trained volume model of the catalog, opened for drawing."""

import json
from collections.abc import Collection
from dataclasses import asdict, replace
from typing import cast

import torch

from configs import Config
from data_catalog import Artifact, Catalog
from gem3d_core.budget.memory import NONE_IN_FLIGHT, InFlight, budget_on, plan_drawing
from gem3d_core.codec.kl import KL
from gem3d_core.diffusion.schedule import make_schedule
from gem3d_core.errors import BadInput, Gem3dError
from gem3d_core.networks.files import load_network
from gem3d_core.networks.interface import WindowNetwork
from gem3d_core.sampling.batched import windows_at_once
from gem3d_core.sampling.volumes import DECODED_AHEAD, VolumeModel, volume_bytes
from gem3d_core.spec.kinds import KINDS, trained_by
from gem3d_core.spec.method import ConditionSpec, NetworkFacts, SampleSpec
from tasks.artifacts.latents import encoder_files, open_codec
from tasks.artifacts.lineage import run_of_model


def sampling_identity(config: Config) -> dict[str, object]:
    """The sampler's settings without the batch, on which a volume depends by rounding only."""
    return {name: value for name, value in asdict(config.resample).items() if name != "batch"}


def sampler(config: Config, model: VolumeModel, depths: list[int], *, writing: int = 0) -> SampleSpec:
    """The sampler's settings, with as many windows a call as the memory budget holds: a GPU's own, or the one set.

    At most as many as the volumes to be drawn, of so many slices each, can use. writing: volumes that may wait to be
    written.
    """
    budget, (height, width) = budget_on(model.device, config.runtime.memory_bytes), config.prepare.slice_size
    if budget is None:
        return config.resample
    size, codec = (height // model.codec.factor, width // model.codec.factor), model.codec
    kl = codec.model if isinstance(codec, KL) else None
    beside = volumes_beside(config, model.network.facts, codec.factor, depths, model.device.type, writing)
    fitting, slices = plan_drawing(model.network, kl, size, budget, beside)
    if isinstance(codec, KL):
        codec.batch = slices
    return replace(
        config.resample, batch=max(1, min(fitting, useful_batch(config, model.network.facts.condition, depths)))
    )


def volumes_beside(
    config: Config, facts: NetworkFacts, factor: int, depths: list[int], device: str, writing: int
) -> InFlight:
    """What the memory in which a network is called holds of volumes: on a GPU nothing."""
    if device == "cuda" or not depths:
        return NONE_IN_FLIGHT
    largest = volume_bytes(facts, factor, (max(depths), *config.prepare.slice_size))
    return InFlight(largest, most=len(depths), waiting=DECODED_AHEAD + 1 + writing)


def writing_ahead(config: Config) -> int:
    """Volumes that may wait to be written."""
    return 2 * config.runtime.threads


def useful_batch(config: Config, condition: ConditionSpec, depths: list[int]) -> int:
    """The most windows of a call that volumes of so many slices can use.

    A network that is compiled computes whole batches, filled or not: one window for each volume.
    """
    compiled = config.runtime.compile and KINDS[config.generator].unit == "window"
    return len(depths) if compiled else windows_at_once(depths, condition, config.resample)


def open_volume_model(catalog: Catalog, model: str, latents: str, config: Config, device: str) -> VolumeModel:
    """The model that draws volumes, with the codec and the labels that it was trained with.

    Raises Gem3dError for a model of another kind than the configuration's generator.
    """
    artifact = catalog.get(model)
    if artifact.meta["network"] != config.generator:
        raise Gem3dError(f"{model} is a {artifact.meta['network']} model: generator={config.generator} needs another")
    for section in ("condition", "diffusion"):
        spec = getattr(config, section)
        asked, unsaid = (json.loads(json.dumps(asdict(each))) for each in (spec, type(spec)()))
        trained = unsaid | artifact.meta[section]  # a setting that came later has as default what was done before
        if asked != trained:
            raise BadInput(
                f"{model} was trained with {section} {trained}, this run has {asked}: use the profile and the system "
                "that it was trained with"
            )
    if encoder_files(config.condition) != artifact.meta.get("encoder", {}):
        raise BadInput(
            f"{model} was trained with other files in {config.condition.image_encoder} than lie there now: put those "
            "back, or train it again"
        )
    where, codec = torch.device(device), open_codec(catalog, latents, device)
    facts, weights = (catalog.path(artifact, name) for name in ("network.json", "weights.safetensors"))
    network = load_network(facts, weights, where, codec)
    if config.runtime.compile and isinstance(network, WindowNetwork):
        network.compile_for_sampling()
    encoded = catalog.get(latents)
    return VolumeModel(
        network=network,
        codec=codec,
        schedule=make_schedule(config.diffusion),
        labels=tuple(cast("list[int]", encoded.meta["label_ids"])),
        device=where,
    )


def newest_volume_model(catalog: Catalog, networks: Collection[str] = trained_by("tune_volume")) -> str:
    """Reference to the model that was made last to draw volumes of a dataset, of one of the given kinds.

    Models of other systems beside a dataset's own do not count. Raises BadInput where there is none.
    """
    models = [a for a in catalog.ls("model") if a.meta.get("network") in networks]
    for model in models:
        if run_of_model(model) == _source_name(catalog, model):
            return model.ref.full
    beside = ", ".join(sorted({f"model/{model.name}" for model in models}))
    raise BadInput(
        f"{catalog.address} holds no volume model"
        + (f" but those of other systems ({beside}): name one" if beside else ": train one with `gem3d enhance`")
    )


def _source_name(catalog: Catalog, artifact: Artifact) -> str | None:
    """Name of the dataset that something descends from; none where the catalog does not hold it."""
    for _depth, ancestor in catalog.lineage(artifact.ref.full):
        if isinstance(ancestor, Artifact) and ancestor.kind == "source":
            return ancestor.name
    return None
