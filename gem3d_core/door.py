"""The public door: from arrays to a model and to new volumes, without files, catalog or command line.

    import gem3d_core as gem3d

    data = gem3d.encode(images, masks, labels=(1, 2))
    model = gem3d.train(data, steps=1000, volume_steps=500)
    model.save("hippocampus")
    model = gem3d.open_model("hippocampus")
    new = model.draw(mask, informed=image[:, :, 8], seed=7)

Images and masks are arrays (X, Y, Z) or (1, X, Y, Z), or TorchIO images, which bring their affine. Arrays lie in RAS
order: Z runs from the feet to the head, so that image[:, :, k] is an axial slice. Intensities are HU for CT, anything
for MRI. Models that `gem3d enhance` trained are opened and sampled from in the same way.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import snapshot_download
from numpy.typing import NDArray

from gem3d_core.codec.haar import fit_haar
from gem3d_core.codec.interface import Codec
from gem3d_core.diffusion.schedule import make_schedule
from gem3d_core.errors import BadInput, NotAvailable
from gem3d_core.machine.checkpoints import save_tensors
from gem3d_core.machine.devices import device_type
from gem3d_core.networks.conditions import condition_channels, encode_mask, pad_slices
from gem3d_core.networks.files import load_network
from gem3d_core.prepare.case import PreparedCase, prepare_case, restore_image, slice_mask
from gem3d_core.prepare.geometry import (
    Geometry,
    canonical_array,
    canonical_spacing,
    expect_shape,
    orientation_of,
    plan_geometry,
)
from gem3d_core.prepare.intensity import IntensityMap, median_map
from gem3d_core.prepare.outline import Outline, bounding_box, find_outline
from gem3d_core.sampling.model import ENCODER, ModelFacts, save_model
from gem3d_core.sampling.volumes import Drawn, Recipe, VolumeModel, draw_volumes, open_drawing
from gem3d_core.scans.arrays import Image, is_torchio, pairs_of, require_labels, volume_of
from gem3d_core.scans.volumes import Volume
from gem3d_core.spec.method import (
    CodecSpec,
    ConditionSpec,
    DiffusionSpec,
    NetworkFacts,
    SampleSpec,
    TrainSpec,
    UNetSpec,
)
from gem3d_core.spec.prepare import IntensitySpec, PrepareSpec
from gem3d_core.spec.terms import Modality
from gem3d_core.training.batches import LatentCase
from gem3d_core.training.models import Training, train_model

OnStep = Callable[[str, int, float], None]
"""Told of every step of a training: slice or volume, the step, its loss."""
SAMPLER = SampleSpec(steps=10, overlap=2, batch=8, precision="auto")
"""The sampler of the profiles."""
SIDES = 16
"""Slices get sides of a multiple of this, which codec and network can halve as often as they do."""


@dataclass(frozen=True)
class Encoded:
    """Latents of training volumes, with all that is known of the data behind them. It names no case."""

    cases: tuple[LatentCase, ...]
    codec: Codec
    condition: ConditionSpec
    labels: tuple[int, ...]
    channel: str
    slice_size: tuple[int, int]
    spacing: tuple[float, float, float]
    intensity: IntensityMap
    """The median of all images."""


def encode(
    images: Sequence[Image],
    masks: Sequence[Image] | None = None,
    *,
    labels: Sequence[int],
    modality: Modality = "mri",
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    slice_size: tuple[int, int] | None = None,
    codec: CodecSpec = CodecSpec(),  # noqa: B008 - frozen
    condition: ConditionSpec = ConditionSpec(),  # noqa: B008 - frozen
    intensity: IntensitySpec = IntensitySpec(),  # noqa: B008 - frozen
) -> Encoded:
    """Latents of images and their masks, ready to train on.

    images: also TorchIO subjects, each with a ScalarImage and a LabelMap; then `masks` is left out. masks: integer
    label ids, of which `labels` are drawn. spacing: mm of arrays' voxels. slice_size: (H, W) of prepared slices; else
    just large enough for all. Voxels are resampled to the median spacing. codec: the wavelet only.

    Raises BadInput for shapes, values or labels that do not fit.
    """
    if codec.kind != "haar":
        raise BadInput(f"codec kind {codec.kind!r}: arrays are encoded by haar; `gem3d enhance` trains autoencoders")
    pairs = pairs_of(images, masks, spacing)
    known = tuple(labels)
    for k, (_, label) in enumerate(pairs):
        require_labels(label.array, known, f"mask {k}")
    target = _median_spacing([image for image, _ in pairs])
    outlines = [_outline(image, modality) for image, _ in pairs]
    size = slice_size or _slice_size(pairs, outlines, target)
    spec = PrepareSpec(slice_size=size, intensity=intensity)
    prepared = [
        prepare_case(image, label, modality, target, spec, outline)
        for (image, label), outline in zip(pairs, outlines, strict=True)
    ]
    fitted = fit_haar(codec, torch.from_numpy(np.concatenate([case.image for case in prepared])))
    cases = []
    for k, case in enumerate(prepared):
        image, mask, outline = (torch.from_numpy(x) for x in (case.image, case.mask, case.outline))
        encoded = encode_mask(condition, fitted, known, mask, outline)
        cases.append(LatentCase(f"image {k}", fitted.encode(image), encoded, len(image)))
    median = median_map([case.intensity for case in prepared])
    return Encoded(tuple(cases), fitted, condition, known, modality.upper(), size, target, median)


def train(
    data: Encoded,
    steps: int,
    volume_steps: int,
    *,
    unet: UNetSpec = UNetSpec(),  # noqa: B008 - frozen
    diffusion: DiffusionSpec = DiffusionSpec(),  # noqa: B008 - frozen
    slices: TrainSpec | None = None,
    volumes: TrainSpec | None = None,
    seed: int = 0,
    device: str = "auto",
    folder: str | Path | None = None,
    on_step: OnStep = lambda _stage, _step, _loss: None,
) -> "Model":
    """A model of volumes: the 2D network in `steps` steps, then its volumetric layers in `volume_steps` (Appendix A).

    slices, volumes: all settings of the two trainings, in place of the usual ones. device: cpu, cuda, or auto.
    folder: where checkpoints are kept; the same call goes on from them, and no other training takes them for its own.

    Raises Gem3dError where the loss is not finite, Interrupted after SIGTERM.
    """
    where, channels = torch.device(device_type(device)), data.codec.channels
    mask_channels = condition_channels(data.condition, data.codec, data.labels)
    stages = {
        "slice": slices or _usual(steps, batch=8, learning_rate=1e-3, ema=0.998),
        "volume": volumes or _usual(volume_steps, batch=1, learning_rate=8e-4, ema=0.99),
    }
    with tempfile.TemporaryDirectory() as scratch:
        kept, start = Path(folder or scratch), Path(scratch) / "slice.safetensors"
        for kind, spec in stages.items():
            condition = replace(data.condition, known=data.condition.known and kind == "volume")
            facts = NetworkFacts(kind, unet, channels, mask_channels, condition)
            training = Training(
                cases=[_deep_enough(case, condition.window) for case in data.cases],
                schedule=make_schedule(diffusion),
                spec=spec,
                seed=seed,
                folder=kept / f"{kind}-{_digest(data, facts, diffusion, spec, seed)}",
                device=where,
                on_step=lambda step, loss, kind=kind: on_step(kind, step, loss),  # type: ignore[misc]  # bound now
                emphasis=data.codec.emphasis,
                codec=data.codec,
            )
            weights, _ = train_model(facts, training, start if kind == "volume" else None)
            save_tensors(start, weights)
        network = load_network(facts, start, where, data.codec)
    known = ModelFacts(
        facts, diffusion, data.labels, (data.channel,), data.slice_size, data.spacing, (data.intensity.to_dict(),)
    )
    return Model(known, VolumeModel(network, data.codec, make_schedule(diffusion), data.labels, where))


def open_model(where: str | Path, device: str = "auto") -> "Model":
    """A saved model, from its folder or by a hub id such as someone/hippocampus.

    Raises BadInput for a folder that holds none, NotAvailable for a hub id that cannot be had.
    """
    folder = Path(where)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(str(where)))
        except (OSError, ValueError) as error:  # the hub's errors, and an id that cannot be one
            raise NotAvailable(
                f"no model {where}: neither a folder nor to be had from the hub ({' '.join(str(error).split())[:200]})"
            ) from error
    facts, drawing = open_drawing(folder, torch.device(device_type(device)))
    encoder = folder / ENCODER
    return Model(facts, drawing, encoder if encoder.is_dir() else None)


@dataclass(frozen=True)
class Model:
    """A trained model, with which alone volumes are sampled."""

    facts: ModelFacts
    drawing: VolumeModel
    encoder: Path | None = None
    """Folder of an image encoder of others, where the network attends to one."""

    def save(self, folder: str | Path) -> Path:
        """Write the model into a folder of its own, which `open_model` opens; returns it."""
        with tempfile.TemporaryDirectory() as scratch:
            self.drawing.codec.save(Path(scratch))
            weights = self.drawing.network.state_dict()
            return save_model(Path(folder), self.facts, weights, Path(scratch), self.encoder)

    def draw(
        self,
        mask: Image,
        informed: np.ndarray,
        *,
        seed: int = 0,
        position: float = 0.5,
        outline: np.ndarray | None = None,
        spacing: tuple[float, float, float] | None = None,
        sampler: SampleSpec = SAMPLER,
    ) -> Image:
        """A new image for a mask, with the appearance of one axial slice. Raises as `draw_many`.

        mask: label ids (X, Y, Z). informed: a slice (X, Y) of a real image, in its own intensities, which are those of
        the new image. position: of that slice, from 0 (feet) to 1. outline: of the body, bool, as the mask; else that
        of the slice, on every slice. spacing: mm of the mask's voxels; else those that the model was trained on.
        Returns float32 in the mask's shape, or a TorchIO image for one.
        """
        outlines = None if outline is None else [outline]
        return self.draw_many(
            [mask], [informed], seeds=[seed], positions=[position], outlines=outlines, spacing=spacing, sampler=sampler
        )[0]

    def draw_many(
        self,
        masks: Sequence[Image],
        informed: Sequence[np.ndarray],
        *,
        seeds: Sequence[int] | None = None,
        positions: Sequence[float] | None = None,
        outlines: Sequence[np.ndarray] | None = None,
        spacing: tuple[float, float, float] | None = None,
        sampler: SampleSpec = SAMPLER,
        on_windows: Callable[[int], None] = lambda _count: None,
    ) -> list[Image]:
        """Several images, whose windows share network calls; each is what `draw` gives with its seed.

        seeds: of the noise; else 0, 1, 2 and so on. on_windows: told how many more windows are done.

        Raises BadInput where lists differ in length, for labels that the model does not know, and for shapes that do
        not fit.
        """
        count = len(masks)
        lists = {"informed": informed, "seeds": seeds, "positions": positions, "outlines": outlines}
        for name, given in lists.items():
            if given is not None and len(given) != count:
                raise BadInput(f"{len(given)} {name} for {count} masks: expected one for each")
        requests = {}
        for k in range(count):
            requests[str(k)] = self._request(
                str(k),
                masks[k],
                informed[k],
                k if seeds is None else seeds[k],
                0.5 if positions is None else positions[k],
                None if outlines is None else outlines[k],
                spacing or self.facts.spacing or (1.0, 1.0, 1.0),
            )
        recipes = (request.recipe for request in requests.values())
        found = {d.name: requests[d.name].restored(d) for d in draw_volumes(self.drawing, recipes, sampler, on_windows)}
        return [found[str(k)] for k in range(count)]

    def _request(
        self,
        name: str,
        mask: Image,
        informed: np.ndarray,
        seed: int,
        position: float,
        outline: np.ndarray | None,
        spacing: tuple[float, float, float],
    ) -> "_Request":
        label = volume_of(mask, spacing, f"mask {name}")
        require_labels(label.array, self.facts.labels, f"mask {name}")
        if not 0 <= position <= 1:
            raise BadInput(f"position {position}: expected a number from 0 to 1")
        orientation = orientation_of(label.affine)
        appearance = Volume(np.asarray(informed, dtype=np.float32)[..., None], label.affine)
        if appearance.array.shape[:-1] != label.array.shape[:2] or orientation[2][0] != 2:
            raise BadInput(
                f"informed slice of shape {appearance.array.shape[:-1]} for a mask of shape {label.array.shape}: "
                "expected the first two of these, and the third axis from feet to head"
            )
        stored = IntensityMap.from_dict(self.facts.intensity[0])
        found = find_outline(canonical_array(appearance.array, orientation), stored.modality, flat=True)
        labels = canonical_array(label.array, orientation)
        whole = np.broadcast_to(found.mask, labels.shape)
        if outline is not None:
            whole = canonical_array(volume_of(outline, spacing, f"outline {name}").array.astype(np.bool_), orientation)
        expect_shape(whole.shape, labels.shape, "outline")
        inside, target = whole | (labels > 0), self.facts.spacing or spacing
        geometry = plan_geometry(
            label.array.shape, label.affine, bounding_box(inside), target, self.facts.slice_size, fit=self.facts.fit
        )
        mask_slices, outline_slices = slice_mask(geometry, labels, inside)
        prepared = self._appearance(appearance, found, stored, target)
        recipe = Recipe(
            name=name,
            mask=torch.from_numpy(mask_slices),
            outline=torch.from_numpy(outline_slices),
            informed=torch.from_numpy(prepared.image[0]),
            p=position,
            seed=seed,
        )
        return _Request(mask, recipe, geometry, prepared.intensity)

    def _appearance(
        self, flat: Volume, outline: Outline, stored: IntensityMap, target: tuple[float, float, float]
    ) -> PreparedCase:
        """An informed slice (X, Y, 1), prepared as the training images were, but for its thickness."""
        ct = stored.modality == "ct"
        intensity = IntensitySpec(ct_window=(stored.low, stored.high)) if ct else IntensitySpec()
        spec = PrepareSpec(self.facts.slice_size, self.facts.fit, intensity)
        unlabelled = Volume(np.zeros(flat.array.shape, np.uint8), flat.affine)
        thickness = canonical_spacing(flat.affine)[2]
        return prepare_case(flat, unlabelled, stored.modality, (*target[:2], thickness), spec, outline)


@dataclass(frozen=True)
class _Request:
    """A volume to sample, and the way back to the mask's own grid."""

    mask: Image
    recipe: Recipe
    geometry: Geometry
    intensity: IntensityMap

    def restored(self, drawn: Drawn) -> Image:
        image = restore_image(drawn.slices.numpy(), drawn.recipe.outline.numpy(), self.geometry, self.intensity)
        if not is_torchio(self.mask):
            return image
        import torchio

        return torchio.ScalarImage(tensor=torch.from_numpy(image)[None], affine=self.mask.affine)


