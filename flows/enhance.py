"""enhance-dataset: a segmentation dataset in, an enhanced one out."""

from contextlib import suppress
from uuid import uuid4

from prefect import flow
from prefect.runtime import flow_run

from flows.ledger import Ledger, Reached, Summary
from flows.parameters import EnhanceParameters, dataset_folder, dataset_name, open_run
from flows.stages import (
    encode_flow,
    evaluate_flow,
    informed_flow,
    ingest_flow,
    masks_flow,
    preprocess_flow,
    publish_flow,
    resample_flow,
    train_informed_flow,
    train_slices_flow,
    tune_volume_flow,
)
from tasks.configuration import store_configuration
from tasks.inputs import DatasetRefs
from tasks.showing import show_summary
from tasks.stage import stages_of


@flow(name="enhance-dataset")
def enhance_dataset(params: EnhanceParameters = EnhanceParameters()) -> Summary:  # noqa: B008 - frozen
    """All eleven stages; what the catalog holds already is not made again."""
    folder = dataset_folder(params)
    settings = params.model_copy(
        update={
            "dataset": folder,
            "name": params.name or dataset_name(folder),
            "run_id": params.run_id or flow_run.id or uuid4().hex,
        }
    )
    run = open_run(settings)
    stages_of(run.config, params.until)  # refuses a stage that the system does without
    store_configuration(run)
    ledger = Ledger(run, params.until)
    with suppress(Reached):
        _stages(settings, ledger)
    summary = ledger.summary()
    show_summary(summary.model_dump())
    return summary


def _stages(settings: EnhanceParameters, ledger: Ledger) -> None:
    """The table of contents; a system may do without a stage that trains."""
    enter, config = ledger.enter, ledger.run.config
    source = enter("ingest", ingest_flow(settings, settings.skip_bad))
    prepared = enter("preprocess", preprocess_flow(settings, source.ref))
    latents = enter("encode", encode_flow(settings, prepared.ref))
    data = DatasetRefs(source=source.ref, prepared=prepared.ref, latents=latents.ref)
    models: dict[str, str] = {}
    if config.generator != "whole":
        models["slice"] = enter("train-slices", train_slices_flow(settings, latents.ref)).ref
    if config.generator != "slice":
        models["volume"] = enter("tune-volume", tune_volume_flow(settings, latents.ref, models.get("slice"))).ref
    if config.condition.informed:
        models["informed"] = enter("train-informed", train_informed_flow(settings, latents.ref)).ref
    drawing = models.get("volume") or models["slice"]
    informed = enter("generate-informed-slices", informed_flow(settings, data, models.get("informed")))
    masks = enter("augment-masks", masks_flow(settings, data))
    volumes = enter(
        "resample",
        resample_flow(settings, data, drawing, [i.ref for i in informed], [m.ref for m in masks]),
    )
    datasets = enter("publish", publish_flow(settings, data, [v.ref for v in volumes]))
    drawn, published = [v.ref for v in volumes], [d.ref for d in datasets]
    enter("evaluate", evaluate_flow(settings, data, drawing, list(models.values()), drawn, published))
