"""Paired test volumes: drawn for their own masks with a slice of their own (Table 2)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from data_catalog import Artifact
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


@dataclass(frozen=True)
class PairedRecipe(Recipe):
    """With the real volume (Z, H, W) that the sampled one is compared with."""

    real: np.ndarray = field(kw_only=True)


def sample_paired(
    work: Work, run: Run, prepared: Prepared, latents: Artifact, volume_model: Artifact, device: str
) -> Iterator[Paired]:
    """Test masks with the test volume's own slice as informed slice (Table 2), in the order in which they finish.

    One that was finished before is not sampled again. What belongs to a test case is read once.
    """
    cases = prepared.test[: run.config.evaluate.paired_cases]
    waiting = [case for case in cases if read_metadata(_paired_file(work, case)) is None]
    for case in (case for case in cases if case not in waiting):
        stored = load_file(_paired_file(work, case))
        slices, outline = stored["slices"].numpy(), prepared.outline(case)
        drawn = Synthetic(case, case, "true", slices, outline, tuple(stored["borders"].tolist()))
        yield Paired(drawn, Real(prepared.image(case), prepared.mask(case)))

    model = open_volume_model(work.catalog, volume_model, run.config, device)
    spec = sampler(run.config, model, [prepared.cases[case].depth for case in waiting])
    work.progress.total(len(waiting), "paired test volumes sampled and scored")
    recipes = (
        paired_recipe(prepared, case, run.seed, stored_condition(work.catalog, latents, case)) for case in waiting
    )
    for done, volume in enumerate(draw_volumes(model, recipes, spec), start=1):
        recipe = volume.recipe
        assert isinstance(recipe, PairedRecipe)
        borders = torch.tensor(volume.borders, dtype=torch.int64)
        save_tensors(_paired_file(work, volume.name), {"slices": volume.slices, "borders": borders})
        slices, outline = volume.slices.numpy(), recipe.outline.numpy()
        drawn = Synthetic(volume.name, volume.name, "true", slices, outline, volume.borders)
        yield Paired(drawn, Real(recipe.real, recipe.mask.numpy()))
        work.progress.at(done)


def _paired_file(work: Work, case: str) -> Path:
    return work.folder / f"paired-{case}.safetensors"


def paired_recipe(prepared: Prepared, case: str, seed: int, condition: torch.Tensor | None = None) -> PairedRecipe:
    """The recipe of a test volume: its own mask, and a slice of its own as informed slice."""
    image = prepared.image(case)
    return PairedRecipe(
        name=case,
        mask=torch.from_numpy(prepared.mask(case)),
        outline=torch.from_numpy(prepared.outline(case)),
        informed=torch.from_numpy(image[start_slice(PAIRED_POSITION, len(image))]),
        p=PAIRED_POSITION,
        seed=derive_seed(seed, "paired", case),
        condition=condition,
        real=image,
    )
