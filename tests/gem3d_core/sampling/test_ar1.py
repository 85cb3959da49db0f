"""How much does pinning condition? A Gaussian volume with an exact denoiser (method, section 3).

Slices have one pixel, neighbours correlate by 0.9, and the samples lie along the channels. The posterior mean is
known in closed form, so what is missing from 0.9 across a pin is the sampler's doing alone.
"""

import math
import sys
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import pytest
import torch
from torch import Tensor

from gem3d_core.diffusion.denoise import Denoise
from gem3d_core.diffusion.schedule import Schedule, make_schedule
from gem3d_core.diffusion.solvers import nothing_pinned, solve
from gem3d_core.networks.conditions import Conditions, Pinned
from gem3d_core.networks.interface import WindowNetwork
from gem3d_core.sampling.batched import VolumeRequest, sample_volumes
from gem3d_core.sampling.windows import plan_volume, window_borders
from gem3d_core.spec.method import ConditionSpec, Continuation, DiffusionSpec, NetworkFacts, SampleSpec, UNetSpec

N = 16
RHO = 0.9
SAMPLES = 12000

COSINE = DiffusionSpec()
SCALED = DiffusionSpec(schedule="scaled_linear")

DDIM = SampleSpec(solver="ddim", steps=200)
DPM = SampleSpec(solver="dpm++", steps=20)
ANCESTRAL = SampleSpec(solver="ddim", steps=200, eta=1.0)
RESAMPLED = SampleSpec(solver="ddim", steps=20, eta=1.0, resample=10)
DPM_RESAMPLED = SampleSpec(solver="dpm++", steps=20, resample=10)
EVERY = [DDIM, DPM, ANCESTRAL, RESAMPLED, DPM_RESAMPLED]

# the method's measurements are those of the scaled linear process; the cosine's large last steps shift two of them
EXPECTED = [
    (SCALED, DDIM, 0.46),
    (SCALED, DPM, 0.51),
    (SCALED, ANCESTRAL, 0.65),
    (SCALED, RESAMPLED, 0.87),
    (SCALED, DPM_RESAMPLED, 0.83),
    (COSINE, DDIM, 0.44),
    (COSINE, DPM, 0.46),
    (COSINE, ANCESTRAL, 0.64),
    (COSINE, RESAMPLED, 0.90),
    (COSINE, DPM_RESAMPLED, 0.86),
]


def describe(value: object) -> str | None:
    if isinstance(value, SampleSpec):
        return f"{value.solver}-{value.steps}-eta{value.eta:g}-x{value.resample}"
    return value.schedule if isinstance(value, DiffusionSpec) else None


def covariance(k: Tensor | None = None) -> Tensor:
    """Of slices at positions k; none: of a window's."""
    k = torch.arange(N, dtype=torch.float64) if k is None else k.double()
    return RHO ** (k[:, None] - k).abs()


def gain(schedule: Schedule, t: int) -> Tensor:
    """G of E[x_0 | x_t] = G x_t along the slots: alpha S (alpha^2 S + sigma^2 I)^-1."""
    S, abar = covariance(), float(schedule.abar[t])
    noisy = abar * S + (1 - abar) * torch.eye(N, dtype=torch.float64)
    posterior: Tensor = math.sqrt(abar) * torch.linalg.solve(noisy, S)
    return posterior


def exact_denoiser(schedule: Schedule) -> Denoise:
    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return (gain(schedule, int(t[0])).float() @ x[..., 0, 0])[..., None, None]

    return denoise


