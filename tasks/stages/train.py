"""Stages 4, 5 and 6: the slice model, its volumetric tuning, and the position-conditioned slice model."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, cast

import torch
from safetensors import safe_open
from torch import Tensor

from configs import Config
from data_catalog import Artifact
from gem3d_core.errors import BadInput
from gem3d_core.networks.whole import whole_window
from gem3d_core.sampling.model import WEIGHTS, ModelFacts, save_model
from gem3d_core.spec.kinds import KINDS
from gem3d_core.spec.method import ConditionSpec, NetworkFacts, NetworkKind, TrainSpec, UNetSpec
from gem3d_core.spec.prepare import Fit
from gem3d_core.training.launch import Job, train_job, train_job_in_processes
from gem3d_core.training.loop import Trained
from tasks.artifacts.configuration import as_yaml, store_configuration, without_machine
from tasks.artifacts.latents import codec_folder, label_ids, open_codec, training_files
from tasks.artifacts.others import Find, content, encoder_weights, fetch
from tasks.frame.policy import accelerator, training_processes
from tasks.frame.stage import Identity, Product, Stage, Work


@dataclass(frozen=True)
class Course:
    """What one of the trainings trains, and how."""

    kind: NetworkKind
    condition: ConditionSpec
    unet: UNetSpec
    spec: TrainSpec


@dataclass(frozen=True)
class Training(Stage):
    """`model` NAME-...: a network trained on latents, saved as a complete folder."""

    kind: ClassVar[str] = "model"
    model: ClassVar[str]
    """The end of the model's name."""

    latents: str

    @staticmethod
    @abstractmethod
    def course(config: Config) -> Course:
        """What a configuration makes of the training."""

    @property
    def before(self) -> str | None:
        """The model that is trained further."""
        return None

    def ready(self) -> None:
        """An image encoder that others trained is downloaded."""
        fetch(self.run.catalog, self._encoder)

    def identity(self) -> Identity:
        """Latents and the model before; network, conditions, process and training."""
        config, course = self.run.config, self.course(self.run.config)
        settings = {
            "unet": course.unet,
            "train": course.spec,
            "diffusion": config.diffusion,
            "condition": course.condition,
            "encoder": content(self.run.catalog, self._encoder),
        }
        inputs = (self.latents, self.before) if self.before else (self.latents,)
        return Identity(f"{self.run.name}-{self.model}", settings, inputs, seed=config.seed)

    def make(self, work: Work) -> Product:
        """Train, going on from the last checkpoint in the working folder."""
        store_configuration(self.run)
        config, course, latents = self.run.config, self.course(self.run.config), work.get(self.latents)
        job = self._job(work, course, latents)
        work.progress.total(course.spec.steps, "steps")

        def show(step: int, loss: float) -> None:
            work.progress.at(step, f"loss {loss:.4f}")

        with accelerator(config) as device:
            count = training_processes(config, device, course.spec.batch)
            if count == 1:
                weights, trained = train_job(job, torch.device(device), show)
            else:
                weights, trained = train_job_in_processes(job, device, count, show)
        return self._product(work, latents, job.facts, weights, trained)

    @property
    def _encoder(self) -> Find:
        """Where the image encoder is found; stage 6 has none."""
        return encoder_weights(self.course(self.run.config).condition)

    def _job(self, work: Work, course: Course, latents: Artifact) -> Job:
        catalog, attends = work.catalog, course.condition.attends
        before = catalog.path(work.get(self.before), WEIGHTS) if self.before else None
        return Job(
            facts=network_facts(course, latents, training_files(catalog, latents)),
            latents={case: str(file) for case, file in training_files(catalog, latents).items()},
            diffusion=self.run.config.diffusion,
            spec=course.spec,
            seed=self.run.config.seed,
            folder=str(work.folder / "checkpoints"),
            emphasis=tuple(open_codec(catalog, latents).emphasis.tolist()),
            codec=str(codec_folder(catalog, latents)) if attends else None,
            slice_weights=None if before is None else str(before),
            memory=self.run.config.runtime.memory_bytes,
        )

    def _product(
        self, work: Work, latents: Artifact, facts: NetworkFacts, weights: dict[str, Tensor], trained: Trained
    ) -> Product:
        import pandas as pd

        config, spec = self.run.config, self.course(self.run.config).spec
        folder = save_model(
            work.folder / "model",
            model_facts(facts, config, latents),
            weights,
            codec_folder(work.catalog, latents),
            self._encoder(False),
            as_yaml(without_machine(config)),
        )
        losses = trained.losses.double().numpy()
        table = pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses})
        table.to_parquet(folder / "losses.parquet")
        files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
        meta = {
            "network": facts.kind,
            "dataset": self.run.name,
            "own": self.run.name == latents.name,
            "steps": spec.steps,
            "parameters": sum(t.numel() for t in weights.values()),
            "condition": asdict(facts.condition),
            "diffusion": asdict(config.diffusion),
        }
        tables = {"losses": table.assign(stage=self.name)}
        if here := len(losses) - trained.resumed_at:  # a run that was killed at its last step has no pace to tell
            speed = here / max(trained.seconds, 1e-9)
            tables["metrics"] = pd.DataFrame([{"group": "training", "metric": "steps per second", "value": speed}])
        return Product(files, meta, tables)


