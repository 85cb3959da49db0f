"""Stage 7: an informed slice for every mask of one repeat, cross-sampled (IC) or generated (IG)."""

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from configs import Config
from data_catalog import Catalog
from gem3d_core.diffusion.schedule import make_schedule
from gem3d_core.errors import BadInput, Gem3dError
from gem3d_core.machine.checkpoints import read_tensors, save_tensors
from gem3d_core.networks.files import load_network
from gem3d_core.prepare.split import evenly
from gem3d_core.sampling.slices import sample_slices
from gem3d_core.sampling.windows import start_slice
from gem3d_core.scans.volumes import write_nifti
from gem3d_core.seeds import derive_seed, uniform
from tasks.artifacts.latents import latent_shape, open_codec
from tasks.artifacts.lineage import DatasetRefs
from tasks.artifacts.prepared import Prepared, open_prepared
from tasks.frame.policy import accelerator, stage_task
from tasks.frame.stage import Product, Run, Stage, StageResult, Work, run_stage

if TYPE_CHECKING:
    import pandas as pd


CANDIDATES = 8
"""Donors that are drawn where the best outline is looked for."""
COARSE = 64
"""Pixels a side that outlines are compared on, at least where slices have as many."""


@dataclass(frozen=True)
class Draw:
    """Where the informed slice of one volume comes from; together with the models it can be drawn again."""

    case: str
    """The mask's case."""
    variant: str
    """true or augmented mask."""
    mode: str
    """cross, generated or none."""
    p: float
    donor: str | None
    donor_slice: int | None
    seed: int


def variants(config: Config) -> tuple[str, ...]:
    """Kinds of masks that a repeat holds a volume for."""
    return ("true", "augmented") if config.masks.use == "both" else (config.masks.use,)


def mode_of(prepared: Prepared, config: Config) -> str:
    """How informed slices are made: as configured, but generated where no other patient can be a donor, and not at all
    for a system without them."""
    if not config.condition.informed:
        return "none"
    patients = {prepared.cases[case].patient for case in prepared.train}
    return config.informed.mode if len(patients) > 1 else "generated"


def needs_position_model(run: Run, prepared: str) -> bool:
    """Whether a run's informed slices are generated."""
    return mode_of(open_prepared(Catalog.open(run.catalog), prepared), run.config) == "generated"


@stage_task("generate-informed-slices")
def informed(run: Run, data: DatasetRefs, informed_model: str | None, repeat: int) -> StageResult:
    """`informed` slices of one repeat. Where no other patient can be a donor they are generated, and it is said.

    `informed_model` is needed for generated slices only. Raises BadInput where it is needed and there is none.
    """
    config = run.config
    settings = {
        "informed": config.informed,
        "variants": list(variants(config)),
        "needed": config.condition.informed,
        "count": config.masks.count,
        "diffusion": config.diffusion,
        "repeat": repeat,
    }
    stage = Stage(
        "generate-informed-slices",
        __name__,
        "informed",
        f"{run.name}-r{repeat}",
        settings,
        tuple(ref for ref in (data.prepared, data.latents, informed_model) if ref),
        run.seed,
    )

    def make(work: Work) -> Product:
        prepared = open_prepared(work.catalog, data.prepared)
        mode = mode_of(prepared, config)
        draws = draw_sources(prepared, config, run.seed, repeat, mode)
        make_slices = {
            "cross": lambda: _cross(prepared, draws),
            "generated": lambda: _generate(work, run, data.latents, informed_model, draws),
            "none": lambda: _blank(prepared, draws),
        }
        slices, alone = make_slices[mode](), mode == "generated" != config.informed.mode
        note = "one patient only: no other can be a donor, slices are generated" if alone else ""
        return _product(work, draws, slices, mode, note)

    return run_stage(run, stage, make)


def draw_sources(prepared: Prepared, config: Config, seed: int, repeat: int, mode: str) -> list[Draw]:
    """Position, and for cross-sampling the donor, of every mask; each drawn by a seed of its own."""
    draws = []
    for case in evenly(prepared.train, config.masks.count):
        for variant in variants(config):
            own = derive_seed(seed, "informed", repeat, case, variant)
            p = uniform(*config.informed.start, own, "p")
            donor = _donor(prepared, case, own) if mode == "cross" else None
            index = None if donor is None else start_slice(p, prepared.cases[donor].depth)
            draws.append(Draw(case, variant, mode, p, donor, index, own))
    return _matched(prepared, draws) if mode == "cross" and config.informed.donor == "outline" else draws