def stream(seed: int) -> Callable[[], Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(N, SAMPLES, 1, 1, generator=rng)


@lru_cache
def draw_pinned(process: DiffusionSpec, spec: SampleSpec, slot: int = 0) -> Tensor:
    """Windows (N, SAMPLES) in which one slot is pinned to a true slice."""
    pin = torch.arange(N) == slot
    schedule, noise = make_schedule(process), stream(seed=1)
    clean = noise()
    return solve(exact_denoiser(schedule), noise(), schedule, spec, noise, Pinned(clean, pin))[..., 0, 0]


def correlation(drawn: Tensor, a: int, b: int) -> float:
    return float(torch.corrcoef(drawn[[a, b]])[0, 1])


@pytest.mark.parametrize(("process", "spec", "expected"), EXPECTED, ids=describe)
def test_correlation_across_the_pin(
    process: DiffusionSpec, spec: SampleSpec, expected: float, record_property: Callable[[str, object], None]
) -> None:
    found = correlation(draw_pinned(process, spec), 0, 1)
    record_property(f"correlation across the pin, {describe(process)}, {describe(spec)}", round(found, 3))
    sys.stdout.write(f"{describe(process)} {describe(spec)}: {found:.3f}\n")
    assert found == pytest.approx(expected, abs=0.035)


@pytest.mark.parametrize(("steps", "overlap", "expected"), [(10, 1, 0.52), (10, 2, 0.59), (10, 4, 0.62), (20, 2, 0.54)])
def test_more_overlap_conditions_more_but_less_than_being_told_of_the_slots(
    steps: int, overlap: int, expected: float, record_property: Callable[[str, object], None]
) -> None:
    """The default is a single pass with overlap 2. The pinned slots are true neighbours of each other."""
    schedule, noise = make_schedule(COSINE), stream(seed=1)
    root = torch.linalg.cholesky(covariance()).float()
    clean = (root @ noise()[..., 0, 0])[..., None, None]
    pinned = Pinned(clean, torch.arange(N) < overlap)
    spec = SampleSpec(solver="dpm++", steps=steps, overlap=overlap)
    drawn = solve(exact_denoiser(schedule), noise(), schedule, spec, noise, pinned)[..., 0, 0]
    found = correlation(drawn, overlap - 1, overlap)
    record_property(f"correlation across the pin, overlap {overlap}, {steps} steps", round(found, 3))
    sys.stdout.write(f"overlap {overlap}, {steps} steps: {found:.3f}\n")
    assert found == pytest.approx(expected, abs=0.035)
    told = solve(knowing_denoiser(schedule, pinned), noise(), schedule, spec, noise, pinned)[..., 0, 0]
    assert found < correlation(told, overlap - 1, overlap) - 0.1


def test_resampling_conditions_where_a_single_pass_overwrites() -> None:
    single = correlation(draw_pinned(SCALED, ANCESTRAL), 0, 1)
    resampled = correlation(draw_pinned(SCALED, RESAMPLED), 0, 1)
    assert single < 0.7
    assert resampled >= 0.85


def test_a_pin_at_the_far_end_conditions_as_much() -> None:
    drawn = draw_pinned(COSINE, DDIM, N - 1)
    assert correlation(drawn, N - 1, N - 2) == pytest.approx(0.44, abs=0.035)


def exact_correlation(schedule: Schedule, spec: SampleSpec) -> float:
    """The same number without a sample: the covariance of (x, o_0) carried through every linear step of DDIM."""
    state = torch.eye(N + 1, dtype=torch.float64)  # slots, then the true slice that slot 0 is pinned to
    times = [*schedule.timesteps(spec.steps), -1]
    for t, s in pairwise(times):
        abar_t, abar_s = float(schedule.abar[t]), 1.0 if s < 0 else float(schedule.abar[s])
        for attempt in range(spec.resample):
            pin = torch.eye(N + 1, dtype=torch.float64)
            pin[0, 0], pin[0, N] = 0, abar_t**0.5
            state = pin @ state @ pin.T
            state[0, 0] += 1 - abar_t

            G = torch.eye(N + 1, dtype=torch.float64)
            G[:N, :N] = gain(schedule, t)
            G[0] = 0
            G[0, N] = 1  # the pinned slot's clean signal is known
            ancestral = spec.eta**2 * (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)
            to_eps = (torch.eye(N + 1, dtype=torch.float64) - abar_t**0.5 * G) / math.sqrt(1 - abar_t)
            move = abar_s**0.5 * G + math.sqrt(max(0.0, 1 - abar_s - ancestral)) * to_eps
            move[N] = torch.eye(N + 1, dtype=torch.float64)[N]
            state = move @ state @ move.T
            state[:N, :N] += ancestral * torch.eye(N, dtype=torch.float64)
            if attempt == spec.resample - 1 or s < 0:
                break

            back = torch.eye(N + 1, dtype=torch.float64)
            back[:N, :N] *= math.sqrt(abar_t / abar_s)
            state = back @ state @ back.T
            state[:N, :N] += (1 - abar_t / abar_s) * torch.eye(N, dtype=torch.float64)
    return float(state[N, 1] / (state[N, N] * state[1, 1]).sqrt())


@pytest.mark.parametrize("process", [COSINE, SCALED], ids=describe)
@pytest.mark.parametrize("spec", [DDIM, ANCESTRAL, RESAMPLED], ids=describe)
def test_the_sampled_correlation_is_the_one_that_linear_algebra_gives(process: DiffusionSpec, spec: SampleSpec) -> None:
    exact = exact_correlation(make_schedule(process), spec)
    standard_error = (1 - exact**2) / SAMPLES**0.5
    assert correlation(draw_pinned(process, spec), 0, 1) == pytest.approx(exact, abs=4 * standard_error)


@pytest.mark.parametrize("spec", EVERY, ids=describe)
def test_without_a_pin_the_volume_has_its_own_covariance(spec: SampleSpec) -> None:
    """The yardstick itself: free windows are drawn from the Gaussian that the denoiser knows."""
    schedule, noise = make_schedule(COSINE), stream(seed=2)
    x = noise()
    drawn = solve(exact_denoiser(schedule), x, schedule, spec, noise, nothing_pinned(x))[..., 0, 0]
    found = (drawn @ drawn.T / SAMPLES).double()
    # 20 ancestral steps lose a quarter of the variance, by their coarseness and not by resampling
    coarse = {DPM: 0.2, RESAMPLED: 0.3, DPM_RESAMPLED: 0.2}.get(spec, 0.06)
    torch.testing.assert_close(found, covariance(), atol=coarse, rtol=0)
    assert correlation(drawn, 0, 1) == pytest.approx(RHO, abs=0.05 if spec.steps < 200 else 0.015)


def knowing_mean(S: Tensor, abar: float, x: Tensor, pinned: Pinned) -> Tensor:
    """E[x_0 | noisy free slots, clean known slots], exactly: what a network with a known channel is trained to say."""
    seen = torch.where(pinned.mask, 1.0, math.sqrt(abar)).double()
    noise = torch.where(pinned.mask, 1e-9, 1 - abar).double()  # padding repeats a known slice
    posterior = torch.linalg.solve(seen[:, None] * S * seen + torch.diag(noise), seen[:, None] * S).T
    y = torch.where(pinned.mask[:, None], pinned.clean[..., 0, 0], x[..., 0, 0])
    return (posterior.float() @ y)[..., None, None]


def knowing_denoiser(schedule: Schedule, pinned: Pinned) -> Denoise:
    return lambda x, t: knowing_mean(covariance(), float(schedule.abar[int(t[0])]), x, pinned)


CONTINUING = [(SampleSpec(steps=k, continuation="known"), 0.87) for k in (10, 20, 50)]


@pytest.mark.parametrize("process", [COSINE, SCALED], ids=describe)
@pytest.mark.parametrize(("spec", "expected"), CONTINUING, ids=describe)
@pytest.mark.parametrize("slot", [0, N - 1])
def test_a_network_that_is_told_of_known_slots_continues_in_a_single_pass(
    process: DiffusionSpec,
    spec: SampleSpec,
    expected: float,
    slot: int,
    record_property: Callable[[str, object], None],
) -> None:
    schedule, noise = make_schedule(process), stream(seed=1)
    pinned = Pinned(noise(), torch.arange(N) == slot)
    drawn = solve(knowing_denoiser(schedule, pinned), noise(), schedule, spec, noise, pinned)[..., 0, 0]
    beside = 1 if slot == 0 else N - 2
    found = correlation(drawn, slot, beside)
    record_property(f"correlation across a known slot, {describe(process)}, {spec.steps} steps", round(found, 3))
    sys.stdout.write(f"known {describe(process)} {spec.steps} steps: {found:.3f}\n")
    assert found >= expected


def test_both_ends_of_a_gap_between_key_frames_are_met(record_property: Callable[[str, object], None]) -> None:
    schedule, noise = make_schedule(COSINE), stream(seed=3)
    rng = torch.Generator().manual_seed(4)
    root = torch.linalg.cholesky(covariance()).float()
    clean = (root @ torch.randn(N, SAMPLES, generator=rng))[..., None, None]
    pinned = Pinned(clean, torch.arange(N) % 3 == 0)
    drawn = solve(knowing_denoiser(schedule, pinned), noise(), schedule, DPM, noise, pinned)[..., 0, 0]
    found = [correlation(drawn, k + a, k + a + 1) for k in range(0, N - 3, 3) for a in (0, 2)]
    record_property("correlation across key frames, smallest", round(min(found), 3))
    sys.stdout.write(f"key frames: {min(found):.3f} to {max(found):.3f}\n")
    assert found == pytest.approx([RHO] * len(found), abs=0.03)


class Exact(WindowNetwork):
    """The posterior mean of the Gaussian volume; where slices lie is written in their masks."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        condition = ConditionSpec(window=N, known=True, strides=(1, 3))
        self.facts = NetworkFacts("volume", UNetSpec(), SAMPLES, 1, condition)
        self.schedule = schedule

    def forward(self, x: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        abar = float(self.schedule.abar[int(t[0])])
        told = cond.known or nothing_pinned(x)
        windows = [slice(first, first + N) for first in range(0, len(x), N)]
        x0 = torch.cat(
            [
                knowing_mean(covariance(cond.mask[rows, 0, 0, 0]), abar, x[rows], told.rows(rows, x.device))
                for rows in windows
            ]
        )
        alpha, sigma = (level[:, None, None, None] for level in (self.schedule.alpha(t), self.schedule.sigma(t)))
        return self.schedule.target(x0, (x - alpha * x0) / sigma, t)


@pytest.mark.parametrize(("Z", "start"), [(31, 0), (36, 18)])
@pytest.mark.parametrize(
    ("continuation", "plan", "expected"),
    [
        ("none", "chain", 0.0),
        ("informed", "chain", 0.0),
        ("repaint", "chain", 0.5),
        ("repaint", "keyframes", 0.5),
        ("known", "chain", RHO),
        ("known", "keyframes", RHO),
    ],
)
def test_correlation_where_windows_of_a_volume_meet(
    Z: int,
    start: int,
    continuation: Continuation,
    plan: Literal["chain", "keyframes"],
    expected: float,
    record_property: Callable[[str, object], None],
) -> None:
    """Also where the last window of a direction draws finished slices again. The Gaussian has no informed slice."""
    schedule, spec = make_schedule(COSINE), SampleSpec(steps=20, overlap=1, continuation=continuation, plan=plan)
    network = Exact(schedule)
    where = torch.arange(Z, dtype=torch.float32)[:, None, None, None]
    request = VolumeRequest("v", where, torch.zeros(SAMPLES, 1, 1), start, seed=7)
    ((_, volume),) = sample_volumes(network, [request], schedule, spec, torch.device("cpu"))
    drawn = volume[..., 0, 0]
    borders = window_borders(plan_volume(Z, network.facts.condition, start, spec), Z)
    found = {k: correlation(drawn, k, k + 1) for k in borders}
    smallest = f"correlation where windows of {Z} slices meet, {continuation}, {plan}, smallest"
    record_property(smallest, round(min(found.values()), 3))
    sys.stdout.write(f"{continuation}, {plan}, {Z} slices: {found}\n")
    assert found
    for value in found.values():
        assert value == pytest.approx(expected, abs={0.0: 0.04, 0.5: 0.15, RHO: 0.05}[expected])
    if plan == "chain":
        assert len(borders) == {31: 1, 36: 2}[Z]
        assert correlation(drawn, start, start + 1) == pytest.approx(RHO, abs=0.05), "the windows themselves are whole"
