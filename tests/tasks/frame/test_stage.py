"""The frame around every stage: keys, cache, scratch."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from configs import load
from data_catalog import Catalog
from tasks.frame.stage import SECONDS, Product, Run, Stage, Work, WouldRun, run_stage


def a_run(folder: Path, **changes: object) -> Run:
    values = {"catalog": str(folder), "run_id": "test", "name": "N", "config": load("smoke"), "seed": 0}
    return Run.model_validate(values | changes)


def a_stage(**changes: object) -> Stage:
    values = {
        "name": "encode",
        "module": "tasks.stages.encode",
        "kind": "latents",
        "artifact": "N",
        "settings": {"a": 1},
    }
    return Stage(**(values | changes))  # type: ignore[arg-type]  # plain values of a test


class Maker:
    """Makes one file and counts how often it was asked."""

    def __init__(self, text: str = "x") -> None:
        self.calls = 0
        self.text = text

    def __call__(self, work: Work) -> Product:
        self.calls += 1
        path = work.folder / "f.txt"
        path.write_text(self.text)
        return Product({"f.txt": path}, {})


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    make = Maker()
    first = run_stage(a_run(tmp_path), a_stage(), make)
    second = run_stage(a_run(tmp_path, run_id="other"), a_stage(), make)
    assert (first.cached, second.cached, make.calls) == (False, True, 1)
    assert first.ref == second.ref


@pytest.mark.parametrize(
    "change", [{"settings": {"a": 2}}, {"seed": 1}, {"artifact": "M"}, {"module": "tasks.stages.masks"}]
)
def test_any_part_of_the_identity_makes_it_anew(tmp_path: Path, change: dict[str, object]) -> None:
    make = Maker()
    run_stage(a_run(tmp_path), a_stage(), make)
    assert not run_stage(a_run(tmp_path), a_stage(**change), make).cached
    assert make.calls == 2


def test_without_cache_the_same_content_is_the_same_version(tmp_path: Path) -> None:
    make = Maker()
    first = run_stage(a_run(tmp_path), a_stage(), make)
    again = run_stage(a_run(tmp_path, use_cache=False, run_id="other"), a_stage(), make)
    assert (again.cached, again.ref, make.calls) == (False, first.ref, 2)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(WouldRun):
        run_stage(a_run(tmp_path / "catalog", dry=True), a_stage(), Maker())
    assert not (tmp_path / "catalog").exists()


def test_scratch_outlives_a_failure_and_goes_after_success(tmp_path: Path) -> None:
    def fail(work: Work) -> Product:
        (work.folder / "half").write_text("done")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run_stage(a_run(tmp_path), a_stage(), fail)

    def go_on(work: Work) -> Product:
        assert (work.folder / "half").read_text() == "done"
        return Product({"half": work.folder / "half"}, {})

    run_stage(a_run(tmp_path), a_stage(), go_on)
    assert not list((tmp_path / "work").iterdir())


def test_seconds_of_a_stage_are_in_the_catalog(tmp_path: Path) -> None:
    result = run_stage(a_run(tmp_path), a_stage(), Maker())
    rows = Catalog.open(tmp_path).table("metrics", result.ref)
    assert rows.loc[rows["metric"] == "seconds", "value"].tolist()[0] >= 0


def test_seconds_before_a_kill_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.frame.stage.HEARTBEAT", 0.01)

    def slow(work: Work) -> Product:
        counted = work.folder / SECONDS
        while not counted.exists() or float(counted.read_text()) < 0.05:  # written although the stage has not ended
            time.sleep(0.01)
        kept = counted.read_text()
        raise KeyError(kept)

    with pytest.raises(KeyError) as killed:
        run_stage(a_run(tmp_path), a_stage(), slow)
    result = run_stage(a_run(tmp_path), a_stage(), Maker())
    rows = Catalog.open(tmp_path).table("metrics", result.ref)
    before_the_kill = float(killed.value.args[0])
    assert rows.loc[rows["metric"] == "seconds", "value"].tolist()[0] >= before_the_kill >= 0.05


def test_two_processes_do_not_make_the_same_thing_twice(tmp_path: Path) -> None:
    """The second waits for the first and finds its artifact; file locks keep threads apart as they do processes."""
    began = threading.Event()
    make = Maker()

    def slow(work: Work) -> Product:
        began.set()
        time.sleep(0.5)
        return make(work)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run_stage, a_run(tmp_path), a_stage(), slow)
        assert began.wait(10)
        second = pool.submit(run_stage, a_run(tmp_path, run_id="other"), a_stage(), slow)
        assert first.result(20).ref == second.result(20).ref
    assert make.calls == 1
