"""Stage 3: slices to latents, once."""

from pathlib import Path
from typing import cast

import numpy as np
import torch

from gem3d_core.codec.haar import fit_haar
from gem3d_core.codec.interface import Codec, load_codec, psnr
from gem3d_core.codec.kl import find_kl, open_kl
from gem3d_core.codec.kl_training import train_kl
from gem3d_core.errors import NotAvailable
from gem3d_core.machine.checkpoints import read_metadata, save_tensors
from gem3d_core.machine.files import atomic, read_json
from gem3d_core.machine.reading import BoundedCache
from gem3d_core.networks.conditions import condition_channels, encode_mask
from gem3d_core.spec.method import ConditionSpec
from tasks.artifacts.files import hash_folder
from tasks.artifacts.prepared import Prepared, open_prepared
from tasks.frame.policy import accelerator, stage_task
from tasks.frame.stage import Product, Run, Stage, StageResult, Work, run_stage

FIT_SLICES = 4096
"""Training slices, evenly spaced over all, that the codec is fitted on."""
PSNR = "psnr_db"
"""Of a case's reconstruction; stands in the metadata of its file."""


@stage_task("encode")
def encode(run: Run, prepared: str) -> StageResult:
    """`latents` of a `prepared` dataset, with the codec; its reconstruction PSNR is the ceiling of quality."""
    config = run.config
    settings = {"codec": config.codec, "mask": config.condition.mask, "weights": _weights(run)}

    def make(work: Work) -> Product:
        opened = open_prepared(work.catalog, prepared)
        with accelerator(config) as device:
            kept = BoundedCache[np.ndarray](lambda image: image.nbytes)
            codec = _codec(work, opened, run, device, kept)
            return _encode_all(work, opened, codec, config.condition, kept)

    return run_stage(run, Stage("encode", __name__, "latents", run.name, settings, (prepared,), config.seed), make)


def _weights(run: Run) -> dict[str, str]:
    """Content hashes of a codec that others trained; downloaded first, so that the next run finds the same."""
    spec = run.config.codec
    if spec.kind == "haar" or spec.weights == "train":
        return {}
    try:
        return hash_folder(find_kl(spec.weights, download=not run.dry))
    except NotAvailable:
        if run.dry:
            return {}
        raise


def _codec(work: Work, prepared: Prepared, run: Run, device: str, kept: BoundedCache[np.ndarray]) -> Codec:
    folder = work.folder / "codec"
    if not _is_whole(folder):
        with atomic(folder) as building:
            _fit(work, prepared, run, device, kept).save(building)
    return load_codec(folder, device)


def _is_whole(codec: Path) -> bool:
    """Whether a codec's folder is there and its files can be read."""
    readers = {"json": read_json, "safetensors": read_metadata}
    found = [read(file) for ending, read in readers.items() for file in codec.glob(f"*.{ending}")]
    return (codec / "codec.json").exists() and None not in found


def _fit(work: Work, prepared: Prepared, run: Run, device: str, kept: BoundedCache[np.ndarray]) -> Codec:
    """The codec that the configuration asks for; slices are read only where it is fitted on them."""
    spec, seed = run.config.codec, run.config.seed
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
        "channels": codec.channels,
        "factor": codec.factor,
        "mask": condition.mask,
        "mask_channels": condition_channels(condition, codec, labels),
        "label_ids": list(labels),
        "psnr_db": float(index["psnr_db"].mean()),
    }
    metrics = pd.DataFrame([{"metric": "reconstruction_psnr_db", "value": meta["psnr_db"], "n": len(index)}])
    return Product({**files, "index.parquet": work.folder / "index.parquet"}, meta, {"metrics": metrics})


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
