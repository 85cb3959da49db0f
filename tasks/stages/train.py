"""Stages 4, 5 and 6: the slice model, its volumetric tuning, and the position-conditioned slice model."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from torch import Tensor

from configs import Config
from data_catalog import Catalog
from gem3d_core.errors import BadInput
from gem3d_core.networks.files import save_network
from gem3d_core.networks.whole import whole_window
from gem3d_core.spec.kinds import KINDS
from gem3d_core.spec.method import ConditionSpec, NetworkFacts, NetworkKind, TrainSpec, UNetSpec
from gem3d_core.training.launch import Job, train_job, train_job_in_processes
from gem3d_core.training.loop import Trained
from tasks.artifacts.configuration import store_configuration
from tasks.artifacts.files import read_rows
from tasks.artifacts.latents import codec_folder, encoder_files, open_codec
from tasks.frame.policy import accelerator, stage_task, training_processes
from tasks.frame.stage import Product, Run, Stage, StageResult, Work, run_stage


@dataclass(frozen=True)
class Plan:
    """One of the three trainings."""

    stage: str
    kind: NetworkKind
    condition: ConditionSpec
    unet: UNetSpec
    spec: TrainSpec

    @property
    def model(self) -> str:
        """The end of the model's name."""
        return {"train-slices": "slice", "tune-volume": "volume", "train-informed": "informed"}[self.stage]


@stage_task("train-slices")
def train_slices(run: Run, latents: str) -> StageResult:
    """`model` NAME-slice: stage 1 of the paper."""
    return _train(run, _slice_plan(run.config), latents)


@stage_task("tune-volume")
def tune_volume(run: Run, latents: str, slice_model: str | None) -> StageResult:
    """`model` NAME-volume: stage 2 of the paper, from stage 1's EMA; without that, a 3D network from scratch."""
    config = run.config
    if "train_slices" in config.trained and slice_model is None:
        raise BadInput(f"generator={config.generator} tunes a slice model: give one, such as model/{run.name}-slice")
    return _train(run, _volume_plan(config), latents, slice_model)


@stage_task("train-informed")
def train_informed(run: Run, latents: str) -> StageResult:
    """`model` NAME-informed: draws an informed slice from a position alone."""
    config = run.config
    plan = Plan("train-informed", "position", ConditionSpec(), config.position_unet, config.train_informed)
    return _train(run, plan, latents)


def drawing_plans(config: Config) -> list[Plan]:
    """The trainings that lead to the network that draws volumes, in their order."""
    sliced = [_slice_plan(config)] if "train_slices" in config.trained else []
    return sliced + ([_volume_plan(config)] if "tune_volume" in config.trained else [])


def _slice_plan(config: Config) -> Plan:
    condition = replace(config.condition, known=False)  # which is stage 2's alone
    return Plan("train-slices", "slice", condition, config.unet, config.train_slices)


def _volume_plan(config: Config) -> Plan:
    kind: NetworkKind = config.generator if "tune_volume" in config.trained else "volume"
    return Plan("tune-volume", kind, config.condition, config.unet, config.tune_volume)


def _train(run: Run, plan: Plan, latents: str, slice_model: str | None = None) -> StageResult:
    config = run.config
    name = f"{run.name}-{plan.model}"
    settings = {"unet": plan.unet, "train": plan.spec, "diffusion": config.diffusion, "condition": plan.condition}
    settings |= {"encoder": encoder_files(plan.condition)} if plan.kind != "position" else {}
    inputs = (latents, slice_model) if slice_model else (latents,)
    stage = Stage(plan.stage, __name__, "model", name, settings, inputs, config.seed)

    def make(work: Work) -> Product:
        store_configuration(run)
        job = _job(run, plan, work, latents, slice_model)
        work.progress.total(plan.spec.steps, "steps")

        def show(step: int, loss: float) -> None:
            work.progress.at(step, f"loss {loss:.4f}")

        with accelerator(config) as device:
            count = training_processes(config, device, plan.spec.batch)
            if count == 1:
                weights, trained = train_job(job, torch.device(device), show)
            else:
                weights, trained = train_job_in_processes(job, device, count, show)
        return _product(work, config, plan, job.facts, weights, trained)

    return run_stage(run, stage, make)


