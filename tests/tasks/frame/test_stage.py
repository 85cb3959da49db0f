"""The frame around every stage: keys, cache, scratch."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from configs import load
from data_catalog import Artifact, Catalog
from gem3d_core.machine.processes import Interrupted
from tasks.frame.stage import SECONDS, Identity, NotAtHand, Product, Run, Stage, Work, look, perform


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


@dataclass(frozen=True)
class Small(Stage):
    """A stage whose identity and work are given; the code of `encode` counts for it."""

    __module__ = "tasks.stages.encode"
    name: ClassVar[str] = "encode"
    kind: ClassVar[str] = "latents"

    work: Callable[[Work], Product] = field(default_factory=Maker)
    artifact: str = "N"
    settings: Mapping[str, object] = field(default_factory=lambda: {"a": 1})
    inputs: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    seed: int = 0

    def identity(self) -> Identity:
        """As it was given."""
        return Identity(self.artifact, self.settings, self.inputs, self.files, self.seed)

    def make(self, work: Work) -> Product:
        """As it was given."""
        return self.work(work)


class OtherCode(Small):
    """With the code of another stage."""

    __module__ = "tasks.stages.masks"


class OtherName(Small):
    """Another stage of the same module."""

    __module__ = "tasks.stages.encode"
    name = "encode-again"


class OtherKind(Small):
    """A stage that makes something else."""

    __module__ = "tasks.stages.encode"
    kind = "model"


@dataclass(frozen=True)
class Fetching(Small):
    """A stage that has to fetch something before it can say what it is."""

    __module__ = "tasks.stages.encode"
    fetched: list[str] = field(default_factory=list)

    def ready(self) -> None:
        """Fetch it."""
        self.fetched.append("weights")

    def identity(self) -> Identity:
        """With what was fetched."""
        if not self.fetched:
            raise NotAtHand("weights")
        return Identity(self.artifact, {"weights": self.fetched[0]})


def a_run(folder: Path, **changes: object) -> Run:
    values = {"catalog": str(folder), "run_id": "test", "name": "N", "config": load("smoke"), "seed": 0}
    return Run.model_validate(values | changes)


def put(folder: Path, **files: str) -> Artifact:
    """A source of some files; another content is another version."""
    paths = {}
    for name, text in files.items():
        paths[name] = folder / f"{name}.txt"
        paths[name].write_text(text)
    facts = {"run_id": "test", "code_version": "0", "config_hash": "0", "seed": 0, "key": str(files)}
    return Catalog.open(folder).put("source", "N", files=paths, meta={}, **facts)  # type: ignore[arg-type]  # plain values of a test


def seconds_of(folder: Path, ref: str) -> float:
    rows = Catalog.open(folder).table("metrics", ref)
    return float(rows.loc[rows["metric"] == "seconds", "value"].tolist()[0])


@pytest.fixture
def under_way(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that this process is in, of this test alone."""
    names: list[str] = []
    monkeypatch.setattr("tasks.frame.stage.under_way", names)
    return names


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    make = Maker()
    first = perform(Small(a_run(tmp_path), make))
    second = perform(Small(a_run(tmp_path, run_id="other"), make))
    assert (first.cached, second.cached, make.calls) == (False, True, 1)
    assert first.ref == second.ref
    assert (first.stage, first.ref.partition("@")[0]) == ("encode", "latents/N")


@pytest.mark.parametrize("change", [{"settings": {"a": 2}}, {"seed": 1}, {"artifact": "M"}])
def test_any_part_of_the_identity_makes_it_anew(tmp_path: Path, change: dict[str, object]) -> None:
    make = Maker()
    perform(Small(a_run(tmp_path), make))
    assert not perform(Small(a_run(tmp_path), make, **change)).cached  # type: ignore[arg-type]  # plain values of a test
    assert make.calls == 2


@pytest.mark.parametrize("other", [OtherCode, OtherName, OtherKind])
def test_another_stage_or_other_code_makes_it_anew(tmp_path: Path, other: type[Small]) -> None:
    make = Maker()
    perform(Small(a_run(tmp_path), make))
    assert not perform(other(a_run(tmp_path), make)).cached
    assert make.calls == 2


def test_inputs_count_by_their_version_and_single_files_by_their_content(tmp_path: Path) -> None:
    def cached(source: Artifact, *, whole: bool) -> bool:
        ref = source.ref.full
        run, given = a_run(tmp_path), Maker(f"{source.version} {whole}")
        read = Small(run, given, inputs=(ref,)) if whole else Small(run, given, files=((ref, "table"),))
        return perform(read).cached

    old, beside, new = put(tmp_path, table="1", log="1"), put(tmp_path, table="1", log="2"), put(tmp_path, table="2")
    assert [cached(source, whole=True) for source in (old, beside, new, old)] == [False, False, False, True]
    assert [cached(source, whole=False) for source in (old, beside, new, old)] == [False, True, False, True]


