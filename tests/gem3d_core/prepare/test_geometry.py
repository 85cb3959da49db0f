"""Source, canonical and prepared grids, and the ways between them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from nibabel.orientations import aff2axcodes

from gem3d_core.errors import BadInput
from gem3d_core.prepare.geometry import (
    Geometry,
    canonical_affine,
    canonical_spacing,
    orientation_of,
    plan_geometry,
)
from gem3d_core.prepare.resampling import from_slices, resample, to_slices

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def signed_permutation(order: tuple[int, ...], signs: tuple[int, ...], sizes: tuple[float, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * np.asarray(signs) * np.asarray(sizes)
    affine[:3, 3] = [11.0, -7.0, 3.0]
    return affine


def rotated(affine: np.ndarray, degrees: float) -> np.ndarray:
    turn, angle = np.eye(4), np.deg2rad(degrees)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ affine


affines = st.builds(
    lambda order, signs, sizes, degrees: rotated(signed_permutation(order, signs, sizes), degrees),
    st.permutations([0, 1, 2]).map(tuple),
    st.tuples(*[st.sampled_from([-1, 1])] * 3),
    st.tuples(*[st.sampled_from([0.5, 0.9, 1.0, 2.5, 6.0])] * 3),
    st.sampled_from([0.0, 12.0, -30.0]),
)
shapes = st.tuples(*[st.integers(1, 7)] * 3)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """At the source's own spacing, in slices that hold the crop."""
    shape, affine = draw(shapes), draw(affines)
    whole = plan_geometry(shape, affine, ((0, 1),) * 3, (1.0, 1.0, 1.0), (1, 1)).canonical_shape
    crop = tuple((start, draw(st.integers(start + 1, n))) for n in whole for start in [draw(st.integers(0, n - 1))])
    x, y, _ = (stop - start for start, stop in crop)
    size = (draw(st.integers(y, y + 3)), draw(st.integers(x, x + 3)))
    return plan_geometry(shape, affine, crop, canonical_spacing(affine), size)


@given(geometries(), st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_there_and_back_is_identity_inside_the_crop(geometry: Geometry, seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = rng.normal(size=geometry.source_shape).astype(np.float32)
    labels = rng.integers(1, 400, geometry.source_shape).astype(np.int16)

    crop = geometry.cropped(geometry.to_canonical(source))
    back = geometry.uncropped(
        from_slices(geometry, to_slices(geometry, crop, label=False, fill=-1), label=False), np.nan
    )
    mask = to_slices(geometry, geometry.cropped(geometry.to_canonical(labels)), label=True, fill=0)
    labels_back = geometry.uncropped(from_slices(geometry, mask, label=True), 0)

    inside = ~np.isnan(back)
    assert inside.sum() == np.prod(geometry.crop_shape)
    assert np.array_equal(back[inside], source[inside])
    assert np.array_equal(labels_back, np.where(inside, labels, 0))
    assert labels_back.dtype == np.int16


@given(geometries())
@settings(max_examples=40, deadline=None)
def test_json_gives_the_same_geometry(geometry: Geometry) -> None:
    assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry


@given(shapes, affines)
@settings(max_examples=40, deadline=None)
def test_reorientation_agrees_with_nibabel(shape: tuple[int, ...], affine: np.ndarray) -> None:
    from nibabel.orientations import apply_orientation

    source = np.arange(np.prod(shape)).reshape(shape)
    geometry = plan_geometry(shape, affine, ((0, 1),) * 3, (1.0, 1.0, 1.0), (1, 1))
    canonical = geometry.to_canonical(source)

    assert np.array_equal(canonical, apply_orientation(source, np.asarray(orientation_of(affine))))
    assert canonical.shape == geometry.canonical_shape
    assert np.array_equal(geometry.to_source(canonical), source)
    assert aff2axcodes(canonical_affine(affine, shape)) == ("R", "A", "S")


@pytest.mark.parametrize(
    "affine",
    [
        LPS,
        signed_permutation((1, 2, 0), (1, -1, 1), (1.0, 1.0, 1.0)),  # sagittal: the file's Z runs left-right
        signed_permutation((1, 2, 0), (-1, 1, -1), (0.5, 0.5, 3.0)),
        rotated(signed_permutation((2, 0, 1), (1, 1, -1), (1.0, 0.8, 2.0)), 20.0),
    ],
    ids=["LPS", "sagittal", "anisotropic sagittal", "oblique"],
)
def test_slices_are_axial_whatever_the_file_order(affine: np.ndarray) -> None:
    """A voxel's place in the prepared slices follows from its place in the patient: up is z, front is y."""
    shape = (6, 7, 8)
    x, y, z = plan_geometry(shape, affine, ((0, 1),) * 3, (1.0, 1.0, 1.0), (1, 1)).canonical_shape
    crop = ((1, x), (0, y - 1), (2, z))
    geometry = plan_geometry(shape, affine, crop, canonical_spacing(affine), (10, 9))
    millimetres = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))

    for axis in range(3):
        coordinate = np.ascontiguousarray(millimetres[..., axis])
        slices = to_slices(geometry, geometry.cropped(geometry.to_canonical(coordinate)), label=False, fill=0)
        grid = geometry.unfit_slices(slices)
        prepared = np.moveaxis(np.indices(slices.transpose(2, 1, 0).shape), 0, -1)
        places = apply_affine(geometry.prepared_affine, prepared)[..., axis].transpose(2, 1, 0)

        assert (np.diff(grid, axis=axis) > 0).all()
        np.testing.assert_allclose(grid, geometry.unfit_slices(places), atol=1e-9)


