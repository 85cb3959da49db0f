"""Rows of the tables: they fit every profile, share what is to be compared, and differ in what makes them."""

from itertools import pairwise

import pytest

from configs import load, row_config, row_overrides, system_settings, table_rows
from configs.resolve import profile_names
from gem3d_core.errors import BadInput
from gem3d_core.study.claims import EXPECTED, REFERENCE

ROWS = {row.name: row for row in table_rows()}


@pytest.mark.parametrize("profile", profile_names())
def test_every_row_fits_every_profile_and_draws_with_as_many_steps(profile: str) -> None:
    for row in table_rows():
        config = row_config(row, profile, {})
        assert config.unet == load(profile).unet
        own = {"pix2pix-3d": ("ddim", 1), "paper-ddim": ("ddim", 200), "ours-10": ("dpm++", 10)}
        assert (config.resample.solver, config.resample.steps) == own.get(row.name, ("dpm++", 20)), row.name
        assert config.factor == 1


def test_the_budget_is_the_profiles_and_that_of_whole_networks_their_own() -> None:
    given = {"tables.train_slices": 7, "tables.tune_volume": 5, "tables.whole": 9, "tables.masks": 3}
    for name in ("paper", "ours", "make-a-volume"):
        config = row_config(ROWS[name], "smoke", given)
        assert (config.train_slices.steps, config.tune_volume.steps, config.masks.count) == (7, 5, 3)
    assert row_config(ROWS["ldm-3d"], "smoke", given).tune_volume.steps == 9
    slow = row_config(ROWS["controlnet"], "smoke", {**given, "tables.slower": {"controlnet": 2.0}})
    assert (slow.train_slices.steps, slow.tune_volume.steps) == (4, 2), "fewer steps in the same time"
    cpu = load("hippocampus-cpu")
    for name in ("paper", "controlnet", "ldm-3d"):
        row = row_config(ROWS[name], "hippocampus-cpu", {"tune_volume.warmup": 300}).tune_volume
        assert row.warmup / row.steps == pytest.approx(300 / cpu.tune_volume.steps, rel=0.02), "as large a part of all"
    with pytest.raises(BadInput, match="did you mean 'controlnet'"):
        row_config(ROWS["paper"], "smoke", {"tables.slower": {"control-net": 2.0}})
    passes = {"tables.batch": {"train_slices": 3}, "tables.learning_rate": {"train_slices": 2e-3, "tune_volume": 3e-3}}
    small, adversarial = (row_config(ROWS[name], "smoke", passes) for name in ("paper", "pix2pix-3d"))
    assert (small.train_slices.batch, small.train_slices.learning_rate) == (3, 2e-3)
    assert (small.tune_volume.batch, small.tune_volume.learning_rate) == (load("smoke").tune_volume.batch, 3e-3)
    assert adversarial.tune_volume.learning_rate == 2e-4, "a system's own"
    assert row_config(ROWS["paper"], "smoke", {**passes, "train_slices.batch": 1}).train_slices.batch == 1, "by hand"
    plain, whole = load("smoke"), row_config(ROWS["ldm-3d"], "smoke", {})
    assert row_config(ROWS["ours"], "smoke", {}).train_slices == plain.train_slices, "no budget: the profile's own"
    assert whole.tune_volume.steps == plain.train_slices.steps + plain.tune_volume.steps, "of both stages together"


def test_what_is_set_by_hand_does_not_unmake_a_row() -> None:
    given = {"resample.steps": 5, "evaluate.paired_cases": 2}
    assert row_config(ROWS["paper"], "smoke", given).resample.steps == 5
    assert row_config(ROWS["pix2pix-3d"], "smoke", given).resample.steps == 1
    assert row_config(ROWS["controlnet"], "smoke", given).evaluate.paired_cases == 2
    shared = {"resample.solver", "resample.steps", "resample.eta"}
    for row in table_rows():
        for key in set().union(row.settings, *map(system_settings, row.systems)) - shared:
            with pytest.raises(BadInput, match=f"it is among what makes the row {row.name}"):
                row_overrides(row, "smoke", {key: 1})
    for key in ("factor", "masks.use", "informed.mode", "generator", "tune_volume.steps"):
        with pytest.raises(BadInput, match="it is among what makes the row"):
            row_overrides(ROWS["paper"], "smoke", {key: 2})


