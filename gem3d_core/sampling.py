"""Re-sampling of volumes: Algorithm 1 for many volumes at once, and position-conditioned slices.

Windows of both directions and of many volumes share a batch: whatever is ready runs. A window's noise comes from
generators of its own, and the noise that a slice begins with from one of the slice, so that a volume does not depend
on the batch that it was drawn in.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from einops import rearrange
from torch import Tensor

from gem3d_core.conditions import fold, pad_slices
from gem3d_core.denoise import Conditions, denoiser, predict_at_position, predict_slices
from gem3d_core.errors import Gem3dError
from gem3d_core.networks import VolumeNetwork
from gem3d_core.schedule import Schedule
from gem3d_core.seeds import generator, normal
from gem3d_core.settings import SampleSpec
from gem3d_core.solvers import Noise, Pinned, nothing_pinned, solve
from gem3d_core.windows import Window, plan_windows


@dataclass(frozen=True)
class VolumeRequest:
    """One volume to draw.

    condition (Z, m, h, w): encoded mask and outline. informed (c, h, w): latent of the first informed slice.
    start: its slice index. seed: of all its noise.
    """

    name: str
    condition: Tensor
    informed: Tensor
    start: int
    seed: int


class _Volume:
    """A volume in flight: its plan, its finished slices, and which of its windows are done."""

    def __init__(self, request: VolumeRequest, n: int, spec: SampleSpec) -> None:
        self.request = request
        self.Z = len(request.condition)
        self.condition = pad_slices(request.condition, n)
        self.plan = plan_windows(self.Z, n, spec.overlap, request.start, spec.first_window)
        self.latents = torch.zeros(len(self.condition), *request.informed.shape)
        self.waiting = list(range(len(self.plan)))
        self.done: set[int] = set()

    def ready(self) -> list[int]:
        """Windows whose predecessor is finished."""
        return [k for k in self.waiting if self.plan[k].after is None or self.plan[k].after in self.done]

    def write(self, k: int, drawn: Tensor) -> None:
        """Keep the fresh slots of window k, drawn (n, c, h, w)."""
        window = self.plan[k]
        for slot in window.fresh:
            self.latents[window.start + slot] = drawn[slot]
        self.done.add(k)


def sample_volumes(
    network: VolumeNetwork | UNet2DModel,
    requests: Iterable[VolumeRequest],
    schedule: Schedule,
    spec: SampleSpec,
    n: int,
    device: torch.device,
    on_windows: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[str, Tensor]]:
    """Draw volumes window by window (section 3.3); yields (name, latents (Z, c, h, w) on the CPU) as they finish.

    At most `spec.batch` volumes are in flight, so memory does not grow with the number of requests. A batch that does
    not fit into the device's memory is halved and drawn again, to the same result. Raises ValueError when the network
    was built for windows of another n, which would mix the slices of different windows, and Gem3dError where not
    even one window fits.
    """
    if isinstance(network, VolumeNetwork) and network.slots.n != n:
        raise ValueError(f"windows of n={n} slices for a volume network of n={network.slots.n}")
    network.to(memory_format=torch.channels_last)  # in which convolutions are fastest
    queue = iter(requests)
    flying: list[_Volume] = []
    batch = spec.batch
    while True:
        while len(flying) < batch and (request := next(queue, None)) is not None:
            flying.append(_Volume(request, n, spec))
        if not flying:
            return

        jobs = [(volume, k) for volume in flying for k in volume.ready()][:batch]
        try:
            windows = _draw(network, _filled_up(jobs, network, batch), schedule, spec, n, device)[: len(jobs)]
        except torch.OutOfMemoryError as error:
            batch = _halved(batch if _is_fixed(network) else len(jobs), device, error)
            continue
        for (volume, k), drawn in zip(jobs, windows, strict=True):
            volume.waiting.remove(k)
            volume.write(k, drawn)
        on_windows(len(jobs))

        for volume in [v for v in flying if not v.waiting]:
            flying.remove(volume)
            yield volume.request.name, volume.latents[: volume.Z]


def _filled_up(
    jobs: list[tuple[_Volume, int]], network: VolumeNetwork | UNet2DModel, batch: int
) -> list[tuple[_Volume, int]]:
    """The jobs, for a network that takes batches of one size only with the last one repeated up to it."""
    return jobs + [jobs[-1]] * (batch - len(jobs)) if _is_fixed(network) else jobs


def _is_fixed(network: VolumeNetwork | UNet2DModel) -> bool:
    return isinstance(network, VolumeNetwork) and network.fixed_batch


def _halved(batch: int, device: torch.device, error: torch.OutOfMemoryError) -> int:
    if batch == 1:
        raise Gem3dError(
            f"one window does not fit into the memory of {device} ({error}): use a smaller network or "
            "slice_size, or a device with more memory"
        ) from error
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return batch // 2


def _draw(
    network: VolumeNetwork | UNet2DModel,
    jobs: list[tuple[_Volume, int]],
    schedule: Schedule,
    spec: SampleSpec,
    n: int,
    device: torch.device,
) -> Tensor:
    """Denoise one batch of windows -> (b, n, c, h, w) on the CPU."""
    windows = [volume.plan[k] for volume, k in jobs]
    shape = (n, *jobs[0][0].request.informed.shape)
    generators = [generator(v.request.seed, "window", w.start) for (v, _), w in zip(jobs, windows, strict=True)]

    def noise() -> Tensor:
        return fold(normal(shape, generators, device))

    informed = torch.stack([_informed(volume, window) for (volume, _), window in zip(jobs, windows, strict=True)])
    conditions = Conditions(
        mask=fold(
            torch.stack([volume.condition[w.start : w.start + n] for (volume, _), w in zip(jobs, windows, strict=True)])
        ).to(device),
        informed=informed.repeat_interleave(n, dim=0).to(device),
        offset=torch.tensor([o for w in windows for o in w.offsets()], dtype=torch.float32, device=device),
    )
    pinned = Pinned(
        clean=fold(
            torch.stack([volume.latents[w.start : w.start + n] for (volume, _), w in zip(jobs, windows, strict=True)])
        ).to(device),
        mask=torch.tensor([k in w.known for w in windows for k in range(n)], device=device),
    )
    denoise = denoiser(predict_slices(network, conditions), schedule, spec.precision, device)
    drawn = solve(denoise, _first_noise(jobs, shape, device), schedule, spec, noise, pinned)
    return rearrange(drawn, "(b n) c h w -> b n c h w", n=n).cpu()


def _first_noise(jobs: list[tuple[_Volume, int]], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Where the solver begins, ((b n) c h w): the noise of a slice does not depend on the window that draws it."""
    slices = [(v.request.seed, v.plan[k].start + slot) for v, k in jobs for slot in range(shape[0])]
    return normal(shape[1:], [generator(seed, "first", z) for seed, z in slices], device)


