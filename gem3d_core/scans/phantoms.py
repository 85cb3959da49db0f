"""A cohort of invented heads that looks like skull-stripped FLAIR, for demonstrations and tests without any data.

Shapes are functions of position in millimetres (RAS, origin at the middle of the head), so a case is the same
head at any voxel size. Case k draws from a generator of its own: it is the same in a cohort of any length.
"""
# mypy: disallow-untyped-calls=False

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gem3d_core.errors import BadInput
from gem3d_core.scans.volumes import Volume, write_nifti

NAME = "Dataset901_Phantoms"
OEDEMA, CORE = 1, 2
HALF_AXES = np.array([66.0, 84.0, 58.0])  # of the cerebrum, mm
LOWEST, HIGHEST = -80.0, 66.0  # of the head including cerebellum and brainstem, mm
MARGIN = 8.0  # of background around the head, mm
ORIENTATIONS = ("RAS", "LPS", "PIR", "RAS")  # of the stored arrays, in turn; the last of them lies obliquely


@dataclass(frozen=True)
class Scanner:
    """Signal of each tissue (white matter is 1), strength of bias field and noise, and how values are stored."""

    name: str
    grey: float
    fluid: float
    oedema: float
    core: float
    bias: float
    noise: float
    gain: float  # 0: z-scored inside the head, as float32


SCANNERS = (
    #       name     grey  fluid  oedema core  bias  noise   gain
    Scanner("north", 1.28, 0.22, 2.05, 1.55, 0.10, 0.035, 260.0),
    Scanner("south", 1.18, 0.34, 1.75, 1.30, 0.20, 0.070, 1400.0),
    Scanner("ridge", 1.38, 0.16, 2.35, 1.75, 0.14, 0.050, 0.0),
)


@dataclass(frozen=True)
class Phantom:
    """image and label (uint8: 0, 1 oedema, 2 core) on one grid; the scanner that took it."""

    image: Volume
    label: Volume
    scanner: Scanner


def write_cohort(folder: Path, *, cases: int = 12, size: int = 48, seed: int = 0) -> Path:
    """Write an nnU-Net v2 raw dataset of `cases` phantoms into `folder`; returns the dataset's own folder.

    `size` is about the longer in-plane side in voxels. The labels are regions (whole tumour, core). The same
    arguments give the same bytes. Raises BadInput for no cases or a size below 24.
    """
    if cases < 1:
        raise BadInput(f"a cohort of {cases} cases was asked for; ask for one or more")
    root = folder / NAME
    for number in range(cases):
        phantom = draw_phantom(number, size=size, seed=seed)
        case = f"phantom_{number + 1:03d}"
        write_nifti(root / "imagesTr" / f"{case}_0000.nii.gz", phantom.image.array, phantom.image.affine)
        write_nifti(root / "labelsTr" / f"{case}.nii.gz", phantom.label.array, phantom.label.affine)
    _drop_later_cases(root, cases)
    (root / "dataset.json").write_text(json.dumps(_description(cases, seed), indent=1) + "\n")
    return root


def draw_phantom(number: int, *, size: int, seed: int) -> Phantom:
    """Phantom `number` of the cohort of `seed`, in the orientation in which it is stored."""
    if size < 24:
        raise BadInput(f"phantoms of size {size} were asked for; their structures need 24 voxels or more")
    rng = np.random.default_rng([seed, number])
    scanner = SCANNERS[number % len(SCANNERS)]
    scale = rng.uniform(0.92, 1.08)
    affine, shape = _grid(rng, size, scale)
    head = _head(rng, _positions(affine, shape) / scale, float(affine[0, 0]) / scale)
    image = _acquire(rng, head, scanner)
    return Phantom(*_stored(rng, number, affine, image, head.label), scanner)


@dataclass(frozen=True)
class _Head:
    """Tissue fractions in [0, 1], each (X, Y, Z); `inside` bool, `label` uint8; positions (3, X, Y, Z) mm."""

    positions: np.ndarray
    inside: np.ndarray
    grey: np.ndarray
    fluid: np.ndarray
    oedema: np.ndarray
    core: np.ndarray
    necrosis: np.ndarray
    label: np.ndarray


