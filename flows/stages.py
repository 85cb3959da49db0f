"""Every step as a flow of its own, with a deployment of the same name."""

from collections.abc import Mapping, Sequence

from prefect import flow

from data_catalog import Catalog
from flows.dag import (
    AUGMENT_MASKS,
    ENCODE,
    EVALUATE,
    INFORMED_SLICES,
    INGEST,
    PREPROCESS,
    PUBLISH,
    RESAMPLE,
    TRAIN_INFORMED,
    TRAIN_SLICES,
    TUNE_VOLUME,
    Made,
    Step,
    follow,
    generating,
    made_of,
    named,
)
from flows.session.parameters import Settings, open_run
from tasks.artifacts.lineage import DatasetRefs
from tasks.frame.policy import perform_as_task
from tasks.frame.stage import Run, StageResult


@flow
def _stage_flow(run: Run, step: str, made: Made) -> list[StageResult]:
    return _followed(named(step), run, made)


def perform_step(run: Run, step: Step, made: Made) -> list[StageResult]:
    """A step of a larger run, as a subflow of the step's name."""
    results: list[StageResult] = _stage_flow.with_options(name=step.name)(run, step.name, made)
    return results


def _followed(step: Step, run: Run, made: Made) -> list[StageResult]:
    results = follow(step, run, made, perform_as_task)
    assert results is not None, f"{step.name} was begun before what it reads was made"
    return results


def _alone(step: Step, settings: Settings, name: str, read: Mapping[Step, Sequence[str | None]]) -> list[StageResult]:
    """A step by itself. name: a reference that tells the run's name.

    A name without a version stands for the newest one now, and for no later one while a stage runs.
    """
    run = open_run(settings, name)
    catalog = Catalog.open(run.catalog)
    exact = {of: [catalog.get(ref).ref.full for ref in refs if ref] for of, refs in read.items()}
    return _followed(step, run, made_of(exact))


def _data(data: DatasetRefs) -> dict[Step, Sequence[str | None]]:
    return {INGEST: [data.source], PREPROCESS: [data.prepared], ENCODE: [data.latents]}


@flow(name=INGEST.name)
def ingest_flow(settings: Settings) -> list[StageResult]:
    """Stage 1: dataset folder -> source."""
    return _followed(INGEST, open_run(settings), Made())


@flow(name=PREPROCESS.name)
def preprocess_flow(settings: Settings, source: str) -> list[StageResult]:
    """Stage 2: source -> prepared."""
    return _alone(PREPROCESS, settings, source, {INGEST: [source]})


@flow(name=ENCODE.name)
def encode_flow(settings: Settings, prepared: str) -> list[StageResult]:
    """Stage 3: prepared -> latents."""
    return _alone(ENCODE, settings, prepared, {PREPROCESS: [prepared]})


@flow(name=TRAIN_SLICES.name)
def train_slices_flow(settings: Settings, latents: str) -> list[StageResult]:
    """Stage 4: latents -> model (slice)."""
    return _alone(TRAIN_SLICES, settings, latents, {ENCODE: [latents]})


@flow(name=TUNE_VOLUME.name)
def tune_volume_flow(settings: Settings, latents: str, slice_model: str | None = None) -> list[StageResult]:
    """Stage 5: latents, model (slice) -> model (volume); without a slice model a 3D network on whole volumes."""
    return _alone(TUNE_VOLUME, settings, latents, {ENCODE: [latents], TRAIN_SLICES: [slice_model]})


@flow(name=TRAIN_INFORMED.name)
def train_informed_flow(settings: Settings, latents: str) -> list[StageResult]:
    """Stage 6: latents -> model (informed)."""
    return _alone(TRAIN_INFORMED, settings, latents, {ENCODE: [latents]})


@flow(name=INFORMED_SLICES.name)
def informed_flow(settings: Settings, data: DatasetRefs, informed_model: str | None = None) -> list[StageResult]:
    """Stage 7: latents, model (informed) -> informed, one for each repeat."""
    return _alone(INFORMED_SLICES, settings, data.source, {**_data(data), TRAIN_INFORMED: [informed_model]})


@flow(name=AUGMENT_MASKS.name)
def masks_flow(settings: Settings, data: DatasetRefs) -> list[StageResult]:
    """Stage 8: prepared -> masks, one for each repeat."""
    return _alone(AUGMENT_MASKS, settings, data.source, _data(data))


@flow(name=RESAMPLE.name)
def resample_flow(
    settings: Settings, data: DatasetRefs, volume_model: str, informed: list[str], masks: list[str] | None = None
) -> list[StageResult]:
    """Stage 9: model (volume), informed, masks -> volumes, one for each repeat."""
    read = {**_data(data), TUNE_VOLUME: [volume_model], TRAIN_SLICES: [volume_model]}
    read |= {INFORMED_SLICES: informed, AUGMENT_MASKS: masks or []}
    return _alone(RESAMPLE, settings, data.source, read)


@flow(name=PUBLISH.name)
def publish_flow(settings: Settings, data: DatasetRefs, volumes: list[str]) -> list[StageResult]:
    """Stage 10: volumes -> datasets at 1x ... Kx, each holding the smaller ones."""
    return _alone(PUBLISH, settings, data.source, {**_data(data), RESAMPLE: volumes})


@flow(name=EVALUATE.name)
def evaluate_flow(
    settings: Settings,
    data: DatasetRefs,
    volume_model: str,
    models: list[str],
    volumes: list[str],
    datasets: list[str],
    baselines: dict[str, str] | None = None,
) -> list[StageResult]:
    """Stage 11: fidelity of the first repeat, an nnU-Net arm for the true data and each dataset, and the report.

    volume_model: that sampled the volumes; models: all that were trained; baselines: datasets of other systems, by
    name, which are arms too. The report comes last.
    """
    run = open_run(settings, data.source)
    catalog = Catalog.open(run.catalog)

    def exact(refs: Sequence[str]) -> list[str]:
        return [catalog.get(ref).ref.full for ref in refs]

    others = [ref for ref in exact(models) if ref not in exact([volume_model])]
    read = {step: exact([ref for ref in refs if ref]) for step, refs in _data(data).items()}
    made = made_of(
        {**read, RESAMPLE: exact(volumes), PUBLISH: exact(datasets), generating(run.config): exact([volume_model])}
    )
    made.refs[TRAIN_INFORMED.name] = others
    made.compared = {name: exact([ref])[0] for name, ref in (baselines or {}).items()}
    return _followed(EVALUATE, run, made)
