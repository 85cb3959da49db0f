"""Samplers against diffusers' and against what must hold of any sampler."""

from typing import Literal

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from gem3d_core.diffusion.schedule import Schedule, make_schedule
from gem3d_core.diffusion.solvers import Pinned, ddim_step, dpm_step, nothing_pinned, pin, renoise, solve
from gem3d_core.spec.method import DiffusionSpec, SampleSpec

BETAS = {"beta_start": 0.00085, "beta_end": 0.0120, "beta_schedule": "scaled_linear"}
SCALED = DiffusionSpec(schedule="scaled_linear", spacing="trailing")
SHAPE = (3, 2, 4, 4)

SPECS = [
    SampleSpec(solver="dpm++", steps=1),
    SampleSpec(solver="dpm++", steps=2),
    SampleSpec(solver="dpm++", steps=20),
    SampleSpec(solver="dpm++", steps=6, resample=3),
    SampleSpec(solver="ddim", steps=1),
    SampleSpec(solver="ddim", steps=20),
    SampleSpec(solver="ddim", steps=20, eta=1.0),
    SampleSpec(solver="ddim", steps=1000),
    SampleSpec(solver="ddim", steps=5, eta=1.0, resample=4),
]
PROCESSES = [
    DiffusionSpec(),
    SCALED,
    DiffusionSpec(schedule="scaled_linear", prediction="epsilon", spacing="leading"),
]


class Stream:
    """Standard normal noise of one shape from one seed; remembers what it gave."""

    def __init__(self, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> None:
        self.shape = shape
        self.rng = torch.Generator().manual_seed(seed)
        self.given: list[Tensor] = []

    def __call__(self) -> Tensor:
        self.given.append(torch.randn(self.shape, generator=self.rng))
        return self.given[-1]


def toy_epsilon(x: Tensor, t: int) -> Tensor:
    """A smooth, non-linear stand-in for a network that predicts noise."""
    return torch.tanh(0.7 * x + t / 700 - 0.5)


def toy_denoise(schedule: Schedule, x: Tensor, t: Tensor) -> Tensor:
    eps = toy_epsilon(x, int(t[0]))
    return (x - schedule.sigma(t)[:, None, None, None] * eps) / schedule.alpha(t)[:, None, None, None]


def ours(spec: SampleSpec) -> tuple[Tensor, Stream]:
    schedule, noise = make_schedule(SCALED), Stream()
    x = noise()
    drawn = solve(lambda x, t: toy_denoise(schedule, x, t), x, schedule, spec, noise, nothing_pinned(x))
    return drawn, noise


@pytest.mark.parametrize(("steps", "eta"), [(10, 0.0), (50, 0.0), (10, 1.0), (50, 0.5)])
def test_ddim_is_diffusers(steps: int, eta: float) -> None:
    drawn, noise = ours(SampleSpec(solver="ddim", steps=steps, eta=eta))
    theirs = DDIMScheduler(**BETAS, timestep_spacing="trailing", clip_sample=False)
    theirs.set_timesteps(steps)

    x = noise.given[0]
    fresh = Stream()
    fresh()
    for t in theirs.timesteps.tolist():
        fresh()  # what pinning takes
        eps = fresh() if eta else None
        x = theirs.step(toy_epsilon(x, t), t, x, eta=eta, variance_noise=eps).prev_sample
    torch.testing.assert_close(drawn, x, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 5, 20, 50])
def test_dpm_solver_is_diffusers(steps: int) -> None:
    drawn, noise = ours(SampleSpec(solver="dpm++", steps=steps))
    theirs = DPMSolverMultistepScheduler(**BETAS, timestep_spacing="trailing", solver_order=2)
    theirs.set_timesteps(steps)

    x = noise.given[0]
    for t in theirs.timesteps.tolist():
        x = theirs.step(toy_epsilon(x, t), t, x).prev_sample
    torch.testing.assert_close(drawn, x, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("process", PROCESSES, ids=["cosine", "scaled-trailing", "scaled-leading"])
@pytest.mark.parametrize("spread", [1.0, 0.5])
def test_twenty_steps_give_a_gaussian_no_more_contrast_than_it_has(process: DiffusionSpec, spread: float) -> None:
    """With the exact denoiser of N(0, spread^2); less is what few steps cost."""
    schedule, rng = make_schedule(process), torch.Generator().manual_seed(0)
    x = torch.randn(20000, 1, 1, 1, generator=rng)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (level(t)[:, None, None, None] for level in (schedule.alpha, schedule.sigma))
        return alpha * spread**2 / ((alpha * spread) ** 2 + sigma**2) * x

    drawn = solve(denoise, x, schedule, SampleSpec(solver="dpm++", steps=20), lambda: x, nothing_pinned(x))
    assert 0.9 * spread < float(drawn.std()) < 1.03 * spread


@pytest.mark.parametrize("process", PROCESSES, ids=["cosine", "scaled-trailing", "scaled-leading"])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_perfect_denoiser_gives_its_volume_back(process: DiffusionSpec, spec: SampleSpec) -> None:
    schedule, noise = make_schedule(process), Stream()
    truth = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    x = noise()
    drawn = solve(lambda _x, _t: truth, x, schedule, spec, noise, nothing_pinned(x))
    torch.testing.assert_close(drawn, truth, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_finite_from_a_start_without_signal(spec: SampleSpec) -> None:
    schedule, noise = make_schedule(DiffusionSpec()), Stream()
    assert float(schedule.alpha(torch.tensor(schedule.timesteps(spec.steps)[0]))) == 0
    x = noise()
    drawn = solve(lambda x, t: 0.3 * torch.tanh(x + t.sum() / 1e3), x, schedule, spec, noise, nothing_pinned(x))
    assert bool(drawn.isfinite().all())


@pytest.mark.parametrize("process", PROCESSES, ids=["cosine", "scaled-trailing", "scaled-leading"])
@pytest.mark.parametrize("spec", SPECS[2:4] + SPECS[5:], ids=str)
def test_a_pinned_slot_has_the_noise_level_of_its_timestep(process: DiffusionSpec, spec: SampleSpec) -> None:
    """At every call, the pinned slot is alpha_t o_0 plus noise of standard deviation sigma_t of that very t."""
    schedule = make_schedule(process)
    noise = Stream((3, 1, 64, 64))
    clean = torch.full((3, 1, 64, 64), 2.0)
    mask = torch.tensor([False, True, False])
    seen: list[int] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        seen.append(int(t[0]))
        alpha, sigma = float(schedule.alpha(t[0])), float(schedule.sigma(t[0]))
        assert float(x[1].mean()) == pytest.approx(2 * alpha, abs=5 * sigma / 64 + 1e-6)
        assert float(x[1].std()) == pytest.approx(sigma, rel=0.06, abs=1e-6)
        return torch.zeros_like(x)

    drawn = solve(denoise, noise(), schedule, spec, noise, Pinned(clean, mask))
    last_is_single = (spec.steps - 1) * spec.resample + 1  # nothing lies below clean data to come back up from
    assert len(seen) == last_is_single
    assert sorted(set(seen), reverse=True) == schedule.timesteps(spec.steps)
    assert torch.equal(drawn[1], clean[1])


@pytest.mark.parametrize("spec", SPECS[2:], ids=str)
def test_pinned_slots_end_as_their_clean_latents(spec: SampleSpec) -> None:
    schedule, noise = make_schedule(SCALED), Stream()
    clean = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4))
    mask = torch.tensor([True, False, True])
    drawn = solve(lambda x, t: toy_denoise(schedule, x, t), noise(), schedule, spec, noise, Pinned(clean, mask))
    assert torch.equal(drawn[mask], clean[mask])
    assert not torch.equal(drawn[1], clean[1])