def _usual(steps: int, *, batch: int, learning_rate: float, ema: float) -> TrainSpec:
    return TrainSpec(
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        warmup=max(1, min(50, steps // 10)),
        cosine_decay=True,
        ema=ema,
        precision="auto",
    )


def _digest(data: Encoded, facts: NetworkFacts, diffusion: DiffusionSpec, spec: TrainSpec, seed: int) -> str:
    """What a training depends on, so that a checkpoint is gone on from by the same one only."""
    digest = hashlib.sha256(json.dumps([asdict(facts), asdict(diffusion), asdict(spec), seed]).encode())
    for case in data.cases:
        digest.update(case.image.numpy().tobytes() + case.condition.numpy().tobytes())
    return digest.hexdigest()[:16]


def _deep_enough(case: LatentCase, window: int) -> LatentCase:
    return replace(case, image=pad_slices(case.image, window), condition=pad_slices(case.condition, window))


def _outline(image: Volume, modality: Modality) -> Outline:
    return find_outline(canonical_array(image.array, orientation_of(image.affine)), modality)


def _median_spacing(images: list[Volume]) -> tuple[float, float, float]:
    x, y, z = np.median([canonical_spacing(image.affine) for image in images], axis=0)
    return float(x), float(y), float(z)


def _slice_size(
    pairs: list[tuple[Volume, Volume]], outlines: list[Outline], target: tuple[float, float, float]
) -> tuple[int, int]:
    """(H, W) in which the crops of all images fit."""
    sides = []
    for (_, label), outline in zip(pairs, outlines, strict=True):
        inside: NDArray[np.bool_] = outline.mask | (canonical_array(label.array, orientation_of(label.affine)) > 0)
        planned = plan_geometry(label.array.shape, label.affine, bounding_box(inside), target, (1, 1))
        sides.append(planned.resampled_shape[:2])
    width, height = (SIDES * -(-int(side) // SIDES) for side in np.max(sides, axis=0))
    return height, width
