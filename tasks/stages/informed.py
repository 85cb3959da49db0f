"""Stage 7: an informed slice for every mask of one repeat, cross-sampled (IC) or generated (IG)."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch

from configs import Config
from data_catalog import Artifact
from gem3d_core.diffusion.schedule import make_schedule
from gem3d_core.errors import BadInput
from gem3d_core.machine.checkpoints import read_tensors, save_tensors
from gem3d_core.prepare.split import evenly
from gem3d_core.sampling.donors import Donor, InformedSource, choose_sources
from gem3d_core.sampling.model import open_network
from gem3d_core.sampling.slices import sample_slices
from gem3d_core.scans.volumes import write_nifti
from gem3d_core.spec.kinds import KINDS
from tasks.artifacts.latents import latent_shape
from tasks.artifacts.model import model_folder
from tasks.artifacts.prepared import Prepared, open_prepared
from tasks.frame.policy import accelerator
from tasks.frame.stage import Identity, Product, Stage, Work

if TYPE_CHECKING:
    import pandas as pd

SOURCES = "draws.parquet"
"""File of informed slices: where each comes from."""
SLICES = "informed.nii.gz"


def variants(config: Config) -> tuple[str, ...]:
    """Kinds of masks that a repeat holds a volume for."""
    return ("true", "augmented") if config.masks.use == "both" else (config.masks.use,)


def mode_of(config: Config, patients: int) -> str:
    """How informed slices are made: as configured, but generated where no other patient can be a donor, and not at all
    for a system without them. patients: of the training cases."""
    if not config.condition.informed:
        return "none"
    return config.informed.mode if patients > 1 else "generated"


@dataclass(frozen=True)
class InformedSlices(Stage):
    """`informed` slices of one repeat. Where no other patient can be a donor they are generated, and it is said.

    `position_model` is needed for generated slices only. Raises BadInput where it is needed and there is none.
    """

    name: ClassVar[str] = "generate-informed-slices"
    kind: ClassVar[str] = "informed"

    prepared: str
    latents: str
    position_model: str | None
    repeat: int

    def identity(self) -> Identity:
        """The volumes that slices are taken of, or what generates them; the masks that they are for."""
        config = self.run.config
        settings = {
            "informed": config.informed,
            "variants": list(variants(config)),
            "needed": config.condition.informed,
            "count": config.masks.count,
            "diffusion": config.diffusion,
            "repeat": self.repeat,
        }
        inputs = tuple(ref for ref in (self.prepared, self.latents, self.position_model) if ref)
        return Identity(f"{self.run.name}-r{self.repeat}", settings, inputs, seed=self.run.seed)

    def make(self, work: Work) -> Product:
        """Choose where each comes from, and take or generate it."""
        config, prepared = self.run.config, open_prepared(work.catalog, work.get(self.prepared))
        mode = mode_of(config, cast("int", prepared.artifact.meta["patients"]))
        donors = {case: Donor(prepared.cases[case].patient, prepared.cases[case].depth) for case in prepared.train}
        wanted = [(case, kind) for case in evenly(prepared.train, config.masks.count) for kind in variants(config)]
        sources = choose_sources(wanted, donors, config.informed, self.run.seed, self.repeat, mode, prepared.outline)
        if mode == "cross":
            slices = _cross(prepared, sources)
        elif mode == "generated":
            slices = _generate(work, config, work.get(self.latents), self.position_model, sources)
        else:
            slices = _blank(prepared, sources)
        alone = mode == "generated" != config.informed.mode
        note = "one patient only: no other can be a donor, slices are generated" if alone else ""
        return _product(work, sources, slices, mode, note)


def _cross(prepared: Prepared, sources: list[InformedSource]) -> np.ndarray:
    """(N, H, W), each donor's volume read once and not kept."""
    rows: dict[int, np.ndarray] = {}
    for donor in sorted({source.donor for source in sources if source.donor}):
        image = prepared.image(donor)
        rows.update({i: image[d.donor_slice].copy() for i, d in enumerate(sources) if d.donor == donor})
    return np.stack([rows[i] for i in range(len(sources))])


def _blank(prepared: Prepared, sources: list[InformedSource]) -> np.ndarray:
    """(N, H, W) of nothing: no one looks at them."""
    return np.zeros((len(sources), *prepared.image(prepared.train[0]).shape[1:]), np.float32)


def _generate(
    work: Work, config: Config, latents: Artifact, model: str | None, sources: list[InformedSource]
) -> np.ndarray:
    """(N, H, W) by the position-conditioned model."""
    if model is None:
        raise BadInput(
            f"{latents.ref} has no position-conditioned model, and informed slices are to be generated: "
            "train it with `gem3d enhance ... --with train-informed`"
        )
    shape, spec = latent_shape(work.catalog, latents), config.informed.sample
    work.progress.total(len(sources), "slices generated")
    made = []
    with accelerator(config) as device:
        where = torch.device(device)
        facts, network, codec = open_network(model_folder(work.catalog, work.get(model)), where)
        if KINDS[facts.network.kind].told != "position":
            raise BadInput(f"{model} is a {facts.network.kind} model: expected one of positions, model/NAME-informed")
        schedule = make_schedule(facts.diffusion)
        for first in range(0, len(sources), spec.batch):
            batch, file = sources[first : first + spec.batch], work.folder / f"slices_{first}.safetensors"
            if (stored := read_tensors(file)) is None:
                p, seeds = [source.p for source in batch], [source.seed for source in batch]
                x0 = sample_slices(network, p, seeds, shape, schedule, spec, where)
                stored = {"x0": x0}
                save_tensors(file, stored)
            made.append(stored["x0"])
            work.progress.at(first + len(batch))
    return codec.decode(torch.cat(made), spec.precision).clamp(-1, 1).numpy()


def _product(work: Work, sources: list[InformedSource], slices: np.ndarray, mode: str, note: str) -> Product:
    table = _table(sources)
    table.to_parquet(work.folder / SOURCES)
    write_nifti(work.folder / SLICES, slices.astype(np.float32).transpose(2, 1, 0), np.eye(4))
    files = {name: work.folder / name for name in (SOURCES, SLICES)}
    return Product(
        files, {"slices": len(sources), "mode": mode, "note": note}, {"draws": table.assign(what="informed")}
    )


def _table(sources: list[InformedSource]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame([asdict(source) for source in sources]).astype({"donor": "string", "donor_slice": "Int64"})