def _job(run: Run, plan: Plan, work: Work, latents: str, slice_model: str | None) -> Job:
    catalog = work.catalog
    emphasis, attends = open_codec(catalog, latents).emphasis, plan.condition.attends
    weights = catalog.path(catalog.get(slice_model), "weights.safetensors") if slice_model else None
    return Job(
        facts=network_facts(plan, catalog, latents),
        latents={case: str(file) for case, file in _training_files(catalog, latents).items()},
        diffusion=run.config.diffusion,
        spec=plan.spec,
        seed=run.config.seed,
        folder=str(work.folder / "checkpoints"),
        emphasis=tuple(emphasis.tolist()),
        codec=str(codec_folder(catalog, latents)) if attends else None,
        slice_weights=None if weights is None else str(weights),
        memory=run.config.runtime.memory_bytes,
    )


def network_facts(plan: Plan, catalog: Catalog, latents: str) -> NetworkFacts:
    """Of the network that is trained on some latents. Raises BadInput where these hold masks of another encoding."""
    meta = catalog.get(latents).meta
    encoded = meta.get("mask", plan.condition.mask)
    if plan.kind != "position" and encoded != plan.condition.mask:
        raise BadInput(
            f"{latents} holds masks encoded as {encoded}, condition.mask={plan.condition.mask} needs others: give "
            "latents that were encoded under this configuration"
        )
    return NetworkFacts(
        kind=plan.kind,
        unet=plan.unet,
        latent_channels=cast("int", meta["channels"]),
        mask_channels=cast("int", meta["mask_channels"]),
        condition=_whole(catalog, latents, plan) if KINDS[plan.kind].all_slices else plan.condition,
    )


def _whole(catalog: Catalog, latents: str, plan: Plan) -> ConditionSpec:
    """Conditions of a window that holds the deepest training volume."""
    depths = []
    for file in _training_files(catalog, latents).values():
        with safe_open(file, framework="pt") as tensors:
            depths.append(tensors.get_slice("image").get_shape()[0])
    return replace(plan.condition, window=whole_window(max(depths), plan.unet))


def _training_files(catalog: Catalog, latents: str) -> dict[str, Path]:
    artifact = catalog.get(latents)
    index = read_rows(catalog.path(artifact, "index.parquet"))
    train = sorted(str(row["case"]) for row in index if row["train"])
    return {case: catalog.path(artifact, f"latents/{case}.safetensors") for case in train}


def _product(
    work: Work, config: Config, plan: Plan, facts: NetworkFacts, weights: dict[str, Tensor], trained: Trained
) -> Product:
    import pandas as pd

    save_network(work.folder / "model", facts, weights)
    losses = trained.losses.double().numpy()
    table = pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses})
    table.to_parquet(work.folder / "losses.parquet")
    files = {
        "weights.safetensors": work.folder / "model" / "weights.safetensors",
        "network.json": work.folder / "model" / "network.json",
        "losses.parquet": work.folder / "losses.parquet",
    }
    meta = {
        "network": plan.kind,
        "steps": plan.spec.steps,
        "parameters": sum(t.numel() for t in weights.values()),
        "condition": asdict(plan.condition),
        "diffusion": asdict(config.diffusion),
        "encoder": encoder_files(plan.condition) if plan.kind != "position" else {},
    }
    tables = {"losses": table.assign(stage=plan.stage)}
    if here := len(losses) - trained.resumed_at:  # a run that was killed at its last step has no pace to tell
        speed = here / max(trained.seconds, 1e-9)
        tables["metrics"] = pd.DataFrame([{"group": "training", "metric": "steps per second", "value": speed}])
    return Product(files, meta, tables)
