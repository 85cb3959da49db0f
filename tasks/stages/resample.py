"""Stage 9: one repeat of re-sampling, a new volume for every mask."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from data_catalog import Artifact, Catalog
from gem3d_core.errors import BadInput, Gem3dError
from gem3d_core.machine.checkpoints import save_tensors
from gem3d_core.machine.files import read_json, write_json
from gem3d_core.prepare.case import restore_image
from gem3d_core.prepare.geometry import Geometry
from gem3d_core.prepare.intensity import IntensityMap, median_map
from gem3d_core.sampling.batched import count_windows
from gem3d_core.sampling.volumes import Drawn, Recipe, VolumeModel, draw_volumes
from gem3d_core.scans.volumes import write_nifti
from gem3d_core.seeds import derive_seed
from tasks.artifacts.files import CASES, read_label_slices, read_rows, read_slices
from tasks.artifacts.latents import stored_condition
from tasks.artifacts.lineage import DatasetRefs
from tasks.artifacts.model import open_volume_model, sampler, sampling_identity, writing_ahead
from tasks.artifacts.prepared import Prepared, open_prepared
from tasks.artifacts.source import Source, open_source
from tasks.frame.policy import accelerator, stage_task
from tasks.frame.stage import Product, Run, Stage, StageResult, Work, run_stage
from tasks.stages.informed import variants

if TYPE_CHECKING:
    import pandas as pd


FLAT = 0.01
"""A volume whose slices spread less than this (of a range of 2) inside the outline holds no image."""


@dataclass(frozen=True)
class _Entry:
    """One volume to draw: its drawn informed slice, its mask and where they lie on the source grid."""

    name: str
    row: dict[str, object]
    informed: np.ndarray
    geometry: Geometry
    edit: str | None

    @property
    def case(self) -> str:
        return str(self.row["case"])

    @property
    def augmented(self) -> bool:
        return self.row["variant"] == "augmented"


@dataclass(frozen=True)
class _Inputs:
    """Everything that one repeat reads."""

    catalog: Catalog
    source: Source
    prepared: Prepared
    latents: Artifact
    masks: Artifact | None
    """Edited masks; none where only true ones are used."""

    def edited(self, entry: _Entry, what: str) -> Path:
        """A file of an edited mask: `mask`, `outline` (slices) or `label` (source grid)."""
        assert self.masks is not None
        return self.catalog.path(self.masks, f"cases/{entry.case}/{what}.nii.gz")

    def mask(self, entry: _Entry) -> np.ndarray:
        if entry.augmented:
            return read_label_slices(self.edited(entry, "mask"))
        return self.prepared.mask(entry.case)

    def outline(self, entry: _Entry) -> np.ndarray:
        if entry.augmented:
            return read_label_slices(self.edited(entry, "outline")) > 0
        return self.prepared.outline(entry.case)

    def label(self, entry: _Entry) -> np.ndarray:
        """On the source grid; a true mask is the source's own, voxel by voxel."""
        if entry.augmented:
            from gem3d_core.scans.volumes import read_label

            return read_label(self.edited(entry, "label")).array
        return self.source.cases[entry.case].read_label().array

    def intensity(self, entry: _Entry) -> tuple[IntensityMap, str]:
        """The donor's map, or the training set's median for a generated slice; and which it is."""
        donor = entry.row["donor"]
        if donor is not None:
            return self.prepared.cases[str(donor)].intensity, "donor"
        return median_map([self.prepared.cases[case].intensity for case in self.prepared.train]), "training median"


