"""The literal training step costs more and learns the same."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gem3d_core.bench.training import DEPTH, VOLUMES, TrainingCase, compare_training, paper_codec
from gem3d_core.budget.costs import network_cost
from gem3d_core.codec.kl import KL, autoencoder
from gem3d_core.spec.method import ConditionSpec, NetworkFacts, UNetSpec

UNET = UNetSpec(base_channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=8, norm_groups=4)


def test_both_begin_with_the_same_loss_and_only_the_literal_step_encodes(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = KL.encode

    def counted(codec: KL, slices: Tensor) -> Tensor:
        encoded.append(len(slices))
        return encode(codec, slices)

    monkeypatch.setattr(KL, "encode", counted)
    torch.manual_seed(0)
    model = autoencoder((8, 16, 16, 16), 1)
    case = TrainingCase(UNET, (32, 32), n=4, windows=2, device=torch.device("cpu"), precision="fp32")
    compared = compare_training(case, steps=2, codec=KL(model, 0.2))
    assert compared.loss_difference < 1e-3 * compared.reference.first_loss
    steps = 3 + 1  # one more is counted
    stored, literal = 2 * VOLUMES * DEPTH, 3 * (case.n * case.windows) * steps  # image, mask, informed
    assert sum(encoded) == stored + literal
    assert compared.speedup == pytest.approx(compared.ours.steps_per_second / compared.reference.steps_per_second)


def test_operations_of_a_step_are_those_of_the_network_three_times_and_of_the_encoder_where_it_encodes() -> None:
    case = TrainingCase(UNET, (32, 32), n=4, windows=2, device=torch.device("cpu"), precision="fp32")
    codec = KL(autoencoder((8, 16, 16, 16), 1), 0.2)
    compared = compare_training(case, steps=1, codec=codec)

    facts = NetworkFacts("slice", UNET, codec.channels, codec.channels, ConditionSpec(window=case.n))
    slices = case.n * case.windows
    forward = network_cost(facts, slices, (4, 4)).forward_flops
    stored = compared.ours.flops_per_second / compared.ours.steps_per_second
    literal = compared.reference.flops_per_second / compared.reference.steps_per_second
    assert stored == pytest.approx(3 * forward, rel=0.05)  # forward, and backward to weights and inputs
    with FlopCounterMode(display=False) as encoding:
        codec.encode(torch.zeros(slices, 32, 32))
    assert literal - stored == pytest.approx(3 * encoding.get_total_flops())
    for pace in (compared.ours, compared.reference):
        assert pace.share_of_matrix_product == pytest.approx(pace.flops_per_second / compared.matrix_flops)


def test_the_codec_is_of_the_papers_size() -> None:
    with torch.device("meta"):
        codec = paper_codec(torch.device("meta"))
    assert codec.factor == 8
    assert sum(p.numel() for p in codec.model.parameters()) == pytest.approx(83.65e6, rel=0.001)