def _grid(rng: np.random.Generator, size: int, scale: float) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Affine (RAS) and shape of a grid that holds the head; slices are thicker than voxels are wide."""
    in_plane = (2 * HALF_AXES[1] * 0.97 + 2 * MARGIN) / size * rng.uniform(0.96, 1.05)
    spacing = np.array([in_plane, in_plane, in_plane * rng.uniform(1.0, 1.25)])
    low = np.array([-HALF_AXES[0], -HALF_AXES[1], LOWEST]) * scale - MARGIN
    high = np.array([HALF_AXES[0], HALF_AXES[1], HIGHEST]) * scale + MARGIN
    x, y, z = (math.ceil(n) + 1 for n in (high - low) / spacing)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = low
    return affine, (x, y, z)


def _positions(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    spacing = np.diag(affine)[:3].reshape(3, 1, 1, 1)
    return np.asarray(np.indices(shape) * spacing + affine[:3, 3].reshape(3, 1, 1, 1))


def _waves(rng: np.random.Generator, p: np.ndarray, shortest: float, longest: float) -> np.ndarray:
    """A smooth random field of unit variance with wavelengths in millimetres, the same at any voxel size."""
    count = 20
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    numbers = directions * (2 * np.pi / rng.uniform(shortest, longest, size=(count, 1)))
    phases = rng.uniform(0, 2 * np.pi, size=count)
    points = p.reshape(3, -1).astype(np.float32)  # single precision: the cosines are what a phantom costs
    field = np.zeros(points.shape[1], dtype=np.float32)
    for k, phase in zip(numbers.astype(np.float32), phases.astype(np.float32), strict=True):
        field += np.cos(k @ points + phase)
    return np.asarray(field.reshape(p.shape[1:]) * math.sqrt(2 / count), dtype=np.float64)


def _depth(p: np.ndarray, centre: Sequence[float], half_axes: Sequence[float] | np.ndarray) -> np.ndarray:
    """About the depth in mm below an ellipsoid's surface, negative outside."""
    axes = np.asarray(half_axes, dtype=np.float64).reshape(3, 1, 1, 1)
    radius = np.sqrt((((p - np.reshape(centre, (3, 1, 1, 1))) / axes) ** 2).sum(axis=0))
    return np.asarray((1 - radius) * axes.min())


def _soft(depth: np.ndarray, width: float) -> np.ndarray:
    """Fraction of a voxel below a surface: the partial volume of a voxel of about this width."""
    return np.asarray(1 / (1 + np.exp(-np.clip(4 * depth / width, -40, 40))))


def _head(rng: np.random.Generator, p: np.ndarray, width: float) -> _Head:
    """Draw one head at positions p (3, X, Y, Z) mm, seen with voxels of `width` mm."""
    centre, radius = _tumour_place(rng)
    q = _pushed(p, centre, radius)
    cerebrum, below = _surfaces(rng, q)
    ventricles = _ventricles(rng, q)
    folded = cerebrum - 11 * np.exp(-((_waves(rng, q, 18, 30) / 0.36) ** 2))
    deep = np.max([_depth(q, (s * x, y, z), axes) for s in (-1, 1) for (x, y, z), axes in DEEP_GREY], axis=0)
    inside = np.maximum(cerebrum, below) > 0

    in_cerebrum = _soft(cerebrum - below, width)
    cortex = in_cerebrum * (1 - _soft(folded - 5.5, width))
    folia = (1 - in_cerebrum) * (0.45 + 0.3 * np.tanh(_waves(rng, q, 9, 16)))
    fissure = (1.4 - np.abs(q[0] + _waves(rng, q, 40, 90))) - np.maximum(0, 0.4 * (cerebrum - 26))
    fluid = _soft(np.maximum(ventricles, np.where(cerebrum > below, np.maximum(-folded, fissure), -9)), width)

    lesion, core, necrosis = _tumour(rng, p, centre, radius)
    room = _soft(np.minimum(cerebrum - 3, -ventricles), width)
    oedema, core, necrosis = (_soft(depth, width) * room for depth in (lesion, core, necrosis))
    label = np.where(core > 0.5, CORE, np.where(oedema > 0.5, OEDEMA, 0)).astype(np.uint8) * inside
    grey = np.clip(np.maximum(cortex + folia, 0.8 * _soft(deep, width)), 0, 1)
    return _Head(p, inside, grey, fluid, oedema, core, necrosis, label)


#   centre (right side)    half axes, mm: thalamus, lentiform nucleus, head of the caudate
DEEP_GREY = (
    ((11.0, -12.0, 2.0), (8.0, 14.0, 8.0)),
    ((24.0, 4.0, 0.0), (8.0, 17.0, 10.0)),
    ((14.0, 20.0, 6.0), (5.0, 11.0, 8.0)),
)


