"""Stage 11, features of real volumes: what drawn volumes are compared with, measured once for all that are drawn."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from data_catalog import Artifact, Catalog
from gem3d_core.machine.reading import read_ahead
from gem3d_core.metrics.frechet import Moments
from gem3d_core.metrics.neighbours import Sample
from gem3d_core.prepare.split import evenly
from gem3d_core.spec.terms import PLANES, Plane
from tasks.artifacts.metrics import FEATURES as STAGE
from tasks.artifacts.prepared import Prepared, open_prepared
from tasks.evaluation.scores import set_scores, value_table
from tasks.evaluation.volumes import HELD_OUT, TRAINING, Reading
from tasks.evaluation.weights import download, feature_files, open_features, weights_hashes
from tasks.frame.policy import accelerator
from tasks.frame.stage import Identity, Product, Stage, Work

FEATURES = "features.safetensors"


@dataclass(frozen=True)
class RealFeatures(Stage):
    """`metrics` NAME-features: moments and some feature vectors of training volumes, scores of held-out ones to them.

    Where the network of the features is not available the artifact says so and holds neither.
    """

    name: ClassVar[str] = STAGE
    kind: ClassVar[str] = "metrics"

    prepared: str

    def identity(self) -> Identity:
        """The prepared volumes, and the network that looks at them."""
        config = self.run.config
        settings = {
            "features": config.evaluate.features,
            "fid_volumes": config.evaluate.fid_volumes,
            "fid_resamples": config.evaluate.fid_resamples,
            "weights": weights_hashes(config, feature_files(config)),
        }
        return Identity(f"{self.run.name}-features", settings, (self.prepared,))

    def ready(self) -> None:
        """Weights are downloaded where they can be, so that the next run finds what this one uses."""
        download(self.run.config, feature_files(self.run.config))

    def make(self, work: Work) -> Product:
        """Read every real volume once."""
        config, prepared = self.run.config, open_prepared(work.catalog, work.get(self.prepared))
        with accelerator(config) as device:
            features, missing = open_features(config, device)
            reading = Reading(features)
            if features is not None:
                _read(reading, prepared, work, config.evaluate.fid_volumes, config.runtime.threads)
        held_out = [HELD_OUT] if HELD_OUT in reading.moments else []
        scores, replicates = set_scores(reading, held_out, config.evaluate.fid_resamples)
        values, files = value_table(scores), _save(work.folder, reading)
        for name, table in {"values": values, "replicates": replicates}.items():
            table.to_parquet(work.folder / f"{name}.parquet")
            files[f"{name}.parquet"] = work.folder / f"{name}.parquet"
        return Product(files, {"missing": missing}, {"metrics": values.rename(columns={"of": "subset"})})


def _read(reading: Reading, prepared: Prepared, work: Work, limit: int | None, threads: int) -> None:
    wanted = [(case, TRAINING) for case in evenly(prepared.train, limit)]
    wanted += [(case, HELD_OUT) for case in evenly(prepared.test, limit)]
    work.progress.total(len(wanted), "real volumes read")
    volumes = read_ahead(lambda one: (*one, prepared.image(one[0]), prepared.outline(one[0])), wanted, threads)
    for done, (case, of, image, outline) in enumerate(volumes, start=1):
        reading.count(case, image, outline, of)
        work.progress.at(done)


def _save(folder: Path, reading: Reading) -> dict[str, Path]:
    """What was gathered of the training volumes; no file where nothing was."""
    if TRAINING not in reading.moments:
        return {}
    tensors: dict[str, torch.Tensor] = {}
    facts: dict[str, str] = {}
    for plane, moments in reading.moments[TRAINING].items():
        sample = reading.samples[TRAINING][plane]
        parts = {"mean": moments.mean, "scatter": moments.scatter, "vectors": sample.vectors, "order": sample.order}
        tensors |= {f"{plane}/{name}": torch.from_numpy(part) for name, part in parts.items()}
        facts[plane] = json.dumps({"n": moments.n, "volumes": sample.volumes.tolist()})
    save_file(tensors, folder / FEATURES, metadata=facts)
    return {FEATURES: folder / FEATURES}


def training_features(catalog: Catalog, features: Artifact) -> tuple[dict[Plane, Moments], dict[Plane, Sample]]:
    """Moments and sample of each plane of the training volumes; none where features were not available."""
    if FEATURES not in features.files:
        return {}, {}
    moments, samples = {}, {}
    with safe_open(catalog.path(features, FEATURES), framework="np") as stored:
        for plane in PLANES:
            if plane not in stored.metadata():
                continue
            facts = json.loads(stored.metadata()[plane])
            mean, scatter, vectors, order = (
                stored.get_tensor(f"{plane}/{name}") for name in ("mean", "scatter", "vectors", "order")
            )
            moments[plane] = Moments(facts["n"], mean, scatter)
            samples[plane] = Sample(vectors, np.array(facts["volumes"]), order)
    return moments, samples


def without_features(features: Artifact) -> dict[str, str]:
    """Why there are none; empty where there are."""
    return cast("dict[str, str]", features.meta["missing"])