@stage_task("resample")
def resample(run: Run, data: DatasetRefs, volume_model: str, informed: str, masks: str, repeat: int) -> StageResult:
    """`volumes` of one repeat, in the source geometry. A volume that is finished is not drawn again after a kill.

    `masks` is an input where edited masks are used; true masks stand in `prepared`.
    """
    config = run.config
    edited = masks if "augmented" in variants(config) else None
    settings = {"resample": sampling_identity(config), "diffusion": config.diffusion, "condition": config.condition}
    stage = Stage(
        "resample",
        __name__,
        "volumes",
        f"{run.name}-r{repeat}",
        {**settings, "repeat": repeat},
        tuple(ref for ref in (data.prepared, data.latents, volume_model, informed, edited) if ref),
        run.seed,
        files=((data.source, CASES),),
    )

    def make(work: Work) -> Product:
        prepared = open_prepared(work.catalog, data.prepared)
        source = open_source(work.catalog, data.source)
        latents = work.catalog.get(data.latents)
        inputs = _Inputs(work.catalog, source, prepared, latents, work.catalog.get(edited) if edited else None)
        entries, given_up = _entries(inputs, work.catalog.get(informed), repeat)
        if not entries:
            raise BadInput(f"no mask is left to draw a volume for: every edit was given up ({'; '.join(given_up[:3])})")
        with accelerator(config) as device:
            model = open_volume_model(work.catalog, volume_model, data.latents, config, device)
            _draw_all(work, model, inputs, entries, run, repeat)
        return _product(work, entries, given_up, {"model": volume_model, "informed": informed, "masks": edited})

    return run_stage(run, stage, make)


def volume_name(repeat: int, index: int) -> str:
    """The name of a new volume, by its repeat and its place among the masks that are drawn for."""
    return f"gem{repeat}_{index:04d}"


def _entries(inputs: _Inputs, informed: Artifact, repeat: int) -> tuple[list[_Entry], list[str]]:
    """The volumes of a repeat, and what is left out because no edit of its mask was accepted."""
    edits = _edits(inputs)
    slices = read_slices(inputs.catalog.path(informed, "informed.nii.gz"))
    entries, given_up = [], []
    rows = read_rows(inputs.catalog.path(informed, "draws.parquet"))
    for index, (row, informed_slice) in enumerate(zip(rows, slices, strict=True)):
        case = str(row["case"])
        name = volume_name(repeat, index)
        if row["variant"] == "true":
            entries.append(_Entry(name, row, informed_slice, inputs.prepared.cases[case].geometry, None))
        elif (edit := edits[case])["accepted"]:
            geometry = Geometry.from_dict(json.loads(str(edit["geometry"])))
            entries.append(_Entry(name, row, informed_slice, geometry, str(edit["edit"])))
        else:
            given_up.append(f"{case}: {edit['reasons']}")
    return entries, given_up


def _edits(inputs: _Inputs) -> dict[str, dict[str, object]]:
    """What was done to the mask of each case; empty where only true masks are used."""
    if inputs.masks is None:
        return {}
    return {str(row["case"]): row for row in read_rows(inputs.catalog.path(inputs.masks, "cases.parquet"))}


def _draw_all(work: Work, model: VolumeModel, inputs: _Inputs, entries: list[_Entry], run: Run, repeat: int) -> None:
    """Draw what is not finished yet; volumes are restored and written by other threads meanwhile."""
    waiting = {entry.name: entry for entry in entries if read_json(work.folder / entry.name / "facts.json") is None}
    depths = [entry.geometry.grid_shape[2] for entry in waiting.values()]
    spec = sampler(run.config, model, depths, writing=writing_ahead(run.config))
    windows = count_windows(depths, model.network.facts.condition, spec)
    work.progress.total(windows, "windows drawn")
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done = min(windows, done + more)
        work.progress.at(done)

    with ThreadPoolExecutor(run.config.runtime.threads) as pool:
        writing: list[Future[None]] = []
        outlines: dict[str, np.ndarray] = {}
        recipes = _recipes(inputs, waiting, run.seed, repeat, outlines)
        for drawn in draw_volumes(model, recipes, spec, count):
            entry, outline = waiting[drawn.name], outlines.pop(drawn.name)
            folder = work.folder / drawn.name
            writing.append(pool.submit(_write, folder, inputs, entry, drawn, outline, run.seed, repeat))
            while len(writing) > writing_ahead(run.config):
                writing.pop(0).result()  # bounds what waits in memory, and shows a full disk at once
        for future in writing:
            future.result()


