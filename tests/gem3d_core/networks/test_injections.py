"""The ways for conditions to reach the network: one contract, and the volume model as the slice model's equal."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gem3d_core.codec.haar import Haar
from gem3d_core.diffusion.denoise import guidance_calls, guided, predict_slices
from gem3d_core.errors import NotAvailable
from gem3d_core.networks.conditions import Conditions, Pinned
from gem3d_core.networks.files import build
from gem3d_core.networks.image_encoders import LITE, Blank, blank, open_encoder
from gem3d_core.networks.injections import Branched
from gem3d_core.networks.slices import SliceNetwork
from gem3d_core.networks.volumetric import VolumeNetwork
from gem3d_core.spec.method import ConditionSpec, NetworkFacts, SampleSpec, UNetSpec

UNET = UNetSpec(base_channels=16, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=8, norm_groups=8)
C, M, N, SIDE = 4, 3, 5, 8
PLAIN = ConditionSpec(window=N)
VARIANTS = {
    "concat": PLAIN,
    "controlnet": replace(PLAIN, injection="controlnet"),
    "cross-attention": replace(PLAIN, injection="cross_attention"),
    "no informed slice": replace(PLAIN, informed=False, slice_offset=False),
    "known": replace(PLAIN, known=True),
    "strides": replace(PLAIN, strides=(1, 3)),
    "known and strides by a branch": replace(PLAIN, injection="controlnet", known=True, strides=(1, 2, 4)),
    "known by cross-attention": replace(PLAIN, injection="cross_attention", known=True),
}


class Averages(Blank):
    """Tokens that tell of the slice: means of its latent channels."""

    def tokens(self, latents: Tensor) -> Tensor:
        means = latents.mean(dim=(2, 3))[:, None]
        return means.repeat(1, self.count, self.width // latents.shape[1])


ENCODER = Averages(3, 2 * C)


def facts(condition: ConditionSpec, kind: str = "volume") -> NetworkFacts:
    return NetworkFacts("volume" if kind == "volume" else "slice", UNET, C, M, condition)


def volume(condition: ConditionSpec) -> VolumeNetwork:
    made = build(facts(condition), 0, ENCODER)
    assert isinstance(made, VolumeNetwork)
    return made


def slices(condition: ConditionSpec) -> SliceNetwork:
    made = build(facts(condition, "slice"), 0, ENCODER)
    assert isinstance(made, SliceNetwork)
    return made


def inputs(condition: ConditionSpec, windows: int = 2) -> tuple[Tensor, Tensor, Conditions]:
    rng = torch.Generator().manual_seed(1)
    count = windows * N

    def noise(channels: int) -> Tensor:
        return torch.randn(count, channels, SIDE, SIDE, generator=rng)

    t = torch.randint(1, 1000, (windows,), generator=rng).repeat_interleave(N)
    informed = noise(C) if condition.informed else None
    return noise(C), t, Conditions(noise(M), informed, torch.arange(N).repeat(windows) - 2.0, torch.ones(count))


def spread(network: nn.Module) -> None:
    """Random numbers where layers start at zero."""
    torch.manual_seed(2)
    for p in network.parameters():
        if not p.detach().any():
            nn.init.normal_(p, std=0.1)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["double", "single"])
@pytest.mark.parametrize("condition", VARIANTS.values(), ids=VARIANTS.keys())
def test_at_the_start_of_stage_2_the_volume_model_equals_the_slice_model(
    condition: ConditionSpec, dtype: torch.dtype, atol: float
) -> None:
    """With the slice offset in single precision only, in which diffusers embeds labels."""
    condition = replace(condition, slice_offset=condition.slice_offset and dtype == torch.float32)
    two_d = slices(condition).to(dtype)
    spread(two_d)  # as after stage 1: before it a branch is joined by layers of zeros
    three_d = VolumeNetwork(copy.deepcopy(two_d), facts(condition)).to(dtype)
    x, t, cond = inputs(condition)
    cond = replace(cond, mask=cond.mask.to(dtype), informed=None if cond.informed is None else cond.informed.to(dtype))
    with torch.no_grad():
        expected, found = predict_slices(two_d, cond)(x.to(dtype), t), predict_slices(three_d, cond)(x.to(dtype), t)
    assert float(expected.abs().max()) > 0.1
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("condition", VARIANTS.values(), ids=VARIANTS.keys())
def test_both_stages_reach_all_that_they_train(condition: ConditionSpec) -> None:
    x, t, cond = inputs(condition)
    known = Pinned(x, torch.arange(2 * N) % N < 2) if condition.known else None
    for network in (slices(condition), volume(condition)):
        spread(network)
        trained = dict(network.named_parameters())
        if isinstance(network, VolumeNetwork):
            trained = network.trained_parameters()
        predict_slices(network, replace(cond, known=known))(x, t).square().mean().backward()
        unreached = [name for name, p in trained.items() if p.grad is None or not bool(p.grad.isfinite().all())]
        assert unreached == []


@pytest.mark.parametrize("name", ["concat", "controlnet", "cross-attention"])
def test_mask_and_informed_slice_matter_to_every_injection(name: str) -> None:
    network = slices(VARIANTS[name])
    spread(network)
    x, t, cond = inputs(VARIANTS[name])
    assert cond.informed is not None
    with torch.no_grad():
        base = network(x, t, cond)
        for other in (replace(cond, mask=-cond.mask), replace(cond, informed=2 + cond.informed)):
            assert float((network(x, t, other) - base).abs().max()) > 1e-3


def test_a_branch_begins_without_a_say() -> None:
    """Its joints are zero at the start, as ControlNet's are; then it is the main network alone."""
    network = slices(VARIANTS["controlnet"])
    assert isinstance(network, Branched)
    x, t, cond = inputs(PLAIN)
    with torch.no_grad():
        alone = network.unet(x, t, class_labels=cond.offset, return_dict=False)[0]
        torch.testing.assert_close(network(x, t, cond), alone, atol=1e-6, rtol=0)


