"""Rows of the tables that another machine trains and draws, in pieces: docs/results/PROFILE/tables.{md,json}.

Example: here, there as often as it says that something is left, and here again:
    python benchmarks/rows_in_pieces.py pack ../data/Task04_Hippocampus --profile hippocampus-gpu --to build/rows
    python -m benchmarks.pieces build/rows/* --seconds 540
    python benchmarks/rows_in_pieces.py score ../data/Task04_Hippocampus --profile hippocampus-gpu --to build/rows

Latents and trainings that rows share are packed, and made, once: `pack` prints a command for each group of rows that
share a training, and these commands may run side by side. The other machine needs gem3d_core with torch, einops,
diffusers and safetensors (for the 3D networks monai too), and no network connection. Of each row only drawn/,
seconds.json and system.json have to come back, and seconds.json of the rows whose trainings they share.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from packed_rows import PAIRED_PREFIX, Row, pack, prepare_row
from provenance import provenance
from safetensors.torch import load_file

from configs import parse_overrides, table_rows
from data_catalog import Catalog
from flows.session.environment import prepare_environment, quieten

if TYPE_CHECKING:
    from benchmarks.pieces import PackedSystem
    from flows.session.parameters import TablesParameters
    from gem3d_core.study.rows import Cost, System
    from tasks.artifacts.prepared import Prepared
    from tasks.artifacts.source import Source
    from tasks.artifacts.volumes import Synthetic


def main() -> None:
    """Pack rows, or score what came back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["pack", "score"])
    parser.add_argument("dataset")
    parser.add_argument("--profile", default="hippocampus-gpu")
    parser.add_argument("--rows", default="make-a-volume,paper,ours")
    parser.add_argument("--catalog", default="catalog")
    parser.add_argument("--to", type=Path, default=Path("build/rows"))
    parser.add_argument("--set", action="append", default=[], help="as for gem3d: tables.train_slices=5000")
    given = parser.parse_args()

    prepare_environment()
    quieten()
    from flows.session.server import own_server

    with own_server() as wait:
        from flows.session.parameters import TablesParameters

        wait()
        overrides = {"runtime.device": "cpu", **parse_overrides(given.set)}
        settings = TablesParameters(
            dataset=given.dataset, profile=given.profile, catalog=given.catalog, overrides=overrides
        )
        rows = [prepare_row(settings, row, given.to / row.name) for row in table_rows(given.rows.split(","))]
        if given.action == "pack":
            for group in pack(rows):
                folders = " ".join(str(given.to / name) for name in group)
                sys.stdout.write(f"python -m benchmarks.pieces {folders}\n")
        else:
            by_hand = {key: str(value) for key, value in overrides.items() if not key.startswith("runtime.")}
            asked = [given.dataset, "--profile", given.profile, "--rows", given.rows]
            asked += [word for key, value in by_hand.items() for word in ("--set", f"{key}={value}")]
            facts = provenance([]) | {"command": f"benchmarks/rows_in_pieces.py score {shlex.join(asked)}"}
            _keep([_score(row) for row in rows], settings, rows, by_hand, facts)


def _score(row: Row) -> "System":
    """FID and its kin of the volumes for training masks, paired scores of those for test masks."""
    from benchmarks.pieces import PackedSystem
    from gem3d_core.prepare.split import evenly
    from tasks.artifacts.prepared import open_prepared
    from tasks.evaluation.fidelity import reading_beside, scores_of
    from tasks.evaluation.paired import Paired, Real
    from tasks.evaluation.real_features import RealFeatures, without_features
    from tasks.evaluation.scores import SYNTHETIC
    from tasks.evaluation.tables import replicates_of
    from tasks.evaluation.volumes import read_drawn, read_test, read_training
    from tasks.evaluation.weights import open_lpips
    from tasks.frame.progress import Nothing
    from tasks.frame.stage import perform
    from tasks.stages.resample import FLAT, volume_name
    from tasks.study.rows import scored_system

    catalog, config, system = Catalog.open(row.run.catalog), row.config, PackedSystem.read(row.folder)
    sys.stderr.write(f"{row.row.name}: {len(system.recipes)} volumes to score\n")
    prepared = open_prepared(catalog, catalog.get(row.data.prepared))
    of_real = catalog.get(perform(RealFeatures(row.run, row.data.prepared)).ref)
    reading = reading_beside(catalog, of_real, config, "cpu")
    train, _ = read_training(prepared, [], Nothing(), config.runtime.threads)
    chosen = set(evenly(evenly(prepared.train, config.masks.count), config.evaluate.fid_volumes))
    asked = [recipe.name for recipe in system.recipes if not recipe.name.startswith(PAIRED_PREFIX)]
    named = {volume_name(0, index): case for index, case in enumerate(asked)}
    new = {one.name: one.case for one in _synthetic(row, prepared, named) if one.slices[one.outline].std() > FLAT}
    counted = {name: SYNTHETIC for name, case in new.items() if case in chosen}
    drawn = read_drawn(reading, [_synthetic(row, prepared, new)], train, counted, [])
    cases = prepared.test[: config.evaluate.paired_cases]
    real = (Real(prepared.image(case), prepared.mask(case)) for case in cases)
    pairs = map(Paired, _synthetic(row, prepared, {case: case for case in cases}, PAIRED_PREFIX), real)
    lpips, without_lpips = open_lpips(config, prepared, "cpu")
    test = read_test(prepared, pairs, lpips, [], config.runtime.threads)

    values, again = scores_of(reading, [SYNTHETIC], drawn, test, cases, config.evaluate.fid_resamples)
    replicates = replicates_of(again.to_dict("records"))
    missing = without_features(of_real) | without_lpips | {"mask agreement": "not measured in pieces"}
    return scored_system(row.row, values, replicates, {}, missing, _cost(row, system, asked, len(new)))


