"""Stage 9: one repeat of re-sampling, a new volume for every mask."""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch

from configs import Config
from data_catalog import Artifact, Catalog
from gem3d_core.errors import BadInput, Gem3dError
from gem3d_core.machine.checkpoints import save_tensors
from gem3d_core.machine.files import read_json, write_json
from gem3d_core.prepare.case import restore_image
from gem3d_core.prepare.geometry import Geometry
from gem3d_core.prepare.intensity import IntensityMap, median_map
from gem3d_core.sampling.batched import count_windows
from gem3d_core.sampling.volumes import Drawn, Recipe, VolumeModel, draw_volumes
from gem3d_core.scans.volumes import read_label, write_nifti
from gem3d_core.seeds import derive_seed
from tasks.artifacts.files import CASES, read_label_slices, read_rows, read_slices
from tasks.artifacts.latents import stored_condition
from tasks.artifacts.model import open_volume_model, sampler, sampling_identity, writing_ahead
from tasks.artifacts.prepared import Prepared, open_prepared
from tasks.artifacts.volumes import VOLUMES
from tasks.frame.policy import accelerator
from tasks.frame.stage import Identity, Product, Stage, Work
from tasks.stages.informed import SLICES, SOURCES, variants

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
    seed: int
    """The seed of all noise."""

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
            return read_label(self.edited(entry, "label")).array
        return self.prepared.source_label(entry.case)

    def intensity(self, entry: _Entry) -> tuple[IntensityMap, str]:
        """The donor's map, or the training set's median for a generated slice; and which it is."""
        donor = entry.row["donor"]
        if donor is not None:
            return self.prepared.cases[str(donor)].intensity, "donor"
        return median_map([self.prepared.cases[case].intensity for case in self.prepared.train]), "training median"


@dataclass(frozen=True)
class Resample(Stage):
    """`volumes` of one repeat, in the source geometry. A volume that is finished is not sampled again after a kill.

    `masks` is an input where edited masks are used; true masks stand in `prepared`.
    """

    name: ClassVar[str] = "resample"
    kind: ClassVar[str] = "volumes"

    prepared: str
    latents: str
    volume_model: str
    informed: str
    masks: str | None
    repeat: int

    def identity(self) -> Identity:
        """The model, the informed slices and the masks; how it is sampled."""
        config = self.run.config
        settings = {
            "resample": sampling_identity(config),
            "diffusion": config.diffusion,
            "condition": config.condition,
            "repeat": self.repeat,
        }
        inputs = (self.prepared, self.latents, self.volume_model, self.informed, self._edited)
        name = f"{self.run.name}-r{self.repeat}"
        return Identity(name, settings, tuple(ref for ref in inputs if ref), seed=self.run.seed)

    def make(self, work: Work) -> Product:
        """Sample, restore and write every volume."""
        config, prepared = self.run.config, open_prepared(work.catalog, work.get(self.prepared))
        edited = work.get(self._edited) if self._edited else None
        inputs = _Inputs(work.catalog, prepared, work.get(self.latents), edited)
        entries, given_up = _entries(inputs, work.get(self.informed), self.run.seed, self.repeat)
        if not entries:
            raise BadInput(f"no mask is left to sample for: every edit was given up ({'; '.join(given_up[:3])})")
        with accelerator(config) as device:
            model = open_volume_model(work.catalog, work.get(self.volume_model), config, device)
            _sample_all(work, model, inputs, entries, config)
        made_of = {"model": self.volume_model, "informed": self.informed, "masks": self._edited}
        return _product(work, entries, given_up, made_of)

    @property
    def _edited(self) -> str | None:
        return self.masks if "augmented" in variants(self.run.config) else None


def volume_name(repeat: int, index: int) -> str:
    """The name of a new volume, by its repeat and its place among the masks that are drawn for."""
    return f"gem{repeat}_{index:04d}"


