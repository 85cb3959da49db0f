"""From label maps to condition channels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gem3d_core.codec.haar import fit_haar
from gem3d_core.networks.conditions import condition_channels, encode_mask, fold, grey_mask, pad_slices
from gem3d_core.spec.method import CodecSpec, ConditionSpec

ONE_HOT, GREY = ConditionSpec(mask="one_hot"), ConditionSpec(mask="codec")
CODEC = fit_haar(CodecSpec(levels=2), torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0)))


def test_area_fractions_of_a_case_made_by_hand() -> None:
    """8 x 8, cells of 4 x 4: label 7 fills the first cell by half, label 2 the last by a sixteenth."""
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[0, :2, :4] = 7
    mask[0, 7, 7] = 2
    outline = torch.zeros(1, 8, 8, dtype=torch.bool)
    outline[0, :, :4] = True
    planes = encode_mask(ONE_HOT, CODEC, (2, 7), mask, outline)
    expected = [[[0, 0], [0, 1 / 16]], [[0.5, 0], [0, 0]], [[1, 0], [1, 0]]]
    assert planes.dtype == torch.float32
    assert torch.equal(planes[0], torch.tensor(expected))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), labels=st.lists(st.integers(1, 300), min_size=1, max_size=5, unique=True))
def test_area_fractions_sum_to_the_labelled_area(seed: int, labels: list[int]) -> None:
    rng = torch.Generator().manual_seed(seed)
    mask = torch.tensor([0, *labels], dtype=torch.int16)[torch.randint(len(labels) + 1, (3, 8, 12), generator=rng)]
    outline = torch.rand(3, 8, 12, generator=rng) < 0.5
    planes = encode_mask(ONE_HOT, CODEC, tuple(labels), mask, outline)
    assert planes.shape == (3, condition_channels(ONE_HOT, CODEC, tuple(labels)), 2, 3)
    torch.testing.assert_close(planes[:, :-1].sum(dim=(1, 2, 3)) * 16, (mask > 0).sum(dim=(1, 2)).float())
    torch.testing.assert_close(planes[:, -1].sum(dim=(1, 2)) * 16, outline.sum(dim=(1, 2)).float())
    assert 0 <= float(planes.min()) <= float(planes.max()) <= 1


def test_grey_levels_are_distinct_and_fill_the_value_range() -> None:
    mask = torch.tensor([[[0, 0, 1, 2, 4]]], dtype=torch.uint8)
    outline = torch.tensor([[[False, True, True, False, True]]])
    grey = grey_mask((1, 2, 4), mask, outline)
    assert torch.equal(grey, torch.tensor([[[-1.0, -0.5, 0.0, 0.5, 1.0]]]))


def test_a_label_outside_the_list_is_seen_as_its_surroundings() -> None:
    mask = torch.tensor([[[9, 9]]], dtype=torch.uint8)
    outline = torch.tensor([[[True, False]]])
    assert torch.equal(grey_mask((1,), mask, outline), torch.tensor([[[0.0, -1.0]]]))


def test_codec_masks_are_the_encoded_grey_image() -> None:
    rng = torch.Generator().manual_seed(1)
    mask = torch.randint(3, (2, 8, 8), generator=rng, dtype=torch.uint8)
    outline = torch.rand(2, 8, 8, generator=rng) < 0.7
    encoded = encode_mask(GREY, CODEC, (1, 2), mask, outline)
    assert encoded.shape == (2, condition_channels(GREY, CODEC, (1, 2)), 2, 2)
    torch.testing.assert_close(CODEC.decode(encoded), grey_mask((1, 2), mask, outline), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("Z", "n"), [(3, 5), (5, 5), (7, 5), (1, 4)])
def test_padding_repeats_the_last_slice(Z: int, n: int) -> None:
    volume = torch.arange(Z * 2.0).reshape(Z, 2)
    padded = pad_slices(volume, n)
    assert len(padded) == max(Z, n)
    assert torch.equal(padded[:Z], volume)
    assert bool((padded[Z:] == volume[-1]).all())


def test_fold_keeps_the_slices_of_a_window_together() -> None:
    windows: Tensor = torch.arange(6.0).reshape(2, 3, 1, 1, 1)
    assert fold(windows).flatten().tolist() == [0, 1, 2, 3, 4, 5]
