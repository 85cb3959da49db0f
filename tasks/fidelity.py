"""Stage 11, fidelity: FID in three planes, paired scores on test volumes, continuity, nearest training volume."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from configs import Config
from data_catalog import Artifact, Catalog
from gem3d_core.errors import NotAvailable
from gem3d_core.metrics.continuity import border_ratio, smoothness_ratio
from gem3d_core.metrics.features import (
    LPIPS_TRUNK,
    Extractor,
    efficientnet_lite0,
    find_weights,
    load_lpips,
    radimagenet_resnet50,
)
from gem3d_core.metrics.fidelity import feature_moments, fid, lpips_distance, ms_ssim
from gem3d_core.metrics.privacy import nearest_distances
from tasks.fidelity_pictures import draw_comparisons, draw_distances
from tasks.inputs import DatasetRefs, Prepared, hash_file, open_prepared, open_source
from tasks.policy import accelerator, stage_task
from tasks.stage import Product, Run, Stage, StageResult, Work, run_stage
from tasks.synthetic import Row, Synthetic, accepted, draw_paired, open_synthetic
from tasks.volume_model import sampling_identity

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

SYNTHETIC, EDITED, HELD_OUT, PAIRED = "synthetic", "synthetic for edited masks", "held-out real", "test, paired"
SETS = {"true": SYNTHETIC, "augmented": EDITED}
"""By the kind of mask. The real volumes have true masks, so those carry the headline; an edit changes the anatomy."""
FEWEST_EDITED = 3
"""Volumes for edited masks that have a FID beside that for true ones."""
BORDER = "(a) border over inside"
RADIMAGENET_FILE = "RadImageNet-ResNet50.pt"


@dataclass(frozen=True)
class Value:
    """One measured number: of one volume, or (case empty) of a whole set. None where the measure is not defined."""

    metric: str
    of: str
    case: str
    value: float | None
    n_real: int = 0
    n_synthetic: int = 0


@stage_task("fidelity")
def fidelity(run: Run, data: DatasetRefs, volume_model: str, volumes: list[str]) -> StageResult:
    """`metrics` NAME-fidelity: of the first repeat's `volumes`, of paired test volumes; distances of all repeats."""
    config = run.config
    settings = {
        "features": config.evaluate.features,
        "fid_volumes": config.evaluate.fid_volumes,
        "paired_cases": config.evaluate.paired_cases,
        "resample": sampling_identity(config),
        "diffusion": config.diffusion,
        "weights": {name: _weights_hash(run, name) for name in _weights_of(config)},
    }
    inputs = (data.source, data.prepared, data.latents, volume_model, *volumes)
    stage = Stage("fidelity", __name__, "metrics", f"{run.name}-fidelity", settings, inputs, run.seed)

    def make(work: Work) -> Product:
        prepared = open_prepared(work.catalog, data.prepared)
        repeats = [work.catalog.get(ref) for ref in volumes]
        drawn = repeats[0]
        with accelerator(config) as device:
            paired = draw_paired(work, run, prepared, data.latents, volume_model, device)
            values, missing = _fid(work, config, prepared, drawn, device)
            scores, unmeasured = _paired_scores(config, prepared, paired, device)
        values += scores
        for variant, of in SETS.items():
            rows = accepted(work.catalog, drawn, variant)
            values += _continuity(open_synthetic(work.catalog, drawn, rows), prepared, of)
        values += _continuity(paired, prepared, PAIRED)
        distances = _distances(work.catalog, prepared, repeats)
        near = {of: distances.loc[distances["of"] == of, "distance"].to_numpy() for of in (SYNTHETIC, HELD_OUT)}
        pictures = draw_comparisons(work, open_source(work.catalog, data.source), prepared, drawn, paired)
        pictures |= draw_distances(work, near[SYNTHETIC], near[HELD_OUT])
        return _product(work, values, missing | unmeasured, distances, pictures)

    return run_stage(run, stage, make)


def weights_folder(config: Config) -> Path | None:
    """Where weights of others are looked for first."""
    import os

    named = config.runtime.weights or os.environ.get("GEM3D_WEIGHTS")
    return Path(named).expanduser().absolute() if named else None


def _weights_of(config: Config) -> list[str]:
    """Files of weights that the configuration asks for; those of EfficientNet come with a package."""
    return [LPIPS_TRUNK, *([RADIMAGENET_FILE] if config.evaluate.features == "radimagenet-resnet50" else [])]


def _weights_hash(run: Run, name: str) -> str | None:
    """Content hash of weights that others trained; None where there are none.

    They are downloaded first where they can be, so that the next run finds what this one uses.
    """
    try:
        return hash_file(find_weights(name, weights_folder(run.config), download=not run.dry))
    except NotAvailable:
        return None


def _fid(
    work: Work, config: Config, prepared: Prepared, volumes: Artifact, device: str
) -> tuple[list[Value], dict[str, str]]:
    """FID of synthetic volumes, and of held-out real ones as a yardstick, against the training volumes."""
    try:
        features = _extractor(config, device)
    except NotAvailable as reason:
        return [], {"FID": str(reason)}
    limit = config.evaluate.fid_volumes
    drawn, missing = _fid_sets(work.catalog, volumes)
    sets = {of: _drawn(work.catalog, volumes, evenly(rows, limit)) for of, rows in drawn.items()}
    if prepared.test:
        sets[HELD_OUT] = _real(prepared, evenly(prepared.test, limit))
    work.progress.total(1 + len(sets), "sets of features")
    real = feature_moments(_real(prepared, evenly(prepared.train, limit)), features)
    values = []
    for done, (of, compared) in enumerate(sets.items(), start=1):
        work.progress.at(done)
        for plane, score in fid(real, feature_moments(compared, features)).items():
            values.append(Value(f"FID {plane}", of, "", score.value, score.n_real, score.n_synthetic))
    return values, missing