def test_the_work_is_handed_its_inputs_which_are_the_parents_of_what_it_makes(tmp_path: Path) -> None:
    source, given = put(tmp_path, table="1"), list[Artifact]()

    def work(work: Work) -> Product:
        given.extend(work.artifacts.values())
        given.append(work.get(source.ref.full))
        return Maker()(work)

    made = perform(Small(a_run(tmp_path), work, inputs=(source.ref.full,)))
    assert [artifact.ref for artifact in given] == [source.ref] * 2
    assert list(Catalog.open(tmp_path).get(made.ref).parents) == [source.ref.full]


def test_without_cache_the_same_content_is_the_same_version(tmp_path: Path) -> None:
    make = Maker()
    first = perform(Small(a_run(tmp_path), make))
    again = perform(Small(a_run(tmp_path, use_cache=False, run_id="other"), make))
    assert (again.cached, again.ref, make.calls) == (False, first.ref, 2)


def test_a_look_makes_nothing_and_writes_nothing(tmp_path: Path) -> None:
    make = Maker()
    assert look(Small(a_run(tmp_path / "catalog"), make)) is None
    assert make.calls == 0
    assert not (tmp_path / "catalog").exists()


def test_a_look_finds_what_was_made(tmp_path: Path) -> None:
    made = perform(Small(a_run(tmp_path)))
    found = look(Small(a_run(tmp_path, run_id="other")))
    assert found is not None
    assert (found.ref, found.cached) == (made.ref, True)
    assert look(Small(a_run(tmp_path), seed=1)) is None
    assert look(Small(a_run(tmp_path, use_cache=False))) is None


def test_only_who_performs_a_stage_makes_it_ready(tmp_path: Path) -> None:
    """What an identity that cannot be told without fetching is of, the catalog cannot hold."""
    stage = Fetching(a_run(tmp_path))
    assert look(stage) is None
    assert stage.fetched == []
    made = perform(stage)
    assert stage.fetched == ["weights"]
    found = look(stage)
    assert found is not None
    assert found.ref == made.ref
    assert stage.fetched == ["weights"]


def test_scratch_outlives_a_failure_and_goes_after_success(tmp_path: Path) -> None:
    def fail(work: Work) -> Product:
        (work.folder / "half").write_text("done")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        perform(Small(a_run(tmp_path), fail))

    def go_on(work: Work) -> Product:
        assert (work.folder / "half").read_text() == "done"
        return Product({"half": work.folder / "half"}, {})

    perform(Small(a_run(tmp_path), go_on))
    assert not list((tmp_path / "work").iterdir())


def test_an_interruption_names_its_stage(tmp_path: Path, under_way: list[str]) -> None:
    def stop(_work: Work) -> Product:
        assert under_way == ["encode"]
        raise Interrupted("stopped at step 2 of 4")

    with pytest.raises(Interrupted, match=r"^stage encode: stopped at step 2 of 4$"):
        perform(Small(a_run(tmp_path), stop))


@pytest.mark.parametrize(("end", "left"), [(KeyboardInterrupt, ["encode"]), (RuntimeError, [])])
def test_only_an_interruption_leaves_its_stage_under_way(
    tmp_path: Path, under_way: list[str], end: type[BaseException], left: list[str]
) -> None:
    def stop(_work: Work) -> Product:
        raise end

    perform(Small(a_run(tmp_path), seed=1))
    assert under_way == []
    with pytest.raises(end):
        perform(Small(a_run(tmp_path), stop))
    assert under_way == left


def test_seconds_of_a_stage_are_in_the_catalog(tmp_path: Path) -> None:
    assert seconds_of(tmp_path, perform(Small(a_run(tmp_path))).ref) >= 0


def test_seconds_before_a_kill_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.frame.stage.HEARTBEAT", 0.01)

    def slow(work: Work) -> Product:
        counted = work.folder / SECONDS
        while not counted.exists() or float(counted.read_text()) < 0.05:  # written although the stage has not ended
            time.sleep(0.01)
        kept = counted.read_text()
        raise KeyError(kept)

    with pytest.raises(KeyError) as killed:
        perform(Small(a_run(tmp_path), slow))
    before_the_kill = float(killed.value.args[0])
    assert seconds_of(tmp_path, perform(Small(a_run(tmp_path))).ref) >= before_the_kill >= 0.05


def test_two_processes_do_not_make_the_same_thing_twice(tmp_path: Path) -> None:
    """The second waits for the first and finds its artifact; file locks keep threads apart as they do processes."""
    began = threading.Event()
    make = Maker()

    def slow(work: Work) -> Product:
        began.set()
        time.sleep(0.5)
        return make(work)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(perform, Small(a_run(tmp_path), slow))
        assert began.wait(10)
        second = pool.submit(perform, Small(a_run(tmp_path, run_id="other"), slow))
        assert first.result(20).ref == second.result(20).ref
    assert make.calls == 1
