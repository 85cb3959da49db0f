"""The fast sampler equals Algorithm 1 to the letter, whatever the depth, the start, the overlap and the batch."""

import copy
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from gem3d_core.codec.haar import Haar
from gem3d_core.diffusion.schedule import make_schedule
from gem3d_core.networks.files import build
from gem3d_core.networks.volumetric import VolumeNetwork
from gem3d_core.sampling.batched import VolumeRequest, sample_volumes
from gem3d_core.sampling.literal import Algorithm1, draw_reference
from gem3d_core.sampling.volumes import Recipe, VolumeModel, draw_volumes
from gem3d_core.sampling.windows import plan_windows
from gem3d_core.spec.method import ConditionSpec, DiffusionSpec, NetworkFacts, SampleSpec, UNetSpec

UNET = UNetSpec(base_channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=8, norm_groups=4)
C, M, H, W, N = 4, 2, 4, 4, 6
CPU = torch.device("cpu")
COSINE = DiffusionSpec()
PAPER = DiffusionSpec(schedule="scaled_linear", prediction="epsilon", weighting="uniform", spacing="leading")
DEPTHS = [(1, 0), (3, 2), (N, 5), (N + 1, 0), (N + 1, N), (17, 0), (17, 16), (14, 7)]
"""Z and the start slice."""
STEPS = 3


@lru_cache(maxsize=2)
def network(*, offset: bool = True) -> VolumeNetwork:
    """A volume network with random weights everywhere, so that slices do influence each other."""
    volume = build(NetworkFacts("volume", UNET, C, M, ConditionSpec(window=N, slice_offset=offset)), seed=0)
    assert isinstance(volume, VolumeNetwork)
    torch.manual_seed(0)
    for p in volume.trained_parameters().values():
        p.data += 0.05 * torch.randn(p.shape)
    for module in volume.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data *= 1.5
    return volume.requires_grad_(requires_grad=False).eval()


def request(Z: int, start: int) -> VolumeRequest:
    rng = torch.Generator().manual_seed(Z)
    condition, informed = torch.rand(Z, M, H, W, generator=rng), torch.randn(C, H, W, generator=rng)
    return VolumeRequest(f"{Z} from {start}", condition, informed, start, seed=100 * Z + start)


REQUESTS = [request(Z, start) for Z, start in DEPTHS]


@lru_cache(maxsize=8)
def expected(
    diffusion: DiffusionSpec, overlap: int, eta: float, *, offset: bool = True
) -> tuple[dict[str, Tensor], int]:
    """Every volume by the reference, and the network calls it took."""
    algorithm = Algorithm1(network(offset=offset), make_schedule(diffusion), CPU, overlap, STEPS, eta)
    return {r.name: algorithm.sample(r) for r in REQUESTS}, algorithm.network_calls


def assert_equal(diffusion: DiffusionSpec, spec: SampleSpec, *, offset: bool = True) -> None:
    made = sample_volumes(network(offset=offset), REQUESTS, make_schedule(diffusion), spec, CPU)
    drawn = {one.name: latents for one, latents in made}
    volumes, _ = expected(diffusion, spec.overlap, spec.eta, offset=offset)
    for name, volume in volumes.items():
        assert float(volume.abs().amax(dim=(1, 2, 3)).min()) > 1e-3, "a slice that was never written is zero"
        torch.testing.assert_close(drawn[name], volume, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("overlap", [1, 3])
@pytest.mark.parametrize("batch", [1, 5, 64])
def test_the_fast_sampler_equals_the_reference(overlap: int, batch: int) -> None:
    assert_equal(COSINE, SampleSpec(solver="ddim", steps=STEPS, overlap=overlap, first_window="at_start", batch=batch))


@pytest.mark.parametrize(("diffusion", "eta"), [(COSINE, 1.0), (PAPER, 0.0), (PAPER, 0.5)])
def test_so_it_does_with_ancestral_noise_and_the_process_of_the_paper(diffusion: DiffusionSpec, eta: float) -> None:
    assert_equal(diffusion, SampleSpec(solver="ddim", steps=STEPS, first_window="at_start", batch=8, eta=eta))


def test_so_it_does_without_the_offset_of_the_informed_slice() -> None:
    assert_equal(COSINE, SampleSpec(solver="ddim", steps=STEPS, first_window="at_start", batch=8), offset=False)


@pytest.mark.parametrize("overlap", [1, 3])
def test_a_network_call_is_one_step_of_one_window(overlap: int) -> None:
    windows = sum(len(plan_windows(Z, N, overlap, start)) for Z, start in DEPTHS)
    assert expected(COSINE, overlap, 0.0)[1] == STEPS * windows


def test_calls_are_counted_where_they_are_made() -> None:
    sizes: list[int] = []

    def record(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        sizes.append(len(args[0]))

    algorithm = Algorithm1(network(), make_schedule(COSINE), CPU, steps=STEPS)
    handle = network().register_forward_pre_hook(record)
    try:
        algorithm.sample(request(N + 1, 0))
    finally:
        handle.remove()
    assert sizes == [N] * algorithm.network_calls == [N] * 2 * STEPS


def test_a_compiled_network_is_not_compiled_for_the_reference() -> None:
    compiled, counter = copy.deepcopy(network()), CompileCounter()
    compiled.compile_for_sampling(counter)
    drawn = Algorithm1(compiled, make_schedule(COSINE), CPU, steps=STEPS).sample(REQUESTS[0])
    torch.testing.assert_close(drawn, expected(COSINE, 1, 0.0)[0][REQUESTS[0].name], atol=1e-5, rtol=0)
    assert counter.frame_count == 0


def test_the_paper_takes_200_steps() -> None:
    assert len(Algorithm1(network(), make_schedule(COSINE), CPU).times) == 200 + len([-1])


def test_from_voxels_to_voxels_both_are_the_same() -> None:
    codec = Haar(1, torch.zeros(4), torch.ones(4))
    model = VolumeModel(network(), codec, make_schedule(COSINE), (1,), CPU)
    rng = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 2, (9, 2 * H, 2 * W), generator=rng)
    outline = torch.rand(mask.shape, generator=rng) > 0.2
    informed = torch.rand(2 * H, 2 * W, generator=rng) * 2 - 1
    recipes = [Recipe(f"at {p}", mask, outline, informed, p, seed=3) for p in (0.0, 0.5, 1.0)]
    spec = SampleSpec(solver="ddim", steps=STEPS, first_window="at_start", batch=8)
    drawn = {volume.name: volume.slices for volume in draw_volumes(model, recipes, spec)}
    for recipe in recipes:
        slices = draw_reference(model, recipe, Algorithm1(network(), model.schedule, CPU, steps=STEPS))
        torch.testing.assert_close(drawn[recipe.name], slices, atol=1e-4, rtol=1e-4)
        assert bool((slices[~outline] == -1).all())
