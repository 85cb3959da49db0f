"""Which kind of device a setting means here."""

from contextlib import AbstractContextManager

import torch

from gem3d_core.spec.method import Precision


def device_type(device: str) -> str:
    """`cpu` or `cuda`, of `auto` too: a GPU where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """bf16 autocast on any device, or nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=resolved(precision, device) == "bf16")


def resolved(precision: Precision, device: torch.device) -> Precision:
    """What `auto` comes to on a device."""
    return ("bf16" if bf16_is_fast(device) else "fp32") if precision == "auto" else precision


def bf16_is_fast(device: torch.device) -> bool:
    """Whether bf16 pays: without matrix units a CPU multiplies it no faster than float32, and converts on top."""
    return device.type == "cuda" or bool(torch.cpu._is_amx_tile_supported())  # noqa: SLF001 - there is no public one
