"""Weights that others trained, in folders: found or fetched, and told apart by their content."""

from collections.abc import Callable
from pathlib import Path

from data_catalog import Catalog
from gem3d_core.codec.kl import find_kl
from gem3d_core.errors import NotAvailable
from gem3d_core.networks.image_encoders import blank, find_encoder
from gem3d_core.spec.method import CodecSpec, ConditionSpec
from tasks.artifacts.seen import SeenFiles
from tasks.frame.stage import NotAtHand

Find = Callable[[bool], Path | None]
"""Finds weights: whether they may be downloaded -> their folder; none where there are none to find."""


def codec_weights(spec: CodecSpec) -> Find:
    """The autoencoder of others that a codec is, where it is one."""
    named = spec.kind == "kl" and spec.weights != "train"
    return lambda download: find_kl(spec.weights, download=download) if named else None


def encoder_weights(condition: ConditionSpec) -> Find:
    """The image encoder that looks at the informed slice, where it is none of a package."""
    attends = condition.attends
    return lambda download: find_encoder(condition.image_encoder, download=download) if attends else None


def require_encoder(condition: ConditionSpec) -> None:
    """Raise NotAvailable, before hours of training, where an image encoder that is asked for cannot be had."""
    if condition.attends:
        blank(condition.image_encoder)


def fetch(catalog: str, *wanted: Find) -> None:
    """Download and hash what is not here yet. Raises NotAvailable where it cannot be had."""
    for find in wanted:
        folder = find(True)
        if folder is not None:
            SeenFiles.beside(Catalog.open(catalog)).read(p for p in sorted(folder.rglob("*")) if p.is_file())


def content(catalog: str, find: Find) -> dict[str, str]:
    """Hashes of the files by name; empty where there are none to find. Raises NotAtHand before `fetch`."""
    try:
        folder = find(False)
    except NotAvailable as error:
        raise NotAtHand(str(error)) from error
    if folder is None:
        return {}
    found = SeenFiles.beside(Catalog.open(catalog)).folder(folder)
    if found is None:
        raise NotAtHand(folder)
    return found
