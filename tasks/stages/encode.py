"""Stage 3: slices to latents, once."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch

from configs import Config
from gem3d_core.codec.haar import fit_haar
from gem3d_core.codec.interface import Codec, load_codec, psnr
from gem3d_core.codec.kl import find_kl, open_kl
from gem3d_core.codec.kl_training import train_kl
from gem3d_core.machine.checkpoints import read_metadata, save_tensors
from gem3d_core.machine.files import atomic, read_json
from gem3d_core.machine.reading import BoundedCache
from gem3d_core.networks.conditions import condition_channels, encode_mask
from gem3d_core.prepare.intensity import median_map
from gem3d_core.spec.method import ConditionSpec
from tasks.artifacts.others import codec_weights, content, fetch
from tasks.artifacts.prepared import Prepared, open_prepared
from tasks.frame.policy import accelerator
from tasks.frame.stage import Identity, Product, Stage, Work

FIT_SLICES = 4096
"""Training slices, evenly spaced over all, that the codec is fitted on."""
PSNR = "psnr_db"
"""The PSNR of a case's reconstruction stands under this name in the metadata of its file."""


@dataclass(frozen=True)
class Encode(Stage):
    """`latents` of a `prepared` dataset, with the codec; its reconstruction PSNR is the ceiling of quality."""

    name: ClassVar[str] = "encode"
    kind: ClassVar[str] = "latents"

    prepared: str

    def ready(self) -> None:
        """A codec that others trained is downloaded, so that the next run finds the same."""
        fetch(self.run.catalog, codec_weights(self.run.config.codec))

    def identity(self) -> Identity:
        """The prepared volumes, the codec, and how masks are encoded."""
        config = self.run.config
        weights = content(self.run.catalog, codec_weights(config.codec))
        settings = {"codec": config.codec, "mask": config.condition.mask, "weights": weights}
        return Identity(self.run.name, settings, (self.prepared,), seed=config.seed)

    def make(self, work: Work) -> Product:
        """Fit or open the codec, and encode every case."""
        config, opened = self.run.config, open_prepared(work.catalog, work.get(self.prepared))
        with accelerator(config) as device:
            kept = BoundedCache[np.ndarray](lambda image: image.nbytes)
            codec = _codec(work, opened, config, device, kept)
            return _encode_all(work, opened, codec, config.condition, kept)


def _codec(work: Work, prepared: Prepared, config: Config, device: str, kept: BoundedCache[np.ndarray]) -> Codec:
    folder = work.folder / "codec"
    if not _is_whole(folder):
        with atomic(folder) as building:
            _fit(work, prepared, config, device, kept).save(building)
    return load_codec(folder, device)


def _is_whole(codec: Path) -> bool:
    """Whether a codec's folder is there and its files can be read."""
    readers = {"json": read_json, "safetensors": read_metadata}
    found = [read(file) for ending, read in readers.items() for file in codec.glob(f"*.{ending}")]
    return (codec / "codec.json").exists() and None not in found


def _fit(work: Work, prepared: Prepared, config: Config, device: str, kept: BoundedCache[np.ndarray]) -> Codec:
    """The codec that the configuration asks for; slices are read only where it is fitted on them."""
    spec, seed = config.codec, config.seed
    if spec.kind == "haar":
        return fit_haar(spec, _sample(prepared, kept))
    if spec.weights != "train":
        return open_kl(find_kl(spec.weights, download=True))

    def show(step: int, loss: float) -> None:
        work.progress.at(step, f"loss {loss:.4f}")

    work.progress.total(spec.train_steps, "codec steps")
    return train_kl(spec, _sample(prepared, kept), seed, work.folder / "codec-checkpoints", device, show)


def _sample(prepared: Prepared, kept: BoundedCache[np.ndarray]) -> torch.Tensor:
    """Evenly spaced training slices (N, H, W)."""
    total = sum(prepared.cases[case].depth for case in prepared.train)
    step = max(1, total // FIT_SLICES)
    chosen = []
    for case in prepared.train:
        image = prepared.image(case)
        chosen.append(image[::step].copy())
        kept.put(case, image)
    return torch.from_numpy(np.concatenate(chosen))


def _encode_all(
    work: Work, prepared: Prepared, codec: Codec, condition: ConditionSpec, kept: BoundedCache[np.ndarray]
) -> Product:
    import pandas as pd

    labels = tuple(cast("list[int]", prepared.artifact.meta["label_ids"]))
    files = {f"codec/{path.name}": path for path in (work.folder / "codec").iterdir()}
    work.progress.total(len(prepared.cases), "volumes encoded")
    rows = []
    for done, case in enumerate(sorted(prepared.cases), start=1):
        path = work.folder / f"{case}.safetensors"
        facts = read_metadata(path)
        if facts is None:
            image = kept.take(case)
            facts = _encode_case(
                path, prepared, codec, condition, labels, case, prepared.image(case) if image is None else image
            )
        files[f"latents/{case}.safetensors"] = path
        rows.append({"case": case, "train": prepared.cases[case].train, "psnr_db": float(facts[PSNR])})
        work.progress.at(done)
    index = pd.DataFrame(rows)
    index.to_parquet(work.folder / "index.parquet")
    meta = {
        "latent_channels": codec.channels,
        "factor": codec.factor,
        **_of_images(prepared),
        "mask": condition.mask,
        "mask_channels": condition_channels(condition, codec, labels),
        "label_ids": list(labels),
        "psnr_db": float(index["psnr_db"].mean()),
    }
    metrics = pd.DataFrame([{"metric": "reconstruction_psnr_db", "value": meta["psnr_db"], "n": len(index)}])
    return Product({**files, "index.parquet": work.folder / "index.parquet"}, meta, {"metrics": metrics})


def _of_images(prepared: Prepared) -> dict[str, object]:
    """What a model tells of the images behind its latents."""
    record = prepared.cases[prepared.train[0]]
    return {
        "channels": prepared.artifact.meta["channels"],
        "slice_size": list(record.geometry.slice_size),
        "fit": record.geometry.fit,
        "spacing": list(prepared.target_spacing),
        "intensity": [median_map([prepared.cases[case].intensity for case in prepared.train]).to_dict()],
    }


def _encode_case(
    path: Path,
    prepared: Prepared,
    codec: Codec,
    condition: ConditionSpec,
    labels: tuple[int, ...],
    case: str,
    slices: np.ndarray,
) -> dict[str, str]:
    """Write the latents of a case; returns what stands beside them in the file."""
    image, mask, outline = (torch.from_numpy(x) for x in (slices, prepared.mask(case), prepared.outline(case)))
    latents = codec.encode(image).contiguous()
    tensors = {"image": latents, "condition": encode_mask(condition, codec, labels, mask, outline).contiguous()}
    facts = {PSNR: str(psnr(image, codec.decode(latents)))}
    save_tensors(path, tensors, facts)
    return facts