def test_another_image_encoder_is_for_the_row_that_attends_to_its_tokens() -> None:
    given = {"condition.image_encoder": "folder-of-clip"}
    assert row_config(ROWS["cross-attention"], "smoke", given).condition.image_encoder == "folder-of-clip"
    others = [row for row in table_rows() if row.name != "cross-attention"]
    assert all(row_config(row, "smoke", given) == row_config(row, "smoke", {}) for row in others)


def test_our_rows_lead_from_the_paper_to_the_default_and_on_one_change_at_a_time() -> None:
    names = [row.name for row in table_rows() if "ours" in row.tables]
    ladder = ["paper", "channel-weights", "v-prediction", "min-snr", "one-hot", "slice-offset", "overlap-2", "ours"]
    assert names[: len(ladder)] == ladder
    assert all(ROWS[name].beside == before for before, name in pairwise(ladder))
    configs = {name: row_config(ROWS[name], "hippocampus-cpu", {}).model_dump(exclude={"system"}) for name in names}
    changed = {}
    for name in names[1:]:
        a, b = configs[name], configs[str(ROWS[name].beside)]
        keys = ((s, k) for s in a for k in (a[s] if isinstance(a[s], dict) else ()) if a[s][k] != b[s][k])
        changed[name] = sorted(f"{s}.{k}" for s, k in keys)
    assert changed == {
        "channel-weights": ["diffusion.channel_weighting"],
        "v-prediction": ["diffusion.prediction", "diffusion.schedule", "diffusion.spacing"],
        "min-snr": ["diffusion.weighting"],
        "one-hot": ["condition.mask"],
        "slice-offset": ["condition.slice_offset"],
        "overlap-2": ["resample.overlap"],
        "ours": ["resample.first_window"],
        "ours-10": ["resample.steps"],
        "overlap-4": ["resample.overlap"],
        "known": ["condition.known", "resample.continuation"],
        "keyframes": ["condition.strides", "resample.plan"],
        "dropout": ["condition.drop_informed", "condition.drop_mask"],
        "guidance-mask": ["resample.mask_guidance"],
        "guidance-informed": ["resample.informed_guidance"],
        "donor-outline": ["informed.donor"],
        "codec-mask": ["condition.mask"],
        "no-slice": ["condition.informed", "condition.slice_offset"],
        "make-a-volume-ours": ["condition.informed", "condition.slice_offset", "resample.continuation"],
        "ldm-3d-ours": [
            "condition.informed",
            "condition.slice_offset",
            "diffusion.prediction",
            "diffusion.weighting",
            "tune_volume.steps",
            "tune_volume.warmup",
        ],
        "paper-ddim": ["resample.solver", "resample.steps"],
    }


def test_the_default_is_what_the_profile_has() -> None:
    ours, profile = row_config(ROWS["ours-10"], "hippocampus-cpu", {}), load("hippocampus-cpu")
    assert (ours.condition, ours.diffusion, ours.informed) == (profile.condition, profile.diffusion, profile.informed)
    assert ours.resample == profile.resample


def test_the_papers_figures_stand_where_its_tables_have_them() -> None:
    for row in table_rows():
        assert bool(row.paper) == bool({"1", "2", "3"} & set(row.tables) and row.name != "ours"), row.name
        for reported in row.paper.values():
            assert (reported.fid is not None) == ("1" in row.tables)
    assert ROWS["paper"].paper["BraTS"].fid == (2.07, 6.14, 6.33)
    assert ROWS["paper"].paper["AbdomenCT-1K"].paired == (0.727, 0.204)


def test_what_is_claimed_is_claimed_of_rows_that_there_are() -> None:
    claimed = {name for _, better, worse, _ in EXPECTED for name in (better, worse)}
    assert {REFERENCE, *claimed, *filter(None, (row.beside for row in table_rows()))} <= set(ROWS)
    assert len(claimed) > 5


def test_rows_are_chosen_by_name() -> None:
    assert [row.name for row in table_rows(["ours", "paper"])] == ["paper", "ours"]
    with pytest.raises(BadInput, match="no row 'our': did you mean 'ours'"):
        table_rows(["our"])


def test_a_row_tells_all_that_it_sets() -> None:
    overrides = row_overrides(ROWS["make-a-volume-ma"], "smoke", {"seed": 3})
    assert overrides["seed"] == 3
    assert (overrides["condition.informed"], overrides["resample.continuation"]) == (False, "none")
    assert (overrides["system"], overrides["masks.use"]) == ("make-a-volume", "augmented")