def test_anisotropic_case_meets_the_target_spacing_and_comes_back_close() -> None:
    affine = np.diag([0.8, 0.8, 2.0, 1.0])
    x, y, z = np.indices((40, 30, 12), dtype=np.float32)
    smooth = np.sin(x / 9) + np.cos(y / 7) + z / 12
    geometry = plan_geometry(smooth.shape, affine, ((0, 40), (0, 30), (0, 12)), (1.0, 1.0, 1.0), (64, 48))
    back = from_slices(geometry, to_slices(geometry, smooth, label=False, fill=-1), label=False)

    assert geometry.resampled_shape == (32, 24, 24) == geometry.grid_shape
    assert geometry.grid_spacing == pytest.approx((1.0, 1.0, 1.0))
    assert back.shape == smooth.shape
    assert back.dtype == np.float32
    assert float(np.abs(back - smooth).mean()) < 0.01


@given(st.lists(st.tuples(st.integers(1, 400), *[st.floats(0.3, 6)] * 2), min_size=3, max_size=3))
@settings(max_examples=40, deadline=None)
def test_resampled_shape_is_nnunets(axes: list[tuple[int, float, float]]) -> None:
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    shape, spacing, target = zip(*axes, strict=True)
    crop = tuple((0, n) for n in shape)
    planned = plan_geometry(shape, np.diag([*spacing, 1.0]), crop, target, (8, 8))
    theirs = compute_new_shape(shape, canonical_spacing(planned.affine), target)
    assert planned.resampled_shape == tuple(max(1, n) for n in theirs)


@pytest.mark.parametrize(
    ("fit", "slice_size", "grid"),
    [
        ("pad", (64, 48), (20, 30, 5)),  # it fits: nothing shrinks
        ("pad", (15, 48), (10, 15, 5)),
        ("pad", (64, 10), (10, 15, 5)),
        ("stretch", (64, 48), (48, 64, 5)),
    ],
)
def test_fit(fit: str, slice_size: tuple[int, int], grid: tuple[int, int, int]) -> None:
    shape = (20, 30, 5)
    crop = tuple((0, n) for n in shape)
    geometry = plan_geometry(shape, np.eye(4), crop, (1.0, 1.0, 1.0), slice_size, fit=fit)
    slices = to_slices(geometry, np.ones(shape, np.float32), label=False, fill=-1)

    assert geometry.grid_shape == grid
    assert slices.shape == (5, *slice_size)
    assert (slices == 1).sum() == np.prod(grid)
    assert (slices == -1).sum() == slices.size - np.prod(grid)
    assert from_slices(geometry, slices, label=False).shape == shape


def test_resampled_labels_stay_labels() -> None:
    labels = np.zeros((20, 20, 10), np.int16)
    labels[3:12, 4:15, 2:8], labels[5:9, 6:12, 3:6] = 7, 300
    finer = resample(labels, (33, 31, 17), (1.0, 1.0, 1.0), (0.6, 0.65, 0.6), label=True)

    assert finer.dtype == np.int16
    assert set(np.unique(finer)) == {0, 7, 300}
    outline = resample(labels > 0, (33, 31, 17), (1.0, 1.0, 1.0), (0.6, 0.65, 0.6), label=True)
    assert outline.dtype == np.bool_
    assert not ((finer > 0) & ~outline).any()


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.eye(3), np.full((4, 4), np.nan)])
def test_a_useless_affine_is_refused(affine: np.ndarray) -> None:
    with pytest.raises(BadInput, match="invertible 4x4"):
        orientation_of(affine)


def test_what_belongs_elsewhere_is_refused() -> None:
    box = ((0, 4), (0, 4), (0, 4))
    geometry = plan_geometry((4, 4, 4), np.eye(4), box, (1.0, 1.0, 1.0), (4, 4))
    with pytest.raises(BadInput, match=r"\(3, 4, 4\).*another geometry"):
        geometry.to_canonical(np.zeros((3, 4, 4)))
    with pytest.raises(BadInput, match="inside the canonical shape"):
        plan_geometry((4, 4, 3), np.eye(4), box, (1.0, 1.0, 1.0), (4, 4))
    with pytest.raises(BadInput, match="target spacing"):
        plan_geometry((4, 4, 4), np.eye(4), box, (1.0, 0.0, 1.0), (4, 4))
