"""The literal training step costs more and learns the same."""

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from gem3d_core.bench.training import DEPTH, VOLUMES, TrainingCase, compare_training, paper_codec
from gem3d_core.codec import KL
from gem3d_core.settings import UNetSpec

UNET = UNetSpec(base_channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=8, norm_groups=4)


def test_both_begin_with_the_same_loss_and_only_the_literal_step_encodes(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = KL.encode

    def counted(codec: KL, slices: Tensor) -> Tensor:
        encoded.append(len(slices))
        return encode(codec, slices)

    monkeypatch.setattr(KL, "encode", counted)
    torch.manual_seed(0)
    model = AutoencoderKL(
        latent_channels=4,
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    )
    case = TrainingCase(UNET, (32, 32), n=4, windows=2, device=torch.device("cpu"), precision="fp32")
    compared = compare_training(case, steps=2, codec=KL(model, 0.2))
    assert compared.loss_difference < 1e-3 * compared.reference.first_loss
    stored, literal = 2 * VOLUMES * DEPTH, 3 * (case.n * case.windows) * 3  # image, mask, informed; three steps
    assert sum(encoded) == stored + literal
    assert compared.speedup == pytest.approx(compared.ours.steps_per_second / compared.reference.steps_per_second)


def test_the_codec_is_of_the_papers_size() -> None:
    with torch.device("meta"):
        codec = paper_codec(torch.device("meta"))
    assert codec.factor == 8
    assert sum(p.numel() for p in codec.model.parameters()) == pytest.approx(83.65e6, rel=0.001)
