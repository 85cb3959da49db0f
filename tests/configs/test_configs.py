"""The configuration: closed, frozen, explained, and the paper's profiles hold the paper's numbers."""

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from configs import Config, change, load, parse_overrides, profile_names
from gem3d_core.errors import BadInput

EVERY = ["abdomen-paper", "brats-paper", "demo", "hippocampus-cpu", "hippocampus-gpu", "smoke"]
PAPER = ["abdomen-paper", "brats-paper"]
PROFILES = Path(__file__).resolve().parents[2] / "configs" / "profiles"


def refusal(overrides: dict[str, object], profile: str = "smoke") -> str:
    with pytest.raises(BadInput) as caught:
        load(profile, overrides)
    return str(caught.value)


def test_the_profiles_are_those_of_the_design() -> None:
    assert profile_names() == EVERY


@pytest.mark.parametrize("profile", EVERY)
def test_every_profile_loads_and_survives_json(profile: str) -> None:
    config = load(profile)
    assert config.profile == profile
    again = Config.model_validate_json(config.model_dump_json())
    assert again == config
    assert json.loads(again.model_dump_json()) == json.loads(config.model_dump_json())


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("resampel", "resample"),
        ("factr", "factor"),
        ("resample.stepz", "resample.steps"),
        ("train_slices.learning_rat", "train_slices.learning_rate"),
        ("unet.base_chanels", "unet.base_channels"),
        ("codec.level", "codec.levels"),
        ("condition.widow", "condition.window"),
        ("diffusion.sheduel", "diffusion.schedule"),
        ("masks.augment.max_degres", "masks.augment.max_degrees"),
        ("prepare.intensity.ct_windw", "prepare.intensity.ct_window"),
        ("informed.sample.batsh", "informed.sample.batch"),
        ("evaluate.arm.iteratons", "evaluate.arm.iterations"),
        ("data.split.fractoin", "data.split.fraction"),
        ("runtime.devise", "runtime.device"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(key: str, nearest: str) -> None:
    message = refusal({key: 1})
    assert f"unknown configuration key {key!r}: did you mean {nearest!r}?" in message


def test_an_unknown_key_that_resembles_nothing_lists_the_known_ones() -> None:
    message = refusal({"resample.zzzzzz": 1})
    assert "did you mean" not in message
    assert "Known: batch, continuation, eta, first_window," in message


def test_an_unknown_profile_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"no profile 'hipocampus-cpu': did you mean 'hippocampus-cpu'\?"):
        load("hipocampus-cpu")


def test_all_faults_are_named_at_once() -> None:
    message = refusal({"resampl": 1, "factor": 0})
    assert "resampl" in message
    assert "configuration factor: Input should be greater than or equal to 1 (given: 0)" in message


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("resample.steps=10", "resample.steps", 10),
        ("train_slices.learning_rate=3e-4", "train_slices.learning_rate", "3e-4"),
        ("train_slices.learning_rate=3.0e-4", "train_slices.learning_rate", 3e-4),
        ("prepare.slice_size=[64, 48]", "prepare.slice_size", [64, 48]),
        (" masks.use = both", "masks.use", "both"),
        ("data.patient_pattern=^(.*)=x$", "data.patient_pattern", "^(.*)=x$"),
        ("data.channel=null", "data.channel", None),
        ("data.channel=", "data.channel", None),
        ("masks.use='true'", "masks.use", "true"),
    ],
)
def test_settings_are_read_as_yaml(text: str, key: str, value: object) -> None:
    assert parse_overrides([text]) == {key: value}


@pytest.mark.parametrize("text", ["resample.steps", "=3", " =3", "prepare.slice_size=[64, 48"])
def test_settings_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--set"):
        parse_overrides([text])


def test_the_last_setting_of_a_key_wins() -> None:
    assert load("smoke", parse_overrides(["factor=2", "factor=3"])).factor == 3


def test_settings_reach_the_configuration_and_leave_the_rest() -> None:
    before = load("smoke")
    settings = [
        "resample.steps=7",
        "prepare.slice_size=[32, 64]",
        "train_slices.learning_rate=3e-4",
        "masks.use=augmented",
    ]
    after = load("smoke", parse_overrides(settings))
    assert after.resample.steps == 7
    assert after.prepare.slice_size == (32, 64)
    assert after.train_slices.learning_rate == 3e-4
    assert after.masks.use == "augmented"
    assert after.resample.overlap == before.resample.overlap
    assert after.tune_volume == before.tune_volume


