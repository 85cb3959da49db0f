"""Stage 8: edited masks of one repeat, drawn and recorded."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from gem3d_core.machine.files import read_json, write_json
from gem3d_core.masks.augment import Augmented, augment_mask
from gem3d_core.prepare.case import slice_mask
from gem3d_core.prepare.geometry import Geometry, canonical_spacing, plan_geometry
from gem3d_core.prepare.outline import bounding_box
from gem3d_core.scans.volumes import write_nifti
from gem3d_core.seeds import derive_seed
from gem3d_core.spec.masks import AugmentSpec
from tasks.artifacts.files import CASES
from tasks.artifacts.prepared import Prepared, open_prepared
from tasks.frame.stage import Identity, Product, Stage, Work


@dataclass(frozen=True)
class AugmentMasks(Stage):
    """`masks` of one repeat: an edit of every training mask, on the source grid and as slices."""

    name: ClassVar[str] = "augment-masks"
    kind: ClassVar[str] = "masks"

    prepared: str
    repeat: int

    def identity(self) -> Identity:
        """The prepared masks, and the ranges of edits."""
        settings = {"augment": self.run.config.masks.augment, "repeat": self.repeat}
        return Identity(f"{self.run.name}-r{self.repeat}", settings, (self.prepared,), seed=self.run.seed)

    def make(self, work: Work) -> Product:
        """Edit every training mask; those that are finished stay."""
        config, opened = self.run.config, open_prepared(work.catalog, work.get(self.prepared))
        waiting = [case for case in opened.train if read_json(work.folder / case / "facts.json") is None]
        work.progress.total(len(waiting), "masks edited")

        def one(case: str) -> None:
            seed = derive_seed(self.run.seed, "mask", self.repeat, case)
            _edit_case(work.folder / case, opened, config.masks.augment, case, seed)

        with ThreadPoolExecutor(config.runtime.threads) as pool:
            for done, _ in enumerate(pool.map(one, waiting), start=1):
                work.progress.at(done)
        return _product(work, opened)


def _edit_case(folder: Path, prepared: Prepared, spec: AugmentSpec, case: str, seed: int) -> None:
    """Edit on the canonical source grid, where nothing is lost to resampling, then slice the edited mask anew."""
    geometry = prepared.cases[case].geometry
    label = geometry.to_canonical(prepared.source_label(case))
    outline = geometry.to_canonical(prepared.source_outline(case))
    edited = augment_mask(spec, label, outline, canonical_spacing(geometry.affine), seed)
    moved = plan_geometry(
        geometry.source_shape,
        geometry.affine,
        bounding_box(edited.outline | (edited.mask > 0)),
        geometry.target_spacing,
        geometry.slice_size,
        fit=geometry.fit,
    )
    _write(folder, edited, moved)


def _write(folder: Path, edited: Augmented, geometry: Geometry) -> None:
    """The facts are written last and say that the files beside them are whole."""
    mask_slices, outline_slices = slice_mask(geometry, edited.mask, edited.outline)
    write_nifti(folder / "label.nii.gz", geometry.to_source(edited.mask), geometry.affine)
    write_nifti(folder / "mask.nii.gz", mask_slices.transpose(2, 1, 0), geometry.prepared_affine)
    slices = outline_slices.astype(np.uint8).transpose(2, 1, 0)
    write_nifti(folder / "outline.nii.gz", slices, geometry.prepared_affine)
    facts = {
        "accepted": edited.accepted,
        "reasons": "; ".join(edited.reasons),
        "edit": json.dumps(edited.edit.to_dict()),
        "geometry": json.dumps(geometry.to_dict()),
        "depth": len(mask_slices),
    }
    write_json(folder / "facts.json", facts)


def _product(work: Work, prepared: Prepared) -> Product:
    import pandas as pd

    rows = [{"case": case, **read_json(work.folder / case / "facts.json")} for case in prepared.train]
    table = pd.DataFrame(rows)
    table.to_parquet(work.folder / CASES)
    files = {CASES: work.folder / CASES}
    for case in prepared.train:
        for name in ("label", "mask", "outline"):
            files[f"cases/{case}/{name}.nii.gz"] = work.folder / case / f"{name}.nii.gz"
    meta = {"masks": len(table), "given_up": int((~table["accepted"]).sum())}
    return Product(files, meta, {"draws": table.drop(columns=["geometry"]).assign(what="mask", variant="augmented")})
