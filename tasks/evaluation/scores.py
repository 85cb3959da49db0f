"""Stage 11, fidelity: the scores of sets and of volumes, from what was kept of every volume that was read."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gem3d_core.metrics.frechet import Moments, fid
from gem3d_core.metrics.nearest import nearest_distances
from gem3d_core.metrics.neighbours import NEIGHBOUR, Sample, kernel_distance, precision_recall
from gem3d_core.metrics.uncertainty import frechet_replicates, kernel_replicates, share_replicates
from tasks.artifacts.prepared import Prepared
from tasks.evaluation.volumes import HELD_OUT, TRAINING, DrawnVolumes, Reading, Seen, TestVolumes

if TYPE_CHECKING:
    import pandas as pd


SYNTHETIC, EDITED, PAIRED = "synthetic", "synthetic for edited masks", "test, paired"
SETS = {"true": SYNTHETIC, "augmented": EDITED}
"""By the kind of mask. The real volumes have true masks, so those carry the headline; an edit changes the anatomy."""
FEWEST_EDITED = 3
"""Volumes for edited masks that have a FID beside that for true ones."""
BORDER = "(a) border over inside"


@dataclass(frozen=True)
class Value:
    """One measured number: of one volume, or (case empty) of a whole set. None where the measure is not defined."""

    metric: str
    of: str
    case: str
    value: float | None
    n_real: int = 0
    n_synthetic: int = 0


def set_scores(reading: Reading, sets: list[str], resamples: int) -> tuple[list[Value], "pd.DataFrame"]:
    """FID, KID, precision and recall of sets beside the training volumes, and the same of resampled volumes.

    sets: of synthetic volumes, or of held-out real ones as a yardstick. KID and the others need a few slices, the
    second table (a row a set, score and replicate) two or more volumes.
    """
    import pandas as pd

    values: list[Value] = []
    rows: list[tuple[str, str, int, int, float]] = []
    for of in sets if reading.features else []:
        for plane, score in fid(reading.moments.get(TRAINING, {}), reading.moments.get(of, {})).items():
            values.append(Value(f"FID {plane}", of, "", score.value, score.n_real, score.n_synthetic))
        for plane, sample in reading.samples.get(of, {}).items():
            real, volumes = reading.samples[TRAINING][plane], len(np.unique(sample.volumes))
            shares = _shares(real, sample)
            if shares:
                scores = {"KID": kernel_distance(real.vectors, sample.vectors)}
                scores |= {metric: float(inside.mean()) for metric, (inside, _) in shares.items()}
                counts = (len(real.vectors), len(sample.vectors))
                values += [Value(f"{metric} {plane}", of, "", score, *counts) for metric, score in scores.items()]
            if resamples and volumes > 1:
                again = _resampled(reading.moments[TRAINING][plane], real, sample, shares, resamples)
                rows += [
                    (of, f"{metric} {plane}", volumes, k, float(value))
                    for metric, found in again.items()
                    for k, value in enumerate(found)
                ]
    return values, pd.DataFrame(rows, columns=["of", "metric", "volumes", "replicate", "value"])


Shares = Mapping[str, tuple[NDArray[np.bool_], NDArray[np.str_]]]
"""What precision and recall count: for each slice whether it is within reach, and its volume."""


def _shares(real: Sample, drawn: Sample) -> Shares:
    """Nothing where there are too few slices."""
    if min(len(real.vectors), len(drawn.vectors)) <= NEIGHBOUR:
        return {}
    among_real, among_drawn = precision_recall(real.vectors, drawn.vectors)
    return {"precision": (among_real, drawn.volumes), "recall": (among_drawn, real.volumes)}


def _resampled(
    known: Moments, real: Sample, drawn: Sample, shares: Shares, resamples: int
) -> dict[str, NDArray[np.float64]]:
    """Replicates by metric: over the drawn volumes, those of recall over the real ones."""
    found = {"FID": frechet_replicates(known, drawn.vectors, drawn.volumes, resamples)}
    if shares:
        found["KID"] = kernel_replicates(real.vectors, drawn.vectors, drawn.volumes, resamples)
    for metric, (inside, volumes) in shares.items():
        if len(np.unique(volumes)) > 1:
            found[metric] = share_replicates(inside, volumes, resamples)
    return found


def paired_scores(cases: list[str], test: TestVolumes) -> list[Value]:
    """MS-SSIM and LPIPS of every paired test volume."""
    scores = {"MS-SSIM": test.ms_ssim, "LPIPS": test.lpips}
    return [
        Value(metric, PAIRED, case, of_cases[case])
        for metric, of_cases in scores.items()
        for case in cases
        if case in of_cases
    ]


def continuity_scores(cases: list[str], drawn: DrawnVolumes, test: TestVolumes) -> list[Value]:
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


def nearest_training(
    prepared: Prepared, drawn: DrawnVolumes, train: Mapping[str, Seen], test: TestVolumes
) -> "pd.DataFrame":
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


def value_table(values: list[Value]) -> "pd.DataFrame":
    """A row a value."""
    import pandas as pd

    return pd.DataFrame(values, columns=[field.name for field in fields(Value)]).astype({"value": "float64"})
