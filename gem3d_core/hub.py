"""Autoencoders that others trained: in a folder, in the hub's local cache or on the hub."""

from pathlib import Path

from huggingface_hub import snapshot_download

from gem3d_core.codec import no_kl

KL_FILES = ("config.json", "diffusion_pytorch_model*.safetensors")
"""What an AutoencoderKL consists of."""


def find_kl(weights: str, *, download: bool) -> Path:
    """The folder of a pretrained AutoencoderKL: as named, or the newest snapshot of a hub id that can be had.

    Raises NotAvailable when there is none.
    """
    if Path(weights).is_dir():
        return Path(weights)
    try:
        return Path(snapshot_download(weights, allow_patterns=list(KL_FILES), local_files_only=not download))
    except (OSError, ValueError) as error:  # the hub's errors, and an id that cannot be one
        raise no_kl(weights, error) from error
