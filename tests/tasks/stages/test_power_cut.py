"""A power cut can leave files empty or torn: a stage that goes on treats them as absent and ends as if never cut."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import load
from data_catalog import Artifact, Catalog
from gem3d_core.nnunet.arms import Plans
from gem3d_core.scans.phantoms import write_cohort
from tasks.artifacts.lineage import DatasetRefs
from tasks.artifacts.prepared import open_prepared
from tasks.evaluation.paired import Paired, draw_paired
from tasks.frame.progress import Nothing
from tasks.frame.stage import Run, StageResult, Work
from tasks.stages import preprocess as preparing
from tasks.stages.encode import encode
from tasks.stages.informed import informed
from tasks.stages.ingest import ingest
from tasks.stages.masks import masks
from tasks.stages.resample import resample
from tasks.stages.train import train_informed, train_slices, tune_volume

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
    "train": ["checkpoints/*/*"],
    "informed": ["slices_*.safetensors"],
    "resample": ["*/facts.json"],
}
"""Files of each stage that say that something is finished."""


@dataclass(frozen=True)
class Site:
    """A small run, and how each of its stages is started; `whole` has what each made without a cut."""

    run: Run
    data: DatasetRefs
    stages: dict[str, Callable[[Run], StageResult]]
    whole: dict[str, str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, threads = tmp_path_factory.mktemp("power-cut"), torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order
    with pytest.MonkeyPatch.context() as patch:
        # nnU-Net's planning is a process of its own that takes ten seconds
        patch.setattr(preparing, "plan", lambda *_: Plans("3d_fullres", (4.0, 4.0, 4.0), "", ""))
        run = Run(catalog=str(folder / "c"), run_id="test", name="N", config=load("smoke", SETTINGS), seed=0)
        source = ingest.fn(run, str(write_cohort(folder, cases=4, size=24))).ref
        prepared = preparing.preprocess.fn(run, source).ref
        latents = encode.fn(run, prepared).ref
        data = DatasetRefs(source=source, prepared=prepared, latents=latents)
        positions, slices = train_informed.fn(run, latents).ref, train_slices.fn(run, latents).ref
        volume, edited = tune_volume.fn(run, latents, slices).ref, masks.fn(run, data, 0).ref
        chosen = informed.fn(run, data, positions, 0).ref
        stages: dict[str, Callable[[Run], StageResult]] = {
            "preprocess": lambda run: preparing.preprocess.fn(run, source),
            "masks": lambda run: masks.fn(run, data, 0),
            "encode": lambda run: encode.fn(run, prepared),
            "train": lambda run: tune_volume.fn(run, latents, slices),
            "informed": lambda run: informed.fn(run, data, positions, 0),
            "resample": lambda run: resample.fn(run, data, volume, chosen, edited, 0),
        }
        yield Site(run, data, stages, {name: start(run).ref for name, start in stages.items()})
    torch.set_num_threads(threads)


def spoil(files: list[Path]) -> None:
    assert files, "the stage left nothing that could be spoilt"
    for file, harm in zip(files, cycle(HARMS), strict=False):
        file.write_bytes(harm(file.read_bytes()))


@pytest.mark.parametrize("name", MARKERS)
def test_a_stage_goes_on_after_a_power_cut_and_makes_the_same(
    name: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, anew = site.stages[name], site.run.model_copy(update={"use_cache": False})
    put = Catalog.put

    def cut(catalog: Catalog, kind: str, *given: object, **more: object) -> Artifact:
        if kind != "config":
            raise KeyboardInterrupt
        return put(catalog, kind, *given, **more)  # type: ignore[arg-type]  # passed on

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "put", cut)
        with pytest.raises(KeyboardInterrupt):
            start(anew)
    (folder,) = (Path(site.run.catalog) / "work").iterdir()
    spoil([file for pattern in MARKERS[name] for file in sorted(folder.glob(pattern))])
    spoil([folder / "seconds.txt"])
    assert start(anew).ref == site.whole[name]


def test_paired_volumes_that_are_torn_are_drawn_again(site: Site, tmp_path: Path) -> None:
    catalog = Catalog.open(site.run.catalog)
    prepared = open_prepared(catalog, site.data.prepared)
    draw = partial(draw_paired, Work(catalog, tmp_path, Nothing()), site.run, prepared)

    def drawn() -> list[Paired]:
        return list(draw(site.data.latents, site.whole["train"], "cpu"))

    before = drawn()
    spoil(sorted(tmp_path.glob("paired-*.safetensors")))
    for pair, again in zip(before, drawn(), strict=True):
        assert np.array_equal(pair.drawn.slices, again.drawn.slices)
        assert pair.drawn.borders == again.drawn.borders
