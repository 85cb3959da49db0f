"""Stage 1: check a dataset and record what it consists of."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from data_catalog import Catalog
from gem3d_core.errors import BadInput
from gem3d_core.scans.check import CaseFacts, Fault, check_dataset
from gem3d_core.scans.dataset import Dataset, open_dataset, plain_labels
from tasks.artifacts.files import CASES
from tasks.artifacts.seen import SeenFiles
from tasks.artifacts.source import FAULTS
from tasks.frame.stage import Identity, NotAtHand, Product, Stage, Work

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Ingest(Stage):
    """`source` of the run's dataset folder: the same wherever it lies, another one where any file has other content.

    Raises BadInput that lists every fault, unless faulty cases are to be skipped.
    """

    name: ClassVar[str] = "ingest"
    kind: ClassVar[str] = "source"

    @cached_property
    def dataset(self) -> Dataset:
        """As dataset.json and the file names describe it."""
        if self.run.dataset is None:
            raise BadInput("no dataset: name a folder (parameter `dataset`) or set GEM3D_DATASET")
        config = self.run.config
        opened = open_dataset(
            Path(self.run.dataset), channel=config.data.channel, patient_pattern=config.data.patient_pattern
        )
        _check_labels(config.masks.augment.labels, opened)
        return opened

    def ready(self) -> None:
        """Every file of the dataset is hashed once."""
        self._seen().read(_files(self.dataset), self.run.config.runtime.threads)

    def identity(self) -> Identity:
        """The content of all files; how they are read."""
        seen, content = self._seen(), dict[str, str]()
        for path in _files(self.dataset):
            digest = seen.known(path)
            if digest is None:
                raise NotAtHand(path)
            content[os.path.relpath(path, self.dataset.root)] = digest
        settings = {
            "data": self.run.config.data.model_dump(exclude={"split"}),
            "files": content,
            "skip_bad": self.run.skip_bad,
        }
        return Identity(self.run.name, settings)

    def make(self, work: Work) -> Product:
        """Check every case, and record the sound ones."""
        config, dataset = self.run.config, self.dataset
        work.progress.total(len(dataset.cases), "cases checked")
        facts, faults = check_dataset(
            dataset, lambda done, _total: work.progress.at(done), workers=config.runtime.threads
        )
        _refuse(dataset, facts, faults, skip_bad=self.run.skip_bad)
        return _product(work, dataset, facts, faults, config.data.max_cases)

    def _seen(self) -> SeenFiles:
        return SeenFiles.beside(Catalog.open(self.run.catalog))


def _files(dataset: Dataset) -> Iterator[Path]:
    """dataset.json and all files beside those that will be read.

    Whole folders, because detached voxels and spacings stand in files that no case names.
    """
    yield dataset.root / "dataset.json"
    named = [path for case in dataset.cases for path in (case.image, case.label)]
    folders = {path.parent for path in [*named, *dataset.images_without_label, *dataset.labels_without_image]}
    for folder in sorted(folder for folder in folders if folder.is_dir()):
        yield from sorted(path for path in folder.iterdir() if path.is_file())


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


def _product(
    work: Work, dataset: Dataset, sound: list[CaseFacts], faults: list[Fault], max_cases: int | None
) -> Product:
    import pandas as pd

    facts, left_out = sound[:max_cases], sound[max_cases:] if max_cases else []

    _case_table(dataset, facts).to_parquet(work.folder / CASES)
    pd.DataFrame([asdict(f) for f in faults], columns=list(Fault.__annotations__)).to_parquet(work.folder / FAULTS)
    shutil.copyfile(dataset.root / "dataset.json", work.folder / "dataset.json")
    meta = {
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
    return Product({name: work.folder / name for name in (CASES, FAULTS, "dataset.json")}, meta)


def _case_table(dataset: Dataset, facts: list[CaseFacts]) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    for case in facts:
        row = asdict(case)
        row["image"], row["label"] = (os.path.relpath(path, dataset.root) for path in (case.image, case.label))
        row["label_voxels"] = json.dumps(case.label_voxels, sort_keys=True)
        rows.append(row)
    return pd.DataFrame(rows)
