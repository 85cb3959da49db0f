"""Re-sampling of volumes: Algorithm 1 for many volumes at once, and position-conditioned slices.

Windows of both directions and of many volumes share a batch: whatever is ready runs. A window's noise comes from
generators of its own, so that a volume does not depend on the batch that it was drawn in. Where windows continue each
other, the noise that a slice begins with is the slice's and not the window's.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from gem3d_core.diffusion.denoise import denoiser, guided
from gem3d_core.diffusion.schedule import Schedule
from gem3d_core.diffusion.solvers import nothing_pinned, solve
from gem3d_core.machine.out_of_memory import halved_until_it_fits
from gem3d_core.networks.conditions import Conditions, Pinned, fold
from gem3d_core.networks.interface import Network
from gem3d_core.sampling.windows import Window, most_ready, plan_volume
from gem3d_core.seeds import generator, normal
from gem3d_core.spec.method import ConditionSpec, SampleSpec


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

    def __init__(self, request: VolumeRequest, condition: ConditionSpec, spec: SampleSpec) -> None:
        self.request = request
        self.Z = len(request.condition)
        self.plan = plan_volume(self.Z, condition, request.start, spec)
        self.latents = torch.zeros(self.Z, *request.informed.shape)
        self.waiting = list(range(len(self.plan)))
        self.done: set[int] = set()

    def ready(self) -> list[int]:
        """Windows that need nothing that is not finished."""
        return [k for k in self.waiting if self.done.issuperset(self.plan[k].after)]

    def write(self, k: int, drawn: Tensor) -> None:
        """Keep the fresh slots of window k, drawn (n, c, h, w)."""
        window = self.plan[k]
        for slot in window.fresh:
            self.latents[window.start + slot * window.stride] = drawn[slot]
        self.done.add(k)


def sample_volumes(
    network: Network,
    requests: Iterable[VolumeRequest],
    schedule: Schedule,
    spec: SampleSpec,
    device: torch.device,
    on_windows: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[VolumeRequest, Tensor]]:
    """Draw volumes window by window (section 3.3); yields each request with its latents (Z, c, h, w), on the CPU.

    A volume is taken in flight where a batch of `spec.batch` windows has room for it, so memory does not grow with the
    number of requests. A batch that does not fit into the device's memory is halved and drawn again, to the same
    result. Raises Gem3dError where not even one window fits.
    """
    network.to(memory_format=network.layout)
    queue = iter(requests)
    flying: list[_Volume] = []
    batch = spec.batch
    while True:
        jobs = [(volume, k) for volume in flying for k in volume.ready()]
        while len(jobs) < batch and (request := next(queue, None)) is not None:
            flying.append(_Volume(request, network.facts.condition, spec))
            jobs += [(flying[-1], k) for k in flying[-1].ready()]
        if not flying:
            return

        windows, batch = _draw_what_fits(network, jobs[:batch], batch, schedule, spec, device)
        jobs = jobs[: len(windows)]
        for (volume, k), drawn in zip(jobs, windows, strict=True):
            volume.waiting.remove(k)
            volume.write(k, drawn)
        on_windows(len(jobs))

        for volume in [v for v in flying if not v.waiting]:
            flying.remove(volume)
            yield volume.request, volume.latents


def _draw_what_fits(
    network: Network,
    jobs: list[tuple[_Volume, int]],
    batch: int,
    schedule: Schedule,
    spec: SampleSpec,
    device: torch.device,
) -> tuple[Tensor, int]:
    """The first windows (b, n, c, h, w) of the jobs, as many as fit into memory, and how many to draw from now on.

    A network that takes batches of one size only gets the last window repeated up to it.
    """

    def draw(size: int) -> Tensor:
        chosen = jobs[:size]
        padding = [chosen[-1]] * (size - len(chosen))
        return _draw(network, chosen + padding, schedule, spec, device)[: len(chosen)]

    wanted = batch if network.fixed_batch else len(jobs)
    windows, size = halved_until_it_fits(draw, wanted, "one window")
    return windows, batch if size == wanted else size


def _draw(
    network: Network,
    jobs: list[tuple[_Volume, int]],
    schedule: Schedule,
    spec: SampleSpec,
    device: torch.device,
) -> Tensor:
    """Denoise one batch of windows -> (b, n, c, h, w) on the CPU."""
    windows = [(volume, volume.plan[k]) for volume, k in jobs]
    n = network.facts.window
    shape = (n, *jobs[0][0].request.informed.shape)
    generators = [_generator(volume.request.seed, window) for volume, window in windows]

    def noise() -> Tensor:
        return fold(normal(shape, generators, device))

    def pin_noise() -> Tensor:
        """For the known slots of every window, by its own generator: the others need none."""
        drawn = torch.zeros(len(windows), *shape)
        for slots, rng, (_, window) in zip(drawn, generators, windows, strict=True):
            slots[list(window.known)] = torch.randn(len(window.known), *shape[1:], generator=rng)
        return fold(drawn).to(device)

    finished = Pinned(
        clean=fold(torch.stack([volume.latents[w.slices(volume.Z)] for volume, w in windows])).to(device),
        mask=torch.tensor([k in w.known for _, w in windows for k in range(n)], device=device),
    )
    conditions = _conditions(
        windows, network.facts.condition, finished if spec.continuation == "known" else None, device
    )
    first = _first_noise(windows, shape, spec, device)
    pinned = finished if spec.continuation in {"repaint", "known"} else nothing_pinned(first)
    predict = guided(network, conditions, spec.mask_guidance, spec.informed_guidance)
    denoise = denoiser(predict, schedule, spec.precision, device)
    drawn = solve(denoise, first, schedule, spec, noise, pinned, pin_noise)
    return rearrange(drawn, "(b n) c h w -> b n c h w", n=n).cpu()


def _conditions(
    windows: list[tuple[_Volume, Window]], spec: ConditionSpec, known: Pinned | None, device: torch.device
) -> Conditions:
    """Conditions of a batch of windows, folded."""
    n = spec.window
    informed = torch.stack([_informed(volume, window) for volume, window in windows]) if spec.informed else None
    return Conditions(
        mask=fold(torch.stack([v.request.condition[w.slices(v.Z)] for v, w in windows])).to(device),
        informed=None if informed is None else informed.repeat_interleave(n, dim=0).to(device),
        offset=torch.tensor([o for _, w in windows for o in w.offsets()], dtype=torch.float32, device=device),
        stride=torch.tensor([w.stride for _, w in windows for _ in range(n)], dtype=torch.float32, device=device),
        known=known,
    )


def _generator(seed: int, window: Window) -> torch.Generator:
    """The generator of all noise of a window but what it begins with."""
    return generator(seed, "window", window.start, *([window.stride] if window.stride > 1 else []))


def _first_noise(
    windows: list[tuple[_Volume, Window]], shape: tuple[int, ...], spec: SampleSpec, device: torch.device
) -> Tensor:
    """Where the solver begins, ((b n) c h w): the noise of a slice does not depend on the window that draws it.

    But for windows that are to know nothing of each other's slices: one that draws some of them again, to drop them,
    would from the same noise draw nearly the same, and its own slices to fit.
    """
    apart = spec.continuation in {"none", "informed"}
    generators = [
        generator(v.request.seed, "first", *([w.start] if apart else []), w.start + slot * w.stride)
        for v, w in windows
        for slot in range(shape[0])
    ]
    return normal(shape[1:], generators, device)


def _informed(volume: _Volume, window: Window) -> Tensor:
    """The informed slice that was given, or a finished slice."""
    return volume.request.informed if window.given else volume.latents[window.informed]


def windows_at_once(depths: Iterable[int], condition: ConditionSpec, spec: SampleSpec) -> int:
    """The most windows that volumes of the given numbers of slices offer together."""
    return sum(most_ready(plan_volume(Z, condition, Z // 2, spec)) for Z in depths)


def count_windows(depths: Iterable[int], condition: ConditionSpec, spec: SampleSpec) -> int:
    """Windows that volumes of the given numbers of slices take, started in their middle."""
    return sum(len(plan_volume(Z, condition, Z // 2, spec)) for Z in depths)
