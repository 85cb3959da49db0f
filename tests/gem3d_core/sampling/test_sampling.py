"""Re-sampling whole volumes: the same alone as in company, seeded, finite, of any depth."""

import copy
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from gem3d_core.diffusion.schedule import make_schedule
from gem3d_core.errors import Gem3dError, NotAvailable
from gem3d_core.networks.conditions import Conditions
from gem3d_core.networks.files import build
from gem3d_core.networks.slices import PositionNetwork, SliceNetwork
from gem3d_core.networks.volumetric import VolumeNetwork
from gem3d_core.sampling.batched import VolumeRequest, count_windows, sample_volumes
from gem3d_core.sampling.slices import sample_slices
from gem3d_core.sampling.windows import plan_windows
from gem3d_core.spec.method import ConditionSpec, DiffusionSpec, NetworkFacts, SampleSpec, UNetSpec

UNET = UNetSpec(base_channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=8, norm_groups=4)
C, M, H, W, N = 2, 2, 4, 4, 6
FACTS = NetworkFacts("volume", UNET, C, M, ConditionSpec(window=N))
CPU = torch.device("cpu")
SCHEDULE = make_schedule(DiffusionSpec())
FAST = SampleSpec(solver="dpm++", steps=4, overlap=2, batch=8)
SPECS = [
    FAST,
    SampleSpec(solver="ddim", steps=4, eta=1.0, overlap=1, batch=8),
    SampleSpec(solver="ddim", steps=3, eta=1.0, resample=3, overlap=3, batch=8),
]


@lru_cache(maxsize=1)
def network() -> VolumeNetwork:
    """A volume network with random weights everywhere, so that slices do influence each other."""
    volume = build(FACTS, seed=0)
    assert isinstance(volume, VolumeNetwork)
    torch.manual_seed(0)
    for p in volume.trained_parameters().values():
        p.data += 0.05 * torch.randn(p.shape)
    for module in volume.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data *= 1.5
    return volume.requires_grad_(requires_grad=False).eval()


def request(name: str, Z: int, start: int, seed: int) -> VolumeRequest:
    rng = torch.Generator().manual_seed(Z)
    return VolumeRequest(name, torch.rand(Z, M, H, W, generator=rng), torch.randn(C, H, W, generator=rng), start, seed)


REQUESTS = [
    request("deep", 15, 7, seed=1),
    request("start at the end", 11, 10, seed=2),
    request("as deep as a window", N, 2, seed=3),
    request("short", 3, 1, seed=4),
    request("one slice", 1, 0, seed=5),
    request("start at the first slice", 9, 0, seed=6),
]


def sample(requests: list[VolumeRequest], spec: SampleSpec) -> dict[str, Tensor]:
    return {one.name: latents for one, latents in sample_volumes(network(), requests, SCHEDULE, spec, CPU)}


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.solver}-eta{s.eta:g}-x{s.resample}")
def test_a_volume_is_the_same_alone_as_in_any_batch(spec: SampleSpec) -> None:
    together = sample(REQUESTS, spec)
    few = sample(REQUESTS[::-1], replace(spec, batch=2))
    assert set(together) == set(few) == {r.name for r in REQUESTS}
    for r in REQUESTS:
        alone = sample([r], replace(spec, batch=1))[r.name]
        torch.testing.assert_close(together[r.name], alone, atol=1e-4, rtol=0)
        torch.testing.assert_close(few[r.name], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.solver}-eta{s.eta:g}-x{s.resample}")
def test_every_slice_is_drawn_and_finite(spec: SampleSpec) -> None:
    drawn = sample(REQUESTS, spec)
    for r in REQUESTS:
        volume = drawn[r.name]
        assert volume.shape == (len(r.condition), C, H, W)
        assert volume.dtype == torch.float32
        assert bool(volume.isfinite().all())
        assert bool((volume.abs().amax(dim=(1, 2, 3)) > 1e-3).all()), "a slice that was never written is zero"


def test_a_compiled_network_sees_batches_of_one_size_and_draws_the_same() -> None:
    """The compiler is asked for one whole graph of one size; its backend here runs the graph as it is."""
    compiled, counter = copy.deepcopy(network()), CompileCounter()
    compiled.compile_for_sampling(counter)
    plain, drawn = (
        {one.name: latents for one, latents in sample_volumes(net, REQUESTS, SCHEDULE, replace(FAST, batch=3), CPU)}
        for net in (network(), compiled)
    )
    assert counter.frame_count == 1
    for name, volume in plain.items():
        torch.testing.assert_close(drawn[name], volume, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU takes a C++ compiler")
def test_what_the_compiler_makes_for_a_cpu_draws_the_same() -> None:
    small = replace(UNET, multipliers=(1,), attention_at=(1,))
    plain = build(replace(FACTS, unet=small), seed=0).requires_grad_(requires_grad=False).eval()
    assert isinstance(plain, VolumeNetwork)
    torch.manual_seed(0)
    for p in plain.trained_parameters().values():
        p.data += 0.05 * torch.randn(p.shape)
    compiled = copy.deepcopy(plain)
    compiled.compile_for_sampling()
    spec = replace(FAST, steps=2, batch=2)
    expected, drawn = (
        {one.name: latents for one, latents in sample_volumes(net, REQUESTS[:3], SCHEDULE, spec, CPU)}
        for net in (plain, compiled)
    )
    for name, volume in expected.items():
        torch.testing.assert_close(drawn[name], volume, atol=1e-4, rtol=0)


def test_without_a_compiler_for_the_cpu_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NotAvailable, match="no-such-compiler is not here: install it"):
        copy.deepcopy(network()).compile_for_sampling()


