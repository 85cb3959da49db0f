"""Stage 11, fidelity: FID in three planes, paired scores on test volumes, continuity, nearest training volume."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from safetensors.torch import save_file

from configs import Config
from data_catalog import Artifact, Catalog
from gem3d_core.metrics.features import LPIPS_TRUNK
from gem3d_core.prepare.split import evenly
from tasks.artifacts.metrics import FIDELITY
from tasks.artifacts.model import sampling_identity
from tasks.artifacts.prepared import open_prepared
from tasks.artifacts.source import open_source
from tasks.artifacts.volumes import Synthetic, VolumeRow, accepted, open_synthetic
from tasks.evaluation.paired import Paired, Real, sample_paired
from tasks.evaluation.pictures import PICTURE_ROWS, draw_comparisons, draw_distances
from tasks.evaluation.real_features import training_features, without_features
from tasks.evaluation.scores import (
    EDITED,
    FEWEST_EDITED,
    SETS,
    SYNTHETIC,
    Value,
    continuity_scores,
    nearest_training,
    paired_scores,
    set_scores,
    value_table,
)
from tasks.evaluation.volumes import (
    HELD_OUT,
    TRAINING,
    DrawnVolumes,
    Reading,
    TestVolumes,
    read_drawn,
    read_test,
    read_training,
)
from tasks.evaluation.weights import download, open_features, open_lpips, weights_hashes
from tasks.frame.policy import accelerator
from tasks.frame.stage import Identity, Product, Stage, Work

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Fidelity(Stage):
    """`metrics` NAME-fidelity: of the first repeat's `volumes`, of paired test volumes; distances of all repeats.

    features: of the real volumes.
    """

    name: ClassVar[str] = FIDELITY
    kind: ClassVar[str] = "metrics"

    source: str
    prepared: str
    latents: str
    features: str
    volume_model: str
    volumes: tuple[str, ...]

    def identity(self) -> Identity:
        """The volumes, the real ones beside them, and what samples the paired ones."""
        config = self.run.config
        settings = {
            "fid_volumes": config.evaluate.fid_volumes,
            "paired_cases": config.evaluate.paired_cases,
            "fid_resamples": config.evaluate.fid_resamples,
            "masks": config.masks.count,
            "resample": sampling_identity(config),
            "diffusion": config.diffusion,
            "weights": weights_hashes(config, [LPIPS_TRUNK]),
        }
        inputs = (self.source, self.prepared, self.latents, self.features, self.volume_model, *self.volumes)
        return Identity(f"{self.run.name}-fidelity", settings, inputs, seed=self.run.seed)

    def ready(self) -> None:
        """LPIPS is downloaded where it can be."""
        download(self.run.config, [LPIPS_TRUNK])

    def make(self, work: Work) -> Product:
        """Every volume is read once; then all is scored."""
        config, threads = self.run.config, self.run.config.runtime.threads
        prepared, of_real = open_prepared(work.catalog, work.get(self.prepared)), work.get(self.features)
        repeats = [work.get(ref) for ref in self.volumes]
        rows = [accepted(work.catalog, repeat) for repeat in repeats]
        masks = set(evenly(evenly(prepared.train, config.masks.count), config.evaluate.fid_volumes))
        of_volume, missing = _compared(rows[0], masks)
        sets = list(dict.fromkeys(of_volume.values()))
        shown = [row for variant in SETS for row in _of(rows[0], variant)[:PICTURE_ROWS]]
        names, cases = ({str(row[key]) for row in shown} for key in ("volume", "mask_case"))
        with accelerator(config) as device:
            lpips, without_scores = open_lpips(config, prepared, device)
            reading = reading_beside(work.catalog, of_real, config, device)
            train, real = read_training(prepared, cases, work.progress, threads)
            model, latents = work.get(self.volume_model), work.get(self.latents)
            paired = sample_paired(work, self.run, prepared, latents, model, device) if prepared.test else []
            test = read_test(prepared, paired, lpips, prepared.test[:PICTURE_ROWS], threads)
            opened = (open_synthetic(work.catalog, *one, threads) for one in zip(repeats, rows, strict=True))
            drawn = read_drawn(reading, opened, train, of_volume, names)
        values, replicates = scores_of(reading, sets, drawn, test, prepared.test, config.evaluate.fid_resamples)
        distances = nearest_training(prepared, drawn, train, test)
        near = {of: distances.loc[distances["of"] == of, "distance"].to_numpy() for of in (SYNTHETIC, HELD_OUT)}
        source, groups = open_source(work.catalog, work.get(self.source)), _pictured(drawn, real, test)
        pictures = draw_comparisons(work, source, prepared, repeats[0], groups)
        pictures |= draw_distances(work, near[SYNTHETIC], near[HELD_OUT])
        without = (without_features(of_real) or missing) | without_scores
        tables = {"values": value_table(values), "replicates": replicates, "distances": distances}
        return _product(work, of_real, tables, without, pictures | _keep_paired(work, test.pictured))


def reading_beside(catalog: Catalog, of_real: Artifact, config: Config, device: str) -> Reading:
    """How sampled volumes are read beside the training volumes; without features where those have none."""
    moments, samples = training_features(catalog, of_real)
    features = open_features(config, device)[0] if moments else None
    return Reading(features, {TRAINING: moments}, {TRAINING: samples})


def scores_of(
    reading: Reading, sets: list[str], drawn: DrawnVolumes, test: TestVolumes, cases: list[str], resamples: int
) -> tuple[list[Value], "pd.DataFrame"]:
    """All values of what was read, and the replicates of those that are of sets. cases: of the paired volumes."""
    values, replicates = set_scores(reading, sets, resamples)
    return [*values, *paired_scores(cases, test), *continuity_scores(cases, drawn, test)], replicates


def _compared(accepted_rows: list[VolumeRow], masks: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The set that each drawn volume counts for in FID, and why there is none; the same masks for every system."""
    sets, missing = _fid_sets(accepted_rows)
    chosen = {str(r["volume"]): of for of, found in sets.items() for r in found if r["mask_case"] in masks}
    for of in sets.keys() - set(chosen.values()):
        missing["FID" if of == SYNTHETIC else f"FID ({of})"] = f"of {len(masks)} volumes to compare none was accepted"
    return chosen, missing