def test_known_slots_reach_the_network_clean_and_at_timestep_0() -> None:
    condition = VARIANTS["known"]
    network = volume(condition)
    spread(network)
    x, t, cond = inputs(condition, windows=1)
    told = torch.tensor([True, False, False, False, True])
    clean = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    seen: list[tuple[Tensor, Tensor]] = []
    network.slices.register_forward_pre_hook(lambda _module, args: seen.append(args[:2]))
    with torch.no_grad():
        network(x, t, replace(cond, known=Pinned(clean, told)))
    ((y, s),) = seen
    assert torch.equal(y[told], clean[told])
    assert torch.equal(y[~told], x[~told])
    assert s.tolist() == [0, int(t[0]), int(t[0]), int(t[0]), 0]


def test_the_known_channel_and_the_stride_are_told() -> None:
    condition = VARIANTS["known and strides by a branch"]
    network = volume(condition)
    spread(network)
    x, t, cond = inputs(condition, windows=1)
    t = torch.zeros_like(t)  # at timestep 0 nothing but the channel tells a known slot from a noisy one
    told = Pinned(x, torch.tensor([True, False, False, False, False]))
    with torch.no_grad():
        base = network(x, t, cond)
        assert float((network(x, t, replace(cond, known=told)) - base).abs().max()) > 1e-3
        assert float((network(x, t, replace(cond, stride=4 * cond.stride)) - base).abs().max()) > 1e-3


@pytest.mark.parametrize("name", VARIANTS)
def test_guidance_of_scale_1_is_no_guidance(name: str) -> None:
    network = volume(VARIANTS[name])
    spread(network)
    x, t, cond = inputs(VARIANTS[name])
    calls: list[int] = []
    network.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert torch.equal(guided(network, cond, 1.0, 1.0)(x, t), predict_slices(network, cond)(x, t))
    assert len(calls) == 2, "no call more than without"


