"""What exists: volumes, weights and tables with versions, run ids and lineage, in a folder or on S3."""

from data_catalog.audit import Verification
from data_catalog.catalog import Catalog
from data_catalog.errors import Ambiguous, CatalogError, Corrupt, Invalid, NotFound
from data_catalog.refs import Artifact, FileEntry, Ref

__all__ = [
    "Ambiguous",
    "Artifact",
    "Catalog",
    "CatalogError",
    "Corrupt",
    "FileEntry",
    "Invalid",
    "NotFound",
    "Ref",
    "Verification",
]
