"""Stage 11, fidelity: FID in three planes, paired scores on test volumes, continuity, nearest training volume."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from configs import Config
from gem3d_core.errors import NotAvailable
from gem3d_core.metrics.features import (
    LPIPS_TRUNK,
    Extractor,
    efficientnet_lite0,
    find_weights,
    load_lpips,
    radimagenet_resnet50,
)
from gem3d_core.metrics.fidelity import fid
from gem3d_core.metrics.neighbours import NEIGHBOUR, kernel_distance, precision_recall
from gem3d_core.metrics.privacy import nearest_distances
from gem3d_core.split import evenly
from tasks.fidelity_pictures import PICTURE_ROWS, draw_comparisons, draw_distances
from tasks.fidelity_volumes import (
    HELD_OUT,
    TRAINING,
    DrawnVolumes,
    Reading,
    Seen,
    TestVolumes,
    read_drawn,
    read_test,
    read_training,
)
from tasks.inputs import DatasetRefs, Prepared, hash_file, open_prepared, open_source
from tasks.policy import accelerator, stage_task
from tasks.stage import Product, Run, Stage, StageResult, Work, run_stage
from tasks.synthetic import Real, Row, Synthetic, accepted, draw_paired, open_synthetic
from tasks.volume_model import sampling_identity

if TYPE_CHECKING:
    import pandas as pd


SYNTHETIC, EDITED, PAIRED = "synthetic", "synthetic for edited masks", "test, paired"
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
        rows = [accepted(work.catalog, repeat) for repeat in repeats]
        sets, missing = _fid_sets(rows[0])
        limit, threads = config.evaluate.fid_volumes, config.runtime.threads
        of_volume = {str(row["volume"]): of for of, found in sets.items() for row in evenly(found, limit)}
        shown = [row for variant in SETS for row in _of(rows[0], variant)[:PICTURE_ROWS]]
        names, cases = ({str(row[key]) for row in shown} for key in ("volume", "mask_case"))
        with accelerator(config) as device:
            features, without_fid = _features(config, device)
            lpips, without_scores = _lpips(config, prepared, device)
            reading = Reading(features)
            train, real = read_training(reading, prepared, evenly(prepared.train, limit), cases, work.progress, threads)
            paired = draw_paired(work, run, prepared, data.latents, volume_model, device) if prepared.test else []
            held_out, first = evenly(prepared.test, limit), prepared.test[:PICTURE_ROWS]
            test = read_test(reading, prepared, paired, lpips, held_out, first)
            opened = (open_synthetic(work.catalog, *one, threads) for one in zip(repeats, rows, strict=True))
            drawn = read_drawn(reading, opened, train, of_volume, names)
        compared = [*sets, *([HELD_OUT] if prepared.test else [])]
        values = [*_fid(reading, compared), *_neighbours(reading, compared)]
        values += [*_paired_scores(prepared.test, test), *_continuity(prepared.test, drawn, test)]
        distances = _distances(prepared, drawn, train, test)
        near = {of: distances.loc[distances["of"] == of, "distance"].to_numpy() for of in (SYNTHETIC, HELD_OUT)}
        source, groups = open_source(work.catalog, data.source), _pictured(drawn, real, test)
        pictures = draw_comparisons(work, source, prepared, repeats[0], groups)
        pictures |= draw_distances(work, near[SYNTHETIC], near[HELD_OUT])
        return _product(work, values, (without_fid or missing) | without_scores, distances, pictures)

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


def _features(config: Config, device: str) -> tuple[Extractor | None, dict[str, str]]:
    """The network whose features FID compares; none, and why, where it is not available."""
    try:
        return _extractor(config, device), {}
    except NotAvailable as reason:
        return None, {"FID": str(reason)}


def _lpips(config: Config, prepared: Prepared, device: str) -> tuple[nn.Module | None, dict[str, str]]:
    """The network of LPIPS; none where it is not available, and which paired scores there are not."""
    if not prepared.test:
        reason = "there is no test split: with fewer than two patients all cases train"
        return None, {"MS-SSIM": reason, "LPIPS": reason}
    try:
        return load_lpips(weights_folder(config), device, download=False), {}
    except NotAvailable as reason:
        return None, {"LPIPS": str(reason)}


def _fid_sets(accepted_rows: list[Row]) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """Drawn volumes by set, and why the edited masks have no FID where they are few beside the true ones."""
    rows = {of: _of(accepted_rows, variant) for variant, of in SETS.items()}
    sets = {of: found for of, found in rows.items() if found}
    if len(sets) == len(SETS) and len(sets[EDITED]) < FEWEST_EDITED:
        few = len(sets.pop(EDITED))
        return sets, {f"FID ({EDITED})": f"{few} volume(s) were accepted, expected {FEWEST_EDITED} or more"}
    return sets, {}


def _of(rows: list[Row], variant: str) -> list[Row]:
    return [row for row in rows if row["variant"] == variant]


def _pictured(
    drawn: DrawnVolumes, real: Mapping[str, Real], test: TestVolumes
) -> dict[str, list[tuple[Synthetic, Real]]]:
    """What each picture shows: drawn volumes with the real ones of their cases."""
    new = {v: [(one, real[one.case]) for one in drawn.pictured if one.variant == v] for v in SETS}
    paired = sorted(((pair.drawn, pair.real) for pair in test.pictured), key=lambda shown: shown[0].case)
    return {"training": new["true"], "paired": paired, "augmented": new["augmented"]}


def _fid(reading: Reading, sets: list[str]) -> list[Value]:
    """FID of synthetic volumes, and of held-out real ones as a yardstick, against the training volumes."""
    if reading.features is None:
        return []
    values, moments = [], reading.moments
    for of in sets:
        for plane, score in fid(moments.get(TRAINING, {}), moments.get(of, {})).items():
            values.append(Value(f"FID {plane}", of, "", score.value, score.n_real, score.n_synthetic))
    return values


def _neighbours(reading: Reading, sets: list[str]) -> list[Value]:
    """KID, precision and recall of the same sets on the same features, where there are slices enough."""
    values = []
    for of in sets:
        for plane, sample in reading.samples.get(of, {}).items():
            real, drawn = reading.samples[TRAINING][plane].vectors, sample.vectors
            counts = (len(real), len(drawn))
            if min(counts) <= NEIGHBOUR:
                continue
            precision, recall = precision_recall(real, drawn)
            scores = {"KID": kernel_distance(real, drawn), "precision": precision, "recall": recall}
            values += [Value(f"{metric} {plane}", of, "", score, *counts) for metric, score in scores.items()]
    return values


def _extractor(config: Config, device: str) -> Extractor:
    if config.evaluate.features == "radimagenet-resnet50":
        return radimagenet_resnet50(find_weights(RADIMAGENET_FILE, weights_folder(config)), device)
    return efficientnet_lite0(device)


def _paired_scores(cases: list[str], test: TestVolumes) -> list[Value]:
    """MS-SSIM and LPIPS of every paired test volume."""
    scores = {"MS-SSIM": test.ms_ssim, "LPIPS": test.lpips}
    return [
        Value(metric, PAIRED, case, of_cases[case])
        for metric, of_cases in scores.items()
        for case in cases
        if case in of_cases
    ]


def _continuity(cases: list[str], drawn: DrawnVolumes, test: TestVolumes) -> list[Value]:
    """Both measures of the drawn volumes by set, and of the paired ones."""
    measured = [
        (of, name, found)
        for kind, of in SETS.items()
        for name, (variant, found) in drawn.continuity.items()
        if variant == kind
    ]
    measured += [(PAIRED, case, test.continuity[case]) for case in cases if case in test.continuity]
    values = []
    for of, name, found in measured:
        values.append(Value(BORDER, of, name, found.border))
        for plane, ratio in (found.over_real or {}).items():
            values.append(Value(f"(b) {plane} over real", of, name, ratio))
    return values


def _distances(prepared: Prepared, drawn: DrawnVolumes, train: Mapping[str, Seen], test: TestVolumes) -> "pd.DataFrame":
    """Distance of each synthetic and held-out volume to its nearest training volume, RMSE in [-1, 1] units.

    A copy is a copy whatever its mask: volumes for edited masks are among the synthetic ones.
    """
    import pandas as pd

    known = [train[case].coarse for case in prepared.train]
    near = nearest_distances(drawn.coarse, known)
    frames = [_nearest_table(drawn.names, SYNTHETIC, near.indices, near.distances, prepared)]
    if prepared.test:
        held = nearest_distances([test.seen[case].coarse for case in prepared.test], known)
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
