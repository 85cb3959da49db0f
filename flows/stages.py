"""Every stage as a flow of its own, with a deployment of the same name; `enhance-dataset` calls them in order."""

from prefect import flow

from data_catalog import Catalog
from flows.session.parameters import Settings, dataset_folder, open_run
from tasks.artifacts.lineage import DatasetRefs
from tasks.evaluation.agreement import agreement
from tasks.evaluation.downstream import arms_of, downstream
from tasks.evaluation.fidelity import fidelity
from tasks.evaluation.real_features import real_features
from tasks.evaluation.report import report
from tasks.frame.stage import Run, StageResult
from tasks.stages.encode import encode
from tasks.stages.informed import informed
from tasks.stages.ingest import ingest
from tasks.stages.masks import masks
from tasks.stages.preprocess import preprocess
from tasks.stages.publish import publish
from tasks.stages.resample import resample
from tasks.stages.train import train_informed, train_slices, tune_volume


def _exact(run: Run, *refs: str) -> list[str]:
    """References with their versions: a name stands for the newest one now, and for no later one while a stage runs."""
    catalog = Catalog.open(run.catalog)
    return [catalog.get(ref).ref.full for ref in refs]


def _exact_data(run: Run, data: DatasetRefs) -> DatasetRefs:
    source, prepared, latents = _exact(run, data.source, data.prepared, data.latents)
    return DatasetRefs(source=source, prepared=prepared, latents=latents)


@flow(name="ingest", log_prints=False)
def ingest_flow(settings: Settings, skip_bad: bool = False) -> StageResult:  # noqa: FBT001, FBT002 - a form field
    """Stage 1: dataset folder -> source."""
    return ingest(open_run(settings), dataset_folder(settings), skip_bad=skip_bad)


@flow(name="preprocess")
def preprocess_flow(settings: Settings, source: str) -> StageResult:
    """Stage 2: source -> prepared."""
    run = open_run(settings, source)
    return preprocess(run, *_exact(run, source))


@flow(name="encode")
def encode_flow(settings: Settings, prepared: str) -> StageResult:
    """Stage 3: prepared -> latents."""
    run = open_run(settings, prepared)
    return encode(run, *_exact(run, prepared))


@flow(name="train-slices")
def train_slices_flow(settings: Settings, latents: str) -> StageResult:
    """Stage 4: latents -> model (slice)."""
    run = open_run(settings, latents)
    return train_slices(run, *_exact(run, latents))


@flow(name="tune-volume")
def tune_volume_flow(settings: Settings, latents: str, slice_model: str | None = None) -> StageResult:
    """Stage 5: latents, model (slice) -> model (volume); without a slice model a 3D network on whole volumes."""
    run = open_run(settings, latents)
    (exact,) = _exact(run, latents)
    return tune_volume(run, exact, *_exact(run, slice_model) if slice_model else [None])


@flow(name="train-informed")
def train_informed_flow(settings: Settings, latents: str) -> StageResult:
    """Stage 6: latents -> model (informed)."""
    run = open_run(settings, latents)
    return train_informed(run, *_exact(run, latents))


@flow(name="generate-informed-slices")
def informed_flow(settings: Settings, data: DatasetRefs, informed_model: str | None = None) -> list[StageResult]:
    """Stage 7: latents, model (informed) -> informed, one for each repeat."""
    run = open_run(settings, data.source)
    data, model = _exact_data(run, data), _exact(run, informed_model)[0] if informed_model else None
    return [informed(run, data, model, repeat) for repeat in range(run.config.factor)]


@flow(name="augment-masks")
def masks_flow(settings: Settings, data: DatasetRefs) -> list[StageResult]:
    """Stage 8: prepared -> masks, one for each repeat."""
    run = open_run(settings, data.source)
    data = _exact_data(run, data)
    return [masks(run, data, repeat) for repeat in range(run.config.factor)]


@flow(name="resample")
def resample_flow(
    settings: Settings, data: DatasetRefs, volume_model: str, informed: list[str], masks: list[str]
) -> list[StageResult]:
    """Stage 9: model (volume), informed, masks -> volumes, one for each repeat."""
    run = open_run(settings, data.source)
    data, (model,) = _exact_data(run, data), _exact(run, volume_model)
    pairs = zip(_exact(run, *informed), _exact(run, *masks), strict=True)
    return [
        resample(run, data, model, informed_ref, masks_ref, repeat)
        for repeat, (informed_ref, masks_ref) in enumerate(pairs)
    ]


@flow(name="publish")
def publish_flow(settings: Settings, data: DatasetRefs, volumes: list[str]) -> list[StageResult]:
    """Stage 10: volumes -> datasets at 1x ... Kx, each holding the smaller ones."""
    run = open_run(settings, data.source)
    data, volumes = _exact_data(run, data), _exact(run, *volumes)
    return [publish(run, data, volumes[:factor], factor) for factor in range(1, len(volumes) + 1)]


@flow(name="evaluate")
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

    volume_model: that drew the volumes; models: all that were trained; baselines: datasets of other systems, by name,
    which are arms too. The report comes last.
    """
    run = open_run(settings, data.source)
    data = _exact_data(run, data)
    models, volumes, datasets = (_exact(run, *refs) for refs in (models, volumes, datasets))
    (drawing,) = _exact(run, volume_model)
    compared = {name: _exact(run, ref)[0] for name, ref in (baselines or {}).items()}
    made = []
    if run.config.evaluate.fidelity:
        made.append(real_features(run, data))
        made.append(fidelity(run, data, made[0].ref, drawing, volumes))
    arms = arms_of(run, data.prepared, datasets, compared)
    trained = {arm: downstream(run, data, arm, dataset) for arm, dataset in arms.items()}
    made += trained.values()
    if "true" in trained:
        made.append(agreement(run, data, trained["true"].ref, volumes[0]))
    published = [*datasets, *compared.values()]
    return [*made, report(run, data, models, volumes, published, [result.ref for result in made])]
