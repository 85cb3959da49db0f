"""Stage 11, fidelity: FID in three planes, paired scores on test volumes, continuity, nearest training volume."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file

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
from gem3d_core.pictures import PictureRow, comparison, distance_histogram
from gem3d_core.resampling import Recipe, draw_volumes
from gem3d_core.seeds import derive_seed
from gem3d_core.windows import start_slice
from tasks.inputs import Prepared, hash_files, open_prepared, open_source, parent_of, read_label_slices, read_rows
from tasks.policy import accelerator, stage_task
from tasks.resample import open_volume_model, sampling_identity
from tasks.stage import Product, Run, Stage, StageResult, Work, run_stage

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

PAIRED_POSITION = 0.5
"""Normalised position of the test volume's own slice that serves as informed slice."""
PICTURE_ROWS = 3
SYNTHETIC, HELD_OUT, PAIRED = "synthetic", "held-out real", "test, paired"
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


@dataclass(frozen=True)
class Synthetic:
    """One drawn volume in slice space beside what it was drawn for."""

    name: str
    case: str
    variant: str
    slices: np.ndarray
    outline: np.ndarray
    borders: tuple[int, ...]


@stage_task("fidelity")
def fidelity(run: Run, latents: str, volume_model: str, volumes: list[str]) -> StageResult:
    """`metrics` NAME-fidelity: of the first repeat's `volumes`, of paired test volumes; distances of all repeats."""
    config = run.config
    settings = {
        "features": config.evaluate.features,
        "fid_volumes": config.evaluate.fid_volumes,
        "paired_cases": config.evaluate.paired_cases,
        "resample": sampling_identity(config),
        "diffusion": config.diffusion,
        "weights": hash_files([_weights_file(config, name) for name in (LPIPS_TRUNK, RADIMAGENET_FILE)]),
    }
    inputs = (latents, volume_model, *volumes)
    stage = Stage("fidelity", __name__, "metrics", f"{run.name}-fidelity", settings, inputs, run.seed)

    def make(work: Work) -> Product:
        prepared = open_prepared(work.catalog, parent_of(work.catalog, latents, "prepared"))
        repeats = [work.catalog.get(ref) for ref in volumes]
        drawn = repeats[0]
        with accelerator(config) as device:
            paired = _paired(work, run, prepared, latents, volume_model, device)
            values, missing = _fid(work, config, prepared, drawn, device)
            scores, unmeasured = _paired_scores(config, prepared, paired, device)
        values += [*scores, *_continuity(open_synthetic(work.catalog, drawn), prepared, SYNTHETIC)]
        values += _continuity(iter(paired), prepared, PAIRED)
        distances = _distances(work, prepared, repeats)
        pictures = _pictures(work, prepared, drawn, paired, distances)
        return _product(work, values, missing | unmeasured, distances, pictures)

    return run_stage(run, stage, make)


def weights_folder(config: Config) -> Path | None:
    """Where weights of others are looked for first."""
    import os

    named = config.runtime.weights or os.environ.get("GEM3D_WEIGHTS")
    return Path(named).expanduser().absolute() if named else None


def _weights_file(config: Config, name: str) -> Path:
    """Where weights are found; the bare name where they are not, which hashes to none."""
    try:
        return find_weights(name, weights_folder(config))
    except NotAvailable:
        return Path(name)


def open_synthetic(catalog: Catalog, volumes: Artifact) -> Iterator[Synthetic]:
    """Accepted volumes of a repeat, one at a time."""
    import json

    for row in read_rows(catalog.path(volumes, "volumes.parquet")):
        if row["accepted"]:
            stored = load_file(catalog.path(volumes, f"volumes/{row['volume']}/slices.safetensors"))
            yield Synthetic(
                name=str(row["volume"]),
                case=str(row["mask_case"]),
                variant=str(row["variant"]),
                slices=stored["image"].float().numpy(),
                outline=stored["outline"].numpy(),
                borders=tuple(json.loads(str(row["borders"]))),
            )


def _paired(work: Work, run: Run, prepared: Prepared, latents: str, volume_model: str, device: str) -> list[Synthetic]:
    """Test masks with the test volume's own slice as informed slice (Table 2)."""
    cases = prepared.test[: run.config.evaluate.paired_cases]
    waiting = [case for case in cases if not _paired_file(work, case).exists()]
    model = open_volume_model(work.catalog, volume_model, latents, run.config, device)
    work.progress.total(len(waiting), "paired test volumes drawn")
    drawn = draw_volumes(model, _paired_recipes(prepared, waiting, run.seed), run.config.resample)
    for done, volume in enumerate(drawn, start=1):
        path = _paired_file(work, volume.name)
        borders = torch.tensor(volume.borders, dtype=torch.int64)
        building = path.with_suffix(".building")
        save_file({"slices": volume.slices.contiguous(), "borders": borders}, building)
        building.replace(path)
        work.progress.at(done)
    return [_read_paired(work, prepared, case) for case in cases]


def _paired_file(work: Work, case: str) -> Path:
    return work.folder / f"paired-{case}.safetensors"


def _read_paired(work: Work, prepared: Prepared, case: str) -> Synthetic:
    stored = load_file(_paired_file(work, case))
    borders = tuple(stored["borders"].tolist())
    return Synthetic(case, case, "true", stored["slices"].numpy(), prepared.outline(case), borders)


