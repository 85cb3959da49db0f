"""Stage 11, fidelity: the scores of sets and of volumes, from what was kept of every volume that was read."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from gem3d_core.metrics.fidelity import fid
from gem3d_core.metrics.neighbours import NEIGHBOUR, kernel_distance, precision_recall
from gem3d_core.metrics.privacy import nearest_distances
from gem3d_core.metrics.resampled import frechet_replicates
from tasks.fidelity_volumes import HELD_OUT, TRAINING, DrawnVolumes, Reading, Seen, TestVolumes
from tasks.inputs import Prepared

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


def fid_scores(reading: Reading, sets: list[str]) -> list[Value]:
    """FID of synthetic volumes, and of held-out real ones as a yardstick, against the training volumes."""
    if reading.features is None:
        return []
    values, moments = [], reading.moments
    for of in sets:
        for plane, score in fid(moments.get(TRAINING, {}), moments.get(of, {})).items():
            values.append(Value(f"FID {plane}", of, "", score.value, score.n_real, score.n_synthetic))
    return values


def fid_replicates(reading: Reading, sets: list[str], resamples: int) -> "pd.DataFrame":
    """FID of resampled volumes of each set, a row a replicate; of a set of one volume there is none."""
    import pandas as pd

    rows: list[tuple[str, str, int, int, float]] = []
    for of in sets:
        for plane, sample in reading.samples.get(of, {}).items():
            volumes = len(np.unique(sample.volumes))
            if not resamples or volumes < 2:
                continue
            found = frechet_replicates(reading.moments[TRAINING][plane], sample.vectors, sample.volumes, resamples)
            rows += [(of, plane, volumes, k, float(value)) for k, value in enumerate(found)]
    return pd.DataFrame(rows, columns=["of", "plane", "volumes", "replicate", "value"])


def neighbour_scores(reading: Reading, sets: list[str]) -> list[Value]:
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