def _recipes(
    inputs: _Inputs, entries: dict[str, _Entry], seed: int, repeat: int, outlines: dict[str, np.ndarray]
) -> Iterator[Recipe]:
    """Recipes, whose outlines are put into `outlines`, where they wait for the volume to be written."""
    for entry in entries.values():
        outlines[entry.name] = inputs.outline(entry)
        yield Recipe(
            name=entry.name,
            mask=torch.from_numpy(inputs.mask(entry)),
            outline=torch.from_numpy(outlines[entry.name]),
            informed=torch.from_numpy(entry.informed.astype(np.float32)),
            p=float(cast("float", entry.row["p"])),
            seed=noise_seed(seed, repeat, entry.case, str(entry.row["variant"])),
            condition=None if entry.augmented else stored_condition(inputs.catalog, inputs.latents, entry.case),
        )


def noise_seed(seed: int, repeat: int, case: str, variant: str) -> int:
    """The seed of all noise of one volume; `variant` of its mask: true or augmented."""
    return derive_seed(seed, "volume", repeat, case, variant)


def _write(
    folder: Path, inputs: _Inputs, entry: _Entry, drawn: Drawn, outline: np.ndarray, seed: int, repeat: int
) -> None:
    """Image and mask on the source grid, the slices, and last the facts, which say that the rest is whole."""
    intensity, mapped_by = inputs.intensity(entry)
    dtype = "int16" if intensity.kind == "ct" else "float32"
    slices = drawn.slices.numpy()
    image = restore_image(slices, outline, entry.geometry, intensity, dtype)
    write_nifti(folder / "image.nii.gz", image, entry.geometry.affine)
    write_nifti(folder / "label.nii.gz", inputs.label(entry), entry.geometry.affine)
    save_tensors(folder / "slices.safetensors", {"image": drawn.slices.half(), "outline": torch.from_numpy(outline)})
    spread = float(slices[outline].std()) if outline.any() else 0.0
    facts = {
        **entry.row,
        "volume": entry.name,
        "noise_seed": noise_seed(seed, repeat, entry.case, str(entry.row["variant"])),
        "edit": entry.edit,
        "intensity": json.dumps(intensity.to_dict()),
        "mapped_by": mapped_by,
        "borders": list(drawn.borders),
        "spread": spread,
        "accepted": spread > FLAT,
        "rejected_because": "" if spread > FLAT else f"no image: spread {spread:.4f} inside the outline",
    }
    write_json(folder / "facts.json", facts)


def _product(work: Work, entries: list[_Entry], given_up: list[str], models: dict[str, str | None]) -> Product:
    table = _table(work, entries).assign(**models).astype({"masks": "string"})
    table.to_parquet(work.folder / "volumes.parquet")
    files = {"volumes.parquet": work.folder / "volumes.parquet"}
    for entry in entries:
        for name in ("image.nii.gz", "label.nii.gz", "slices.safetensors"):
            files[f"volumes/{entry.name}/{name}"] = work.folder / entry.name / name
    if not table["accepted"].any():
        raise Gem3dError(
            f"none of {len(table)} volumes holds an image ({table['rejected_because'].iloc[0]}): train longer"
        )
    meta = {"volumes": len(entries), "rejected": int((~table["accepted"]).sum()), "given_up": given_up}
    return Product(files, meta, {"volumes": table})


def _table(work: Work, entries: list[_Entry]) -> "pd.DataFrame":
    import pandas as pd

    rows = [read_json(work.folder / entry.name / "facts.json") for entry in entries]
    for row in rows:
        row["borders"] = json.dumps(row["borders"])
    types = {"donor": "string", "donor_slice": "Int64", "edit": "string"}
    return pd.DataFrame(rows).rename(columns={"case": "mask_case"}).astype(types)