def test_a_free_slot_takes_the_same_noise_whether_or_not_another_is_pinned() -> None:
    """Else a window would depend on whether the windows that share its batch hold known slots."""
    spec = SampleSpec(solver="ddim", steps=10, eta=1.0, resample=2)
    schedule = make_schedule(SCALED)

    def draw(mask: list[bool]) -> Tensor:
        noise = Stream()
        pinned = Pinned(torch.zeros(SHAPE), torch.tensor(mask))
        return solve(lambda x, t: toy_denoise(schedule, x, t), noise(), schedule, spec, noise, pinned)

    assert torch.equal(draw([False, False, False])[0], draw([False, True, False])[0])


@pytest.mark.parametrize("name", ["cosine", "scaled_linear"])
def test_going_back_up_restores_the_marginal(name: Literal["cosine", "scaled_linear"]) -> None:
    schedule = make_schedule(DiffusionSpec(schedule=name))
    noise = Stream((1, 1, 200, 200))
    x0 = torch.full((1, 1, 200, 200), 1.5)
    x_s = schedule.add_noise(x0, noise(), torch.tensor([300]))
    x_t = renoise(x_s, schedule, 300, 700, noise())
    t = torch.tensor(700)
    assert float(x_t.mean()) == pytest.approx(1.5 * float(schedule.alpha(t)), abs=0.02)
    assert float(x_t.std()) == pytest.approx(float(schedule.sigma(t)), rel=0.02)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("t", "s"), [(999, 700), (700, 400), (400, 390)])
def test_ddim_steps_from_the_truth_land_on_the_marginal(t: int, s: int, eta: float) -> None:
    """Given x_0, every eta leads from q(x_t | x_0) to q(x_s | x_0); eta = 1 through the posterior q(x_s | x_t, x_0)."""
    schedule = make_schedule(DiffusionSpec())
    noise = Stream((1, 1, 200, 200))
    x0 = torch.full((1, 1, 200, 200), 1.5)
    x_t = schedule.add_noise(x0, noise(), torch.tensor([t]))
    x_s = ddim_step(x_t, x0, schedule, t, s, eta, noise)

    times = torch.tensor([t, s])
    (alpha_t, alpha_s), (sigma_t, sigma_s) = schedule.alpha(times).tolist(), schedule.sigma(times).tolist()
    assert float(x_s.mean()) == pytest.approx(1.5 * alpha_s, abs=0.02)
    assert float(x_s.std()) == pytest.approx(sigma_s, rel=0.02)
    if eta == 1:
        slope = float(torch.cov(torch.stack([x_t.flatten(), x_s.flatten()]))[0, 1]) / sigma_t**2
        assert slope == pytest.approx(alpha_t * sigma_s**2 / (alpha_s * sigma_t**2), abs=0.02)


def test_first_and_last_dpm_steps_are_of_first_order() -> None:
    schedule = make_schedule(DiffusionSpec())
    x, x0 = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    noise = Stream()
    for t, s in [(999, 500), (500, -1)]:
        torch.testing.assert_close(
            dpm_step(x, x0, schedule, t, s, None), ddim_step(x, x0, schedule, t, s, 0.0, noise), atol=1e-5, rtol=0
        )


def test_pin_leaves_free_slots_alone() -> None:
    noise = Stream()
    x = noise()
    assert torch.equal(pin(x, nothing_pinned(x), make_schedule(SCALED), 500, noise), x)
