"""Mask augmentation (stage 8; paper section 3, Augmentation3D) with TorchIO on integer label maps.

Drawing is apart from applying: an `Edit` is the complete record of what was drawn, and applying it again
gives the same mask bit for bit. All arrays are (X, Y, Z) in RAS order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from gem3d_core.errors import BadInput
from gem3d_core.spec.masks import AugmentSpec

if TYPE_CHECKING:
    import torchio


Triple = tuple[float, float, float]
Labels = NDArray[np.integer]
Outline = NDArray[np.bool_]


class EditRecord(TypedDict):
    """An `Edit` as JSON holds it."""

    flip_axes: list[int]
    degrees: list[float]
    translation_mm: list[float]
    towards_centre_mm: float
    labels: list[int] | None
    attempt: int
    seed: int


@dataclass(frozen=True)
class Edit:
    """One drawn edit: flips, then a rotation about the volume's centre, then a translation in millimetres.

    `towards_centre_mm` moves the edited labels' centroid straight towards the volume's centre, never past it.
    """

    flip_axes: tuple[int, ...]
    degrees: Triple
    translation_mm: Triple
    towards_centre_mm: float
    labels: tuple[int, ...] | None
    attempt: int
    seed: int

    def to_dict(self) -> EditRecord:
        """A JSON-ready record; `from_dict` gives the same edit back."""
        return EditRecord(
            flip_axes=list(self.flip_axes),
            degrees=list(self.degrees),
            translation_mm=list(self.translation_mm),
            towards_centre_mm=self.towards_centre_mm,
            labels=None if self.labels is None else list(self.labels),
            attempt=self.attempt,
            seed=self.seed,
        )

    @classmethod
    def from_dict(cls, record: EditRecord) -> Edit:
        """The edit of a record; raises BadInput naming the field that is missing or malformed."""
        try:
            labels = record["labels"]
            return cls(
                flip_axes=tuple(int(axis) for axis in record["flip_axes"]),
                degrees=_triple(record["degrees"]),
                translation_mm=_triple(record["translation_mm"]),
                towards_centre_mm=float(record["towards_centre_mm"]),
                labels=None if labels is None else tuple(int(label) for label in labels),
                attempt=int(record["attempt"]),
                seed=int(record["seed"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            expected = "expected what Edit.to_dict() gives"
            raise BadInput(f"mask edit {record!r} cannot be replayed ({error!r}): {expected}") from error


@dataclass(frozen=True)
class Augmented:
    """An augmented mask with its outline; where no draw was accepted, both are the unedited ones.

    `edit` is the accepted draw (or the last one refused); `reasons` says why each refused draw was refused.
    """

    mask: Labels
    outline: Outline
    edit: Edit
    accepted: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Carried:
    """An applied edit and what it is judged by: voxels of each label that moved, and those still inside."""

    mask: Labels
    outline: Outline
    moved: Mapping[int, int]
    kept: Mapping[int, int]
    outside_before: int
    outside_after: int


def draw_edit(spec: AugmentSpec, seed: int, attempt: int) -> Edit:
    """The edit of this seed (0 or more) and attempt; nothing else enters, so it can be drawn again alone."""
    generator = np.random.default_rng((seed, attempt))
    flips = generator.random(3) < spec.flip_probability
    degrees = generator.uniform(-spec.max_degrees, spec.max_degrees, 3)
    translation = generator.uniform(-spec.max_translation_mm, spec.max_translation_mm, 3)
    return Edit(
        flip_axes=tuple(axis for axis in sorted(spec.flip_axes) if flips[axis]),
        degrees=_triple(degrees),
        translation_mm=_triple(translation),
        towards_centre_mm=float(generator.uniform(0.0, spec.max_towards_centre_mm)),
        labels=spec.labels,
        attempt=attempt,
        seed=seed,
    )


def apply_edit(edit: Edit, mask: Labels, outline: Outline, spacing_mm: Triple) -> tuple[Labels, Outline]:
    """The edited mask and its outline, both (X, Y, Z), dtypes kept; nearest neighbour, equal on every replay.

    An edit of chosen labels leaves 0 where they were and overwrites where they arrive. The outline moves with
    a whole-mask edit, unless it is the full box, which stands for "none was found".
    Raises BadInput for a mask that is not integer or an outline of another shape.
    """
    carried = _carry(edit, mask, outline, spacing_mm)
    return carried.mask, carried.outline


def augment_mask(spec: AugmentSpec, mask: Labels, outline: Outline, spacing_mm: Triple, seed: int) -> Augmented:
    """Draw and apply edits until one keeps every label and stays inside, at most `spec.attempts` times.

    `mask` (X, Y, Z) integer, `outline` (X, Y, Z) bool, `spacing_mm` along x, y, z.
    Raises BadInput as `apply_edit` does.
    """
    present = set(_counts(mask))
    if not present & set(present if spec.labels is None else spec.labels):
        wanted = "any label" if spec.labels is None else f"any of the labels {list(spec.labels)}"
        reason = f"nothing to edit: the mask does not hold {wanted}"
        return Augmented(mask, outline, draw_edit(spec, seed, 0), accepted=False, reasons=(reason,))
    reasons: list[str] = []
    for attempt in range(spec.attempts):
        edit = draw_edit(spec, seed, attempt)
        carried = _carry(edit, mask, outline, spacing_mm)
        faults = _faults(spec, mask, carried)
        if not faults:
            return Augmented(carried.mask, carried.outline, edit, accepted=True, reasons=tuple(reasons))
        reasons.append(f"draw {attempt + 1}: {', '.join(faults)}")
    return Augmented(mask, outline, edit, accepted=False, reasons=tuple(reasons))


def _faults(spec: AugmentSpec, mask: Labels, carried: _Carried) -> list[str]:
    lost = sorted(set(_counts(mask)) - set(_counts(carried.mask)))
    faults = [f"label {label} is lost" for label in lost]
    if spec.labels is not None:
        strays = sum(carried.moved.values()) - sum(carried.kept.values()) + carried.outside_after
        if strays > carried.outside_before:
            faults.append(f"{strays} voxels of the edited labels lie outside the outline")
        return faults
    for label, moved in carried.moved.items():
        clipped = 1 - carried.kept.get(label, 0) / moved if moved else 0.0
        if clipped > spec.max_clipped and label not in lost:
            faults.append(f"{clipped:.0%} of label {label} lies outside the volume")
    return faults


def _carry(edit: Edit, mask: Labels, outline: Outline, spacing_mm: Triple) -> _Carried:
    """Apply the edit in a volume wide enough that nothing is cut off, count, then cut back."""
    _require_label_map(mask, outline)
    edited = mask > 0 if edit.labels is None else np.isin(mask, edit.labels)
    layer = np.where(edited, mask, 0).astype(mask.dtype)
    outline_moves = edit.labels is None and not outline.all()
    margin = _margin(edit, layer, spacing_mm)
    maps = {"mask": np.pad(layer, margin)}
    if outline_moves:
        maps["outline"] = np.pad(outline.astype(np.uint8), margin)
    moved = _transform(edit, maps, spacing_mm) if edited.any() else maps
    kept = _cut(moved["mask"], margin).astype(mask.dtype)
    new_outline = _cut(moved["outline"], margin) > 0 if outline_moves else outline.copy()
    return _Carried(
        mask=np.where(kept > 0, kept, np.where(edited, 0, mask)).astype(mask.dtype),
        outline=new_outline,
        moved=_counts(moved["mask"]),
        kept=_counts(kept),
        outside_before=int((layer[~outline] > 0).sum()),
        outside_after=int((kept[~new_outline] > 0).sum()),
    )


def _transform(edit: Edit, maps: Mapping[str, Labels], spacing_mm: Triple) -> dict[str, Labels]:
    """TorchIO's flip and affine on label maps of one shape; its 3D rotation is about the volume's centre."""
    import torch
    import torchio

    affine = np.diag([*spacing_mm, 1.0])
    subject = torchio.Subject(
        {
            name: torchio.LabelMap(tensor=torch.from_numpy(_for_torch(array))[None], affine=affine)
            for name, array in maps.items()
        }
    )
    if edit.flip_axes:
        subject = torchio.Flip(edit.flip_axes)(subject)
    if any(edit.degrees) or any(edit.translation_mm) or edit.towards_centre_mm:
        towards = _towards_centre(edit, subject["mask"])
        translation = np.asarray(edit.translation_mm) + towards
        subject = _affine(edit.degrees, translation)(subject)
    return {name: subject[name].numpy()[0].round().astype(array.dtype) for name, array in maps.items()}


def _affine(degrees: Triple, translation_mm: NDArray[np.float64]) -> torchio.Affine:
    import torchio

    return torchio.Affine(
        scales=(1.0, 1.0, 1.0),
        degrees=degrees,
        translation=_triple(translation_mm),
        center="image",
        default_pad_label=0,
        label_interpolation="nearest",
    )


def _towards_centre(edit: Edit, label_map: torchio.LabelMap) -> NDArray[np.float64]:
    """The step (mm, RAS) from where rotation and translation bring the centroid towards the centre."""
    if not edit.towards_centre_mm:
        return np.zeros(3)
    centroid = _centroid_mm(label_map.numpy()[0], label_map.spacing)
    lps = np.array([-1.0, -1.0, 1.0])
    to_source = _affine(edit.degrees, np.asarray(edit.translation_mm)).get_affine_transform(label_map)
    arrived = np.asarray(to_source.GetInverse().TransformPoint(tuple(centroid * lps))) * lps
    way = np.asarray(label_map.get_center()) - arrived
    distance = float(np.linalg.norm(way))
    return way * (min(edit.towards_centre_mm, distance) / distance) if distance > 0 else np.zeros(3)


def _margin(edit: Edit, layer: Labels, spacing_mm: Triple) -> list[tuple[int, int]]:
    """Voxels to add on both sides of each axis so that no edited voxel can be moved out of the volume."""
    extent = (np.asarray(layer.shape) - 1) * spacing_mm
    angle = np.radians(min(sum(abs(degrees) for degrees in edit.degrees), 180.0))
    turn = float(np.sin(angle / 2) * np.linalg.norm(extent))
    from_centre = float(np.linalg.norm(_centroid_mm(layer, spacing_mm) - extent / 2))
    towards = min(edit.towards_centre_mm, from_centre + float(np.linalg.norm(edit.translation_mm)))
    reach = turn + np.abs(edit.translation_mm) + towards
    return [(int(width), int(width)) for width in np.ceil(reach / np.asarray(spacing_mm))]


def _centroid_mm(layer: Labels, spacing_mm: Triple) -> NDArray[np.float64]:
    """Centroid of the voxels above 0, from the first voxel's centre; the volume's middle where there are none."""
    sums = [(layer > 0).sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    if not sums[0].any():
        return np.array([(n - 1) / 2 * step for n, step in zip(layer.shape, spacing_mm, strict=True)])
    indices = [float(np.average(np.arange(len(line)), weights=line)) for line in sums]
    return np.array([index * step for index, step in zip(indices, spacing_mm, strict=True)])


def _cut(array: Labels, margin: list[tuple[int, int]]) -> Labels:
    sides = zip(array.shape, margin, strict=True)
    return array[tuple(slice(before, size - after) for size, (before, after) in sides)]


def _counts(labels: Labels) -> dict[int, int]:
    values, counts = np.unique(labels[labels > 0], return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def _for_torch(array: Labels) -> Labels:
    """Torch and SimpleITK share no unsigned type wider than 8 bits."""
    return np.ascontiguousarray(array if array.dtype in (np.uint8, np.int16) else array.astype(np.int32))


def _triple(values: NDArray[np.float64] | list[float]) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _require_label_map(mask: Labels, outline: Outline) -> None:
    if mask.ndim != 3 or not np.issubdtype(mask.dtype, np.integer):
        found = f"mask of shape {mask.shape} and type {mask.dtype}"
        raise BadInput(f"{found}: expected integers of shape (X, Y, Z)")
    if outline.shape != mask.shape or outline.dtype != np.bool_:
        found = f"outline of shape {outline.shape} and type {outline.dtype}"
        raise BadInput(f"{found}: expected bool of the mask's shape {mask.shape}")
