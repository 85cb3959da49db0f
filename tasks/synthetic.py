"""The volumes that stage 11 scores: those of a repeat, and paired ones that it draws for the test masks."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from data_catalog import Artifact, Catalog
from gem3d_core.files import atomic
from gem3d_core.resampling import Recipe, draw_volumes
from gem3d_core.seeds import derive_seed
from gem3d_core.windows import start_slice
from tasks.inputs import Prepared, read_rows
from tasks.stage import Run, Work
from tasks.volume_model import open_volume_model, sampler

PAIRED_POSITION = 0.5
"""Normalised position of the test volume's own slice that serves as informed slice."""

Row = dict[str, object]


@dataclass(frozen=True)
class Synthetic:
    """One drawn volume beside what it was drawn for: slices (Z, H, W) float32 in [-1, 1], outline (Z, H, W) bool."""

    name: str
    case: str
    variant: str
    """Of the mask: true or augmented."""
    slices: np.ndarray
    outline: np.ndarray
    borders: tuple[int, ...]


def accepted(catalog: Catalog, volumes: Artifact, variant: str | None = None) -> list[Row]:
    """Rows of the accepted volumes of a repeat; of those for masks of one variant, where it is named."""
    rows = read_rows(catalog.path(volumes, "volumes.parquet"))
    return [row for row in rows if row["accepted"] and variant in (None, row["variant"])]


def open_synthetic(catalog: Catalog, volumes: Artifact, rows: Iterable[Row]) -> Iterator[Synthetic]:
    """The volumes of some rows, one at a time."""
    for row in rows:
        stored = load_file(catalog.path(volumes, f"volumes/{row['volume']}/slices.safetensors"))
        yield Synthetic(
            name=str(row["volume"]),
            case=str(row["mask_case"]),
            variant=str(row["variant"]),
            slices=stored["image"].float().numpy(),
            outline=stored["outline"].numpy(),
            borders=tuple(json.loads(str(row["borders"]))),
        )


def draw_paired(
    work: Work, run: Run, prepared: Prepared, latents: str, volume_model: str, device: str
) -> list[Synthetic]:
    """Test masks with the test volume's own slice as informed slice (Table 2); one that is finished is not redrawn."""
    cases = prepared.test[: run.config.evaluate.paired_cases]
    waiting = [case for case in cases if not _paired_file(work, case).exists()]
    model = open_volume_model(work.catalog, volume_model, latents, run.config, device)
    work.progress.total(len(waiting), "paired test volumes drawn")
    drawn = draw_volumes(model, paired_recipes(prepared, waiting, run.seed), sampler(run.config, model))
    for done, volume in enumerate(drawn, start=1):
        borders = torch.tensor(volume.borders, dtype=torch.int64)
        with atomic(_paired_file(work, volume.name)) as building:
            save_file({"slices": volume.slices.contiguous(), "borders": borders}, building)
        work.progress.at(done)
    return [_read_paired(work, prepared, case) for case in cases]


def _paired_file(work: Work, case: str) -> Path:
    return work.folder / f"paired-{case}.safetensors"


def _read_paired(work: Work, prepared: Prepared, case: str) -> Synthetic:
    stored = load_file(_paired_file(work, case))
    borders = tuple(stored["borders"].tolist())
    return Synthetic(case, case, "true", stored["slices"].numpy(), prepared.outline(case), borders)


def paired_recipes(prepared: Prepared, cases: list[str], seed: int) -> Iterator[Recipe]:
    """Recipes of test volumes: their own masks, and a slice of their own as informed slice."""
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
