"""resample-dataset: new volumes from models of the catalog, a new version of the same dataset."""

from dataclasses import asdict
from datetime import UTC, datetime
from uuid import uuid4

from prefect import flow
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from configs import Config, change
from data_catalog import Catalog
from flows.session.ledger import Ledger, Summary
from flows.session.parameters import catalog_address
from flows.session.showing import show_summary
from gem3d_core.errors import BadInput
from gem3d_core.spec.kinds import trained_by
from tasks.artifacts.configuration import configuration_of_model
from tasks.artifacts.lineage import refs_behind, run_of_model
from tasks.artifacts.model import newest_volume_model
from tasks.frame.stage import Run
from tasks.stages.informed import informed
from tasks.stages.masks import masks
from tasks.stages.publish import publish
from tasks.stages.resample import resample


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
    use_cache: bool = True


@flow(name="resample-dataset")
def resample_dataset(params: ResampleParameters = ResampleParameters()) -> Summary:  # noqa: B008 - frozen
    """Stages 7 to 10 with another seed, for a nightly schedule or by hand."""
    address = catalog_address(params.catalog)
    catalog = Catalog.open(address)
    volume_model = catalog.get(params.model or newest_volume_model(catalog)).ref.full
    budget = {"runtime.memory": params.memory} if params.memory else {}
    # nothing is evaluated here, so no factor that was to be
    changes = {"factor": params.factor, "evaluate.factors": None, **params.overrides, **budget}
    config = change(configuration_of_model(catalog, volume_model), changes)
    _require_generator(catalog, volume_model, config)
    run = Run(
        catalog=address,
        run_id=flow_run.id or uuid4().hex,
        name=run_of_model(catalog.get(volume_model)),
        config=config,
        seed=int(datetime.now(UTC).strftime("%Y%m%d")) if params.seed is None else params.seed,
        use_cache=params.use_cache,
    )
    ledger = Ledger(run)
    _stages(run, ledger, catalog, volume_model)
    summary = ledger.summary()
    show_summary(summary.model_dump())
    return summary


def _require_generator(catalog: Catalog, ref: str, config: Config) -> None:
    artifact = catalog.get(ref)
    if artifact.meta.get("network") != config.generator:
        draw = trained_by("tune_volume")
        generators = {f"model/{a.name}" for a in catalog.ls("model") if a.meta.get("network") in draw}
        known = ", ".join(sorted(generators))
        raise BadInput(f"{artifact.ref} is no volume model, which re-sampling needs; there is {known or 'none yet'}")


def _stages(run: Run, ledger: Ledger, catalog: Catalog, volume_model: str) -> None:
    data = refs_behind(catalog, volume_model)
    position_model = _informed_model(catalog, run.config, data.latents, volume_model)
    volumes = []
    for repeat in range(run.config.factor):
        slices = ledger.enter("generate-informed-slices", informed(run, data, position_model, repeat))
        edited = ledger.enter("augment-masks", masks(run, data, repeat))
        drawn = resample(run, data, volume_model, slices.ref, edited.ref, repeat)
        volumes.append(ledger.enter("resample", drawn).ref)
    for factor in range(1, len(volumes) + 1):
        ledger.enter("publish", publish(run, data, volumes[:factor], factor))


def _informed_model(catalog: Catalog, config: Config, latents: str, volume_model: str) -> str | None:
    """The position-conditioned model of the same latents and diffusion: of the volume model's run, else the newest."""
    run_id, diffusion = catalog.get(volume_model).run_id, asdict(config.diffusion)
    found = [
        child
        for child in catalog.children(latents)
        if child.meta.get("network") == "position" and child.meta["diffusion"] == diffusion
    ]
    found.sort(key=lambda model: model.run_id != run_id)
    return found[0].ref.full if found else None