@dataclass(frozen=True)
class TrainSlices(Training):
    """`model` NAME-slice: stage 1 of the paper."""

    name: ClassVar[str] = "train-slices"
    model: ClassVar[str] = "slice"

    @staticmethod
    def course(config: Config) -> Course:
        """Without known slices, which are stage 2's alone."""
        return Course("slice", replace(config.condition, known=False), config.unet, config.train_slices)


@dataclass(frozen=True)
class TuneVolume(Training):
    """`model` NAME-volume: stage 2 of the paper, from stage 1's EMA; without that, a 3D network from scratch.

    Raises BadInput where the slice model that is to be tuned is missing.
    """

    name: ClassVar[str] = "tune-volume"
    model: ClassVar[str] = "volume"

    slice_model: str | None = None

    def __post_init__(self) -> None:
        generator = self.run.config.generator
        if "train_slices" in self.run.config.trained and self.slice_model is None:
            raise BadInput(f"generator={generator} tunes a slice model: give one, such as model/{self.run.name}-slice")

    @staticmethod
    def course(config: Config) -> Course:
        """Volumetric layers, or a network on whole volumes."""
        kind: NetworkKind = config.generator if "tune_volume" in config.trained else "volume"
        return Course(kind, config.condition, config.unet, config.tune_volume)

    @property
    def before(self) -> str | None:
        """Stage 1's model."""
        return self.slice_model


@dataclass(frozen=True)
class TrainInformed(Training):
    """`model` NAME-informed: samples an informed slice from a position alone."""

    name: ClassVar[str] = "train-informed"
    model: ClassVar[str] = "informed"

    @staticmethod
    def course(config: Config) -> Course:
        """Without mask and informed slice."""
        return Course("position", ConditionSpec(), config.position_unet, config.train_informed)


def sampling_courses(config: Config) -> list[tuple[str, Course]]:
    """The trainings that lead to the network that samples volumes, in their order, by stage."""
    sliced = [(TrainSlices.name, TrainSlices.course(config))] if "train_slices" in config.trained else []
    return sliced + ([(TuneVolume.name, TuneVolume.course(config))] if "tune_volume" in config.trained else [])


def network_facts(course: Course, latents: Artifact, files: Mapping[str, Path]) -> NetworkFacts:
    """The network that is trained on some latents. Raises BadInput where these hold masks of another encoding."""
    encoded = latents.meta.get("mask", course.condition.mask)
    if KINDS[course.kind].told == "conditions" and encoded != course.condition.mask:
        raise BadInput(
            f"{latents.ref} holds masks encoded as {encoded}, condition.mask={course.condition.mask} needs others: "
            "give latents that were encoded under this configuration"
        )
    return NetworkFacts(
        kind=course.kind,
        unet=course.unet,
        latent_channels=cast("int", latents.meta["latent_channels"]),
        mask_channels=cast("int", latents.meta["mask_channels"]),
        condition=_whole(course, files) if KINDS[course.kind].all_slices else course.condition,
    )


def _whole(course: Course, files: Mapping[str, Path]) -> ConditionSpec:
    """Conditions of a window that holds the deepest training volume."""
    depths = []
    for file in files.values():
        with safe_open(file, framework="pt") as tensors:
            depths.append(tensors.get_slice("image").get_shape()[0])
    return replace(course.condition, window=whole_window(max(depths), course.unet))


def model_facts(facts: NetworkFacts, config: Config, latents: Artifact) -> ModelFacts:
    """What a model is to know of the data behind its latents."""
    (height, width), (x, y, z) = (cast("list[float]", latents.meta[name]) for name in ("slice_size", "spacing"))
    return ModelFacts(
        network=facts,
        diffusion=config.diffusion,
        labels=label_ids(latents),
        channels=tuple(cast("list[str]", latents.meta["channels"])),
        slice_size=(int(height), int(width)),
        spacing=(x, y, z),
        intensity=tuple(cast("list[dict[str, object]]", latents.meta["intensity"])),
        fit=cast("Fit", latents.meta["fit"]),
    )
