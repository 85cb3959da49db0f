"""A packed system in pieces: the same models and volumes as in one go, on nothing but its folder."""

import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import pieces
from benchmarks.pieces import PackedSystem, TrainingStage, load_drawn, save_recipe, work
from gem3d_core.codec.haar import Haar
from gem3d_core.errors import BadInput
from gem3d_core.sampling.volumes import Recipe, draw_volumes
from gem3d_core.spec.method import ConditionSpec, DiffusionSpec, NetworkFacts, SampleSpec, TrainSpec, UNetSpec

UNET = UNetSpec(base_channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=4, norm_groups=4)
CONDITION = ConditionSpec(window=4)
CPU = torch.device("cpu")
Z, SIDE = 7, 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training cases of one label and an outline; three volumes to draw."""
    packed, rng = tmp_path / "packed", torch.Generator().manual_seed(0)
    codec = Haar(1, torch.zeros(4), torch.ones(4))
    (packed / "latents").mkdir(parents=True)
    for case in ("a", "b"):
        slices = torch.rand(Z, SIDE, SIDE, generator=rng) * 2 - 1
        condition = torch.rand(Z, 2, SIDE // 2, SIDE // 2, generator=rng)
        save_file({"image": codec.encode(slices), "condition": condition}, packed / "latents" / f"{case}.safetensors")
    codec.save(packed / "codec")
    recipes = []
    for number in range(3):
        mask = (torch.rand(Z, SIDE, SIDE, generator=rng) > 0.5).to(torch.uint8)
        informed = torch.rand(SIDE, SIDE, generator=rng) * 2 - 1
        outline = torch.ones(Z, SIDE, SIDE, dtype=torch.bool)
        recipes.append(save_recipe(packed, Recipe(f"v{number}", mask, outline, informed, 0.3, number)))
    spec = TrainSpec(steps=6, batch=2, warmup=2, checkpoint_every=2)
    trainings = tuple(
        TrainingStage(name, NetworkFacts(kind, UNET, 4, 2, CONDITION), spec, name)
        for name, kind in (("train-slices", "slice"), ("tune-volume", "volume"))
    )
    sample = SampleSpec(steps=2, overlap=1, batch=2)
    emphasis = (1.0, 0.5, 0.5, 0.2)
    PackedSystem(trainings, "latents", DiffusionSpec(), sample, (1,), emphasis, 3, tuple(recipes)).write(packed)
    return packed


def make_whole(folder: Path) -> None:
    """Train a network of whole volumes adversarially, in place of the two of windows."""
    condition = ConditionSpec(window=8, informed=False, slice_offset=False)
    system = PackedSystem.read(folder)
    last = system.trainings[-1]
    facts = replace(last.facts, kind="whole", condition=condition)
    replace(system, trainings=(replace(last, facts=facts, spec=replace(last.spec, objective="adversarial")),)).write(
        folder
    )


def test_what_is_begun_together_is_likely_finished_in_the_seconds_left() -> None:
    assert pieces._together(0, 0.0, 500.0) == pieces.AT_FIRST
    assert pieces._together(4, 2.0, 500.0) == pieces.TOGETHER
    assert pieces._together(4, 100.0, 80.0) == 3
    assert pieces._together(4, 100.0, 3.0) == 1


def test_a_piece_that_is_killed_loses_no_seconds_of_what_it_finished(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before a block is left, so that what it wrote until then is all that there is."""
    assert work(folder, CPU, seconds=600)
    before = pieces.drawing_seconds(folder)
    (folder / "drawn" / "v2.safetensors").unlink()
    saved: list[float] = []

    def killed(*arguments: object) -> object:
        for drawn in draw_volumes(*arguments):
            yield drawn
            saved.append(pieces.drawing_seconds(folder))  # as the next piece, or scoring, would find it

    monkeypatch.setattr(pieces, "draw_volumes", killed)
    assert work(folder, CPU, seconds=600)
    assert saved[0] > before
    (folder / "seconds.json").write_text('{"devices": []}')
    with pytest.raises(BadInput, match=r"seconds\.json does not know how long drawn took"):
        pieces.drawing_seconds(folder)


def test_a_system_outlives_being_written_down(folder: Path, tmp_path: Path) -> None:
    system = PackedSystem.read(folder)
    (tmp_path / "again").mkdir()
    system.write(tmp_path / "again")
    assert PackedSystem.read(tmp_path / "again") == system
    with pytest.raises(BadInput, match=r"holds no system\.json: pack"):
        PackedSystem.read(tmp_path)
    with pytest.raises(BadInput, match="latents holds no latents: bring the folders of all rows"):
        work(tmp_path / "again", CPU, seconds=60)


@pytest.mark.parametrize("kind", ["windows", "whole"])
def test_pieces_come_to_what_one_go_comes_to(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "whole":
        make_whole(folder)
    stages = [stage.name for stage in PackedSystem.read(folder).trainings]
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    assert work(whole, CPU, seconds=600)

    # the clock stands still but for the steps: every piece has time for two of them, or for one volume
    now = [0.0]
    monkeypatch.setattr(pieces.time, "monotonic", lambda: now.__setitem__(0, now[0] + 1) or now[0])
    count = 1
    while not work(folder, CPU, seconds=6):
        count += 1
        assert count < 40
    assert count > 3
    assert "tune-volume: step 6 of 6" in capsys.readouterr().err
    for stage in stages:
        ours, theirs = (load_file(one / stage / "weights.safetensors") for one in (folder, whole))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name in ("v0", "v1", "v2"):
        drawn = load_drawn(folder, name)
        assert drawn.slices.shape == (Z, SIDE, SIDE)
        torch.testing.assert_close(drawn.slices, load_drawn(whole, name).slices, rtol=0, atol=2e-3)
        assert drawn.borders == load_drawn(whole, name).borders


def test_a_system_beside_draws_with_the_same_trainings(folder: Path, tmp_path: Path) -> None:
    beside, system = tmp_path / "beside", PackedSystem.read(folder)
    for part in ("codec", "recipes"):
        shutil.copytree(folder / part, beside / part)
    trainings = tuple(replace(stage, folder=f"../packed/{stage.folder}") for stage in system.trainings)
    replace(system, trainings=trainings, latents="../packed/latents").write(beside)

    assert work(folder, CPU, seconds=600)
    taken = [pieces.trained_seconds(folder, stage) for stage in system.trainings]
    assert work(beside, CPU, seconds=600)
    assert {file.name for file in beside.iterdir()} == {"codec", "drawn", "recipes", "seconds.json", "system.json"}
    assert [pieces.trained_seconds(beside, stage) for stage in trainings] == taken
    assert pieces.devices_of(beside) == {"cpu"}
    (folder / "seconds.json").unlink()
    with pytest.raises(BadInput, match=r"packed holds no seconds\.json: bring it back"):
        pieces.trained_seconds(beside, trainings[0])
    assert torch.equal(load_drawn(beside, "v0").slices, load_drawn(folder, "v0").slices)


@pytest.mark.slow
def test_the_command_says_whether_something_is_left(folder: Path) -> None:
    def piece(seconds: float) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "benchmarks.pieces", str(folder), "--seconds", str(seconds), "--device", "cpu"]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    began = time.monotonic()
    first = piece(0)
    assert (first.returncode, "something is left" in first.stderr) == (75, True), first.stderr
    last = piece(600)
    assert (last.returncode, "all is done" in last.stderr) == (0, True), last.stderr
    assert time.monotonic() - began < 300
    assert len(list((folder / "drawn").glob("*.safetensors"))) == 3
