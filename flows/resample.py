"""resample-dataset: new volumes from models of the catalog, a new version of the same dataset."""

from dataclasses import asdict
from datetime import UTC, datetime

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from configs import Config, change
from data_catalog import Artifact, Catalog
from flows.dag import (
    ENCODE,
    INGEST,
    PREPROCESS,
    PUBLISH,
    TRAIN_INFORMED,
    TUNE_VOLUME,
    generating,
    made_of,
    steps_of,
)
from flows.enhance import go_through
from flows.session.ledger import Ledger, Summary
from flows.session.parameters import catalog_address, dataset_folder, new_run_id
from flows.session.showing import show_summary
from gem3d_core.errors import BadInput
from gem3d_core.spec.kinds import trained_by
from tasks.artifacts.lineage import DatasetRefs, refs_behind
from tasks.artifacts.model import configuration_of, newest_volume_model, samples_volumes
from tasks.artifacts.prepared import split_sizes
from tasks.frame.stage import Run


class ResampleParameters(BaseModel):
    """Parameters of resample-dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(None, description="Volume model, such as model/Hippocampus-volume; else the newest")
    catalog: str | None = Field(None, description="Catalog folder or s3:// address; else GEM3D_CATALOG, else ./catalog")
    factor: int = Field(1, ge=1, description="Datasets at 1x ... factor x")
    memory: str | None = Field(None, description="Budget such as 8GiB: as many windows at once as fit")
    overrides: dict[str, JsonValue] = Field(
        default_factory=dict, description="Changes to the configuration that the model was trained with"
    )
    seed: int | None = Field(None, ge=0, description="Of all draws; else today's date (UTC), as YYYYMMDD")
    dataset: str | None = Field(None, description="Folder of the true cases, where publish.mix=real adds them")
    use_cache: bool = True


@flow(name="resample-dataset")
def resample_dataset(params: ResampleParameters = ResampleParameters()) -> Summary:  # noqa: B008 - frozen
    """Stages 7 to 10 with another seed, for a nightly schedule or by hand.

    Where no model is named and the catalog holds none yet, there is nothing to do.
    """
    address = catalog_address(params.catalog)
    catalog = Catalog.open(address)
    model = catalog.get(params.model) if params.model else newest_volume_model(catalog)
    if model is None:
        told = f"nothing to do: {address} holds no volume model yet; `gem3d enhance` trains one"
        return Summary(run_id=new_run_id(), catalog=address, note=told)
    run = _run(params, catalog, model, address)
    ledger, data = Ledger(run), refs_behind(catalog, model)
    position = _position_models(catalog, run.config, data, model)
    trained = {generating(run.config): [model.ref.full], TRAIN_INFORMED: position}
    made = made_of({INGEST: [data.source], PREPROCESS: [data.prepared], ENCODE: [data.latents], **trained})
    steps = steps_of(run.config, after=TUNE_VOLUME, until=PUBLISH)
    go_through(run, [step for step in steps if step.name not in made.refs], made, ledger)
    summary = ledger.summary()
    show_summary(summary.model_dump())
    return summary


def _run(params: ResampleParameters, catalog: Catalog, model: Artifact, address: str) -> Run:
    """Under the configuration that the model was trained with. Raises BadInput for a model that samples no volumes."""
    budget = {"runtime.memory": params.memory} if params.memory else {}
    # nothing is evaluated here, so no factor that was to be
    changes = {"factor": params.factor, "evaluate.factors": None, **params.overrides, **budget}
    config = change(configuration_of(catalog, model), changes)
    if model.meta.get("network") != config.generator:
        known = ", ".join(sorted({f"model/{a.name}" for a in catalog.ls("model") if samples_volumes(a)}))
        raise BadInput(f"{model.ref} is no volume model, which re-sampling needs; there is {known or 'none yet'}")
    return Run(
        catalog=address,
        run_id=new_run_id(),
        name=str(model.meta["dataset"]),
        config=config,
        seed=int(datetime.now(UTC).strftime("%Y%m%d")) if params.seed is None else params.seed,
        use_cache=params.use_cache,
        dataset=dataset_folder(params.dataset),
    )


def _position_models(catalog: Catalog, config: Config, data: DatasetRefs, model: Artifact) -> list[str]:
    """The position-conditioned model of the same latents and diffusion: of the volume model's run, else the newest.

    None where there is no need of it, or where it has to be trained.
    """
    if TRAIN_INFORMED.needless(config, split_sizes(catalog, data.prepared).patients):
        return []
    diffusion = asdict(config.diffusion)
    found = [
        child
        for child in catalog.children(data.latents)
        if child.meta.get("network") in trained_by("train_informed") and child.meta["diffusion"] == diffusion
    ]
    found.sort(key=lambda position: position.run_id != model.run_id)
    return [position.ref.full for position in found[:1]]
