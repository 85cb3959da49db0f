"""A trained volume model of the catalog, opened for drawing."""

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path

import torch

from configs import Config
from data_catalog import Artifact, Catalog
from gem3d_core.budget.memory import NONE_IN_FLIGHT, InFlight, budget_on, plan_drawing
from gem3d_core.codec.kl import KL
from gem3d_core.errors import BadInput
from gem3d_core.networks.interface import WindowNetwork
from gem3d_core.sampling.batched import windows_at_once
from gem3d_core.sampling.model import CONFIGURATION, FACTS
from gem3d_core.sampling.volumes import DECODED_AHEAD, VolumeModel, open_drawing, volume_bytes
from gem3d_core.spec.kinds import KINDS, trained_by
from gem3d_core.spec.method import ConditionSpec, DiffusionSpec, NetworkFacts, NetworkKind, SampleSpec
from tasks.artifacts.configuration import read_configuration


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


def open_volume_model(catalog: Catalog, artifact: Artifact, config: Config, device: str) -> VolumeModel:
    """A `model` that samples volumes, complete in itself.

    Raises BadInput for one of another generator, conditions or process than the configuration says, and as
    `model_folder`.
    """
    _, model = open_drawing(model_folder(catalog, artifact), torch.device(device))
    _require_same(artifact, config, model)
    if config.runtime.compile and isinstance(model.network, WindowNetwork):
        model.network.compile_for_sampling()
    return model


def _require_same(artifact: Artifact, config: Config, model: VolumeModel) -> None:
    """Raise BadInput where a run asks for something else than the model was trained as."""
    facts, process = model.network.facts, model.schedule.spec
    if facts.kind != config.generator:
        raise BadInput(f"{artifact.ref} is a {facts.kind} model: generator={config.generator} needs another")
    condition = replace(config.condition, window=facts.condition.window, known=facts.condition.known)
    for section, asked, trained in (
        ("condition", condition if KINDS[facts.kind].all_slices else config.condition, facts.condition),
        ("diffusion", config.diffusion, process),
    ):
        if _of_slices(facts.kind, asked) != _of_slices(facts.kind, trained):
            raise BadInput(
                f"{artifact.ref} was trained with {section} {asdict(trained)}, this run has {asdict(asked)}: use the "
                "profile and the system that it was trained with"
            )


def _of_slices(kind: NetworkKind, spec: ConditionSpec | DiffusionSpec) -> ConditionSpec | DiffusionSpec:
    """Some models are never told of known slices, whatever the configuration says."""
    return replace(spec, known=False) if not KINDS[kind].sees_window and isinstance(spec, ConditionSpec) else spec


def model_folder(catalog: Catalog, artifact: Artifact) -> Path:
    """The folder of a `model`, with which alone it opens. Raises BadInput for one of version 0.1.0."""
    if FACTS not in artifact.files:
        raise BadInput(
            f"{artifact.ref} was stored by version 0.1.0, whose models are not complete: train it again with "
            "`gem3d enhance`"
        )
    return catalog.view(artifact)


def configuration_of(catalog: Catalog, artifact: Artifact) -> Config:
    """The configuration that a model was trained under. Raises BadInput as `model_folder`."""
    return read_configuration(model_folder(catalog, artifact) / CONFIGURATION)


def samples_volumes(artifact: Artifact) -> bool:
    """Whether a `model` is a generator of volumes."""
    return artifact.meta.get("network") in trained_by("tune_volume")


def newest_volume_model(catalog: Catalog, networks: Collection[str] = trained_by("tune_volume")) -> Artifact | None:
    """The model that was made last to sample volumes of a dataset, of one of the given kinds; None where there is none.

    Models of other systems beside a dataset's own do not count.
    """
    models = [a for a in catalog.ls("model") if a.meta.get("network") in networks and a.meta.get("own", True)]
    return models[0] if models else None
