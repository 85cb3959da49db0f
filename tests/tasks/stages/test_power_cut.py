"""A power cut can leave files empty or torn: a stage that goes on treats them as absent and ends as if never cut."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import load
from data_catalog import Artifact, Catalog
from gem3d_core.nnunet.arms import Plans
from gem3d_core.scans.phantoms import write_cohort
from tasks.artifacts.prepared import open_prepared
from tasks.evaluation.paired import Paired, sample_paired
from tasks.frame.progress import Nothing
from tasks.frame.stage import Run, Stage, Work, perform
from tasks.stages.encode import Encode
from tasks.stages.informed import InformedSlices
from tasks.stages.ingest import Ingest
from tasks.stages.masks import AugmentMasks
from tasks.stages.preprocess import Preprocess
from tasks.stages.resample import Resample
from tasks.stages.train import TrainInformed, TrainSlices, TuneVolume

SETTINGS: dict[str, object] = {
    "prepare.slice_size": [32, 32],
    "condition.window": 4,
    "informed.mode": "generated",
}
SETTINGS |= {f"{stage}.steps": 2 for stage in ("train_slices", "tune_volume", "train_informed")}
SETTINGS |= {f"{stage}.checkpoint_every": 1 for stage in ("train_slices", "tune_volume", "train_informed")}

HARMS: tuple[Callable[[bytes], bytes], ...] = (
    lambda _: b"",
    lambda data: data[: len(data) // 2],
    lambda data: bytes(len(data)),
)
"""What a file may hold that had its name before it had its content."""

MARKERS = {
    "preprocess": ["plans.json", "cases/*/facts.json"],
    "masks": ["*/facts.json"],
    "encode": ["codec/*", "*.safetensors"],
    "train": ["checkpoints/*/*", "model/*.*", "model/codec/*"],
    "informed": ["slices_*.safetensors"],
    "resample": ["*/facts.json"],
}
"""Files of each stage that say that something is finished."""


@dataclass(frozen=True)
class Site:
    """A small run and its stages, each without a cut made `whole`; stages that go on make anew what is there."""

    prepared: str
    latents: str
    stages: dict[str, Stage]
    whole: dict[str, str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, threads = tmp_path_factory.mktemp("power-cut"), torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order
    with pytest.MonkeyPatch.context() as patch:
        # nnU-Net's planning is a process of its own that takes ten seconds
        patch.setattr("tasks.stages.preprocess.plan", lambda *_: Plans("3d_fullres", (4.0, 4.0, 4.0), "", ""))
        dataset, config = write_cohort(folder, cases=4, size=24), load("smoke", SETTINGS)
        run = Run(catalog=str(folder / "c"), run_id="test", name="N", config=config, seed=0, dataset=str(dataset))
        source = perform(Ingest(run)).ref
        prepared = perform(Preprocess(run, source)).ref
        latents = perform(Encode(run, prepared)).ref
        positions, slices = perform(TrainInformed(run, latents)).ref, perform(TrainSlices(run, latents)).ref
        volume, edited = perform(TuneVolume(run, latents, slices)).ref, perform(AugmentMasks(run, prepared, 0)).ref
        chosen = perform(InformedSlices(run, prepared, latents, positions, 0)).ref
        stages = {
            "preprocess": Preprocess(run, source),
            "masks": AugmentMasks(run, prepared, 0),
            "encode": Encode(run, prepared),
            "train": TuneVolume(run, latents, slices),
            "informed": InformedSlices(run, prepared, latents, positions, 0),
            "resample": Resample(run, prepared, latents, volume, chosen, edited, 0),
        }
        whole = {name: perform(stage).ref for name, stage in stages.items()}
        anew = run.model_copy(update={"use_cache": False})
        yield Site(prepared, latents, {name: replace(stage, run=anew) for name, stage in stages.items()}, whole)
    torch.set_num_threads(threads)


def spoil(files: list[Path]) -> None:
    assert files, "the stage left nothing that could be spoilt"
    for file, harm in zip(files, cycle(HARMS), strict=False):
        file.write_bytes(harm(file.read_bytes()))


@pytest.mark.parametrize("name", MARKERS)
def test_a_stage_goes_on_after_a_power_cut_and_makes_the_same(
    name: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, put = site.stages[name], Catalog.put

    def cut(catalog: Catalog, kind: str, *given: object, **more: object) -> Artifact:
        if kind != "config":
            raise KeyboardInterrupt
        return put(catalog, kind, *given, **more)  # type: ignore[arg-type]  # passed on

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "put", cut)
        patch.setattr("tasks.frame.stage.under_way", [])
        with pytest.raises(KeyboardInterrupt):
            perform(stage)
    (folder,) = (Path(stage.run.catalog) / "work").iterdir()
    left = [sorted(folder.glob(pattern)) for pattern in MARKERS[name]]
    assert all(left)
    spoil([file for files in left for file in files])
    spoil([folder / "seconds.txt"])
    again = perform(stage)
    assert (again.ref, again.cached) == (site.whole[name], False)


def test_paired_volumes_that_are_torn_are_sampled_again(site: Site, tmp_path: Path) -> None:
    run = site.stages["train"].run
    catalog = Catalog.open(run.catalog)
    prepared, latents, model = (catalog.get(ref) for ref in (site.prepared, site.latents, site.whole["train"]))

    def sampled() -> list[Paired]:
        work = Work(catalog, tmp_path, Nothing())
        return list(sample_paired(work, run, open_prepared(catalog, prepared), latents, model, "cpu"))

    before = sampled()
    spoil(sorted(tmp_path.glob("paired-*.safetensors")))
    for pair, again in zip(before, sampled(), strict=True):
        assert np.array_equal(pair.drawn.slices, again.drawn.slices)
        assert pair.drawn.borders == again.drawn.borders