def test_a_bare_yaml_truth_is_understood_where_masks_are_named() -> None:
    assert load("smoke", parse_overrides(["masks.use=true"])).masks.use == "true"


def test_a_key_below_a_value_is_refused() -> None:
    assert "factor is a value, not a section" in refusal({"factor.more": 1})


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"diffusion.prediction": "epsilon"}, "prediction=epsilon cannot be trained on schedule=cosine"),
        ({"diffusion.spacing": "leading"}, "spacing=leading never visits the last timestep"),
        ({"resample.overlap": 8}, "resample.overlap=8 must be smaller than condition.window=8"),
        ({"condition.window": 1}, "at least 2"),
        ({"prepare.slice_size": [64, 50]}, "must be a multiple of 8"),
        ({"codec.levels": 5}, "must be a multiple of 64"),
        ({"codec.kind": "kl", "prepare.slice_size": [64, 40]}, "must be a multiple of 16"),
        ({"resample.eta": 1.0}, "eta=1.0 has a meaning for solver=ddim only"),
        ({"resample.solver": "ddim", "resample.eta": 1.5}, "eta=1.5 lies between 0"),
        ({"resample.steps": 0}, "steps=0 must be above zero"),
        ({"resample.batch": -1}, "batch=-1 must be above zero"),
        ({"train_slices.steps": 0}, "steps=0 must be above zero"),
        ({"train_slices.ema": 1.0}, "ema=1.0"),
        ({"train_slices.learning_rate": "fast"}, "should be a valid number"),
        ({"unet.base_channels": 20}, "must be a multiple of norm_groups"),
        ({"informed.start": [0.8, 0.2]}, "0 <= low <= high <= 1"),
        ({"masks.augment.flip_probability": 2}, "flip_probability"),
        ({"data.split.kind": "file"}, "give split.file"),
        ({"diffusion.T": 0}, "T=0 must be above zero"),
        ({"resample.steps": 1001}, "resample.steps=1001 is more than the process has: diffusion.T=1000"),
        ({"diffusion.T": 2}, "steps=3 is more than the process has"),
        ({"seed": -1}, "seed"),
        ({"publish.first_id": 998}, "publish.first_id"),
    ],
)
def test_combinations_that_cannot_work_are_refused(overrides: dict[str, object], expected: str) -> None:
    assert expected in refusal(overrides)


def test_what_is_refused_of_the_cosine_is_allowed_of_the_scaled_linear_process() -> None:
    overrides: dict[str, object] = {
        "diffusion.schedule": "scaled_linear",
        "diffusion.prediction": "epsilon",
        "diffusion.spacing": "leading",
    }
    assert load("smoke", overrides).diffusion.prediction == "epsilon"


def test_the_configuration_is_frozen_all_the_way_down() -> None:
    config = load("smoke")
    for section, field, value in [
        (config, "factor", 2),
        (config.masks, "use", "true"),
        (config.resample, "steps", 2),
        (config.prepare.intensity, "ct_window", (0.0, 1.0)),
        (config.informed.sample, "steps", 2),
    ]:
        with pytest.raises((ValidationError, AttributeError), match=r"frozen|assign"):
            setattr(section, field, value)
    assert config == load("smoke")
    assert isinstance(hash(config.resample), int)


@pytest.mark.parametrize("profile", PAPER)
def test_paper_profiles_hold_the_papers_numbers(profile: str) -> None:
    c = load(profile)
    assert (c.diffusion.T, c.diffusion.schedule, c.diffusion.prediction) == (1000, "scaled_linear", "epsilon")
    assert (c.diffusion.weighting, c.diffusion.spacing) == ("uniform", "leading")
    assert (c.resample.solver, c.resample.steps, c.resample.eta, c.resample.overlap) == ("ddim", 200, 0.0, 1)
    assert (c.informed.mode, c.informed.sample.solver, c.informed.sample.steps) == ("cross", "ddim", 200)
    assert (c.train_slices.steps, c.tune_volume.steps, c.train_informed.steps) == (150_000, 50_000, 150_000)
    assert (c.train_slices.learning_rate, c.tune_volume.learning_rate, c.train_informed.learning_rate) == (
        4e-5,
        4e-5,
        1.6e-5,
    )
    assert not any(t.cosine_decay for t in (c.train_slices, c.tune_volume, c.train_informed))
    assert {t.warmup for t in (c.train_slices, c.tune_volume, c.train_informed)} == {1}
    assert c.train_slices.slices_per_window == c.condition.window == 16
    assert (c.condition.mask, c.condition.slice_offset) == ("codec", False)
    assert (c.unet.base_channels, c.unet.multipliers, c.unet.blocks) == (224, (1, 2, 3, 4), 2)
    assert (c.unet.attention_at, c.unet.head_channels) == ((2, 4, 8), 32)
    assert (c.position_unet.base_channels, c.position_unet.multipliers) == (224, (1, 2, 4, 4))
    assert c.position_unet.attention_at == (1, 2, 4)
    assert (c.prepare.slice_size, c.prepare.fit) == ((512, 512), "stretch")
    assert c.codec.kind == "kl"
    assert c.masks.use == "true"
    assert c.factor == 3
    assert c.evaluate.features == "radimagenet-resnet50"


