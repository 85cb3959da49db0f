"""What the stages after `encode` read of a `latents` artifact."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from safetensors import safe_open
from torch import Tensor

from data_catalog import Artifact, Catalog
from gem3d_core.codec.interface import Codec, load_codec
from tasks.artifacts.files import read_rows


def open_codec(catalog: Catalog, latents: Artifact, device: str = "cpu") -> Codec:
    """The codec that encoded them."""
    return load_codec(codec_folder(catalog, latents), device)


def codec_folder(catalog: Catalog, latents: Artifact) -> Path:
    """Where the codec lies, ready for `load_codec`."""
    return catalog.view(latents, part="codec") / "codec"


def stored_condition(catalog: Catalog, latents: Artifact, case: str) -> Tensor:
    """Mask and outline of a case as stage 3 encoded them, (Z, m, h, w)."""
    with safe_open(catalog.path(latents, f"latents/{case}.safetensors"), framework="pt") as tensors:
        condition: Tensor = tensors.get_tensor("condition")
    return condition


def training_files(catalog: Catalog, latents: Artifact) -> Mapping[str, Path]:
    """Latents of every training case, by case."""
    index = read_rows(catalog.path(latents, "index.parquet"))
    train = sorted(str(row["case"]) for row in index if row["train"])
    return {case: catalog.path(latents, f"latents/{case}.safetensors") for case in train}


def label_ids(latents: Artifact) -> tuple[int, ...]:
    """Non-zero ids, in the order of the mask's channels."""
    return tuple(cast("list[int]", latents.meta["label_ids"]))


def latent_shape(catalog: Catalog, latents: Artifact) -> tuple[int, int, int]:
    """(c, h, w) of every slice."""
    first = next(name for name in sorted(latents.files) if name.startswith("latents/"))
    with safe_open(catalog.path(latents, first), framework="pt") as tensors:
        _, c, h, w = tensors.get_slice("image").get_shape()
    return c, h, w