def test_convolutions_are_laid_out_channels_last() -> None:
    sample(REQUESTS[:1], FAST)
    kernels = [m.weight for m in network().modules() if isinstance(m, nn.Conv2d) and m.weight.shape[1] > 1]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    sizes = {kernel.shape[2] for kernel in kernels}
    assert 3 in sizes, "of a kernel of one pixel both layouts are the same"


def test_bf16_draws_what_fp32_draws_up_to_its_precision() -> None:
    whole, half = (sample(REQUESTS, replace(FAST, precision=precision)) for precision in ("fp32", "bf16"))
    for r in REQUESTS:
        assert half[r.name].dtype == torch.float32
        apart = (half[r.name] - whole[r.name]).norm() / whole[r.name].norm()
        assert 0 < apart < 0.05


def test_the_seed_decides() -> None:
    r = REQUESTS[0]
    first, again, other = (sample([replace(r, seed=s)], FAST)[r.name] for s in (7, 7, 8))
    assert torch.equal(first, again)
    assert bool(((first - other).abs().amax(dim=(1, 2, 3)) > 1e-2).all())


def test_informed_slice_mask_and_start_all_matter() -> None:
    r = REQUESTS[0]
    base = sample([r], FAST)[r.name]
    variants = [
        replace(r, informed=-r.informed),
        replace(r, condition=1 - r.condition),
        replace(r, start=r.start + 1),
    ]
    for variant in variants:
        assert float((sample([variant], FAST)[r.name] - base).abs().max()) > 1e-2


def test_slices_past_the_end_do_not_depend_on_what_is_dropped() -> None:
    """A volume shorter than a window is drawn as its own padding by the last slice."""
    short = request("short", 4, 1, seed=9)
    padded = replace(short, condition=torch.cat([short.condition, short.condition[-1:].expand(2, -1, -1, -1)]))
    assert torch.equal(sample([short], FAST)["short"], sample([padded], FAST)["short"][:4])


def test_known_slots_are_given_to_the_network_as_their_finished_slices() -> None:
    """The informed slice of a later window is the finished slice at its edge, at the offset the plan says."""
    r = REQUESTS[0]
    calls: list[tuple[Tensor, Tensor, Conditions]] = []

    def record(_module: nn.Module, args: tuple[Tensor, Tensor, Conditions]) -> None:
        x, t, cond = args
        calls.append((x.clone(), t.clone(), cond))

    handle = network().register_forward_pre_hook(record)
    try:
        drawn = sample([r], replace(FAST, batch=1))[r.name]
    finally:
        handle.remove()

    plan = plan_windows(15, N, FAST.overlap, r.start, FAST.first_window)
    first_calls = calls[:: FAST.steps]
    assert len(first_calls) == len(plan)
    starts = torch.stack([x for x, _, _ in first_calls]).flatten(1)  # at t = 999 there is noise alone
    assert float((torch.corrcoef(starts) - torch.eye(len(plan))).abs().max()) < 0.6, "windows share their noise"
    by_offsets = {(tuple(w.offsets()), w.start): w for w in plan}
    for _, t, cond in first_calls:
        assert t.tolist() == [999] * N
        matches = [
            w
            for w in by_offsets.values()
            if torch.equal(cond.offset, torch.tensor(w.offsets(), dtype=torch.float32))
            and torch.equal(cond.mask, r.condition[w.start : w.start + N])
        ]
        assert len(matches) == 1
        window = matches[0]
        expected = r.informed if window.given else drawn[window.informed]
        assert cond.informed is not None
        assert torch.equal(cond.informed, expected.expand(N, -1, -1, -1))


def test_a_slice_begins_with_the_same_noise_wherever_its_window_lies() -> None:
    at_start, fewest = (_first_noise(replace(FAST, batch=1, first_window=first)) for first in ("at_start", "fewest"))
    assert at_start.keys() == fewest.keys() == set(range(15))
    for z, noise in at_start.items():
        assert torch.equal(noise, fewest[z])
    assert float((torch.corrcoef(torch.stack(list(fewest.values())).flatten(1)) - torch.eye(15)).abs().max()) < 0.6