def test_the_papers_mask_augmentations() -> None:
    brats, abdomen = load("brats-paper").masks.augment, load("abdomen-paper").masks.augment
    assert (brats.max_degrees, brats.max_towards_centre_mm, brats.labels) == (2.5, 60, (1, 2, 3))
    assert abdomen.labels is None
    assert abdomen.max_towards_centre_mm == abdomen.max_translation_mm == abdomen.flip_probability == 0
    assert load("brats-paper").data.channel == "FLAIR"


@pytest.mark.parametrize("profile", PAPER)
def test_every_line_of_numbers_in_a_paper_profile_cites_its_source(profile: str) -> None:
    lines = (PROFILES / f"{profile}.yaml").read_text().splitlines()
    comments = "\n".join(line.partition("#")[2] for line in lines)
    assert comments.count("[paper") + comments.count("[release") >= 8
    sections = ("unet", "position_unet", "diffusion", "condition", "resample", "informed", "prepare", "train_slices")
    for section in sections:
        k = next(k for k, line in enumerate(lines) if line.startswith(f"{section}:"))
        assert any(tag in "".join(lines[max(0, k - 3) : k + 1]) for tag in ("[paper", "[release")), section
    assert "of our own" in comments, "what neither states is marked"


@pytest.mark.parametrize("profile", EVERY)
def test_profiles_name_no_section_twice(profile: str) -> None:
    """YAML silently keeps the last of two equal keys."""
    text = (PROFILES / f"{profile}.yaml").read_text()
    keys = [line.partition(":")[0] for line in text.splitlines() if line[:1].isalpha()]
    assert len(keys) == len(set(keys)) == len(yaml.safe_load(text))


def test_a_channel_may_be_given_as_a_number() -> None:
    assert load("smoke", parse_overrides(["data.channel=0"])).data.channel == "0"
    assert load("smoke", parse_overrides(["data.channel=T1"])).data.channel == "T1"


def test_the_profile_is_not_one_of_the_things_to_set() -> None:
    with pytest.raises(BadInput, match="chosen by --profile"):
        load("smoke", {"profile": "brats-paper"})


def test_faults_of_every_section_are_named_with_their_keys() -> None:
    wrong = {"evaluate.arm.max_features": 0, "masks.augment.attempts": 0, "resample.steps": 0, "runtime.memory": "8"}
    with pytest.raises(BadInput) as refused:
        load("smoke", wrong)
    assert all(key.rpartition(".")[0] in str(refused.value) for key in wrong)


def test_a_memory_budget_is_written_as_people_write_it() -> None:
    assert load("smoke").runtime.memory_bytes is None
    sizes = [load("smoke", {"runtime.memory": text}).runtime.memory_bytes for text in ("8GiB", "1.5 GiB", "512MiB")]
    assert sizes == [8 * 2**30, 1.5 * 2**30, 512 * 2**20]


def test_changing_keeps_the_rest() -> None:
    before = load("smoke", {"resample.steps": 7})
    after = change(before, {"factor": 2})
    assert (after.factor, after.resample.steps) == (2, 7)
    assert change(after, {"factor": before.factor}) == before


def test_a_key_without_its_section_is_found_in_all_of_them() -> None:
    with pytest.raises(BadInput, match=r"unknown configuration key 'steps': did you mean .*resample\.steps"):
        load("smoke", {"steps": 3})


def test_a_value_in_the_place_of_a_section_is_told_the_keys() -> None:
    with pytest.raises(BadInput, match=r"masks: a section, not a value; its keys are augment, count, use"):
        load("smoke", {"masks": "both"})
    with pytest.raises(BadInput, match=r"^configuration: evaluate\.factors names \[2\]"):
        load("smoke", {"evaluate.factors": [2]})
    with pytest.raises(BadInput, match=r"runtime\.memory: expected a number and a unit"):
        load("smoke", {"runtime.memory": "8GB"})
