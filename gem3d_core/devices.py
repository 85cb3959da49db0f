"""Which kind of device a setting means here."""

import torch


def device_type(device: str) -> str:
    """`cpu` or `cuda`, of `auto` too: a GPU where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
