"""The networks: counted at the paper's width, run at a reduced one, and the volume model as the slice model's equal."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from configs import load
from gem3d_core.diffusion.denoise import predict_slices
from gem3d_core.networks.conditions import Conditions, at_positions
from gem3d_core.networks.files import build
from gem3d_core.networks.interface import count_parameters
from gem3d_core.networks.slices import PositionNetwork, SliceNetwork, embed_position
from gem3d_core.networks.volumetric import SliceAttention, SliceConv, VolumeNetwork
from gem3d_core.spec.method import ConditionSpec, NetworkFacts, UNetSpec

SMALL = UNetSpec(base_channels=16, multipliers=(1, 2, 2), blocks=1, attention_at=(2, 4), head_channels=8, norm_groups=8)
LATENT, MASK, N = 4, 3, 5
PAPER = ["brats-paper", "abdomen-paper"]


@pytest.mark.parametrize("profile", PAPER)
def test_paper_models_run_forward_and_backward_at_reduced_width(profile: str) -> None:
    """The paper's own levels, blocks and attention, an eighth as wide."""
    config = load(profile)
    narrow = {"base_channels": 32, "head_channels": 16, "norm_groups": 16}
    spec, position = replace(config.unet, **narrow), replace(config.position_unet, **narrow)
    n = 3
    network = build(NetworkFacts("volume", spec, 4, 4, replace(config.condition, window=n)), seed=0)
    assert isinstance(network, VolumeNetwork)
    x, t = torch.randn(n, 4, 16, 16), torch.full((n,), 500)
    network(x, t, Conditions(x, x, torch.zeros(n), torch.ones(n))).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.trained_parameters().values())
    unet = position_network(position, 4)
    predicted = predict_slices(unet, at_positions(torch.tensor([0.0, 0.5, 1.0])))(x, t)
    assert predicted.shape == (n, 4, 16, 16)
    predicted.square().mean().backward()
    assert all(p.grad is not None for p in unet.parameters())


def position_network(spec: UNetSpec, channels: int) -> PositionNetwork:
    return PositionNetwork(NetworkFacts("position", spec, channels, 0, ConditionSpec()))


def small_slice_network(*, offset: bool = True) -> SliceNetwork:
    network = build(NetworkFacts("slice", SMALL, LATENT, MASK, ConditionSpec(window=N, slice_offset=offset)), seed=0)
    assert isinstance(network, SliceNetwork)
    return network


def small_volume_network(*, offset: bool = True) -> VolumeNetwork:
    network = build(NetworkFacts("volume", SMALL, LATENT, MASK, ConditionSpec(window=N, slice_offset=offset)), seed=0)
    assert isinstance(network, VolumeNetwork)
    return network


def inputs(windows: int = 2) -> tuple[Tensor, Tensor, Conditions]:
    rng = torch.Generator().manual_seed(1)
    count = windows * N

    def noise(channels: int) -> Tensor:
        return torch.randn(count, channels, 8, 12, generator=rng)

    t = torch.randint(1000, (windows,), generator=rng).repeat_interleave(N)
    offset = torch.arange(N).repeat(windows) - 2.0
    return noise(LATENT), t, Conditions(noise(MASK), noise(LATENT), offset, torch.ones(count))


@pytest.mark.parametrize("profile", PAPER)
def test_paper_models_have_the_releases_parameters(profile: str) -> None:
    config = load(profile)
    facts = NetworkFacts("volume", config.unet, 4, 4, config.condition)
    with torch.device("meta"):
        slice_parameters = count_parameters(build(replace(facts, kind="slice"), seed=0))
        volume = build(facts, seed=0)
    assert isinstance(volume, VolumeNetwork)
    assert round(slice_parameters / 1e6, 1) == 274.1
    assert round((count_parameters(volume) - slice_parameters) / 1e6, 1) == 93.8
    trained = sum(p.numel() for p in volume.trained_parameters().values())
    assert trained == count_parameters(volume) - slice_parameters


def test_slice_network_runs_forwards_and_backwards() -> None:
    network = small_slice_network()
    x, t, cond = inputs()
    prediction = predict_slices(network, cond)(x, t)
    assert prediction.shape == x.shape
    torch.autograd.backward(prediction.square().mean())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


def test_every_convolution_and_attention_has_a_volumetric_layer_that_runs_once() -> None:
    network = small_volume_network()
    layers = {m for m in network.modules() if isinstance(m, SliceConv | SliceAttention)}
    spatial = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(spatial) == sum(isinstance(m, SliceConv) for m in layers)

    ran: Counter[nn.Module] = Counter()
    for layer in layers:
        layer.register_forward_hook(lambda module, _inputs, _output: ran.update([module]))
    x, t, cond = inputs()
    predict_slices(network, cond)(x, t)
    assert ran == Counter(layers)