def _first_noise(spec: SampleSpec) -> dict[int, Tensor]:
    """What the network first sees of every slice that it draws, where there is noise alone."""
    r, calls = REQUESTS[0], list[Tensor]()
    handle = network().register_forward_pre_hook(lambda _module, args: calls.append(args[0].clone()))
    try:
        sample([r], spec)
    finally:
        handle.remove()
    plan = plan_windows(15, N, spec.overlap, r.start, spec.first_window)
    first_calls = calls[:: spec.steps]
    assert len(first_calls) == len(plan)
    return {w.start + k: x[k] for w, x in zip(plan, first_calls, strict=True) for k in w.fresh}


def test_no_more_volumes_are_read_than_fit_the_batch() -> None:
    taken: list[str] = []

    def lazily() -> Iterator[VolumeRequest]:
        for k in range(6):
            taken.append(f"v{k}")
            yield request(taken[-1], N, 0, seed=k)

    stream = sample_volumes(network(), lazily(), SCHEDULE, replace(FAST, batch=2), CPU)
    next(stream)
    assert len(taken) <= 3
    assert len(list(stream)) == 5
    assert len(taken) == 6


def test_progress_counts_every_window() -> None:
    counted: list[int] = []
    spec = replace(FAST, batch=3)
    list(sample_volumes(network(), REQUESTS, SCHEDULE, spec, CPU, counted.append))
    assert sum(counted) == sum(len(plan_windows(len(r.condition), N, 2, r.start, "fewest")) for r in REQUESTS)
    assert max(counted) <= 3


def test_the_middle_start_estimates_the_windows() -> None:
    for first in ("at_start", "fewest"):
        expected = len(plan_windows(15, N, 2, 7, first)) + 2
        assert count_windows([15, N, 1], FACTS.condition, replace(FAST, first_window=first)) == expected


def test_a_slice_network_samples_volumes_too() -> None:
    slices = build(replace(FACTS, kind="slice"), seed=1).requires_grad_(requires_grad=False).eval()
    assert isinstance(slices, SliceNetwork)
    drawn = {one.name: latents for one, latents in sample_volumes(slices, REQUESTS[:2], SCHEDULE, FAST, CPU)}
    assert all(bool(v.isfinite().all()) for v in drawn.values())
    assert len(drawn) == 2


def test_generated_slices_do_not_depend_on_their_batch() -> None:
    torch.manual_seed(2)
    facts = NetworkFacts("position", UNET, C, 0, ConditionSpec())
    model = PositionNetwork(facts).requires_grad_(requires_grad=False).eval()
    positions, seeds = [0.0, 0.3, 0.3, 1.0, 0.5], [1, 2, 3, 4, 5]
    spec = SampleSpec(solver="ddim", steps=4, eta=1.0, batch=4)
    together = sample_slices(model, positions, seeds, (C, H, W), SCHEDULE, spec, CPU)
    assert together.shape == (5, C, H, W)
    assert bool(together.isfinite().all())
    for k in range(5):
        alone = sample_slices(model, positions[k : k + 1], seeds[k : k + 1], (C, H, W), SCHEDULE, spec, CPU)
        torch.testing.assert_close(together[k], alone[0], atol=1e-4, rtol=0)
    assert float((together[1] - together[2]).abs().max()) > 1e-2  # the same position, another seed


@pytest.mark.parametrize(
    ("fixed", "requests", "largest"),
    [(False, REQUESTS, 3), (True, REQUESTS, 2), (True, REQUESTS[:1], 2)],
    ids=["as many as are ready", "of one size", "of one size, mostly padding"],
)
def test_a_batch_that_does_not_fit_into_memory_is_halved(
    fixed: bool, requests: list[VolumeRequest], largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, forward, limit, sizes = sample(requests, FAST), VolumeNetwork.forward, 3, list[int]()
    limited = copy.deepcopy(network())
    limited.fixed_batch = fixed  # all that sampling sees of a compiled network

    def small(self: VolumeNetwork, x: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        if len(x) > limit * N:
            raise torch.OutOfMemoryError("no room")
        sizes.append(len(x) // N)
        return forward(self, x, t, cond)

    monkeypatch.setattr(VolumeNetwork, "forward", small)
    for one, drawn in sample_volumes(limited, requests, SCHEDULE, FAST, CPU):
        torch.testing.assert_close(drawn, whole[one.name], rtol=1e-4, atol=1e-5)
    assert max(sizes) == largest
    assert not fixed or min(sizes) == largest
    limit = 0
    with pytest.raises(Gem3dError, match="one window does not fit"):
        list(sample_volumes(limited, requests, SCHEDULE, FAST, CPU))
