"""Stage 1: check a dataset and record what it consists of."""

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from gem3d_core.errors import BadInput
from gem3d_core.scans.check import CaseFacts, Fault, check_dataset
from gem3d_core.scans.dataset import Dataset, open_dataset, plain_labels
from tasks.frame.policy import stage_task
from tasks.frame.stage import Product, Run, Stage, StageResult, Work, run_stage

if TYPE_CHECKING:
    import pandas as pd


@stage_task("ingest")
def ingest(run: Run, folder: str, *, skip_bad: bool = False) -> StageResult:
    """`source` of a dataset folder. Raises BadInput that lists every fault, unless faulty cases are to be skipped."""
    dataset = open_dataset(
        Path(folder), channel=run.config.data.channel, patient_pattern=run.config.data.patient_pattern
    )
    _check_labels(run.config.masks.augment.labels, dataset)
    settings = {"data": run.config.data.model_dump(exclude={"split"}), "files": _listing(dataset), "skip_bad": skip_bad}

    def make(work: Work) -> Product:
        work.progress.total(len(dataset.cases), "cases checked")
        facts, faults = check_dataset(
            dataset, lambda done, _total: work.progress.at(done), workers=run.config.runtime.threads
        )
        _refuse(dataset, facts, faults, skip_bad=skip_bad)
        return _product(work, dataset, facts, faults, run.config.data.max_cases)

    return run_stage(run, Stage("ingest", __name__, "source", run.name, settings), make)


def _check_labels(moved: tuple[int, ...] | None, dataset: Dataset) -> None:
    """Labels that stage 8 is to move, found out before hours of training."""
    if unknown := sorted(set(moved or ()) - set(dataset.label_ids)):
        raise BadInput(
            f"masks.augment.labels names {unknown}, but the labels of {dataset.root} are {list(dataset.label_ids)}: "
            "give --set masks.augment.labels=[...], or null for the whole mask"
        )


def _refuse(dataset: Dataset, facts: list[CaseFacts], faults: list[Fault], *, skip_bad: bool) -> None:
    listed = "\n".join(str(fault) for fault in faults)
    if faults and not skip_bad:
        raise BadInput(
            f"{dataset.root}: {len(faults)} fault(s); mend them, or give --skip-bad to go on without these cases\n"
            f"{listed}"
        )
    if not facts:
        raise BadInput(f"{dataset.root}: no sound case is left\n{listed}")


def _listing(dataset: Dataset) -> str:
    """A hash of names, sizes and times of all files beside those that will be read: cheap, and changed by any edit.

    Whole folders, because detached voxels and spacings stand in files that no case names.
    """
    digest = hashlib.sha256((dataset.root / "dataset.json").read_bytes())
    named = [path for case in dataset.cases for path in (case.image, case.label)]
    folders = {path.parent for path in [*named, *dataset.images_without_label, *dataset.labels_without_image]}
    for path in sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir()):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _product(
    work: Work, dataset: Dataset, sound: list[CaseFacts], faults: list[Fault], max_cases: int | None
) -> Product:
    import pandas as pd

    facts, left_out = sound[:max_cases], sound[max_cases:] if max_cases else []

    _case_table(facts).to_parquet(work.folder / "cases.parquet")
    pd.DataFrame([asdict(f) for f in faults], columns=list(Fault.__annotations__)).to_parquet(
        work.folder / "faults.parquet"
    )
    shutil.copyfile(dataset.root / "dataset.json", work.folder / "dataset.json")
    meta = {
        "root": str(dataset.root),
        "layout": dataset.layout,
        "channel": dataset.channel_name,
        "modality": dataset.modality,
        # a list: regions are painted in this order, and a mapping would be stored sorted
        "labels": [[name, ids] for name, ids in plain_labels(dataset.labels).items()],
        "label_ids": list(dataset.label_ids),
        "regions_class_order": list(dataset.regions_class_order) if dataset.regions_class_order else None,
        "file_ending": dataset.file_ending,
        "licence": dataset.licence,
        "cases": len(facts),
        "left_out": [case.case for case in left_out],
        "faults": len(faults),
    }
    files = {name: work.folder / name for name in ("cases.parquet", "faults.parquet", "dataset.json")}
    return Product(files, meta)


def _case_table(facts: list[CaseFacts]) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    for case in facts:
        row = asdict(case)
        row["image"], row["label"] = str(case.image), str(case.label)
        row["label_voxels"] = json.dumps(case.label_voxels, sort_keys=True)
        rows.append(row)
    return pd.DataFrame(rows)