def _fid_sets(accepted_rows: list[VolumeRow]) -> tuple[dict[str, list[VolumeRow]], dict[str, str]]:
    """Drawn volumes by set, and why the edited masks have no FID where they are few beside the true ones."""
    rows = {of: _of(accepted_rows, variant) for variant, of in SETS.items()}
    sets = {of: found for of, found in rows.items() if found}
    if len(sets) == len(SETS) and len(sets[EDITED]) < FEWEST_EDITED:
        few = len(sets.pop(EDITED))
        return sets, {f"FID ({EDITED})": f"{few} volume(s) were accepted, expected {FEWEST_EDITED} or more"}
    return sets, {}


def _of(rows: list[VolumeRow], variant: str) -> list[VolumeRow]:
    return [row for row in rows if row["variant"] == variant]


def _pictured(
    drawn: DrawnVolumes, real: Mapping[str, Real], test: TestVolumes
) -> dict[str, list[tuple[Synthetic, Real]]]:
    """What each picture shows: drawn volumes with the real ones of their cases."""
    new = {v: [(one, real[one.case]) for one in drawn.pictured if one.variant == v] for v in SETS}
    paired = sorted(((pair.drawn, pair.real) for pair in test.pictured), key=lambda shown: shown[0].case)
    return {"training": new["true"], "paired": paired, "augmented": new["augmented"]}


def _keep_paired(work: Work, pictured: list[Paired]) -> dict[str, Path]:
    """The first drawn test volumes, for pictures that set several systems side by side."""
    files = {}
    for pair in pictured:
        path = work.folder / f"shown-{pair.drawn.case}.safetensors"
        image, borders = torch.from_numpy(pair.drawn.slices).half().contiguous(), torch.tensor(pair.drawn.borders)
        save_file({"image": image, "borders": borders.long()}, path)
        files[f"paired/{pair.drawn.case}.safetensors"] = path
    return files


def _product(
    work: Work, of_real: Artifact, own: Mapping[str, "pd.DataFrame"], missing: dict[str, str], files: dict[str, Path]
) -> Product:
    """What was measured, with the scores of held-out volumes, which stand beside it wherever it is shown."""
    import pandas as pd

    tables = dict(own)
    for name in ("values", "replicates"):
        held_out = pd.read_parquet(work.catalog.path(of_real, f"{name}.parquet"))
        tables[name] = pd.concat([t for t in (own[name], held_out) if len(t)] or [held_out], ignore_index=True)
    for name, table in tables.items():
        table.to_parquet(work.folder / f"{name}.parquet")
        files[f"{name}.parquet"] = work.folder / f"{name}.parquet"
    values = tables["values"]
    means = values.groupby(values["metric"] + " (" + values["of"] + ")", sort=False)["value"].mean()
    headlines = {str(name): None if math.isnan(mean) else mean for name, mean in means.items()}
    of_catalog = own["values"].rename(columns={"of": "subset"})
    return Product(files, {"means": headlines, "missing": missing}, {"metrics": of_catalog})
