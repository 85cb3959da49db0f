"""Rows of the tables packed for another machine: latents, codec, trainings, and a recipe for each volume to draw."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from configs import Config, TableRow
from data_catalog import Catalog

if TYPE_CHECKING:
    from benchmarks.pieces import RecipeFacts, TrainingStage
    from flows.session.parameters import TablesParameters
    from tasks.artifacts.lineage import DatasetRefs
    from tasks.artifacts.prepared import Prepared
    from tasks.frame.stage import Run

PAIRED_PREFIX = "paired-"
"""Before the case, of a volume for a test mask."""


@dataclass(frozen=True)
class Row:
    """A row, the folder that travels, and what its stages up to the informed slices made here."""

    row: TableRow
    folder: Path
    run: "Run"
    data: "DatasetRefs"
    informed: str

    @property
    def config(self) -> Config:
        return self.run.config


def prepare_row(settings: "TablesParameters", row: TableRow, folder: Path) -> Row:
    """A row after the stages that need no GPU; the catalog keeps them."""
    from flows.dag import ENCODE, INFORMED_SLICES, INGEST, PREPROCESS, Made
    from flows.enhance import go_through
    from flows.session.ledger import Ledger
    from flows.session.parameters import open_tables

    job = open_tables(settings.model_copy(update={"rows": [row.name]}))
    run, made, ledger = job.rows[row.name], Made(), Ledger(job.run)
    _require_what_travels(row, run.config)
    go_through(job.run, [INGEST, PREPROCESS], made, ledger)
    go_through(run.under(job.run.name), [ENCODE], made, ledger)
    go_through(run, [INFORMED_SLICES], made, ledger)
    return Row(row, folder, run, made.data, made.one(INFORMED_SLICES))


def _require_what_travels(row: TableRow, config: Config) -> None:
    """End where a row takes what does not: image encoders, edited masks, generated slices."""
    asked = {
        "condition.injection": (config.condition.injection, "concat, controlnet"),
        "masks.use": (config.masks.use, "true"),
        "informed.mode": (config.informed.mode, "cross"),
    }
    for key, (found, made) in asked.items():
        if found not in made.split(", "):
            sys.exit(f"row {row.name} has {key}={found}: in pieces are made rows with {made}")


def pack(rows: list[Row]) -> list[list[str]]:
    """Pack rows; returns their names, those that share a training together and the one that makes it first."""
    for row in rows:
        if row.folder.exists():
            sys.exit(f"{row.folder} was packed before: give another --to, or take it away to pack all rows again")
    trained: dict[str, str] = {}
    encoded: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for row in rows:
        trainings = _trainings(row, trained)
        owner = Path(trainings[0].folder).parent.name or row.row.name
        groups.setdefault(owner, []).append(row.row.name)
        _write(row, trainings, encoded.setdefault(row.data.latents, row.row.name))
    return list(groups.values())


def _write(row: Row, trainings: tuple["TrainingStage", ...], latents_of: str) -> None:
    """Latents, where no row before has them, codec, trainings and recipes."""
    from benchmarks.pieces import PackedSystem
    from tasks.artifacts.latents import codec_folder, open_codec
    from tasks.artifacts.prepared import open_prepared

    catalog, folder, config = Catalog.open(row.run.catalog), row.folder, row.config
    latents, prepared = catalog.get(row.data.latents), open_prepared(catalog, catalog.get(row.data.prepared))
    folder.mkdir(parents=True, exist_ok=True)
    if latents_of == row.row.name:
        (folder / "latents").mkdir(exist_ok=True)
        for case in prepared.train:
            name = f"latents/{case}.safetensors"
            shutil.copyfile(catalog.path(latents, name), folder / name)
    shutil.copytree(codec_folder(catalog, latents), folder / "codec", dirs_exist_ok=True)
    system = PackedSystem(
        trainings=trainings,
        latents=_beside(latents_of, row, "latents"),
        diffusion=config.diffusion,
        sample=config.resample,
        labels=tuple(latents.meta["label_ids"]),
        emphasis=tuple(open_codec(catalog, latents).emphasis.tolist()),
        seed=config.seed,
        recipes=tuple(_recipes(row, catalog, prepared)),
    )
    system.write(folder)
    sys.stderr.write(f"{folder}: {len(system.recipes)} volumes to draw\n")


def _trainings(row: Row, trained: dict[str, str]) -> tuple["TrainingStage", ...]:
    """Those that lead to the network that draws. trained: what rows before train, to their names; is added to."""
    from benchmarks.pieces import TrainingStage
    from tasks.artifacts.latents import training_files
    from tasks.stages.train import network_facts, sampling_courses

    catalog, config, stages = Catalog.open(row.run.catalog), row.config, []
    identity = f"{row.data.latents} {config.seed} {config.diffusion}"
    latents = catalog.get(row.data.latents)
    for stage, course in sampling_courses(config):
        facts = network_facts(course, latents, training_files(catalog, latents))
        identity += f" {stage} {facts} {course.spec}"
        owner = trained.setdefault(identity, row.row.name)
        stages.append(TrainingStage(stage, facts, course.spec, _beside(owner, row, stage)))
    return tuple(stages)


def _beside(owner: str, row: Row, name: str) -> str:
    """A folder of a row, seen from another one's."""
    return name if owner == row.row.name else f"../{owner}/{name}"


def _recipes(row: Row, catalog: Catalog, prepared: "Prepared") -> Iterator["RecipeFacts"]:
    """A volume for each training mask that is drawn for, and for each test mask with its own slice."""
    import torch

    from benchmarks.pieces import save_recipe
    from gem3d_core.sampling.volumes import Recipe
    from tasks.artifacts.files import read_rows, read_slices
    from tasks.artifacts.latents import stored_condition
    from tasks.evaluation.paired import paired_recipe
    from tasks.stages.informed import SLICES, SOURCES
    from tasks.stages.resample import noise_seed

    latents, informed = catalog.get(row.data.latents), catalog.get(row.informed)
    draws = read_rows(catalog.path(informed, SOURCES))
    slices = read_slices(catalog.path(informed, SLICES))
    for draw, informed_slice in zip(draws, slices, strict=True):
        case = str(draw["case"])
        recipe = Recipe(
            name=case,
            mask=torch.from_numpy(prepared.mask(case)),
            outline=torch.from_numpy(prepared.outline(case)),
            informed=torch.from_numpy(informed_slice),
            p=float(draw["p"]),
            seed=noise_seed(row.run.seed, 0, case, "true"),
            condition=stored_condition(catalog, latents, case),
        )
        yield save_recipe(row.folder, recipe)
    for case in prepared.test[: row.config.evaluate.paired_cases]:
        recipe = paired_recipe(prepared, case, row.run.seed, stored_condition(catalog, latents, case))
        yield save_recipe(row.folder, replace(recipe, name=f"{PAIRED_PREFIX}{case}"))
