"""One contract for every network and sampler: `denoise(x_t, t) -> x_0`.

Mask, outline, informed slice, its offset or a slice position are bound before the loop; the loop sees x and t.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from gem3d_core.networks import VolumeNetwork, embed_position
from gem3d_core.schedule import Schedule
from gem3d_core.settings import Precision

Denoise = Callable[[Tensor, Tensor], Tensor]
Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Conditions:
    """What a batch of N slices is conditioned on.

    mask (N, m, h, w): label area fractions and outline, or the encoded mask.
    informed (N, c, h, w): latent of the informed slice, repeated for its window.
    offset (N,) float: signed distance in slices from the informed slice.
    """

    mask: Tensor
    informed: Tensor
    offset: Tensor

    def rows(self, rows: slice, device: torch.device) -> "Conditions":
        """Some of the slices, on a device."""
        return Conditions(self.mask[rows].to(device), self.informed[rows].to(device), self.offset[rows].to(device))


def predict_slices(network: UNet2DModel | VolumeNetwork, cond: Conditions) -> Predict:
    """Bind conditions to a slice or volume network by concatenation (Algorithm 1, line 9)."""
    unet = network.unet if isinstance(network, VolumeNetwork) else network
    labels = cond.offset if unet.class_embedding is not None else None

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return _output(network(torch.cat([x, cond.mask, cond.informed], dim=1), t, class_labels=labels))

    return predict


def predict_at_position(network: UNet2DConditionModel, p: Tensor) -> Predict:
    """Bind normalised positions p (N,) to the position-conditioned network."""
    context = embed_position(p)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return _output(network(x, t, encoder_hidden_states=context))

    return predict


def denoiser(predict: Predict, schedule: Schedule, precision: Precision, device: torch.device) -> Denoise:
    """Turn a prediction into the clean signal; x and the result are float32, the network runs at `precision`."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad(), autocast(precision, device):
            prediction = predict(x, t)
        return schedule.to_x0(x, prediction.float(), t)

    return denoise


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """bf16 autocast on any device, or nothing."""
    enabled = precision == "bf16" or (precision == "auto" and bf16_is_fast(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def bf16_is_fast(device: torch.device) -> bool:
    """Whether bf16 pays: without matrix units a CPU multiplies it no faster than float32, and converts on top."""
    return device.type == "cuda" or bool(torch.cpu._is_amx_tile_supported())  # noqa: SLF001 - there is no public one


def freeze(network: nn.Module) -> nn.Module:
    """Ready for sampling: no gradients, no dropout."""
    return network.requires_grad_(False).eval()


def _output(result: Tensor | UNet2DOutput) -> Tensor:
    return result if isinstance(result, Tensor) else result.sample
