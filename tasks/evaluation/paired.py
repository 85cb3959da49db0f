"""Paired test volumes: drawn for their own masks with a slice of their own (Table 2)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from gem3d_core.machine.checkpoints import read_metadata, save_tensors
from gem3d_core.sampling.volumes import Recipe, draw_volumes
from gem3d_core.sampling.windows import start_slice
from gem3d_core.seeds import derive_seed
from tasks.artifacts.latents import stored_condition
from tasks.artifacts.model import open_volume_model, sampler
from tasks.artifacts.prepared import Prepared
from tasks.artifacts.volumes import Synthetic
from tasks.frame.stage import Run, Work

PAIRED_POSITION = 0.5
"""Normalised position of the test volume's own slice that serves as informed slice."""


@dataclass(frozen=True)
class Real:
    """A prepared volume: image (Z, H, W) in [-1, 1], mask (Z, H, W) ids."""

    image: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Paired:
    """A test volume drawn for its own mask, and the real one."""

    drawn: Synthetic
    real: Real


def draw_paired(
    work: Work, run: Run, prepared: Prepared, latents: str, volume_model: str, device: str
) -> Iterator[Paired]:
    """Test masks with the test volume's own slice as informed slice (Table 2), in the order in which they finish.

    One that was finished before is not redrawn. What belongs to a test case is read once.
    """
    cases = prepared.test[: run.config.evaluate.paired_cases]
    finished = [case for case in cases if read_metadata(_paired_file(work, case)) is not None]
    for case in finished:
        stored = load_file(_paired_file(work, case))
        slices, outline = stored["slices"].numpy(), prepared.outline(case)
        drawn = Synthetic(case, case, "true", slices, outline, tuple(stored["borders"].tolist()))
        yield Paired(drawn, Real(prepared.image(case), prepared.mask(case)))

    flying: dict[str, tuple[Recipe, np.ndarray]] = {}

    def recipes() -> Iterator[Recipe]:
        for case in cases:
            if case not in finished:
                image = prepared.image(case)
                condition = stored_condition(work.catalog, work.catalog.get(latents), case)
                flying[case] = replace(paired_recipe(prepared, case, image, run.seed), condition=condition), image
                yield flying[case][0]

    model = open_volume_model(work.catalog, volume_model, latents, run.config, device)
    spec = sampler(run.config, model, [prepared.cases[case].depth for case in cases if case not in finished])
    work.progress.total(len(cases) - len(finished), "paired test volumes drawn and scored")
    for done, volume in enumerate(draw_volumes(model, recipes(), spec), start=1):
        recipe, image = flying.pop(volume.name)
        borders = torch.tensor(volume.borders, dtype=torch.int64)
        save_tensors(_paired_file(work, volume.name), {"slices": volume.slices, "borders": borders})
        slices, outline = volume.slices.numpy(), recipe.outline.numpy()
        drawn = Synthetic(volume.name, volume.name, "true", slices, outline, volume.borders)
        yield Paired(drawn, Real(image, recipe.mask.numpy()))
        work.progress.at(done)


def _paired_file(work: Work, case: str) -> Path:
    return work.folder / f"paired-{case}.safetensors"


def paired_recipe(prepared: Prepared, case: str, image: np.ndarray, seed: int) -> Recipe:
    """The recipe of a test volume (Z, H, W): its own mask, and a slice of its own as informed slice."""
    return Recipe(
        name=case,
        mask=torch.from_numpy(prepared.mask(case)),
        outline=torch.from_numpy(prepared.outline(case)),
        informed=torch.from_numpy(image[start_slice(PAIRED_POSITION, len(image))]),
        p=PAIRED_POSITION,
        seed=derive_seed(seed, "paired", case),
    )
