"""A copied training volume is found, whatever its size and noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from gem3d_core.errors import BadInput
from gem3d_core.metrics.nearest import Nearest, nearest_distances, on_grid


def anatomy(seed: int, shape: tuple[int, int, int] = (20, 24, 22)) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(16, 16, 16))
    smooth = ndimage.zoom(ndimage.gaussian_filter(noise, 2.0), np.array(shape) / 16, order=1)
    return (smooth / np.abs(smooth).max()).astype(np.float32)


def nearest(queries: list[np.ndarray], references: list[np.ndarray], side: int = 8) -> Nearest:
    asked, known = ([on_grid(volume, (side, side, side)) for volume in volumes] for volumes in (queries, references))
    return nearest_distances(asked, known)


def test_a_noisy_copy_is_nearest_to_its_original_and_nearer_than_fresh_volumes() -> None:
    training = [anatomy(seed) for seed in range(8)]
    noise = np.random.default_rng(9).normal(0, 0.1, training[0].shape)
    copies = [(training[seed] + noise).astype(np.float32) for seed in (5, 2)]
    copied = nearest(copies, training)
    fresh = nearest([anatomy(seed) for seed in range(20, 25)], training)
    assert copied.indices.tolist() == [5, 2]
    assert copied.distances.max() < 0.05
    assert fresh.distances.min() > 3 * copied.distances.max()


def test_an_exact_copy_is_at_zero_and_an_offset_at_its_size() -> None:
    training = [anatomy(0), anatomy(1)]
    result = nearest([training[1], training[1] + np.float32(0.25)], training, side=32)
    assert result.indices.tolist() == [1, 1]
    assert result.distances == pytest.approx([0.0, 0.25], abs=1e-6)


def test_sizes_need_not_agree() -> None:
    training = [anatomy(seed, (20, 24, 22)) for seed in range(3)]
    query = anatomy(2, (34, 40, 36))
    assert nearest([query], training).indices.tolist() == [2]


def test_nothing_to_compare_is_said() -> None:
    with pytest.raises(BadInput, match="no references"):
        nearest([anatomy(0)], [])
    with pytest.raises(BadInput, match="no queries"):
        nearest([], [anatomy(0)])
    with pytest.raises(BadInput, match=r"expected \(Z, H, W\)"):
        nearest([anatomy(0)[0]], [anatomy(0)])
