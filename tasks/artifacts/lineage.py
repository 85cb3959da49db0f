"""References among artifacts: what one was made from, how long it took, and where its files lie."""

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


def refs_behind(catalog: Catalog, artifact: Artifact) -> DatasetRefs:
    """The dataset that an artifact was made from. Raises BadInput where the catalog does not hold it."""
    found: dict[str, str] = {}
    for _depth, ancestor in catalog.lineage(artifact):
        if isinstance(ancestor, Artifact):
            found.setdefault(ancestor.kind, ancestor.ref.full)
    for kind in DatasetRefs.model_fields:
        if kind not in found:
            raise BadInput(f"{artifact.ref} does not descend from any {kind} in this catalog: name one that does")
    return DatasetRefs(**{kind: found[kind] for kind in DatasetRefs.model_fields})


def seconds_of(catalog: Catalog, artifact: Artifact) -> float:
    """Seconds that an artifact took to be made, over all sittings."""
    rows = catalog.table("metrics", artifact)
    return float(rows.loc[rows["metric"] == "seconds", "value"].sum()) if "metric" in rows else 0.0


def dataset_path(catalog: Catalog, artifact: Artifact) -> Path:
    """The nnU-Net folder of a published dataset, ready to be used as it lies."""
    return catalog.view(artifact) / cast("str", artifact.meta["folder"])
