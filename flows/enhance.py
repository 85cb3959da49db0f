"""enhance-dataset: a segmentation dataset in, an enhanced one out."""

from contextlib import suppress
from uuid import uuid4

from prefect import flow
from prefect.runtime import flow_run

from flows.session.ledger import Ledger, Reached, Summary
from flows.session.parameters import EnhanceParameters, baseline_of, dataset_folder, dataset_name, open_run
from flows.session.showing import show_summary
from flows.stages import encode_flow, evaluate_flow, publish_flow
from flows.system import draw_volumes, prepare_data, train_models
from tasks.artifacts.configuration import store_configuration
from tasks.artifacts.latents import require_encoder
from tasks.artifacts.lineage import DatasetRefs
from tasks.evaluation.downstream import arms_of
from tasks.frame.stage import stages_of


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
    require_encoder(run.config.condition)
    stages_of(run.config, params.until)  # refuses a stage that the system does without
    baseline = baseline_of(settings, run)
    store_configuration(run)
    ledger = Ledger(run, params.until)
    with suppress(Reached):
        _stages(settings, ledger, baseline)
    summary = ledger.summary()
    show_summary(summary.model_dump())
    return summary


def _stages(settings: EnhanceParameters, ledger: Ledger, baseline: EnhanceParameters | None) -> None:
    """The table of contents; a system may do without a stage that trains."""
    data = prepare_data(settings, ledger, skip_bad=settings.skip_bad)
    models = train_models(settings, ledger, data.latents)
    volumes = draw_volumes(settings, ledger, data, models)
    datasets = ledger.enter("publish", publish_flow(settings, data, volumes))
    published = [dataset.ref for dataset in datasets]
    arms = arms_of(ledger.run, data.prepared, published)
    compared = _baseline(baseline, ledger, data) if baseline and arms else {}
    ledger.enter("evaluate", evaluate_flow(settings, data, models.drawing, models.all, volumes, published, compared))


def _baseline(settings: EnhanceParameters, ledger: Ledger, data: DatasetRefs) -> dict[str, str]:
    """Another system's dataset at 1x, on which nnU-Net is trained beside the others, by the system's name."""
    own = Ledger(open_run(settings))
    shared = settings.model_copy(update={"name": ledger.run.name})  # two systems may have the same latents
    latents = own.enter("encode", encode_flow(shared, data.prepared)).ref
    refs = data.model_copy(update={"latents": latents})
    volumes = draw_volumes(settings, own, refs, train_models(settings, own, latents))
    (dataset,) = own.enter("publish", publish_flow(settings, refs, volumes))
    system = own.run.config.system
    ledger.results += [result.model_copy(update={"stage": f"{result.stage} ({system})"}) for result in own.results]
    return {system: dataset.ref}
