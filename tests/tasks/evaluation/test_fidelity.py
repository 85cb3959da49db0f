"""What stage 11 compares with what: volumes for true and for edited masks are sets of their own."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from data_catalog import Artifact, Catalog
from gem3d_core.metrics.continuity import all_differences, smoothness_ratio
from gem3d_core.metrics.frechet import Moments, slice_features
from gem3d_core.metrics.frechet import fid as frechet
from gem3d_core.metrics.paired import ms_ssim
from gem3d_core.report.document import Missing
from gem3d_core.report.tables import continuity_table
from gem3d_core.spec.terms import PLANES, Plane
from tasks.artifacts.volumes import Synthetic, VolumeRow, accepted, open_synthetic
from tasks.evaluation import fidelity, real_features
from tasks.evaluation.paired import Paired, Real, paired_recipe
from tasks.evaluation.real_features import training_features, without_features
from tasks.evaluation.scores import BORDER, EDITED, SYNTHETIC, continuity_scores, nearest_training, set_scores
from tasks.evaluation.volumes import (
    HELD_OUT,
    TRAINING,
    DrawnVolumes,
    Reading,
    Seen,
    TestVolumes,
    read_drawn,
    read_test,
    read_training,
)
from tasks.frame.progress import Nothing
from tasks.frame.stage import Work

SHAPE = (6, 12, 10)
OUTLINE = np.ones(SHAPE, bool)


def image(seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).uniform(-1, 1, SHAPE)
    return drawn.astype(np.float16).astype(np.float32)  # as volumes are stored


def pooled(slices: np.ndarray) -> np.ndarray:
    flat = slices.reshape(len(slices), -1)
    return np.stack([flat.mean(1), flat.std(1)], axis=1)


class RealVolumes:
    """Three training cases and one test case; a volume can be read once."""

    def __init__(self, unread: str = "abcd") -> None:
        self.train = ["a", "b", "c"]
        self.test = ["d"]
        self.unread = set(unread)

    def image(self, case: str) -> np.ndarray:
        self.unread.remove(case)
        return image(ord(case))

    def outline(self, _case: str) -> np.ndarray:
        return OUTLINE


def put_volumes(folder: Path, variants: list[str]) -> tuple[Work, Artifact]:
    """One drawn volume a variant, drawn from the seed that its index is; a last one is rejected."""
    catalog = Catalog.open(str(folder / "catalog"))
    files = {}
    rows = [
        {"volume": f"v{k}", "mask_case": "a", "variant": variant, "borders": json.dumps([2]), "accepted": True}
        for k, variant in enumerate(variants)
    ]
    rows.append({**rows[0], "volume": "rejected", "accepted": False})
    for k in range(len(variants)):
        path = folder / f"v{k}.safetensors"
        save_file({"image": torch.from_numpy(image(k)).half(), "outline": torch.from_numpy(OUTLINE)}, path)
        files[f"volumes/v{k}/slices.safetensors"] = path
    files["volumes.parquet"] = folder / "volumes.parquet"
    pd.DataFrame(rows).to_parquet(files["volumes.parquet"])
    names: dict[str, Any] = {"run_id": "test", "code_version": "0", "config_hash": "0", "seed": 0, "key": "k"}
    return Work(catalog, folder, Nothing()), catalog.put("volumes", "N-r0", files=files, meta={}, **names)


def read(
    folder: Path, variants: list[str], repeats: int = 1
) -> tuple[list[str], dict[str, str], Reading, DrawnVolumes, dict[str, Seen], TestVolumes]:
    """The sets of a drawn dataset, what is missing, and everything that was read."""
    work, volumes = put_volumes(folder, variants)
    rows = accepted(work.catalog, volumes)
    sets, missing = fidelity._fid_sets(rows)
    reading, real = Reading(pooled), RealVolumes()
    for case, of in (*((case, TRAINING) for case in real.train), ("d", HELD_OUT)):
        reading.count(case, image(ord(case)), OUTLINE, of)
    train, _ = read_training(real, [], Nothing(), threads=2)  # type: ignore[arg-type]  # a stand-in
    test = read_test(real, [], None, [], threads=2)  # type: ignore[arg-type]  # a stand-in
    chosen = {str(row["volume"]): of for of, found in sets.items() for row in found}
    opened = [open_synthetic(work.catalog, volumes, rows, threads=2) for _ in range(repeats)]
    return [*sets, HELD_OUT], missing, reading, read_drawn(reading, opened, train, chosen, []), train, test


def moments(seeds: Iterable[int]) -> dict[Plane, Moments]:
    """Of the features of images."""
    told = [one for seed in seeds for one in slice_features(image(seed), OUTLINE, pooled)]
    return {name: Moments.of(np.concatenate([found for plane, found in told if plane == name])) for name in PLANES}


def test_fid_does_not_mix_true_and_edited_masks(tmp_path: Path) -> None:
    sets, missing, reading, *_ = read(tmp_path, ["true", "augmented"] * 3)
    values, _ = set_scores(reading, sets, resamples=0)
    assert missing == {}
    real = moments(map(ord, "abc"))
    for of, seeds in ((SYNTHETIC, (0, 2, 4)), (EDITED, (1, 3, 5)), (HELD_OUT, (ord("d"),))):
        expected = frechet(real, moments(seeds))
        found: dict[str, object] = {
            value.metric: (value.value, value.n_synthetic)
            for value in values
            if value.of == of and value.metric.startswith("FID")
        }
        assert found == {
            f"FID {plane}": (pytest.approx(score.value), score.n_synthetic) for plane, score in expected.items()
        }


def test_every_set_of_several_volumes_has_replicates_of_its_own(tmp_path: Path) -> None:
    sets, _, reading, *_ = read(tmp_path, ["true", "augmented"] * 3)
    values, table = set_scores(reading, sets, resamples=4)
    counted = {of: set(rows["volumes"]) for of, rows in table.groupby("of")}
    assert counted == {SYNTHETIC: {3}, EDITED: {3}}, "a set of one volume has none"
    assert {v.metric for v in values if v.of == SYNTHETIC} == set(table["metric"])
    assert len(table) == 2 * 3 * 4 * 4, "sets, planes, metrics, replicates"
    assert set_scores(reading, sets, resamples=0)[1].empty


@pytest.mark.parametrize(
    ("variants", "sets", "said"),
    [
        (["true"], [SYNTHETIC, HELD_OUT], []),
        (["true", "augmented", "augmented"], [SYNTHETIC, HELD_OUT], [f"FID ({EDITED})"]),
        (["augmented"], [EDITED, HELD_OUT], []),
    ],
)
def test_a_few_edited_masks_have_a_fid_only_where_they_are_all_there_is(
    tmp_path: Path, variants: list[str], sets: list[str], said: list[str]
) -> None:
    found, missing, reading, *_ = read(tmp_path, variants)
    assert list(dict.fromkeys(value.of for value in set_scores(reading, found, resamples=0)[0])) == sets
    assert list(missing) == said


def test_the_same_masks_are_compared_of_every_system_and_none_accepted_is_said() -> None:
    rows: list[VolumeRow] = [{"volume": f"v{k}", "mask_case": c, "variant": "true"} for k, c in enumerate("abc")]
    assert fidelity._compared(rows, {"a", "c"}) == ({"v0": SYNTHETIC, "v2": SYNTHETIC}, {})
    assert fidelity._compared(rows[1:2], {"a", "c"}) == ({}, {"FID": "of 2 volumes to compare none was accepted"})


def test_without_features_there_is_no_fid() -> None:
    values, replicates = set_scores(Reading(None), [SYNTHETIC, HELD_OUT], resamples=4)
    assert values == []
    assert replicates.empty


def test_edited_masks_have_borders_but_no_real_volume_to_be_as_smooth_as(tmp_path: Path) -> None:
    *_, drawn, _train, test = read(tmp_path, ["augmented"])
    values = continuity_scores([], drawn, test)
    assert [(value.metric, value.of, value.case) for value in values] == [(BORDER, EDITED, "v0")]
    table = continuity_table({EDITED: ([values[0].value], {"axial": [], "coronal": [], "sagittal": []})})
    assert table.rows[0][2:] == (Missing("no real volume has the same mask"),) * 3


def test_distances_are_those_of_every_accepted_volume(tmp_path: Path) -> None:
    *_, drawn, train, test = read(tmp_path, ["true", "augmented"], repeats=2)
    table = nearest_training(RealVolumes(), drawn, train, test)  # type: ignore[arg-type]  # a stand-in
    assert list(table["volume"]) == ["v0", "v1", "v0", "v1", "d"]
    assert list(table["of"]) == [SYNTHETIC] * 4 + [HELD_OUT]


def test_a_paired_volume_is_scored_against_its_own_real_one_which_is_not_read_again() -> None:
    case = "d"
    drawn = Synthetic(case, case, "true", image(7), OUTLINE, (2,))
    none_left, pair = RealVolumes(unread=""), Paired(drawn, Real(image(ord(case)), OUTLINE * 1))
    test = read_test(none_left, [pair], None, [case], threads=2)  # type: ignore[arg-type]  # a stand-in
    assert test.ms_ssim == {case: ms_ssim(image(7), image(ord(case)), OUTLINE)}
    expected = smoothness_ratio(all_differences(image(7)), all_differences(image(ord(case))))
    assert test.continuity[case].over_real == expected
    assert [pair.drawn for pair in test.pictured] == [drawn]


def test_features_of_training_volumes_are_read_as_they_were_written(tmp_path: Path) -> None:
    reading = Reading(pooled)
    for case in "abc":
        reading.count(case, image(ord(case)), OUTLINE, TRAINING)
    catalog = Catalog.open(str(tmp_path / "catalog"))
    names: dict[str, Any] = {"run_id": "test", "code_version": "0", "config_hash": "0", "seed": 0, "key": "k"}
    files = real_features._save(tmp_path, reading)
    artifact = catalog.put("metrics", "N-features", files=files, meta={"missing": {}}, **names)
    moments, samples = training_features(catalog, artifact)
    assert sorted(moments) == ["axial", "coronal", "sagittal"]
    for plane, found in moments.items():
        expected = reading.moments[TRAINING][plane]
        assert found.n == expected.n
        np.testing.assert_array_equal(found.mean, expected.mean)
        np.testing.assert_array_equal(found.scatter, expected.scatter)
        for column in ("vectors", "volumes", "order"):
            np.testing.assert_array_equal(
                getattr(samples[plane], column), getattr(reading.samples[TRAINING][plane], column)
            )


def test_without_features_of_training_volumes_none_are_gathered(tmp_path: Path) -> None:
    catalog = Catalog.open(str(tmp_path / "catalog"))
    names: dict[str, Any] = {"run_id": "test", "code_version": "0", "config_hash": "0", "seed": 0, "key": "k"}
    assert real_features._save(tmp_path, Reading(None)) == {}
    (tmp_path / "values.parquet").write_bytes(b"")
    files = {"values.parquet": tmp_path / "values.parquet"}
    artifact = catalog.put("metrics", "N-features", files=files, meta={"missing": {"FID": "no weights"}}, **names)
    assert training_features(catalog, artifact) == ({}, {})
    assert without_features(artifact) == {"FID": "no weights"}


class MaskedVolumes(RealVolumes):
    """Those that also have masks, of a depth."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth

    def image(self, case: str) -> np.ndarray:
        return super().image(case)[: self.depth]

    def mask(self, case: str) -> np.ndarray:
        return np.full(SHAPE, ord(case), np.uint8)


@pytest.mark.parametrize(("depth", "middle"), [(6, 3), (5, 2), (1, 0)])
def test_a_test_volume_is_drawn_for_its_own_mask_and_middle_slice(depth: int, middle: int) -> None:
    recipes = [paired_recipe(MaskedVolumes(depth), case, seed) for case, seed in (("d", 1), ("a", 1), ("d", 2))]  # type: ignore[arg-type]  # a stand-in, of which each image is read once
    for recipe, case in zip(recipes, "dad", strict=True):
        assert recipe.name == case
        assert recipe.p == 0.5
        np.testing.assert_array_equal(recipe.real, image(ord(case))[:depth])
        np.testing.assert_array_equal(recipe.informed, recipe.real[middle])
        np.testing.assert_array_equal(recipe.mask, np.full(SHAPE, ord(case)))
        np.testing.assert_array_equal(recipe.outline, OUTLINE)
    assert len({recipe.seed for recipe in recipes}) == 3
