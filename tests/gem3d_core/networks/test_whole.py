"""Whole volumes at once: the wavelet along the slices, the 3D network, and the adversarial objective."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gem3d_core.diffusion.adversarial import Verdict, adversarial_loss
from gem3d_core.diffusion.losses import Example
from gem3d_core.diffusion.schedule import make_schedule
from gem3d_core.networks.conditions import Conditions
from gem3d_core.networks.files import build
from gem3d_core.networks.whole import Discriminator, WholeNetwork, gather_slices, spread_slices, whole_window
from gem3d_core.sampling.batched import VolumeRequest, sample_volumes
from gem3d_core.spec.method import ConditionSpec, DiffusionSpec, NetworkFacts, SampleSpec, UNetSpec

UNET = UNetSpec(base_channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=8, norm_groups=4)
C, M, N, SIDE = 2, 2, 8, 8
FACTS = NetworkFacts("whole", UNET, C, M, ConditionSpec(window=N, informed=False, slice_offset=False))
ONE_STEP = DiffusionSpec(prediction="sample", weighting="uniform")


def network() -> WholeNetwork:
    made = build(FACTS, 0)
    assert isinstance(made, WholeNetwork)
    torch.manual_seed(1)
    for p in made.parameters():
        if not p.detach().any():
            torch.nn.init.normal_(p, std=0.1)  # MONAI's last layer starts at zero
    return made


def conditions(volumes: int = 2) -> Conditions:
    count = volumes * N
    mask = torch.rand(count, M, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    return Conditions(mask, None, torch.zeros(count), torch.ones(count))


def noise(volumes: int = 2) -> Tensor:
    return torch.randn(volumes * N, C, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


def test_the_wavelet_along_the_slices_is_orthonormal_and_undone() -> None:
    x = noise().double()
    y = spread_slices(x, N)
    assert y.shape == (2, 4 * C, N // 4, SIDE, SIDE)
    torch.testing.assert_close(gather_slices(y, N), x, atol=1e-12, rtol=0)
    torch.testing.assert_close(y.square().sum(), x.square().sum())
    same = spread_slices(torch.ones_like(x), N)
    assert torch.equal(same[:, C:], torch.zeros_like(same[:, C:])), "what all slices share is in the first channels"


@pytest.mark.parametrize(("depth", "window"), [(1, 8), (8, 8), (9, 16), (47, 48)])
def test_the_window_holds_the_deepest_volume(depth: int, window: int) -> None:
    assert whole_window(depth, UNET) == window


def test_every_slice_of_a_volume_sees_every_other_and_no_other_volume() -> None:
    made, x, t, cond = network().eval(), noise(), torch.full((2 * N,), 500), conditions()
    changed = x.clone()
    changed[0] += 1
    with torch.no_grad():
        difference = (made(changed, t, cond) - made(x, t, cond)).abs().amax(dim=(1, 2, 3))
    assert bool((difference[:N] > 0).all())
    assert bool((difference[N:] == 0).all())


@pytest.mark.parametrize("Z", [3, N, 11])
def test_volumes_shorter_and_deeper_than_the_window_are_drawn(Z: int) -> None:
    request = VolumeRequest("v", torch.rand(Z, M, SIDE, SIDE), torch.zeros(C, SIDE, SIDE), Z // 2, seed=1)
    made = network().requires_grad_(requires_grad=False).eval()
    schedule = make_schedule(DiffusionSpec())
    ((_, drawn),) = sample_volumes(made, [request], schedule, SampleSpec(steps=2), torch.device("cpu"))
    assert drawn.shape == (Z, C, SIDE, SIDE)
    assert bool(drawn.isfinite().all())


def test_the_middle_of_the_network_attends_whatever_its_levels_do() -> None:
    facts = replace(FACTS, unet=replace(UNET, attention_at=(1,), head_channels=4))
    made, cond = build(facts, 0), conditions(1)
    with torch.no_grad():
        drawn = made(noise(1), torch.full((N,), 500), cond)
    assert drawn.shape == noise(1).shape


def example() -> tuple[Example, WholeNetwork, Discriminator]:
    made, cond = network(), conditions()
    discriminator = Discriminator(FACTS)
    clean = torch.randn(2 * N, C, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    t = torch.full((2 * N,), 999)

    def predict(x: Tensor, s: Tensor) -> Tensor:
        predicted: Tensor = made(x, s, cond)
        return predicted

    return Example(clean, noise(), t, predict, ("v",), judge=Verdict(discriminator, cond)), made, discriminator


def test_network_and_discriminator_learn_in_one_sum_and_neither_the_others_part() -> None:
    given, made, discriminator = example()
    adversarial_loss(given, make_schedule(ONE_STEP)).backward()
    assert all(p.grad is not None for p in [*made.parameters(), *discriminator.parameters()])

    verdict = given.judge
    assert verdict is not None
    drawn = given.predict(given.eps, given.t).detach()
    expected = ((verdict.learning(given.clean) - 1).square().mean() + verdict.learning(drawn).square().mean()) / 2
    gradients = torch.autograd.grad(expected, list(discriminator.parameters()))
    for p, g in zip(discriminator.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, g, atol=1e-6, rtol=1e-4)


def test_a_perfect_volume_has_no_distance_and_the_discriminator_is_all_that_is_left() -> None:
    given, _, discriminator = example()
    perfect = replace(given, predict=lambda _x, _t: given.clean)
    loss = adversarial_loss(perfect, make_schedule(ONE_STEP))
    assert given.judge is not None
    said = given.judge.learning(given.clean)
    realism, telling = (said - 1).square().mean(), ((said - 1).square().mean() + said.square().mean()) / 2
    torch.testing.assert_close(loss, 0.01 * realism + telling)
    assert all(p.requires_grad for p in discriminator.parameters())


def test_channels_weigh_one_on_average_beside_realism() -> None:
    given, _, _ = example()
    shifted = replace(given, predict=lambda _x, _t: given.clean + 1)  # every channel is as far away
    expected = adversarial_loss(shifted, make_schedule(ONE_STEP))
    small = torch.tensor([0.4, *[0.1] * (C - 1)])
    torch.testing.assert_close(adversarial_loss(replace(shifted, emphasis=small), make_schedule(ONE_STEP)), expected)
