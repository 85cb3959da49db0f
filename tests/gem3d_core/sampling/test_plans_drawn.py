"""Whatever the plan, the process and the way of going on: a perfect denoiser gives its volume back."""

from collections import defaultdict
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from gem3d_core.diffusion.schedule import Schedule, make_schedule
from gem3d_core.networks.conditions import Conditions
from gem3d_core.networks.interface import WindowNetwork
from gem3d_core.sampling.batched import VolumeRequest, sample_volumes
from gem3d_core.sampling.windows import plan_volume
from gem3d_core.spec.method import ConditionSpec, DiffusionSpec, NetworkFacts, SampleSpec, UNetSpec

C, SIDE, N = 2, 4, 6
CPU = torch.device("cpu")
PROCESSES = [
    DiffusionSpec(),
    DiffusionSpec(schedule="scaled_linear"),
    DiffusionSpec(schedule="scaled_linear", prediction="epsilon", weighting="uniform", spacing="leading"),
    DiffusionSpec(schedule="scaled_linear", prediction="sample", weighting="uniform", spacing="leading"),
    DiffusionSpec(prediction="sample", weighting="uniform"),
]
SAMPLERS = [
    SampleSpec(steps=5, batch=3),
    SampleSpec(steps=5, overlap=3, continuation="known"),
    SampleSpec(steps=5, continuation="informed", solver="ddim", eta=1.0),
    SampleSpec(steps=5, continuation="none", resample=2),
    SampleSpec(steps=5, continuation="known", plan="keyframes"),
    SampleSpec(steps=5, continuation="repaint", plan="keyframes", first_window="at_start", batch=64),
    SampleSpec(steps=1, solver="ddim", continuation="none"),
]


class Oracle(WindowNetwork):
    """Knows every slice of one volume; which ones it is asked for is written in their masks."""

    def __init__(self, volume: Tensor, schedule: Schedule) -> None:
        super().__init__()
        self.facts = NetworkFacts("volume", UNetSpec(), C, 1, ConditionSpec(window=N, known=True, strides=(1, 3)))
        self.volume = volume
        self.schedule = schedule
        self.strides: set[int] = set()
        self.spreads: list[float] = []
        """Of the noise in x, over that of its timestep."""

    def forward(self, x: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        index = cond.mask[:, 0, 0, 0].long()
        slots = index.reshape(-1, N)
        self.strides |= set(slots.diff(dim=1).flatten().tolist())
        x0 = self.volume[index]
        alpha, sigma = (level[:, None, None, None] for level in (self.schedule.alpha(t), self.schedule.sigma(t)))
        noise = (x - alpha * x0) / sigma
        self.spreads.append(float(noise.std()))
        return self.schedule.target(x0, noise, t)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p.schedule}-{p.prediction}")
@pytest.mark.parametrize("spec", SAMPLERS, ids=lambda s: f"{s.plan}-{s.continuation}-{s.steps}")
def test_a_perfect_denoiser_gives_its_volume_back(process: DiffusionSpec, spec: SampleSpec) -> None:
    schedule = make_schedule(process)
    for Z, start in ((20, 7), (6, 5), (3, 0), (1, 0), (31, 30)):
        volume = torch.randn(Z, C, SIDE, SIDE, generator=torch.Generator().manual_seed(Z))
        mask = torch.arange(Z, dtype=torch.float32)[:, None, None, None].expand(Z, 1, SIDE, SIDE)
        oracle = Oracle(volume, schedule)
        request = VolumeRequest("v", mask, volume[start], start, seed=Z)
        drawn = {one.name: latents for one, latents in sample_volumes(oracle, [request], schedule, spec, CPU)}["v"]
        torch.testing.assert_close(drawn, volume, atol=2e-4, rtol=0)
        if spec.steps > 1:  # the last step alone would give the volume, from any noise
            assert oracle.spreads == pytest.approx([1] * len(oracle.spreads), abs=0.25)
        if spec.plan == "keyframes" and Z > 2 * N:
            assert 3 in oracle.strides


