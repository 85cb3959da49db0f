"""What the stages after `encode` read of a `latents` artifact besides the latents themselves."""

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from data_catalog import Artifact, Catalog
from gem3d_core.codec.interface import Codec, load_codec
from gem3d_core.networks.image_encoders import blank
from gem3d_core.spec.method import ConditionSpec
from tasks.artifacts.files import hash_folder


def open_codec(catalog: Catalog, latents: str, device: str = "cpu") -> Codec:
    """The codec that encoded them."""
    return load_codec(codec_folder(catalog, latents), device)


def codec_folder(catalog: Catalog, latents: str) -> Path:
    """Where the codec lies, ready for `load_codec`."""
    return catalog.view(catalog.get(latents), part="codec") / "codec"


def encoder_files(condition: ConditionSpec) -> dict[str, str]:
    """Content hashes of an image encoder that lies in a folder; one of a package has its version."""
    folder = Path(condition.image_encoder)
    return hash_folder(folder) if condition.attends and folder.is_dir() else {}


def require_encoder(condition: ConditionSpec) -> None:
    """Raise NotAvailable, before hours of training, where an image encoder that is asked for cannot be had."""
    if condition.attends:
        blank(condition.image_encoder)


def stored_condition(catalog: Catalog, latents: Artifact, case: str) -> Tensor:
    """Mask and outline of a case as stage 3 encoded them, (Z, m, h, w)."""
    with safe_open(catalog.path(latents, f"latents/{case}.safetensors"), framework="pt") as tensors:
        condition: Tensor = tensors.get_tensor("condition")
    return condition


def latent_shape(catalog: Catalog, latents: str) -> tuple[int, int, int]:
    """(c, h, w) of every slice."""
    artifact = catalog.get(latents)
    first = next(name for name in sorted(artifact.files) if name.startswith("latents/"))
    with safe_open(catalog.path(artifact, first), framework="pt") as tensors:
        _, c, h, w = tensors.get_slice("image").get_shape()
    return c, h, w