def _fid_sets(catalog: Catalog, volumes: Artifact) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """Accepted volumes by set, and why the edited masks have no FID where they are few beside the true ones."""
    rows = {of: accepted(catalog, volumes, variant) for variant, of in SETS.items()}
    sets = {of: found for of, found in rows.items() if found}
    if len(sets) == len(SETS) and len(sets[EDITED]) < FEWEST_EDITED:
        few = len(sets.pop(EDITED))
        return sets, {f"FID ({EDITED})": f"{few} volume(s) were accepted, expected {FEWEST_EDITED} or more"}
    return sets, {}


def evenly(items: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` items, evenly spaced over all of them."""
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[k * len(items) // limit] for k in range(limit)]


def _extractor(config: Config, device: str) -> Extractor:
    if config.evaluate.features == "radimagenet-resnet50":
        return radimagenet_resnet50(find_weights(RADIMAGENET_FILE, weights_folder(config)), device)
    return efficientnet_lite0(device)


def _drawn(catalog: Catalog, volumes: Artifact, rows: Iterable[Row]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for one in open_synthetic(catalog, volumes, rows):
        yield one.slices, one.outline


def _real(prepared: Prepared, cases: Iterable[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for case in cases:
        yield prepared.image(case), prepared.outline(case)


def _paired_scores(
    config: Config, prepared: Prepared, paired: list[Synthetic], device: str
) -> tuple[list[Value], dict[str, str]]:
    """MS-SSIM and LPIPS of every paired test volume, and what could not be measured."""
    if not paired:
        reason = "there is no test split: with fewer than two patients all cases train"
        return [], {"MS-SSIM": reason, "LPIPS": reason}
    values = [Value("MS-SSIM", PAIRED, s.case, ms_ssim(s.slices, prepared.image(s.case), s.outline)) for s in paired]
    try:
        network = load_lpips(weights_folder(config), device, download=False)
    except NotAvailable as missing:
        return values, {"LPIPS": str(missing)}
    for s in paired:
        distance = lpips_distance(s.slices, prepared.image(s.case), network, s.outline)
        values.append(Value("LPIPS", PAIRED, s.case, distance))
    return values, {}


def _continuity(volumes: Iterable[Synthetic], prepared: Prepared, of: str) -> list[Value]:
    """(a) borders over insides of windows; (b) slice-to-slice difference over the real volume's, in three planes."""
    values = []
    for one in volumes:
        values.append(Value(BORDER, of, one.name, border_ratio(one.slices, one.borders)))
        if one.variant == "true":  # an edited mask has no real volume of its own
            for plane, ratio in smoothness_ratio(one.slices, prepared.image(one.case)).items():
                values.append(Value(f"(b) {plane} over real", of, one.name, ratio))
    return values


def _distances(catalog: Catalog, prepared: Prepared, repeats: list[Artifact]) -> "pd.DataFrame":
    """Distance of each synthetic and held-out volume to its nearest training volume, RMSE in [-1, 1] units.

    A copy is a copy whatever its mask: volumes for edited masks are among the synthetic ones.
    """
    import pandas as pd

    rows = [accepted(catalog, volumes) for volumes in repeats]
    names = [str(row["volume"]) for found in rows for row in found]
    drawn = (s.slices for pair in zip(repeats, rows, strict=True) for s in open_synthetic(catalog, *pair))
    near = nearest_distances(drawn, (prepared.image(c) for c in prepared.train))
    frames = [_nearest_table(names, SYNTHETIC, near.indices, near.distances, prepared)]
    if prepared.test:
        held = nearest_distances(
            (prepared.image(c) for c in prepared.test), (prepared.image(c) for c in prepared.train)
        )
        frames.append(_nearest_table(prepared.test, HELD_OUT, held.indices, held.distances, prepared))
    return pd.concat(frames, ignore_index=True)


def _nearest_table(
    names: list[str], of: str, indices: np.ndarray, distances: np.ndarray, prepared: Prepared
) -> "pd.DataFrame":
    import pandas as pd

    nearest = [prepared.train[i] for i in indices]
    return pd.DataFrame({"volume": names, "of": of, "nearest": nearest, "distance": distances})


def _product(
    work: Work, values: list[Value], missing: dict[str, str], distances: "pd.DataFrame", pictures: dict[str, Path]
) -> Product:
    import pandas as pd

    table = pd.DataFrame(values).astype({"value": "float64"})
    table.to_parquet(work.folder / "values.parquet")
    distances.to_parquet(work.folder / "distances.parquet")
    files = {name: work.folder / name for name in ("values.parquet", "distances.parquet")} | pictures
    means = table.groupby(table["metric"] + " (" + table["of"] + ")", sort=False)["value"].mean()
    headlines = {str(name): None if math.isnan(mean) else mean for name, mean in means.items()}
    return Product(files, {"means": headlines, "missing": missing}, {"metrics": table.rename(columns={"of": "subset"})})