def _informed(volume: _Volume, window: Window) -> Tensor:
    """The first window follows the request's informed slice, the others the finished slice at their edge."""
    return volume.request.informed if window.after is None else volume.latents[window.informed]


def sample_slices(
    network: UNet2DConditionModel,
    positions: list[float],
    seeds: list[int],
    shape: tuple[int, int, int],
    schedule: Schedule,
    spec: SampleSpec,
    device: torch.device,
) -> Tensor:
    """Slices drawn by the position-conditioned model at normalised positions -> latents (N, c, h, w) on the CPU."""
    drawn = []
    for first in range(0, len(positions), spec.batch):
        p = torch.tensor(positions[first : first + spec.batch], device=device)
        noise = _slice_noise(seeds[first : first + spec.batch], shape, device)
        x = noise()
        denoise = denoiser(predict_at_position(network, p), schedule, spec.precision, device)
        drawn.append(solve(denoise, x, schedule, spec, noise, nothing_pinned(x)).cpu())
    return torch.cat(drawn)


def _slice_noise(seeds: list[int], shape: tuple[int, int, int], device: torch.device) -> Noise:
    generators = [generator(seed, "slice") for seed in seeds]
    return lambda: normal(shape, generators, device)


def count_windows(depths: Iterable[int], n: int, spec: SampleSpec) -> int:
    """Windows that volumes of the given numbers of slices take, started in their middle."""
    return sum(len(plan_windows(Z, n, spec.overlap, Z // 2, spec.first_window)) for Z in depths)
