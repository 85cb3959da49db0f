"""FID, MS-SSIM and LPIPS against closed forms and published implementations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gem3d_core.errors import BadInput
from gem3d_core.metrics.features import load_lpips
from gem3d_core.metrics.frechet import Moments, fid, frechet_distance, plane_slices, slice_features
from gem3d_core.metrics.paired import lpips_distance, ms_ssim
from gem3d_core.spec.terms import PLANES


def volume(seed: int, shape: tuple[int, int, int] = (6, 20, 24)) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def pooled(slices: np.ndarray) -> np.ndarray:
    """A small deterministic stand-in for a network: four features of a slice of any size."""
    flat = slices.reshape(len(slices), -1)
    return np.stack([flat.mean(1), flat.std(1), flat.min(1), flat.max(1)], axis=1).astype(np.float32)


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    generator = np.random.default_rng(0)
    root = generator.normal(size=(5, 5))
    cov_a, cov_b = root @ root.T + np.eye(5), np.diag(np.arange(1.0, 6.0))
    mean_a, mean_b = generator.normal(size=5), np.zeros(5)
    values = np.linalg.eigvals(cov_a @ cov_b)
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b) - 2 * np.sqrt(values.real).sum()
    n = 1000
    ours = frechet_distance(Moments(n, mean_a, cov_a * (n - 1)), Moments(n, mean_b, cov_b * (n - 1)))
    assert ours == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Flat(nn.Module):
        num_features = 12

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)

    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(90, 12)), generator.normal(0.3, 1.4, size=(70, 12))
    metric = FrechetInceptionDistance(feature=Flat(), input_img_size=(3, 2, 2), normalize=True).set_dtype(torch.float64)
    metric.update(torch.from_numpy(a).view(-1, 3, 2, 2), real=True)
    metric.update(torch.from_numpy(b).view(-1, 3, 2, 2), real=False)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(metric.compute().item(), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5), seed=st.integers(0, 999))
def test_streamed_moments_equal_those_of_all_at_once(sizes: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    parts = [generator.normal(1e3, 1, (size, 3)) for size in sizes]
    merged = Moments.of(parts[0])
    for part in parts[1:]:
        merged = merged.merge(Moments.of(part))
    everything = np.concatenate(parts)
    assert merged.n == len(everything)
    assert np.allclose(merged.mean, everything.mean(0))
    assert np.allclose(merged.covariance, np.cov(everything, rowvar=False), rtol=1e-6, atol=1e-9)


def test_fewer_slices_than_features_stay_finite_and_equal_sets_score_zero() -> None:
    few = np.random.default_rng(2).normal(size=(7, 40))
    assert frechet_distance(Moments.of(few), Moments.of(few)) == pytest.approx(0, abs=1e-6)
    assert np.isfinite(frechet_distance(Moments.of(few), Moments.of(few[:4] + 1)))


def test_unusable_features_are_named() -> None:
    sound = Moments.of(np.zeros((5, 3)))
    with pytest.raises(BadInput, match="two or more"):
        frechet_distance(Moments.of(np.zeros((1, 3))), sound)
    with pytest.raises(BadInput, match="not finite"):
        frechet_distance(Moments.of(np.full((4, 3), np.nan)), sound)


def test_planes_are_views_along_their_axis() -> None:
    one = volume(0)
    assert (plane_slices(one, "axial")[2] == one[2]).all()
    assert (plane_slices(one, "coronal")[3] == one[:, 3]).all()
    assert (plane_slices(one, "sagittal")[4] == one[:, :, 4]).all()


def test_features_are_of_slices_that_touch_the_outline() -> None:
    outline, one = np.zeros((6, 20, 24), bool), volume(0)
    outline[1:5, 4:9, 6:8] = True
    found: dict[str, list[np.ndarray]] = {plane: [] for plane in PLANES}
    for plane, vectors in slice_features(one, outline, pooled, batch=2):
        found[plane].append(vectors)
    across = {"axial": one[1:5], "coronal": one[:, 4:9].swapaxes(0, 1), "sagittal": one[:, :, 6:8].transpose(2, 0, 1)}
    for plane, expected in across.items():
        np.testing.assert_allclose(np.concatenate(found[plane]), pooled(expected), rtol=1e-6)
    assert list(slice_features(one, np.zeros_like(outline), pooled)) == []


def test_fid_of_nothing_is_refused() -> None:
    some = dict.fromkeys(PLANES, Moments.of(np.random.default_rng(0).normal(size=(5, 3))))
    assert {plane: score.n_real for plane, score in fid(some, some).items()} == dict.fromkeys(PLANES, 5)
    with pytest.raises(BadInput, match="no slice"):
        fid(some, {})


def test_paired_scores_are_best_for_equal_volumes_and_fall_with_noise() -> None:
    grid = np.indices((3, 34, 50)).sum(0) / 8
    real = np.sin(grid).astype(np.float32)
    noise = 0.3 * volume(3, real.shape)
    scores = [ms_ssim(np.clip(real + k * noise, -1, 1), real) for k in range(3)]
    assert scores[0] == pytest.approx(1, abs=1e-5)
    assert scores[0] > scores[1] > scores[2]


def test_ms_ssim_is_the_published_one_on_slices_resized_to_256() -> None:
    from pytorch_msssim import ms_ssim as published
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as taken

    a, b = volume(4, (3, 32, 40)), volume(5, (3, 32, 40))
    b = (0.7 * a + 0.3 * b).astype(np.float32)
    pair = [
        nn.functional.interpolate(torch.from_numpy(one)[:, None], size=(256, 320), mode="bilinear") for one in (a, b)
    ]
    grey = [(one + 1) / 2 for one in pair]
    assert ms_ssim(a, b, batch=2) == pytest.approx(taken(*grey, data_range=1.0).item(), rel=1e-4)
    expected = published(*grey, data_range=1.0).item()
    assert ms_ssim(a, b, batch=2) == pytest.approx(expected, rel=2e-3)  # borders are treated differently
    assert published(*pair, data_range=2.0).item() != pytest.approx(expected, rel=5e-3), "what another range would give"


def test_ms_ssim_forgives_a_little_brightness_where_tissue_is_grey() -> None:
    """Around 0, where prepared tissue lies, the luminance of signed images would punish it ten times as much."""
    tissue = 0.2 * volume(6, (2, 32, 32))
    assert ms_ssim(tissue + 0.05, tissue) > 0.99


def test_slices_outside_the_outline_do_not_flatter_a_pair() -> None:
    a, b = volume(6, (4, 32, 32)), volume(7, (4, 32, 32))
    outline = np.zeros(a.shape, bool)
    outline[:2, 5:20, 5:20] = True
    a[2:], b[2:] = -1, -1
    assert ms_ssim(a, b, outline) < ms_ssim(a, b)
    with pytest.raises(BadInput, match="no slice"):
        ms_ssim(a, b, np.zeros_like(outline))
    with pytest.raises(BadInput, match="one shape"):
        ms_ssim(a, b[:2])


def test_lpips_is_zero_for_equal_volumes_and_the_mean_over_slices(trunk_folder: Path) -> None:
    network = load_lpips(trunk_folder)
    a, b = volume(8, (2, 32, 40)), volume(9, (2, 32, 40))
    assert lpips_distance(a, a, network) == pytest.approx(0, abs=1e-6)
    single = [lpips_distance(a[k : k + 1], b[k : k + 1], network) for k in range(2)]
    assert lpips_distance(a, b, network) == pytest.approx(np.mean(single), rel=1e-4)
    assert min(single) > 0.05
