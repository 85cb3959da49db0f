"""The codec of stage 3: fitted on slices only where it has to be, and the same after a kill."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from configs import load
from data_catalog import Artifact, Catalog
from gem3d_core.codec.haar import Haar
from gem3d_core.codec.kl import KL
from gem3d_core.codec.kl_training import train_kl
from gem3d_core.machine.processes import Interrupted
from gem3d_core.machine.reading import BoundedCache
from gem3d_core.prepare.intensity import IntensityMap
from gem3d_core.spec.method import CodecSpec
from tasks.artifacts.prepared import Prepared
from tasks.frame.progress import Nothing
from tasks.frame.stage import NotAtHand, Run, StageResult, Work, look, perform
from tasks.stages import encode as module

STEPS = 4
TRAINED = {"codec.kind": "kl", "codec.train_steps": STEPS, "codec.base_channels": 8}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Phantoms(Prepared):
    """Two cases that are made up when they are read."""

    def image(self, case: str) -> np.ndarray:
        rng = np.random.default_rng(ord(case))
        return rng.uniform(-1, 1, (6, 16, 24)).astype(np.float32)

    def mask(self, case: str) -> np.ndarray:
        return (self.image(case) > 0).astype(np.int64)

    def outline(self, case: str) -> np.ndarray:
        return self.image(case) > -1


class Unreadable(Phantoms):
    """Fails when a slice is read."""

    def image(self, case: str) -> np.ndarray:
        raise AssertionError(f"{case} was read")


class Shown(Nothing):
    """Notes what is counted, and sends SIGTERM to this process at a unit of the first count."""

    def __init__(self, terminate_at: int = 0) -> None:
        self.counts: list[str] = []
        self.units: list[int] = []
        self.terminate_at = terminate_at

    def total(self, units: int, what: str) -> None:
        self.counts.append(f"{units} {what}")

    def at(self, done: int, note: str = "") -> None:
        assert note.startswith("loss ") == (len(self.counts) == 1)
        self.units.append(done)
        if len(self.counts) == 1 and done == self.terminate_at:
            os.kill(os.getpid(), signal.SIGTERM)


def a_run(folder: Path, overrides: dict[str, object]) -> Run:
    return Run(catalog=str(folder), run_id="test", name="N", config=load("smoke", overrides), seed=0)


def prepared_artifact(catalog: Catalog, folder: Path) -> Artifact:
    file = folder / "cases.txt"
    file.write_text("a b")
    meta = {"label_ids": [1], "channels": ["T1"], "target_spacing": [1.0, 1.0, 2.0]}
    facts = {"run_id": "test", "code_version": "0", "config_hash": "0", "seed": 0, "key": "prepared"}
    return catalog.put("prepared", "N", files={"cases.txt": file}, meta=meta, **facts)  # type: ignore[arg-type]  # plain values of a test


def phantoms(catalog: Catalog, artifact: Artifact, kind: type[Phantoms] = Phantoms) -> Phantoms:
    geometry = SimpleNamespace(slice_size=(16, 24), fit="pad")
    record = SimpleNamespace(train=True, depth=6, geometry=geometry, intensity=IntensityMap("mri", 0, 9, 0))
    cases = dict.fromkeys("ab", record)
    return kind(catalog, artifact, cases)  # type: ignore[arg-type]  # only what the stage reads of a case


def encoded(folder: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> StageResult:
    """The stage run as a whole, on phantoms, in a catalog in `folder`."""

    @contextmanager
    def open_progress(_stage: str) -> Iterator[Shown]:
        yield shown

    folder.mkdir(exist_ok=True)
    catalog = Catalog.open(folder / "catalog")
    artifact = prepared_artifact(catalog, folder)
    monkeypatch.setattr("tasks.frame.stage.open_progress", open_progress)
    monkeypatch.setattr(module, "open_prepared", phantoms)
    return perform(module.Encode(a_run(folder / "catalog", TRAINED), artifact.ref.full))


def test_stopped_while_the_codec_is_trained_ends_as_if_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version is derived from the content: the same reference is the same codec and the same latents."""
    with pytest.raises(Interrupted, match=f"stopped at codec step 2 of {STEPS}"):
        encoded(tmp_path / "stopped", Shown(terminate_at=2), monkeypatch)
    again, whole = Shown(), Shown()
    resumed = encoded(tmp_path / "stopped", again, monkeypatch)
    assert resumed.ref == encoded(tmp_path / "whole", whole, monkeypatch).ref
    assert again.counts == whole.counts == [f"{STEPS} codec steps", "2 volumes encoded"]
    assert (again.units, whole.units) == ([3, 4, 1, 2], [1, 2, 3, 4, 1, 2])


def codec_of(overrides: dict[str, object], folder: Path, kind: type[Phantoms]) -> object:
    catalog = Catalog.open(folder / "catalog")
    work = Work(catalog, folder, Nothing())
    prepared = phantoms(catalog, prepared_artifact(catalog, folder), kind)
    return module._codec(work, prepared, load("smoke", overrides), "cpu", BoundedCache(len))


def test_a_pretrained_codec_reads_no_slices(tmp_path: Path) -> None:
    spec = CodecSpec(kind="kl", train_steps=1, base_channels=8)
    train_kl(spec, torch.rand(4, 16, 24), 0, tmp_path / "checkpoints").save(tmp_path / "weights")
    overrides: dict[str, object] = {"codec.kind": "kl", "codec.weights": str(tmp_path / "weights")}
    assert isinstance(codec_of(overrides, tmp_path, Unreadable), KL)


def test_a_codec_that_is_there_is_not_fitted_again(tmp_path: Path) -> None:
    fitted = codec_of({}, tmp_path, Phantoms)
    found = codec_of({}, tmp_path, Unreadable)
    assert isinstance(fitted, Haar)
    assert isinstance(found, Haar)
    assert torch.equal(found.scale, fitted.scale)


def test_a_codec_of_others_is_looked_at_before_its_latents_are_looked_for(tmp_path: Path) -> None:
    """Its content is part of what the latents are; who looks in the catalog reads no weights."""
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("one")
    overrides: dict[str, object] = {"codec.kind": "kl", "codec.weights": str(weights)}
    run = a_run(tmp_path / "catalog", overrides)
    artifact = prepared_artifact(Catalog.open(run.catalog), tmp_path)
    stage = module.Encode(run, artifact.ref.full)
    with pytest.raises(NotAtHand):
        stage.identity()
    assert look(stage) is None
    stage.ready()
    first = stage.identity().settings["weights"]
    (weights / "config.json").write_text("another")
    with pytest.raises(NotAtHand):
        stage.identity()
    stage.ready()
    assert stage.identity().settings["weights"] != first
