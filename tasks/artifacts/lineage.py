"""References among artifacts: what one was made from, and where its files lie."""

from pathlib import Path
from typing import cast

from pydantic import BaseModel, ConfigDict

from data_catalog import Artifact, Catalog
from gem3d_core.errors import BadInput


class DatasetRefs(BaseModel):
    """References to one dataset as it was read, prepared and encoded.

    A stage names those among its inputs that it reads: what lies between can be the same although they differ.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    prepared: str
    latents: str


def refs_behind(catalog: "Catalog", ref: str) -> DatasetRefs:
    """The dataset that an artifact was made from. Raises BadInput where the catalog does not hold it."""
    source, prepared, latents = (parent_of(catalog, ref, kind) for kind in ("source", "prepared", "latents"))
    return DatasetRefs(source=source, prepared=prepared, latents=latents)


def parent_of(catalog: Catalog, ref: str, kind: str) -> str:
    """The nearest ancestor of a kind. Raises BadInput when there is none in the catalog."""
    for _depth, artifact in catalog.lineage(ref):
        if isinstance(artifact, Artifact) and artifact.kind == kind:
            return artifact.ref.full
    raise BadInput(f"{ref} does not descend from any {kind} in this catalog: give a reference that does")


def run_of_model(model: Artifact) -> str:
    """Name of the run that trained a model: `model/Hippocampus-volume` -> `Hippocampus`."""
    return model.name.rpartition("-")[0]


def seconds_of(catalog: Catalog, artifact: Artifact) -> float:
    """Seconds that an artifact took to be made, over all sittings."""
    rows = catalog.table("metrics", artifact)
    return float(rows.loc[rows["metric"] == "seconds", "value"].sum()) if "metric" in rows else 0.0


def dataset_path(catalog: Catalog, ref: str) -> Path:
    """The nnU-Net folder of a published dataset, ready to be used as it lies."""
    artifact = catalog.get(ref)
    return catalog.view(artifact) / cast("str", artifact.meta["folder"])
