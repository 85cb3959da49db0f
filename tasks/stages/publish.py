"""Stage 10: nnU-Net raw datasets at 1x, 2x, ... in the source geometry; 2x holds 1x."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from data_catalog import Artifact, Catalog
from gem3d_core.scans.dataset import plain_labels
from gem3d_core.scans.volumes import write_nifti
from tasks.artifacts.prepared import open_prepared
from tasks.artifacts.source import Source, open_source
from tasks.artifacts.volumes import accepted
from tasks.frame.stage import Identity, Product, Stage, Work

README = """# {title}

{nature}

{synthetic} synthetic volumes, drawn {factor} time(s) for each of the {masks} training masks of {name} or its edit; a
volume that holds no image is left out. A latent diffusion model (GEM-3D) that was trained on the training cases of
{name} drew them, each conditioned on a mask and on one informed slice, in the geometry (shape, spacing, affine) of the
mask's source. `provenance.parquet` says for every volume which mask, edit, informed slice, start position, noise seed
and model made it.

- Channel: {channel}
- Labels: {labels}
- Licence of the source, which binds what is derived from it: {licence}
- Masks are the source's own unless provenance says `augmented`: structure is not anonymised, only appearance is new.
- Not for diagnosis. Not a substitute for a privacy assessment: the report has the distances to the nearest training
  volumes.
"""


@dataclass(frozen=True)
class _Published:
    """One published case: its new id and its files."""

    name: str
    image: Path
    label: Path
    row: dict[str, object]


@dataclass(frozen=True)
class Publish(Stage):
    """`dataset` NAME-{factor}x of the first `factor` repeats; with mix=real the training cases are added."""

    name: ClassVar[str] = "publish"
    kind: ClassVar[str] = "dataset"

    source: str
    prepared: str
    volumes: tuple[str, ...]

    @property
    def factor(self) -> int:
        """How many repeats it holds."""
        return len(self.volumes)

    def identity(self) -> Identity:
        """The volumes, the dataset that they are for, and nnU-Net's number."""
        config = self.run.config
        settings = {"mix": config.publish.mix, "dataset_id": self._number, "factor": self.factor}
        inputs = (self.source, self.prepared, *self.volumes)
        return Identity(f"{self.run.name}-{self.factor}x", settings, inputs, seed=self.run.seed)

    def make(self, work: Work) -> Product:
        """Lay the accepted volumes out as nnU-Net wants them."""
        catalog = work.catalog
        prepared = open_prepared(catalog, work.get(self.prepared))
        source = open_source(catalog, work.get(self.source), self.run.dataset)
        published = [v for ref in self.volumes for v in _accepted(catalog, work.get(ref))]
        if self.run.config.publish.mix == "real":
            published += _real(work, source, prepared.train)
        folder = f"Dataset{self._number:03d}_{self.run.name}{self.factor}x"
        return _product(work, source, published, folder, self.factor, len(prepared.train))

    @property
    def _number(self) -> int:
        return self.run.config.publish.first_id + self.factor - 1


def _accepted(catalog: Catalog, volumes: Artifact) -> list[_Published]:
    """The accepted volumes of one repeat."""
    published = []
    for row in accepted(catalog, volumes):
        at = f"volumes/{row['volume']}"
        image, label = (catalog.path(volumes, f"{at}/{kind}.nii.gz") for kind in ("image", "label"))
        published.append(_Published(str(row["volume"]), image, label, {**row, "volumes": volumes.ref.full}))
    return published


def _real(work: Work, source: Source, train: list[str]) -> list[_Published]:
    """The training cases with clean headers and new ids."""
    published = []
    for index, case in enumerate(train):
        name = f"real_{index:04d}"
        image, label = source.image(case), source.label(case)
        image_path, label_path = (work.folder / "real" / f"{name}_{kind}.nii.gz" for kind in ("image", "label"))
        write_nifti(image_path, image.array, image.affine)
        write_nifti(label_path, label.array, image.affine)
        row: dict[str, object] = {"volume": name, "mask_case": case, "variant": "true", "mode": "real", "donor": case}
        published.append(_Published(name, image_path, label_path, row))
    return published


def _product(work: Work, source: Source, published: list[_Published], folder: str, factor: int, masks: int) -> Product:
    import pandas as pd

    # real volumes have no seeds, and floats, which pandas would take for the gaps, would round those of the others
    provenance = pd.DataFrame([_provenance(source, v.row) for v in published], dtype="object")
    whole = dict.fromkeys({"seed", "noise_seed", "donor_slice"} & set(provenance.columns), "Int64")
    provenance.astype(whole).infer_objects().to_parquet(work.folder / "provenance.parquet")
    (work.folder / "dataset.json").write_text(json.dumps(_dataset_json(source, folder, published), indent=2))
    (work.folder / "README.md").write_text(_readme(source, published, folder, factor, masks))
    files = {f"{folder}/{name}": work.folder / name for name in ("provenance.parquet", "dataset.json", "README.md")}
    for volume in published:
        files[f"{folder}/imagesTr/{volume.name}_0000.nii.gz"] = volume.image
        files[f"{folder}/labelsTr/{volume.name}.nii.gz"] = volume.label
    real = sum(v.row["mode"] == "real" for v in published)
    meta = {"folder": folder, "factor": factor, "volumes": len(published), "real": real, "synthetic": not real}
    return Product(files, meta)


def _provenance(source: Source, row: dict[str, object]) -> dict[str, object]:
    """A volume's row with content hashes in place of case names, which may name a patient.

    Whoever holds the source or the catalog finds the case by the hash of its image; nobody else does.
    """

    def key(case: object) -> str | None:
        return None if case is None else source.cases[str(case)].image_sha256

    told = {name: value for name, value in row.items() if name not in {"mask_case", "donor"}}
    told |= {"mask_of": key(row["mask_case"]), "donor_image": key(row["donor"])}
    return {**told, "synthetic": row["mode"] != "real"}


def _dataset_json(source: Source, folder: str, published: list[_Published]) -> dict[str, object]:
    real = sum(v.row["mode"] == "real" for v in published)
    drawn = "Synthetic images drawn by GEM-3D for the masks of a source dataset; see README.md"
    mixed = f"{real} images of patients, and synthetic images drawn by GEM-3D; not private; see README.md"
    described: dict[str, object] = {
        "name": folder.partition("_")[2],
        "channel_names": {"0": source.channel},
        "labels": plain_labels(source.labels),
        "numTraining": len(published),
        "file_ending": ".nii.gz",
        "licence": source.licence,
        "description": mixed if real else drawn,
        "synthetic": not real,
    }
    if source.regions_class_order:
        described["regions_class_order"] = list(source.regions_class_order)
    return described


def _readme(source: Source, published: list[_Published], folder: str, factor: int, masks: int) -> str:
    real = sum(v.row["mode"] == "real" for v in published)
    mixed = f"MIXED: the {real} images whose id begins with `real_` are of patients. This dataset is not private."
    return README.format(
        title=folder,
        nature=mixed if real else "SYNTHETIC images. No image in this dataset was acquired from a patient.",
        synthetic=len(published) - real,
        factor=factor,
        masks=masks,
        name=source.artifact.name,
        channel=source.channel,
        labels=", ".join(f"{name} {ids}" for name, ids in source.labels.items()),
        licence=source.licence or "not stated",
    )
