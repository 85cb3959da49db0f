"""`evaluate.baseline`: beside every system every other one is itself, and shares with the run what it does not set."""

from itertools import permutations
from pathlib import Path

import pytest

from configs import load
from configs.resolve import system_names, system_settings
from flows.session.parameters import EnhanceParameters, baseline_of, open_run
from gem3d_core.errors import BadInput

PROFILE = "hippocampus-cpu"


def settings(tmp_path: Path, **overrides: object) -> EnhanceParameters:
    given = {key.replace("__", "."): value for key, value in overrides.items()}
    return EnhanceParameters(dataset="Task04_X", profile=PROFILE, catalog=str(tmp_path), overrides=given)


@pytest.mark.parametrize(("system", "baseline"), list(permutations(system_names(), 2)))
def test_a_baseline_is_the_system_that_it_is_called(system: str, baseline: str, tmp_path: Path) -> None:
    asked = settings(tmp_path, system=system, evaluate__baseline=baseline)
    made = baseline_of(asked, open_run(asked))
    assert made is not None
    shares = system in {"ours", "paper"} and not load(PROFILE, {"system": baseline}).condition.informed
    over = {**(system_settings(system) if shares else {}), **system_settings(baseline), "system": baseline}
    found, expected = made.config, load(PROFILE, over)
    assert found.system == baseline
    for key in ("generator", "condition", "diffusion", "informed", "resample", "codec", "unet"):
        assert getattr(found, key) == getattr(expected, key), key
    assert found.tune_volume.objective == expected.tune_volume.objective


def test_what_is_set_by_hand_is_the_baselines_too(tmp_path: Path) -> None:
    asked = settings(tmp_path, evaluate__baseline="make-a-volume", train_slices__steps=7, condition__window=8)
    made = baseline_of(asked, open_run(asked))
    assert made is not None
    config = made.config
    assert (config.train_slices.steps, config.condition.window) == (7, 8)


def test_a_wrong_baseline_is_refused_whatever_else_is_asked_for(tmp_path: Path) -> None:
    wrong = settings(tmp_path, evaluate__baseline="make-volume", evaluate__downstream=False)
    with pytest.raises(BadInput, match="no system 'make-volume': did you mean 'make-a-volume'"):
        baseline_of(wrong, open_run(wrong))
    itself = settings(tmp_path, evaluate__baseline="gem3d")
    with pytest.raises(BadInput, match="the run itself has this system"):
        baseline_of(itself, open_run(itself))
