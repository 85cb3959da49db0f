"""Arrays and TorchIO images as volumes, for those who have no files."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gem3d_core.errors import BadInput
from gem3d_core.scans.volumes import Volume

Image = Any
"""An array (X, Y, Z) or (1, X, Y, Z), of numpy or torch, or a TorchIO image, which brings its affine."""


def pairs_of(
    images: Sequence[Image], masks: Sequence[Image] | None, spacing: tuple[float, float, float]
) -> list[tuple[Volume, Volume]]:
    """Images with their masks; of TorchIO subjects where no masks are given. Raises BadInput for what does not fit."""
    if masks is None:
        images, masks = zip(*map(_of_subject, images), strict=True) if images else ((), ())
    if not images or len(images) != len(masks):
        raise BadInput(f"{len(images)} images and {len(masks)} masks: expected one or more of each, as many")
    return [
        (volume_of(image, spacing, f"image {k}"), volume_of(mask, spacing, f"mask {k}"))
        for k, (image, mask) in enumerate(zip(images, masks, strict=True))
    ]


def _of_subject(subject: Mapping[str, Any]) -> tuple[Any, Any]:
    """The one image and the one mask of a TorchIO subject."""
    import torchio

    if not isinstance(subject, torchio.Subject):
        raise BadInput(f"{type(subject).__name__} without a mask: expected a TorchIO subject, or `masks` beside it")
    parts = subject.get_images(intensity_only=False)
    masks = [part for part in parts if isinstance(part, torchio.LabelMap)]
    images = [part for part in parts if not isinstance(part, torchio.LabelMap)]
    if (len(images), len(masks)) != (1, 1):
        raise BadInput(f"a subject with {len(images)} images and {len(masks)} label maps: expected one of each")
    return images[0], masks[0]


def is_torchio(image: object) -> bool:
    """Whether something is an image of TorchIO, which is not imported for it."""
    return type(image).__module__.startswith("torchio.")


def volume_of(image: Image, spacing: tuple[float, float, float], what: str) -> Volume:
    """(X, Y, Z) with its affine; masks of whole numbers become integers. Raises BadInput for another shape.

    what: for messages, `image 3` or `mask 3`.
    """
    affine = np.asarray(image.affine) if is_torchio(image) else np.diag([*spacing, 1.0])
    array = np.asarray(image.numpy() if hasattr(image, "numpy") else image)
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim != 3:
        raise BadInput(f"{what} of shape {array.shape}: expected (X, Y, Z), or (1, X, Y, Z); one channel for now")
    if what.startswith("mask") and array.dtype.kind in "fb":
        whole = array.astype(np.int32)
        if not np.array_equal(whole, array):
            raise BadInput(f"{what} of dtype {array.dtype}: expected whole numbers, the ids of labels")
        array = whole
    return Volume(array, affine)


def require_labels(mask: np.ndarray, labels: tuple[int, ...], what: str) -> None:
    """Raise BadInput where a mask has labels that are not listed."""
    found = {int(label) for label in np.unique(mask)} - {0}
    if unknown := sorted(found - set(labels)):
        raise BadInput(
            f"{what} has label(s) {', '.join(map(str, unknown))}: expected 0 and {', '.join(map(str, labels))}"
        )
