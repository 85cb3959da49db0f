"""Stage 2: nnU-Net's plan on the training cases, the split, and every case as axial slices."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np

from configs import Config
from gem3d_core.machine.files import read_json, write_json
from gem3d_core.nnunet.arms import Plans, plan, write_raw
from gem3d_core.prepare.case import PreparedCase, prepare_case
from gem3d_core.prepare.split import Split, split_cases
from gem3d_core.scans.dataset import plain_labels
from gem3d_core.scans.volumes import write_nifti
from tasks.artifacts.files import CASES
from tasks.artifacts.prepared import PLANS
from tasks.artifacts.raw import KeptCases, keep_cases, raw_cases
from tasks.artifacts.seen import hash_file
from tasks.artifacts.source import FAULTS, Source, open_source
from tasks.frame.stage import Identity, Product, Stage, Work

if TYPE_CHECKING:
    import pandas as pd

PLANNING_ID = 1
"""Number of the dataset in nnU-Net's private workspace."""


@dataclass(frozen=True)
class Preprocess(Stage):
    """`prepared` of a `source`."""

    name: ClassVar[str] = "preprocess"
    kind: ClassVar[str] = "prepared"

    source: str

    def identity(self) -> Identity:
        """The source; how it is prepared and divided."""
        config, file = self.run.config, self.run.config.data.split.file
        settings = {
            "prepare": config.prepare,
            "split": asdict(config.data.split) | {"file": None},
            "split_file": hash_file(Path(file)) if file and Path(file).is_file() else None,
        }
        return Identity(self.run.name, settings, (self.source,))

    def make(self, work: Work) -> Product:
        """Divide, plan, and bring every case onto axial slices."""
        config = self.run.config
        opened = open_source(work.catalog, work.get(self.source), self.run.dataset)
        patients = {name: case.patient for name, case in opened.cases.items()}
        split = split_cases(sorted(opened.cases), config.data.split, patients, quarantined=_quarantined(work, opened))
        kept = keep_cases()
        plans = _plan(work, opened, split, config.runtime.threads, kept)
        _prepare_all(work, opened, plans, config, kept)
        return _product(work, opened, split, plans)


def _quarantined(work: Work, source: Source) -> set[str]:
    """Cases of the dataset that are not used, which a fold file may name all the same."""
    import pandas as pd

    faulty = set(pd.read_parquet(work.catalog.path(source.artifact, FAULTS))["case"])
    return faulty | set(cast("list[str]", source.artifact.meta["left_out"]))


def _plan(work: Work, source: Source, split: Split, processes: int, kept: KeptCases) -> Plans:
    """nnU-Net's fingerprint and plan, which see the training cases only."""
    stored = work.folder / PLANS
    if (planned := read_json(stored)) is not None:
        return Plans.from_dict(planned)
    work.progress.total(1, "nnU-Net's fingerprint and plan")
    workspace = work.folder / "nnunet"
    labels = plain_labels(source.labels)
    write_raw(
        workspace / "raw",
        PLANNING_ID,
        "Planning",
        raw_cases(source, split.train, processes, kept),
        labels=labels,
        channel_name=source.channel,
        regions_class_order=source.regions_class_order,
    )
    plans = plan(workspace, PLANNING_ID, processes)
    write_json(stored, plans.to_dict())
    shutil.rmtree(workspace)
    return plans


def _prepare_all(work: Work, source: Source, plans: Plans, config: Config, kept: KeptCases) -> None:
    waiting = [name for name in sorted(source.cases) if read_json(_facts(work, name)) is None]
    work.progress.total(len(waiting), "cases prepared")

    def one(case: str) -> None:
        image, label = kept.take(case) or (source.image(case), source.label(case))
        prepared = prepare_case(image, label, source.modality, plans.spacing, config.prepare)
        _write_case(_facts(work, case).parent, prepared, label.array)

    with ThreadPoolExecutor(config.runtime.threads) as pool:
        for done, _ in enumerate(pool.map(one, waiting), start=1):
            work.progress.at(done)


def _facts(work: Work, case: str) -> Path:
    return work.folder / "cases" / case / "facts.json"


def _write_case(folder: Path, prepared: PreparedCase, label: np.ndarray) -> None:
    """The facts are written last and say that the files beside them are whole."""
    affine = prepared.geometry.prepared_affine
    volumes = {"image": prepared.image, "mask": prepared.mask, "outline": prepared.outline.astype(np.uint8)}
    for name, slices in volumes.items():
        write_nifti(folder / f"{name}.nii.gz", slices.transpose(2, 1, 0), affine)
    whole = {"source_outline": prepared.source_outline.astype(np.uint8), "source_label": label}
    for name, array in whole.items():
        write_nifti(folder / f"{name}.nii.gz", array, prepared.geometry.affine)
    facts = {
        "geometry": json.dumps(prepared.geometry.to_dict()),
        "intensity": json.dumps(prepared.intensity.to_dict()),
        "depth": len(prepared.image),
        "outline": prepared.outline_kind,
        "outline_share": float(prepared.source_outline.mean()),
        "notes": "; ".join(prepared.notes),
    }
    write_json(folder / "facts.json", facts)


def _product(work: Work, source: Source, split: Split, plans: Plans) -> Product:
    table = _case_table(work, source, split)
    table.to_parquet(work.folder / CASES)
    files = {name: work.folder / name for name in (CASES, PLANS)}
    for case in table["case"]:
        for name in ("image", "mask", "outline", "source_outline", "source_label"):
            files[f"cases/{case}/{name}.nii.gz"] = work.folder / "cases" / case / f"{name}.nii.gz"
    meta = {
        "train": len(split.train),
        "test": len(split.test),
        "patients": len({source.cases[case].patient for case in split.train}),
        "split_note": split.note,
        "target_spacing": list(plans.spacing),
        "plan_note": plans.note,
        "outlines": table["outline"].value_counts().to_dict(),
        "label_ids": list(source.label_ids),
        "channels": [source.channel],
    }
    return Product(files, meta)


def _case_table(work: Work, source: Source, split: Split) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    for name, case in sorted(source.cases.items()):
        facts = {"patient": case.patient, "train": name in split.train, **read_json(_facts(work, name))}
        rows.append({"case": name, **facts})
    return pd.DataFrame(rows)