@pytest.mark.parametrize(("mask", "informed", "calls"), [(1.5, 1.0, 3), (1.0, 2.0, 2), (2.0, 2.0, 2), (0.0, 0.0, 1)])
def test_guidance_adds_what_each_condition_brings(mask: float, informed: float, calls: int) -> None:
    network = volume(PLAIN)
    spread(network)
    x, t, cond = inputs(PLAIN)
    every = torch.ones(len(x), dtype=torch.bool)
    counted: list[int] = []
    with torch.no_grad():
        p_0 = network(x, t, cond.without(every, every))
        p_M = network(x, t, cond.without(~every, every))
        p_MI = network(x, t, cond)
        network.register_forward_hook(lambda *_: counted.append(1))
        found = guided(network, cond, mask, informed)(x, t)
    torch.testing.assert_close(found, p_0 + mask * (p_M - p_0) + informed * (p_MI - p_M), atol=1e-4, rtol=1e-4)
    assert len(counted) == calls


def test_efficientnets_tokens_tell_slices_apart() -> None:
    encoder = open_encoder(LITE, Haar(1, torch.zeros(4), torch.ones(4)), torch.device("cpu"))
    latents = torch.randn(2, 4, 16, 12, generator=torch.Generator().manual_seed(0))
    tokens = encoder.tokens(latents)
    assert tokens.shape == (2, blank(LITE).count, encoder.width) == (2, 16, 320)
    assert float((tokens[0] - tokens[1]).abs().max()) > 0.1
    torch.testing.assert_close(encoder.tokens(latents[1:])[0], tokens[1], atol=1e-4, rtol=1e-4)


def test_a_clip_model_in_a_folder_sees_slices_as_its_own_processing_shows_them(tmp_path: Path) -> None:
    clip = pytest.importorskip("transformers", reason="a CLIP encoder needs the extra clip")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = clip.CLIPVisionModel(clip.CLIPVisionConfig(**shape, image_size=32, patch_size=8)).eval()
    model.save_pretrained(tmp_path)
    codec = Haar(1, torch.zeros(4), torch.ones(4))
    grey = 2 * torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0)) - 1
    tokens = open_encoder(str(tmp_path), codec, torch.device("cpu")).tokens(codec.encode(grey))
    assert tokens.shape == (2, blank(str(tmp_path)).count, blank(str(tmp_path)).width) == (2, 17, 32)
    processing = clip.CLIPImageProcessor(do_resize=False, do_center_crop=False, do_rescale=False)
    images = [one.repeat(3, 1, 1) for one in (grey + 1) / 2]
    with torch.no_grad():
        expected = model(**processing(images, return_tensors="pt", input_data_format="channels_first"))
    torch.testing.assert_close(tokens, expected.last_hidden_state, atol=1e-4, rtol=1e-4)


def test_an_encoder_that_is_not_here_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match=r"or on the hub \(.*\): .pip install"):
        open_encoder(str(tmp_path / "no-such-folder"), Haar(1, torch.zeros(4), torch.ones(4)), torch.device("cpu"))


def test_tokens_of_the_informed_slice_are_made_once_for_all_steps() -> None:
    asked: list[int] = []

    class Counting(Averages):
        def tokens(self, latents: Tensor) -> Tensor:
            asked.append(len(latents))
            return super().tokens(latents)

    condition = VARIANTS["known by cross-attention"]
    network = build(facts(condition), 0, Counting(3, 2 * C))
    assert isinstance(network, VolumeNetwork)
    x, t, cond = inputs(condition)
    predict = predict_slices(network, cond)
    with torch.no_grad():
        first, second = predict(x, t), predict(x, t)
    assert asked == [2 * N]
    assert torch.equal(first, second)


def test_without_an_informed_slice_guidance_knows_one_condition() -> None:
    condition = VARIANTS["no informed slice"]
    network = volume(condition)
    spread(network)
    x, t, cond = inputs(condition)
    every, counted = torch.ones(len(x), dtype=torch.bool), list[int]()
    with torch.no_grad():
        p_0, p_M = network(x, t, cond.without(every, every)), network(x, t, cond)
        network.register_forward_hook(lambda *_: counted.append(1))
        found = guided(network, cond, 2.0, 1.0)(x, t)
    torch.testing.assert_close(found, 2 * p_M - p_0, atol=1e-4, rtol=1e-4)
    assert len(counted) == guidance_calls(SampleSpec(mask_guidance=2.0), informed=False) == 2