def test_volumetric_layers_start_as_the_identity_bit_for_bit() -> None:
    network = small_volume_network().eval()
    changed: list[str] = []

    def compare(layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
        spatial = layer.get_submodule("spatial")
        if not torch.equal(spatial(*args, **kwargs), output):
            changed.append(str(layer))

    for layer in network.modules():
        if isinstance(layer, SliceConv | SliceAttention):
            layer.register_forward_hook(compare, with_kwargs=True)
    x, t, cond = inputs()
    with torch.no_grad():
        predict_slices(network, cond)(x, t)
    assert changed == []


def test_volume_network_starts_as_the_slice_network() -> None:
    """In float64: single precision rounds differently where the added layers leave another memory layout."""
    x, t, cond = inputs()
    assert cond.informed is not None
    x, cond = x.double(), replace(cond, mask=cond.mask.double(), informed=cond.informed.double())
    slices, volume = small_slice_network(offset=False).double(), small_volume_network(offset=False).double()
    with torch.no_grad():
        expected = predict_slices(slices, cond)(x, t)
        found = predict_slices(volume, cond)(x, t)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_volume_network_starts_as_the_slice_network_with_offsets_too() -> None:
    x, t, cond = inputs()
    with torch.no_grad():
        expected = predict_slices(small_slice_network(), cond)(x, t)
        found = predict_slices(small_volume_network(), cond)(x, t)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_windows_do_not_see_each_other_but_their_slices_do() -> None:
    network = small_volume_network().eval()
    torch.manual_seed(2)
    for p in network.trained_parameters().values():
        nn.init.normal_(p, std=0.1)
    x, t, cond = inputs(windows=2)
    changed = x.clone()
    changed[0] += 1  # the first slice of the first window
    with torch.no_grad():
        predict = predict_slices(network, cond)
        difference = (predict(changed, t) - predict(x, t)).abs().amax(dim=(1, 2, 3))
    assert bool((difference[:N] > 0).all())
    assert bool((difference[N:] == 0).all())


def test_only_volumetric_layers_can_be_trained_by_name() -> None:
    network = small_volume_network()
    trained = network.trained_parameters()
    assert not set(trained) & {name for name, _ in network.named_parameters() if ".spatial." in name}
    before = count_parameters(small_slice_network())
    assert count_parameters(network) - before == sum(p.numel() for p in trained.values()) > 0


def test_the_offset_reaches_the_prediction_only_where_it_is_embedded() -> None:
    x, t, cond = inputs()
    moved = replace(cond, offset=cond.offset + 3)
    for offset in (True, False):
        network = small_volume_network(offset=offset).eval()
        with torch.no_grad():
            same = torch.equal(predict_slices(network, cond)(x, t), predict_slices(network, moved)(x, t))
        assert same is not offset


def test_an_offset_and_its_negative_are_told_apart() -> None:
    x, t, cond = inputs()
    network = small_volume_network().eval()
    mirrored = replace(cond, offset=-cond.offset)
    with torch.no_grad():
        difference = (predict_slices(network, cond)(x, t) - predict_slices(network, mirrored)(x, t)).abs()
    assert float(difference[0].max()) > 0
    assert torch.equal(difference[2], torch.zeros_like(difference[2]))  # offset 0


def test_position_network_follows_the_position() -> None:
    torch.manual_seed(0)
    network = position_network(SMALL, LATENT)
    x, t, _ = inputs(windows=1)
    first = predict_slices(network, at_positions(torch.full((N,), 0.1)))(x, t)
    second = predict_slices(network, at_positions(torch.full((N,), 0.7)))(x, t)
    assert first.shape == x.shape
    assert not torch.equal(first, second)
    torch.autograd.backward(first.square().mean())
    unreached = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert unreached == set()


def test_position_embedding_is_the_sinusoid_of_a_thousand_p() -> None:
    embedding = embed_position(torch.tensor([0.0, 0.25, 1.0]))
    assert embedding.shape == (3, 1, 128)
    assert torch.equal(embedding[0, 0], torch.cat([torch.ones(64), torch.zeros(64)]))
    torch.testing.assert_close(embedding[1, 0, 0], torch.tensor(250.0).cos())
    torch.testing.assert_close(embedding[2, 0, 64 + 32], torch.tensor(1000 / 10000**0.5).sin(), atol=1e-4, rtol=0)


def test_heads_of_the_paper_hold_32_channels() -> None:
    config = load("brats-paper")
    with torch.device("meta"):
        volume = build(NetworkFacts("volume", config.unet, 4, 4, config.condition), seed=0)
        position = position_network(config.position_unet, 4)
    for module in volume.modules():
        if isinstance(module, SliceAttention):
            assert module.qkv.in_features // module.heads == 32
            assert module.spatial.heads == module.heads
    found = {m.heads * 32 for name, m in position.named_modules() if name.endswith("attn2")}
    assert found == {224, 448, 896}