def _matched(prepared: Prepared, draws: list[Draw]) -> list[Draw]:
    """Each with the one, of several donors drawn, whose outline covers the mask's best (after Appendix F.2)."""
    candidates = [
        [_donor(prepared, draw.case, derive_seed(draw.seed, "candidate", k)) for k in range(CANDIDATES)]
        for draw in draws
    ]
    wanted = [(case, draw.p) for draw, donors in zip(draws, candidates, strict=True) for case in (draw.case, *donors)]
    outlines = _outlines(prepared, wanted)
    matched = []
    for draw, donors in zip(draws, candidates, strict=True):
        own = outlines[draw.case, draw.p]
        best = max(donors, key=lambda donor: _overlap(own, outlines[donor, draw.p]))
        matched.append(replace(draw, donor=best, donor_slice=start_slice(draw.p, prepared.cases[best].depth)))
    return matched


def _outlines(prepared: Prepared, wanted: list[tuple[str, float]]) -> dict[tuple[str, float], np.ndarray]:
    """Outlines of cases at normalised positions, coarse; every case is read once."""
    found = {}
    for case in sorted({case for case, _ in wanted}):
        outline = prepared.outline(case)
        step = max(1, max(outline.shape[1:]) // COARSE)
        for p in {p for name, p in wanted if name == case}:
            found[case, p] = outline[start_slice(p, len(outline)), ::step, ::step].copy()
    return found


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union; 0 for two empty slices."""
    return float((a & b).sum() / max(1, (a | b).sum()))


def _donor(prepared: Prepared, case: str, seed: int) -> str:
    """A training case of another patient, every patient with the same probability."""
    own = prepared.cases[case].patient
    by_patient: dict[str, list[str]] = {}
    for name in prepared.train:
        by_patient.setdefault(prepared.cases[name].patient, []).append(name)
    others = sorted(patient for patient in by_patient if patient != own)
    if not others:
        raise Gem3dError(f"no donor for {case}: no training case of another patient than {own}")
    cases = by_patient[others[int(uniform(0, len(others), seed, "patient"))]]
    return cases[int(uniform(0, len(cases), seed, "case"))]


def _cross(prepared: Prepared, draws: list[Draw]) -> np.ndarray:
    """(N, H, W), each donor's volume read once and not kept."""
    rows: dict[int, np.ndarray] = {}
    for donor in sorted({draw.donor for draw in draws if draw.donor}):
        image = prepared.image(donor)
        rows.update({i: image[d.donor_slice].copy() for i, d in enumerate(draws) if d.donor == donor})
    return np.stack([rows[i] for i in range(len(draws))])


def _blank(prepared: Prepared, draws: list[Draw]) -> np.ndarray:
    """(N, H, W) of nothing: no one looks at them."""
    return np.zeros((len(draws), *prepared.image(prepared.train[0]).shape[1:]), np.float32)


def _generate(work: Work, run: Run, latents: str, model: str | None, draws: list[Draw]) -> np.ndarray:
    """(N, H, W) by the position-conditioned model."""
    if model is None:
        raise BadInput(
            f"{latents} has no position-conditioned model, and informed slices are to be generated: "
            "train it with `gem3d enhance ... --until train-informed`"
        )
    artifact = work.catalog.get(model)
    codec = open_codec(work.catalog, latents)
    shape, spec = latent_shape(work.catalog, latents), run.config.informed.sample
    work.progress.total(len(draws), "slices generated")
    drawn = []
    with accelerator(run.config) as device:
        where = torch.device(device)
        facts, weights = (work.catalog.path(artifact, name) for name in ("network.json", "weights.safetensors"))
        network = load_network(facts, weights, where)
        for first in range(0, len(draws), spec.batch):
            batch, file = draws[first : first + spec.batch], work.folder / f"slices_{first}.safetensors"
            if (stored := read_tensors(file)) is None:
                p, seeds = [draw.p for draw in batch], [draw.seed for draw in batch]
                x0 = sample_slices(network, p, seeds, shape, make_schedule(run.config.diffusion), spec, where)
                stored = {"x0": x0}
                save_tensors(file, stored)
            drawn.append(stored["x0"])
            work.progress.at(first + len(batch))
    return codec.decode(torch.cat(drawn), spec.precision).clamp(-1, 1).numpy()


def _product(work: Work, draws: list[Draw], slices: np.ndarray, mode: str, note: str) -> Product:
    table = _table(draws)
    table.to_parquet(work.folder / "draws.parquet")
    write_nifti(work.folder / "informed.nii.gz", slices.astype(np.float32).transpose(2, 1, 0), np.eye(4))
    files = {name: work.folder / name for name in ("draws.parquet", "informed.nii.gz")}
    return Product(files, {"slices": len(draws), "mode": mode, "note": note}, {"draws": table.assign(what="informed")})


def _table(draws: list[Draw]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame([asdict(draw) for draw in draws]).astype({"donor": "string", "donor_slice": "Int64"})
