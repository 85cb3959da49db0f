"""`--dry-run`'s estimates follow the work: more cases, steps, volumes or trainings of nnU-Net take longer."""

from dataclasses import replace

import pytest

from configs import load
from flows.dag import STEPS, named
from tasks.planning.estimates import Estimate, known
from tasks.planning.workload import Load

CASES = tuple(f"case_{k}" for k in range(10))


def _load(changes: dict[str, object] | None = None, *, cases: tuple[str, ...] = CASES, train: int = 8) -> Load:
    config = load("smoke", changes)
    return Load(config, dict.fromkeys(cases, 20), dict.fromkeys(cases, (32, 40, 20)), cases[:train], train, 2)


def estimate(stage: str, work: Load) -> Estimate:
    return known(named(stage).estimate(work))


def _seconds(stage: str, work: Load) -> float:
    seconds = estimate(stage, work).seconds
    assert seconds is not None
    return seconds


@pytest.mark.parametrize("stage", [step.name for step in STEPS])
def test_every_stage_has_a_time_and_a_memory(stage: str) -> None:
    told = estimate(stage, _load())
    assert told.work
    assert told.seconds
    assert told.memory_gib
    assert 0 < told.seconds < 600
    assert 0.5 < told.memory_gib < 6


@pytest.mark.parametrize("stage", ["ingest", "encode", "augment-masks", "publish", "resample"])
def test_time_is_linear_in_the_cases(stage: str) -> None:
    twice = tuple(f"case_{k}" for k in range(20))
    assert _seconds(stage, _load(cases=twice, train=16)) == pytest.approx(2 * _seconds(stage, _load()))


def test_training_is_linear_in_the_steps() -> None:
    once, twice = _load({"train_slices.steps": 100}), _load({"train_slices.steps": 200})
    assert _seconds("train-slices", twice) == pytest.approx(2 * _seconds("train-slices", once))
    assert estimate("train-slices", twice).network_calls == 200


def test_volumes_of_all_repeats_and_kinds_of_mask_count() -> None:
    assert _load().volumes == 16  # smoke draws for true and for edited masks
    assert _load({"factor": 3, "masks.use": "true"}).volumes == 24
    few = _load({"factor": 3, "masks.use": "true", "masks.count": 2})
    assert few.volumes == 6
    assert 4 * few.windows == _load({"factor": 3, "masks.use": "true"}).windows


def test_intervals_of_fid_take_their_time() -> None:
    without, some, twice = (_load({"evaluate.fid_resamples": count}) for count in (0, 20, 40))
    assert _seconds("evaluate", some) > _seconds("evaluate", without)
    assert _seconds("evaluate", twice) - _seconds("evaluate", without) == pytest.approx(
        2 * (_seconds("evaluate", some) - _seconds("evaluate", without))
    )


def test_generated_slices_cost_calls_of_a_network_and_picked_ones_none() -> None:
    assert estimate("generate-informed-slices", _load()).network_calls == 0
    assert estimate("generate-informed-slices", _load({"informed.mode": "generated"})).network_calls > 0


def test_one_patient_alone_has_no_donor() -> None:
    alone = replace(_load(), patients=1)
    assert "generated" in estimate("generate-informed-slices", alone).work
    assert estimate("generate-informed-slices", alone).network_calls > 0


def test_an_autoencoder_costs_more_than_a_wavelet_and_its_training_more_still() -> None:
    there = _load({"codec.kind": "kl", "codec.weights": "someone/kl-f8"})
    trained = _load({"codec.kind": "kl", "codec.weights": "train", "codec.train_steps": 50})
    assert _seconds("encode", there) > 10 * _seconds("encode", _load())
    assert _seconds("resample", there) > _seconds("resample", _load())
    assert estimate("encode", trained).network_calls == 50


def test_every_nnunet_counts_and_none_is_trained_without_test_cases() -> None:
    one = _load({"factor": 3, "evaluate.factors": [1]})
    three = _load({"factor": 3, "evaluate.factors": [1, 2, 3]})
    assert _seconds("evaluate", three) > _seconds("evaluate", one) + 50
    assert "nnU-Net 2 times" in estimate("evaluate", one).work
    assert estimate("evaluate", one).network_calls > 0  # test volumes are drawn too
    untested = replace(one, train=CASES)
    assert "nnU-Net" not in estimate("evaluate", untested).work
    assert _seconds("evaluate", untested) < _seconds("evaluate", one) - 50


def test_without_its_gpu_a_profile_has_no_times_but_all_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    told = {stage: estimate(stage, _load({"runtime.device": "cuda"})) for stage in [step.name for step in STEPS]}
    assert {stage for stage, one in told.items() if one.seconds is None} == {
        "train-slices", "tune-volume", "train-informed", "resample", "evaluate",
    }  # fmt: skip
    assert told["train-slices"].network_calls == 30


def test_a_budget_makes_the_batch_and_the_pieces_and_is_no_promise() -> None:
    """What is told is what the stages themselves choose, and what that takes."""
    wide = {"unet.base_channels": 128, "train_slices.batch": 64, "train_slices.slices_per_window": 4}
    roomy, tight = (_load({**wide, "runtime.memory": size}) for size in ("64GiB", "1100MiB"))
    whole, pieces = estimate("train-slices", roomy), estimate("train-slices", tight)
    assert "pieces" not in whole.work
    assert "pieces" in pieces.work
    assert whole.memory_gib is not None
    assert pieces.memory_gib is not None
    assert pieces.memory_gib < whole.memory_gib
    few, many = estimate("resample", tight), estimate("resample", roomy)
    assert few.network_calls > many.network_calls
    impossible = estimate("tune-volume", _load({**wide, "runtime.memory": "10MiB"}))
    assert "more than the memory budget" in impossible.work
    assert impossible.memory_gib is not None
    assert impossible.memory_gib > 1


def test_stages_that_a_system_does_without_cost_what_they_do() -> None:
    whole = _load({"system": "ldm-3d"})
    assert whole.drawn_under.window == 24, "20 slices, which wavelet and network halve three times"
    assert estimate("tune-volume", whole).network_calls > 0
    assert estimate("resample", whole).network_calls > 0
    assert "no informed slice" in estimate("generate-informed-slices", whole).work
    once, guided = _load(), _load({"condition.drop_informed": 0.1, "resample.informed_guidance": 2.0})
    assert estimate("resample", guided).network_calls == 2 * estimate("resample", once).network_calls
