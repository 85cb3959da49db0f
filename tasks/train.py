"""Stages 4, 5 and 6: the slice model, its volumetric tuning, and the position-conditioned slice model."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from configs import Config
from data_catalog import Catalog
from gem3d_core.batches import open_latents
from gem3d_core.checkpoints import NetworkFacts, save_network
from gem3d_core.codec import load_codec
from gem3d_core.models import Training, train_position_model, train_slice_model, tune_volume_model
from gem3d_core.schedule import make_schedule
from gem3d_core.settings import TrainSpec, UNetSpec
from gem3d_core.training import Trained
from tasks.configuration import store_configuration
from tasks.inputs import open_prepared, parent_of
from tasks.policy import accelerator, stage_task
from tasks.stage import Product, Run, Stage, StageResult, Work, run_stage

Outcome = tuple[dict[str, Tensor], Trained]


@dataclass(frozen=True)
class _Job:
    """One of the three trainings."""

    stage: str
    kind: str
    """Kind of network; also the end of the model's name."""
    unet: UNetSpec
    spec: TrainSpec
    run: Callable[[NetworkFacts, Training, Work], Outcome]


@stage_task("train-slices")
def train_slices(run: Run, latents: str) -> StageResult:
    """`model` NAME-slice: stage 1 of the paper."""
    config = run.config
    job = _Job("train-slices", "slice", config.unet, config.train_slices, lambda f, t, _: train_slice_model(f, t))
    return _train(run, job, (latents,))


@stage_task("tune-volume")
def tune_volume(run: Run, latents: str, slice_model: str) -> StageResult:
    """`model` NAME-volume: stage 2 of the paper, from stage 1's EMA."""
    config = run.config

    def tune(facts: NetworkFacts, training: Training, work: Work) -> Outcome:
        weights = work.catalog.path(work.catalog.get(slice_model), "weights.safetensors")
        return tune_volume_model(facts, weights, training)

    job = _Job("tune-volume", "volume", config.unet, config.tune_volume, tune)
    return _train(run, job, (latents, slice_model))


@stage_task("train-informed")
def train_informed(run: Run, latents: str) -> StageResult:
    """`model` NAME-informed: draws an informed slice from a position alone."""
    config = run.config
    job = _Job(
        "train-informed",
        "position",
        config.position_unet,
        config.train_informed,
        lambda f, t, _: train_position_model(f, t),
    )
    return _train(run, job, (latents,))


def _train(run: Run, job: _Job, inputs: tuple[str, ...]) -> StageResult:
    config = run.config
    name = f"{run.name}-{'informed' if job.kind == 'position' else job.kind}"
    settings = {"unet": job.unet, "train": job.spec, "diffusion": config.diffusion, "condition": config.condition}
    stage = Stage(job.stage, __name__, "model", name, settings, inputs, config.seed)

    def make(work: Work) -> Product:
        store_configuration(run)
        facts = _facts(run, job, work, inputs[0])
        with accelerator(config) as device:
            work.progress.total(job.spec.steps, "steps")
            training = Training(
                cases=open_latents(_training_files(work.catalog, inputs[0]), facts.window),
                schedule=make_schedule(config.diffusion),
                spec=job.spec,
                seed=config.seed,
                folder=work.folder / "checkpoints",
                device=torch.device(device),
                on_step=lambda step, loss: work.progress.at(step, f"loss {loss:.4f}"),
                emphasis=load_codec(work.catalog.view(work.catalog.get(inputs[0])) / "codec").emphasis,
            )
            weights, trained = job.run(facts, training, work)
        return _product(work, config, job, facts, weights, trained)

    return run_stage(run, stage, make)


def _facts(run: Run, job: _Job, work: Work, latents: str) -> NetworkFacts:
    meta = work.catalog.get(latents).meta
    return NetworkFacts(
        kind=job.kind,
        unet=job.unet,
        latent_channels=cast("int", meta["channels"]),
        mask_channels=cast("int", meta["mask_channels"]),
        offset=run.config.condition.slice_offset,
        window=run.config.condition.window,
    )


def _training_files(catalog: Catalog, latents: str) -> dict[str, Path]:
    artifact = catalog.get(latents)
    prepared = open_prepared(catalog, parent_of(catalog, latents, "prepared"))
    return {case: catalog.path(artifact, f"latents/{case}.safetensors") for case in prepared.train}


def _product(
    work: Work, config: Config, job: _Job, facts: NetworkFacts, weights: dict[str, Tensor], trained: Trained
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
        "network": job.kind,
        "steps": job.spec.steps,
        "parameters": sum(t.numel() for t in weights.values()),
        "condition": asdict(config.condition),
        "diffusion": asdict(config.diffusion),
    }
    speed = (len(losses) - trained.resumed_at) / max(trained.seconds, 1e-9)
    metrics = pd.DataFrame([{"group": "training", "metric": "steps per second", "value": speed}])
    return Product(files, meta, {"losses": table.assign(stage=job.stage), "metrics": metrics})