def _surfaces(rng: np.random.Generator, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth in the cerebrum, flat below, and in cerebellum and brainstem."""
    ripple = 2.2 * _waves(rng, q, 70, 160) + 0.7 * _waves(rng, q, 18, 40)
    base = q[2] + 38 - 0.1 * q[1] + 5 * np.cos(q[0] / 12) - 0.0012 * q[0] ** 2
    cerebrum = np.minimum(_depth(q, (0, 0, 4), HALF_AXES), base) + ripple
    cerebellum = _depth(q, (0, -42, -37), (50, 32, 25)) + 0.4 * ripple
    brainstem = _depth(q, (0, -14, -44), (14, 14, 34))
    return np.asarray(cerebrum), np.maximum(cerebellum, brainstem)


def _ventricles(rng: np.random.Generator, q: np.ndarray) -> np.ndarray:
    """Depth in the lateral ventricles, bent apart towards their horns, and in the third."""
    size = rng.uniform(0.85, 1.5)
    x, y, z = q
    bent = np.stack([np.abs(x) - 0.006 * y**2, y, z + 0.007 * y**2])
    lateral = _depth(bent, (8, 2, 14), (5.5 * size, 34 * size**0.3, 8 * size))
    third = _depth(q, (0, -8, -2), (2.4 * size, 10, 9))
    return np.asarray(np.maximum(lateral, third))


def _tumour_place(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Centre (3, 1, 1, 1) in the white matter of either side, and radius with oedema, mm."""
    side = rng.choice([-1.0, 1.0])
    centre = [side * rng.uniform(26, 38), rng.uniform(-36, 38), rng.uniform(0, 30)]
    return np.reshape(centre, (3, 1, 1, 1)), float(rng.uniform(17, 28))


def _pushed(p: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Where the tissue at p would lie without the tumour's mass effect."""
    offset = p - centre
    distance = np.sqrt((offset**2).sum(axis=0)) + 1e-6
    return np.asarray(p - 0.22 * radius * (offset / distance) * np.exp(-((distance / (1.4 * radius)) ** 2)))


def _tumour(
    rng: np.random.Generator, p: np.ndarray, centre: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth in the whole lesion, in its core and in the core's necrosis."""
    stretch = rng.uniform(0.85, 1.2, size=(3, 1, 1, 1))
    lesion = radius - np.sqrt((((p - centre) / stretch) ** 2).sum(axis=0))
    core_radius = radius * rng.uniform(0.5, 0.66)
    shift = rng.uniform(-0.12, 0.12, size=(3, 1, 1, 1)) * radius
    core = core_radius - np.sqrt(((p - centre - shift) ** 2).sum(axis=0))
    fingers = 0.16 * radius * _waves(rng, p, 16, 44)
    core = core + 0.1 * core_radius * _waves(rng, p, 12, 30)
    necrosis = core - core_radius * rng.uniform(0.4, 0.7)
    return np.maximum(lesion + fingers, core), core, necrosis


def _acquire(rng: np.random.Generator, head: _Head, scanner: Scanner) -> np.ndarray:
    """The scanner's image: int16 with background 0, or z-scored float32 with a constant background."""
    signal = 1 + (scanner.grey - 1) * head.grey + 0.03 * _waves(rng, head.positions, 25, 70)
    for fraction, value in (
        (head.fluid, scanner.fluid),
        (head.oedema, scanner.oedema * (1 + 0.07 * _waves(rng, head.positions, 12, 30))),
        (head.core, scanner.core * (1 + 0.1 * _waves(rng, head.positions, 10, 22))),
        (head.necrosis, 2 * scanner.fluid),
    ):
        signal = signal + fraction * (value - signal)
    signal = signal * np.exp(scanner.bias * _waves(rng, head.positions, 200, 400))
    real, imaginary = rng.normal(0, scanner.noise, size=(2, *signal.shape))
    measured = np.hypot(signal + real, imaginary)

    if scanner.gain:
        stored = np.where(head.inside, np.maximum(1, np.rint(measured * scanner.gain)), 0)
        return np.asarray(stored, dtype=np.int16)
    within = measured[head.inside]
    scored = (measured - within.mean()) / within.std()
    background = np.floor(scored[head.inside].min()) - 1
    return np.asarray(np.where(head.inside, scored, background), dtype=np.float32)


def _stored(
    rng: np.random.Generator, number: int, affine: np.ndarray, image: np.ndarray, label: np.ndarray
) -> tuple[Volume, Volume]:
    """Both arrays in the case's stored orientation; the last kind lies obliquely in the scanner."""
    import nibabel as nib

    kind = number % len(ORIENTATIONS)
    to = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(ORIENTATIONS[kind])
    )
    if kind == len(ORIENTATIONS) - 1:
        affine = _tilt(*np.deg2rad(rng.uniform(4, 12, size=2))) @ affine
    affine = affine @ nib.orientations.inv_ornt_aff(to, image.shape)
    image, label = (np.asarray(nib.orientations.apply_orientation(a, to)) for a in (image, label))
    return Volume(image, affine), Volume(label, affine)


def _tilt(pitch: float, yaw: float) -> np.ndarray:
    """Rotation (4, 4) about the X and then the Z axis, radians."""
    c, s, k, t = np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw)
    about_x = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    about_z = np.array([[k, -t, 0, 0], [t, k, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return np.asarray(about_z @ about_x)


def _drop_later_cases(root: Path, cases: int) -> None:
    """A shorter cohort written over a longer one must not keep the longer one's cases."""
    kept = {f"phantom_{number + 1:03d}" for number in range(cases)}
    for path in root.glob("*Tr/phantom_*.nii.gz"):
        if path.name[:11] not in kept:
            path.unlink()


def _description(cases: int, seed: int) -> dict[str, object]:
    return {
        "channel_names": {"0": "FLAIR"},
        "labels": {"background": 0, "whole_tumour": [OEDEMA, CORE], "tumour_core": [CORE]},
        "regions_class_order": [OEDEMA, CORE],
        "numTraining": cases,
        "file_ending": ".nii.gz",
        "name": "Phantoms",
        "licence": "CC0-1.0",
        "description": f"Invented heads with a tumour, drawn by GEM-3D with seed {seed}; no person was imaged",
    }