def _paired_recipes(prepared: Prepared, cases: list[str], seed: int) -> Iterator[Recipe]:
    for case in cases:
        image = prepared.image(case)
        yield Recipe(
            name=case,
            mask=torch.from_numpy(prepared.mask(case)),
            outline=torch.from_numpy(prepared.outline(case)),
            informed=torch.from_numpy(image[start_slice(PAIRED_POSITION, len(image))]),
            p=PAIRED_POSITION,
            seed=derive_seed(seed, "paired", case),
        )


def _fid(
    work: Work, config: Config, prepared: Prepared, volumes: Artifact, device: str
) -> tuple[list[Value], dict[str, str]]:
    """FID of the synthetic against the training volumes, and of held-out real ones as a yardstick."""
    try:
        features = _extractor(config, device)
    except NotAvailable as reason:
        return [], {"FID": str(reason)}
    limit = config.evaluate.fid_volumes
    accepted = cast("int", volumes.meta["volumes"]) - cast("int", volumes.meta["rejected"])
    chosen = set(evenly(range(accepted), limit))
    synthetic = (s for k, s in enumerate(open_synthetic(work.catalog, volumes)) if k in chosen)
    sets: dict[str, Iterator[tuple[np.ndarray, np.ndarray]]] = {SYNTHETIC: ((s.slices, s.outline) for s in synthetic)}
    if prepared.test:
        sets[HELD_OUT] = _real(prepared, evenly(prepared.test, limit))
    work.progress.total(1 + len(sets), "sets of features")
    real = feature_moments(_real(prepared, evenly(prepared.train, limit)), features)
    values = []
    for done, (of, drawn) in enumerate(sets.items(), start=1):
        work.progress.at(done)
        for plane, score in fid(real, feature_moments(drawn, features)).items():
            values.append(Value(f"FID {plane}", of, "", score.value, score.n_real, score.n_synthetic))
    return values, {}


def evenly(items: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` items, evenly spaced over all of them."""
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[k * len(items) // limit] for k in range(limit)]


def _extractor(config: Config, device: str) -> Extractor:
    if config.evaluate.features == "radimagenet-resnet50":
        return radimagenet_resnet50(find_weights(RADIMAGENET_FILE, weights_folder(config)), device)
    return efficientnet_lite0(device)


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
        network = load_lpips(weights_folder(config), device)
    except NotAvailable as missing:
        return values, {"LPIPS": str(missing)}
    for s in paired:
        distance = lpips_distance(s.slices, prepared.image(s.case), network, s.outline)
        values.append(Value("LPIPS", PAIRED, s.case, distance))
    return values, {}


def _continuity(volumes: Iterator[Synthetic], prepared: Prepared, of: str) -> list[Value]:
    """(a) borders over insides of windows; (b) slice-to-slice difference over the real volume's, in three planes."""
    values = []
    for one in volumes:
        values.append(Value(BORDER, of, one.name, border_ratio(one.slices, one.borders)))
        if one.variant == "true":  # an edited mask has no real volume of its own
            for plane, ratio in smoothness_ratio(one.slices, prepared.image(one.case)).items():
                values.append(Value(f"(b) {plane} over real", of, one.name, ratio))
    return values


def _distances(work: Work, prepared: Prepared, repeats: list[Artifact]) -> "pd.DataFrame":
    """Each synthetic and each held-out volume's distance to its nearest training volume, RMSE in [-1, 1] units."""
    import pandas as pd

    names = [s.name for volumes in repeats for s in open_synthetic(work.catalog, volumes)]
    drawn = (s.slices for volumes in repeats for s in open_synthetic(work.catalog, volumes))
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


def _pictures(
    work: Work, prepared: Prepared, volumes: Artifact, paired: list[Synthetic], distances: "pd.DataFrame"
) -> dict[str, Path]:
    source = open_source(work.catalog, parent_of(work.catalog, volumes.ref.full, "source"))
    names = {ids: name for name, ids in source.labels.items() if isinstance(ids, int) and ids}
    pictures = {}
    shown = [s for s, _ in zip(open_synthetic(work.catalog, volumes), range(2 * PICTURE_ROWS), strict=False)]
    for key, title, drawn in (
        ("training", "new", [s for s in shown if s.variant == "true"]),
        ("paired", "drawn", paired),
        ("augmented", "edited mask, new", [s for s in shown if s.variant == "augmented"]),
    ):
        rows = [row for s in drawn[:PICTURE_ROWS] for row in _picture_rows(work, prepared, volumes, s, title)]
        if rows:
            pictures[f"{key}.png"] = comparison(rows, work.folder / f"{key}.png", names)
    held = distances.loc[distances["of"] == HELD_OUT, "distance"].to_numpy()
    ours = distances.loc[distances["of"] == SYNTHETIC, "distance"].to_numpy()
    if len(held):
        pictures["distances.png"] = distance_histogram(ours, held, work.folder / "distances.png")
    return pictures


def _picture_rows(work: Work, prepared: Prepared, volumes: Artifact, drawn: Synthetic, title: str) -> list[PictureRow]:
    """The real volume and the drawn one beneath it, with the mask that each belongs to."""
    x, y, z = prepared.cases[drawn.case].geometry.grid_spacing
    real = PictureRow(f"real {drawn.case}", prepared.image(drawn.case), prepared.mask(drawn.case), (z, y, x))
    if drawn.variant == "true":
        return [real, PictureRow(title, drawn.slices, prepared.mask(drawn.case), (z, y, x))]
    masks = work.catalog.get(parent_of(work.catalog, volumes.ref.full, "masks"))
    mask = read_label_slices(work.catalog.path(masks, f"cases/{drawn.case}/mask.nii.gz"))
    return [real, PictureRow(title, drawn.slices, mask, (z, y, x))]


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