@pytest.mark.parametrize("continuation", ["repaint", "known"])
def test_what_a_window_continues_has_the_spread_of_its_timestep_at_every_step(
    continuation: Literal["repaint", "known"],
) -> None:
    schedule, Z, start = make_schedule(DiffusionSpec()), 40, 17
    spec = SampleSpec(steps=5, overlap=3, continuation=continuation, batch=1)
    volume = torch.randn(Z, C, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(Z, dtype=torch.float32)[:, None, None, None].expand(Z, 1, SIDE, SIDE)
    oracle = Oracle(volume, schedule)
    windows = {w.start: w for w in plan_volume(Z, oracle.facts.condition, start, spec)}
    noise: dict[int, list[Tensor]] = defaultdict(list)

    def look(_module: nn.Module, args: tuple[Tensor, Tensor, Conditions]) -> None:
        x, t, cond = args
        index = cond.mask[:, 0, 0, 0].long()
        known = list(windows[int(index[0])].known)
        clean, level = volume[index[known]], t[known]
        alpha, sigma = (found[:, None, None, None] for found in (schedule.alpha(level), schedule.sigma(level)))
        noise[int(t[0])].append((x[known] - alpha * clean) / sigma)

    oracle.register_forward_pre_hook(look)
    requests = [VolumeRequest(f"v{seed}", mask, volume[start], start, seed) for seed in range(12)]
    list(sample_volumes(oracle, requests, schedule, spec, CPU))
    assert sorted(noise, reverse=True) == schedule.timesteps(5)
    for found in map(torch.cat, noise.values()):
        assert found.numel() > 12 * 3 * 8 * C * SIDE**2
        assert float(found.mean()) == pytest.approx(0, abs=0.04)
        assert float(found.std()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("plan", ["chain", "keyframes"])
def test_every_slot_is_told_its_distance_from_the_informed_slice_and_from_its_neighbour(
    plan: Literal["chain", "keyframes"],
) -> None:
    """The latent that a window is given says which slice that is."""
    schedule, Z, start = make_schedule(DiffusionSpec()), 40, 17
    volume = torch.randn(Z, C, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(Z, dtype=torch.float32)[:, None, None, None].expand(Z, 1, SIDE, SIDE)
    oracle = Oracle(volume, schedule)
    strides: set[int] = set()

    def look(_module: nn.Module, args: tuple[Tensor, Tensor, Conditions]) -> None:
        cond = args[2]
        assert cond.informed is not None
        slots = cond.mask[:, 0, 0, 0]
        informed = (cond.informed[:, None] - volume).square().mean(dim=(2, 3, 4)).argmin(dim=1)
        stride = slots.reshape(-1, N).diff(dim=1)
        assert torch.equal(cond.offset, slots - informed)
        assert torch.equal(cond.stride.reshape(-1, N)[:, 1:], stride)
        strides.update(stride.flatten().int().tolist())

    oracle.register_forward_pre_hook(look)
    spec = SampleSpec(steps=2, overlap=2, continuation="repaint", plan=plan)
    list(sample_volumes(oracle, [VolumeRequest("v", mask, volume[start], start, seed=1)], schedule, spec, CPU))
    assert strides == {"chain": {1}, "keyframes": {1, 3}}[plan]


class Additive(WindowNetwork):
    """Predicts a sum of what x, the mask and the informed slice give; without a condition its part is missing."""

    def __init__(self, of_mask: float, of_informed: float) -> None:
        super().__init__()
        self.facts = NetworkFacts("volume", UNetSpec(), C, C, ConditionSpec(window=N))
        self.of_mask = of_mask
        self.of_informed = of_informed

    def forward(self, x: Tensor, _t: Tensor, cond: Conditions) -> Tensor:
        assert cond.informed is not None
        return 0.3 * x + self.of_mask * cond.mask + self.of_informed * cond.informed


@pytest.mark.parametrize(("mask", "informed"), [(2.0, 1.0), (1.0, 3.0), (2.0, 3.0), (0.0, 0.5)])
def test_a_volume_is_drawn_with_the_guidance_that_is_asked_for(mask: float, informed: float) -> None:
    """Guidance of a sum is the same sum with heavier parts."""
    schedule, rng = make_schedule(DiffusionSpec()), torch.Generator().manual_seed(0)
    condition = torch.randn(15, C, SIDE, SIDE, generator=rng)
    request = VolumeRequest("v", condition, torch.randn(C, SIDE, SIDE, generator=rng), 7, seed=1)

    def draw(network: Additive, spec: SampleSpec) -> Tensor:
        return {one.name: latents for one, latents in sample_volumes(network, [request], schedule, spec, CPU)}["v"]

    guided = draw(Additive(1, 1), SampleSpec(steps=4, mask_guidance=mask, informed_guidance=informed))
    torch.testing.assert_close(guided, draw(Additive(mask, informed), SampleSpec(steps=4)), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(guided, draw(Additive(1, 1), SampleSpec(steps=4)), atol=0.1)


def test_known_slots_are_told_with_their_finished_latents() -> None:
    schedule = make_schedule(DiffusionSpec())
    volume = torch.randn(20, C, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(20, dtype=torch.float32)[:, None, None, None].expand(20, 1, SIDE, SIDE)
    told: list[Conditions] = []
    oracle = Oracle(volume, schedule)
    oracle.register_forward_pre_hook(lambda _module, args: told.append(args[2]))
    request = VolumeRequest("v", mask, volume[10], 10, seed=1)
    spec = SampleSpec(steps=2, continuation="known", plan="keyframes", batch=1)
    list(sample_volumes(oracle, [request], schedule, spec, CPU))
    known = [cond for cond in told if cond.known is not None and bool(cond.known.mask.any())]
    assert len(known) >= 4
    for cond in known:
        assert cond.known is not None
        index = cond.mask[:, 0, 0, 0].long()[cond.known.mask]
        torch.testing.assert_close(cond.known.clean[cond.known.mask], volume[index], atol=2e-4, rtol=0)
