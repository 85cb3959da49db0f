"""What the stages after `encode` read of a `latents` artifact besides the latents themselves."""

from safetensors import safe_open

from data_catalog import Catalog
from gem3d_core.codec import Codec, load_codec


def open_codec(catalog: Catalog, latents: str, device: str = "cpu") -> Codec:
    """The codec that encoded them."""
    return load_codec(catalog.view(catalog.get(latents), part="codec") / "codec", device)


def latent_shape(catalog: Catalog, latents: str) -> tuple[int, int, int]:
    """(c, h, w) of every slice."""
    artifact = catalog.get(latents)
    first = next(name for name in sorted(artifact.files) if name.startswith("latents/"))
    with safe_open(catalog.path(artifact, first), framework="pt") as tensors:
        _, c, h, w = tensors.get_slice("image").get_shape()
    return c, h, w