def _entries(inputs: _Inputs, informed: Artifact, seed: int, repeat: int) -> tuple[list[_Entry], list[str]]:
    """The volumes of a repeat, and what is left out because no edit of its mask was accepted."""
    edits = _edits(inputs)
    slices = read_slices(inputs.catalog.path(informed, SLICES))
    entries, given_up = [], []
    rows = read_rows(inputs.catalog.path(informed, SOURCES))
    for index, (row, informed_slice) in enumerate(zip(rows, slices, strict=True)):
        case, name = str(row["case"]), volume_name(repeat, index)
        noise = noise_seed(seed, repeat, case, str(row["variant"]))
        if row["variant"] == "true":
            entries.append(_Entry(name, row, informed_slice, inputs.prepared.cases[case].geometry, None, noise))
        elif (edit := edits[case])["accepted"]:
            geometry = Geometry.from_dict(json.loads(str(edit["geometry"])))
            entries.append(_Entry(name, row, informed_slice, geometry, str(edit["edit"]), noise))
        else:
            given_up.append(f"{case}: {edit['reasons']}")
    return entries, given_up


def _edits(inputs: _Inputs) -> dict[str, dict[str, object]]:
    """What was done to the mask of each case; empty where only true masks are used."""
    if inputs.masks is None:
        return {}
    return {str(row["case"]): row for row in read_rows(inputs.catalog.path(inputs.masks, CASES))}


def _sample_all(work: Work, model: VolumeModel, inputs: _Inputs, entries: list[_Entry], config: Config) -> None:
    """Sample what is not finished yet; volumes are restored and written by other threads meanwhile."""
    waiting = {entry.name: entry for entry in entries if read_json(work.folder / entry.name / "facts.json") is None}
    depths = [entry.geometry.grid_shape[2] for entry in waiting.values()]
    spec = sampler(config, model, depths, writing=writing_ahead(config))
    windows = count_windows(depths, model.network.facts.condition, spec)
    work.progress.total(windows, "windows sampled")
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done = min(windows, done + more)
        work.progress.at(done)

    with ThreadPoolExecutor(config.runtime.threads) as pool:
        writing: list[Future[None]] = []
        recipes = (_recipe(inputs, entry) for entry in waiting.values())
        for drawn in draw_volumes(model, recipes, spec, count):
            writing.append(pool.submit(_write, work.folder / drawn.name, inputs, waiting[drawn.name], drawn))
            while len(writing) > writing_ahead(config):
                writing.pop(0).result()  # bounds what waits in memory, and shows a full disk at once
        for future in writing:
            future.result()


def _recipe(inputs: _Inputs, entry: _Entry) -> Recipe:
    return Recipe(
        name=entry.name,
        mask=torch.from_numpy(inputs.mask(entry)),
        outline=torch.from_numpy(inputs.outline(entry)),
        informed=torch.from_numpy(entry.informed.astype(np.float32)),
        p=float(cast("float", entry.row["p"])),
        seed=entry.seed,
        condition=None if entry.augmented else stored_condition(inputs.catalog, inputs.latents, entry.case),
    )


def noise_seed(seed: int, repeat: int, case: str, variant: str) -> int:
    """The seed of all noise of one volume; `variant` of its mask: true or augmented."""
    return derive_seed(seed, "volume", repeat, case, variant)


def _write(folder: Path, inputs: _Inputs, entry: _Entry, drawn: Drawn) -> None:
    """Image and mask on the source grid, the slices, and last the facts, which say that the rest is whole."""
    intensity, mapped_by = inputs.intensity(entry)
    dtype = "int16" if intensity.modality == "ct" else "float32"
    slices, outline = drawn.slices.numpy(), drawn.recipe.outline.numpy()
    image = restore_image(slices, outline, entry.geometry, intensity, dtype)
    write_nifti(folder / "image.nii.gz", image, entry.geometry.affine)
    write_nifti(folder / "label.nii.gz", inputs.label(entry), entry.geometry.affine)
    save_tensors(folder / "slices.safetensors", {"image": drawn.slices.half(), "outline": drawn.recipe.outline})
    spread = float(slices[outline].std()) if outline.any() else 0.0
    facts = {
        **entry.row,
        "volume": entry.name,
        "noise_seed": entry.seed,
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
    table.to_parquet(work.folder / VOLUMES)
    files = {VOLUMES: work.folder / VOLUMES}
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
