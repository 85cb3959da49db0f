"""The forward process: its ends, its round trips, its weights and the timesteps that samplers visit."""

from itertools import pairwise
from typing import Literal

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gem3d_core.diffusion.schedule import Schedule, make_schedule
from gem3d_core.spec.method import DiffusionSpec

COSINE = DiffusionSpec()
PAPER = DiffusionSpec(schedule="scaled_linear", prediction="epsilon", weighting="uniform", spacing="leading")


def noised(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    x0 = torch.randn(len(t), 2, 3, 3, generator=rng)
    eps = torch.randn(x0.shape, generator=rng)
    return x0, eps, schedule.add_noise(x0, eps, t)


def test_cosine_falls_from_nearly_one_to_exactly_zero() -> None:
    abar = make_schedule(COSINE).abar
    assert abar.shape == (1000,)
    assert abar[0] > 0.9999
    assert abar[-1] == 0
    assert bool((abar[1:] < abar[:-1]).all())


def test_scaled_linear_is_the_releases() -> None:
    theirs = DDIMScheduler(beta_start=0.00085, beta_end=0.0120, beta_schedule="scaled_linear").alphas_cumprod
    torch.testing.assert_close(make_schedule(PAPER).abar.float(), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("spec", [COSINE, PAPER])
def test_variance_is_preserved_and_index_minus_one_is_clean(spec: DiffusionSpec) -> None:
    schedule = make_schedule(spec)
    t = torch.arange(-1, 1000)
    torch.testing.assert_close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones(1001))
    assert (float(schedule.alpha(t)[0]), float(schedule.sigma(t)[0])) == (1, 0)
    x0, _, x_t = noised(schedule, torch.tensor([-1, -1]))
    assert torch.equal(x_t, x0)


def test_last_cosine_timestep_is_pure_noise() -> None:
    _, eps, x_t = noised(make_schedule(COSINE), torch.tensor([999]))
    assert torch.equal(x_t, eps)


@pytest.mark.parametrize("name", ["cosine", "scaled_linear"])
def test_v_round_trips_to_the_clean_signal_at_every_timestep(name: Literal["cosine", "scaled_linear"]) -> None:
    schedule = make_schedule(DiffusionSpec(schedule=name))
    t = torch.arange(-1, 1000)
    x0, eps, x_t = noised(schedule, t)
    torch.testing.assert_close(schedule.to_x0(x_t, schedule.target(x0, eps, t), t), x0, atol=1e-5, rtol=0)


def test_epsilon_round_trips_to_the_clean_signal_at_every_timestep() -> None:
    schedule = make_schedule(PAPER)
    t = torch.arange(-1, 1000)
    x0, eps, x_t = noised(schedule, t)
    assert schedule.target(x0, eps, t) is eps
    torch.testing.assert_close(schedule.to_x0(x_t, eps, t), x0, atol=2e-5, rtol=0)


def test_v_target_is_diffusers_velocity() -> None:
    schedule = make_schedule(DiffusionSpec(schedule="scaled_linear"))
    theirs = DDIMScheduler(beta_start=0.00085, beta_end=0.0120, beta_schedule="scaled_linear")
    t = torch.tensor([0, 400, 999])
    x0, eps, _ = noised(schedule, t)
    torch.testing.assert_close(schedule.target(x0, eps, t), theirs.get_velocity(x0, eps, t), atol=1e-4, rtol=0)


def test_v_weights_are_min_snr_plus_one_and_live_at_the_terminal_timestep() -> None:
    schedule = make_schedule(COSINE)
    t = torch.arange(1000)
    weight = schedule.weight(t)
    assert bool((weight > 0).all())
    assert weight[-1] == 1  # (0 + 1) / (0 + 1)
    snr = (schedule.abar / (1 - schedule.abar)).float()
    unclamped = snr < COSINE.gamma
    assert torch.equal(weight[unclamped], torch.ones(int(unclamped.sum())))
    torch.testing.assert_close(weight[~unclamped], 6 / (snr[~unclamped] + 1), rtol=1e-4, atol=0)


def test_epsilon_weights_are_min_snr_over_snr() -> None:
    schedule = make_schedule(DiffusionSpec(schedule="scaled_linear", prediction="epsilon"))
    snr = (schedule.abar / (1 - schedule.abar)).float()
    weight = schedule.weight(torch.arange(1000))
    torch.testing.assert_close(weight, (5 / snr).clamp_max(1), rtol=1e-4, atol=1e-6)


def test_weights_of_clean_latents_are_min_snr() -> None:
    schedule = make_schedule(DiffusionSpec(schedule="scaled_linear", prediction="sample"))
    snr = (schedule.abar / (1 - schedule.abar)).float()
    torch.testing.assert_close(schedule.weight(torch.arange(1000)), snr.clamp_max(5), rtol=1e-4, atol=1e-6)


def test_both_weights_are_the_same_weight_of_the_clean_signal() -> None:
    """An error e in x_0 is e / sigma in v and e alpha / sigma in epsilon: min-SNR plus one differs by that one."""
    t = torch.tensor([300, 600, 900])
    v = make_schedule(DiffusionSpec(schedule="scaled_linear"))
    epsilon = make_schedule(DiffusionSpec(schedule="scaled_linear", prediction="epsilon"))
    snr = v.alpha(t) ** 2 / v.sigma(t) ** 2
    of_x0_by_v = v.weight(t) / v.sigma(t) ** 2
    of_x0_by_epsilon = epsilon.weight(t) * snr
    torch.testing.assert_close(of_x0_by_v - of_x0_by_epsilon, torch.ones(3), rtol=1e-3, atol=1e-3)


def test_uniform_weights_are_one() -> None:
    assert torch.equal(make_schedule(PAPER).weight(torch.arange(5)), torch.ones(5))


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("steps", [1, 7, 10, 20, 25, 50, 200, 333, 999])
def test_timesteps_are_diffusers(spacing: Literal["trailing", "leading"], steps: int) -> None:
    theirs = DDIMScheduler(timestep_spacing=spacing, steps_offset=1)
    theirs.set_timesteps(steps)
    ours = make_schedule(DiffusionSpec(schedule="scaled_linear", spacing=spacing)).timesteps(steps)
    assert ours == theirs.timesteps.tolist()


@settings(max_examples=300, deadline=None)
@given(T=st.integers(1, 1200), data=st.data(), spacing=st.sampled_from(["trailing", "leading"]))
def test_timesteps_descend_within_the_process(T: int, data: st.DataObject, spacing: str) -> None:
    steps = data.draw(st.integers(1, T))
    spec = DiffusionSpec(T=T, schedule="scaled_linear", spacing="leading" if spacing == "leading" else "trailing")
    times = Schedule(spec, torch.ones(T)).timesteps(steps)
    assert len(times) == steps
    assert all(a > b for a, b in pairwise(times))
    assert times[-1] >= 0
    assert times[0] < T
    if spacing == "trailing":
        assert times[0] == T - 1


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_step_counts_that_the_process_lacks_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="choose 1 to 1000"):
        make_schedule(COSINE).timesteps(steps)
