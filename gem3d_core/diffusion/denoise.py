"""One contract for every network and sampler: `denoise(x_t, t) -> x_0`.

Mask, outline, informed slice, its offset or a slice position are bound before the loop; the loop sees x and t.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gem3d_core.diffusion.schedule import Schedule
from gem3d_core.machine.devices import autocast
from gem3d_core.networks.conditions import Conditions
from gem3d_core.networks.interface import Network
from gem3d_core.spec.method import Precision, SampleSpec

Denoise = Callable[[Tensor, Tensor], Tensor]
"""x_t (N, c, h, w) float32 and t (N,) int64 -> the clean latent x_0 that is expected, (N, c, h, w) float32."""
Predict = Callable[[Tensor, Tensor], Tensor]
"""The same x_t and t -> what the network predicts, eps, v or x_0, (N, c, h, w), in the precision of its arithmetic."""


def predict_slices(network: Network, cond: Conditions) -> Predict:
    """Bind conditions to a network."""
    told = network.prepared(cond)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        made: Tensor = network(x, t, told)
        return made

    return predict


def guidance_terms(mask: float, informed: float) -> tuple[float, float, float]:
    """Weights of the predictions with mask and informed slice, with the mask alone, and with neither."""
    return informed, mask - informed, 1 - mask


def window_calls(spec: SampleSpec, *, informed: bool) -> int:
    """Network calls that denoise one window: RePaint takes all steps but the last `resample` times."""
    return ((spec.steps - 1) * spec.resample + 1) * guidance_calls(spec, informed=informed)


def guidance_calls(spec: SampleSpec, *, informed: bool = True) -> int:
    """Network calls of one solver step: those whose weight is not zero. informed: there is an informed slice."""
    mask = spec.mask_guidance
    return sum(weight != 0 for weight in guidance_terms(mask, spec.informed_guidance if informed else mask))


def guided(network: Network, cond: Conditions, mask: float, informed: float) -> Predict:
    """As `predict_slices`, with guidance on mask and informed slice apart (after Brooks et al., equation 3).

    p_0 + mask (p_M - p_0) + informed (p_MI - p_M), where p_0 is predicted without conditions, p_M with the mask and
    p_MI with the informed slice too. A term that falls out costs no call: with both at 1 this is `predict_slices`.
    """
    if cond.informed is None:
        informed = mask  # with it and without it are the same prediction
    every = torch.ones(len(cond.mask), dtype=torch.bool, device=cond.mask.device)
    without = (None, (~every, every), (every, every))
    parts = [
        (weight, predict_slices(network, cond if dropped is None else cond.without(*dropped)))
        for weight, dropped in zip(guidance_terms(mask, informed), without, strict=True)
        if weight
    ]

    def predict(x: Tensor, t: Tensor) -> Tensor:
        (weight, first), *others = parts
        made = weight * first(x, t)  # a tensor of its own: a compiled network writes into the same one again
        for weight, part in others:
            made = made + weight * part(x, t)
        return made

    return predict


def denoiser(predict: Predict, schedule: Schedule, precision: Precision, device: torch.device) -> Denoise:
    """Turn a prediction into the clean signal; x and the result are float32, the network runs at `precision`."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad(), autocast(precision, device):
            prediction = predict(x, t)
        return schedule.to_x0(x, prediction.float(), t)

    return denoise