def _cost(row: Row, system: "PackedSystem", asked: list[str], accepted: int) -> "Cost":
    """What the other machine needed. asked: volumes for training masks; accepted: how many of them are not flat."""
    from benchmarks.pieces import drawing_seconds, trained_seconds
    from gem3d_core.budget.costs import network_cost
    from gem3d_core.study.rows import Cost

    last = system.trainings[-1].facts
    *_, h, w = load_file(row.folder / "recipes" / f"{asked[0]}.safetensors")["condition"].shape
    return Cost(
        parameters=network_cost(last, last.window, (h, w)).parameters,
        steps=" + ".join(str(training.spec.steps) for training in system.trainings),
        training_seconds=sum(trained_seconds(row.folder, training) for training in system.trainings),
        seconds_per_volume=drawing_seconds(row.folder) / len(system.recipes),
        volumes=accepted,
        rejected=len(asked) - accepted,
        sampler=f"{system.sample.solver}, {system.sample.steps} steps",
    )


def _synthetic(row: Row, prepared: "Prepared", named: Mapping[str, str], prefix: str = "") -> Iterator["Synthetic"]:
    """What came back. named: cases of the masks, by the names that `gem3d tables` would give their volumes."""
    from benchmarks.pieces import load_drawn
    from tasks.artifacts.volumes import Synthetic

    for name, case in named.items():
        drawn = load_drawn(row.folder, f"{prefix}{case}")
        yield Synthetic(name, case, "true", drawn.slices.numpy(), prepared.outline(case), drawn.borders)


def _keep(
    systems: list["System"],
    settings: "TablesParameters",
    rows: list[Row],
    overrides: dict[str, str],
    facts: dict[str, str],
) -> None:
    """tables.md and tables.json, with the devices that trained and drew."""
    from recorded import keep_tables

    from benchmarks.pieces import devices_of
    from flows.session.parameters import open_tables
    from gem3d_core.study.record import plain_system
    from tasks.artifacts.prepared import open_prepared
    from tasks.artifacts.source import open_source
    from tasks.evaluation.real_features import RealFeatures
    from tasks.frame.stage import perform
    from tasks.study.rows import read_held_out
    from tasks.study.tables import tables_document

    row = rows[0]
    catalog = Catalog.open(row.run.catalog)
    source = open_source(catalog, catalog.get(row.data.source), row.run.dataset)
    prepared = open_prepared(catalog, catalog.get(row.data.prepared))
    real = read_held_out(catalog, perform(RealFeatures(row.run, row.data.prepared)).ref, None)
    seconds = "Trained and drawn in pieces on another machine. Seconds a volume: of drawing, without restoring and "
    seconds += "writing."
    plain = [plain_system(system) for system in systems]
    document = tables_document(open_tables(settings).run.config, source, prepared, plain, real, seconds, overrides, {})
    devices = sorted({name for row in rows for name in devices_of(row.folder)})
    facts = facts | {"machine": f"{', '.join(devices)}; scored on {facts['machine']}"}
    with TemporaryDirectory() as folder:
        keep_tables(document, facts, _pictures(Path(folder), source, prepared, rows))


def _pictures(folder: Path, source: "Source", prepared: "Prepared", rows: list[Row]) -> list[Path]:
    """Of the test volumes that `gem3d tables` pictures."""
    from benchmarks.pieces import load_drawn
    from tasks.evaluation.pictures import PICTURE_ROWS
    from tasks.study.tables import KINDS, Shown, picture_systems

    pictures = []
    for kind, table in KINDS.items():
        shown = [row for row in rows if table in row.row.tables]
        for case in prepared.test[: rows[0].config.evaluate.paired_cases][:PICTURE_ROWS]:
            drawn = []
            for row in shown:
                one = load_drawn(row.folder, f"{PAIRED_PREFIX}{case}")
                title = row.row.titles.get(table, row.row.title)
                drawn.append(Shown(title, one.slices.numpy(), one.borders))
            pictures += picture_systems(folder, kind, source, prepared, case, drawn)
    return pictures


if __name__ == "__main__":
    main()
