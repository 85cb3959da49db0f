"""The list of stages: it stands once, and takes another stage without a change elsewhere."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from configs import Config, load
from flows import dag
from flows.dag import PUBLISH, RESAMPLE, STEPS, Made, Stages, Step, follow, named, steps_of, walk
from gem3d_core.errors import BadInput
from tasks.frame.stage import Identity, Product, Run, Stage, StageResult, Work, look, perform
from tasks.planning.estimates import Estimate

ROOT = Path(__file__).resolve().parents[2]
NAMES = [step.name for step in STEPS]


def a_run(folder: Path, **changes: object) -> Run:
    config = load("smoke", changes)
    return Run(catalog=str(folder), run_id="test", name="N", config=config, seed=0)


def steps_done(run: Run, *, patients: int = 4, asked: Sequence[str] = ()) -> dict[str, str]:
    """What becomes of each step: done, or why it is not needed."""

    def do(step: Step) -> list[StageResult]:
        return [StageResult(stage=step.name, ref="", seconds=0, cached=False)]

    outcomes = walk(run, steps_of(run.config), Made(), do, asked=asked, patients=lambda: patients)
    return {outcome.step.name: outcome.needless or "done" for outcome in outcomes}


def test_flows_name_each_stage_once() -> None:
    """By a string only where the stage says its own name; flows go by the list."""
    for name in NAMES:
        if name in Config.model_fields:  # a section of the settings has the same name
            continue
        quoted = [
            f"{path.relative_to(ROOT)}:{number}"
            for path in sorted((ROOT / "flows").rglob("*.py"))
            for number, line in enumerate(path.read_text().splitlines(), start=1)
            if re.search(rf'^[^#]*"{name}"', line)
        ]
        assert quoted == [], f"{name} is named in {quoted}"
    listed = re.findall(r"^([A-Z_]+) = Step\(", (ROOT / "flows" / "dag.py").read_text(), re.MULTILINE)
    assert len(listed) == len(STEPS) == len(set(NAMES)) == 11


def test_what_nobody_reads_is_not_made(tmp_path: Path) -> None:
    usual = steps_done(a_run(tmp_path, **{"masks.use": "true"}))
    assert {name for name, told in usual.items() if told != "done"} == {"train-informed", "augment-masks"}
    assert "informed.mode=generated needs it" in usual["train-informed"]
    assert "masks.use=augmented or both needs it" in usual["augment-masks"]
    generated = steps_done(a_run(tmp_path, **{"masks.use": "both", "informed.mode": "generated"}))
    assert set(generated.values()) == {"done"}


def test_one_patient_alone_needs_the_position_model(tmp_path: Path) -> None:
    assert steps_done(a_run(tmp_path), patients=1)["train-informed"] == "done"
    assert steps_done(a_run(tmp_path), patients=2)["train-informed"] != "done"


def test_a_stage_that_is_asked_for_is_made_all_the_same(tmp_path: Path) -> None:
    assert steps_done(a_run(tmp_path), asked=["train-informed"])["train-informed"] == "done"


def test_another_name_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(BadInput, match="no stage 'trane': the stages are ingest, preprocess"):
        named("trane")
    with pytest.raises(BadInput, match="--until train-slices: not a stage of system=ldm-3d"):
        steps_of(load("smoke", {"system": "ldm-3d"}), until=named("train-slices"))


@dataclass(frozen=True)
class Judge(Stage):
    """Stands between re-sampling and publishing."""

    name: ClassVar[str] = "judge"
    kind: ClassVar[str] = "verdicts"
    __module__ = "tasks.stages.publish"  # whose code counts, because a test has no place in the project

    volumes: str

    def identity(self) -> Identity:
        return Identity(self.run.name, {"volumes": self.volumes})

    def make(self, work: Work) -> Product:
        (work.folder / "verdict.txt").write_text(self.volumes)
        return Product({"verdict.txt": work.folder / "verdict.txt"}, {})


def _judge(run: Run, made: Made) -> Stages:
    for volumes in made.all(RESAMPLE):
        yield Judge(run, volumes)


def test_another_stage_takes_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Step(Judge.name, _judge, lambda _load: Estimate("volumes judged"))
    place = STEPS.index(PUBLISH)
    monkeypatch.setattr(dag, "STEPS", (*STEPS[:place], judge, *STEPS[place:]))
    run, made = a_run(tmp_path), Made({RESAMPLE.name: ["volumes/N-r0@1", "volumes/N-r1@2"]})
    steps = steps_of(run.config, after=RESAMPLE)
    assert [step.name for step in steps] == ["judge", "publish", "evaluate"]
    assert follow(judge, run, made, look) is None, "nothing is there yet"
    outcome = next(walk(run, steps, made, lambda step: follow(step, run, made, perform), patients=lambda: 4))
    assert outcome.results is not None
    assert [result.cached for result in outcome.results] == [False, False]
    assert made.all(judge) == [result.ref for result in outcome.results]
    found = follow(judge, run.model_copy(update={"run_id": "another"}), made, look)
    assert found is not None
    assert all(result.cached for result in found)


def test_a_step_waits_for_what_was_not_found(tmp_path: Path) -> None:
    run, made = a_run(tmp_path), Made()
    asked: list[str] = []

    def nothing(stage: Stage) -> None:
        asked.append(stage.name)

    assert follow(PUBLISH, run, made, nothing) is None
    assert asked == [], "it has nothing to read, so that it is not even looked for"
