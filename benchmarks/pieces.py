"""A system packed into a folder, trained and drawn from in pieces on a machine that has nothing but these modules.

    FOLDER/latents/CASE.safetensors   of the training cases; or those of a system beside it
    FOLDER/codec/                     of those latents
    FOLDER/recipes/NAME.safetensors   mask, outline, informed slice and condition of each volume to draw
    FOLDER/system.json                what is trained and drawn, see `PackedSystem`
    FOLDER/STAGE/                     checkpoints, and the model when it is trained; or those of a system beside it
    FOLDER/drawn/NAME.safetensors     volumes

Systems that share a training are given together; those that share none may run side by side on one GPU.

Example:
    python -m benchmarks.pieces FOLDER OTHER-FOLDER --seconds 540
"""

import argparse
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from gem3d_core.budget.memory import budget_on, plan_drawing
from gem3d_core.codec.interface import load_codec
from gem3d_core.codec.kl import KL
from gem3d_core.diffusion.schedule import make_schedule
from gem3d_core.errors import BadInput
from gem3d_core.machine.checkpoints import save_tensors
from gem3d_core.machine.files import atomic
from gem3d_core.machine.processes import Interrupted
from gem3d_core.networks.files import facts_from, load_network
from gem3d_core.sampling.batched import windows_at_once
from gem3d_core.sampling.volumes import Recipe, VolumeModel, draw_volumes
from gem3d_core.spec.kinds import KINDS
from gem3d_core.spec.method import DiffusionSpec, NetworkFacts, SampleSpec, TrainSpec
from gem3d_core.training.launch import Job, train_job

SYSTEM, SECONDS, DRAWN, WEIGHTS = "system.json", "seconds.json", "drawn", "weights.safetensors"
PROGRESS_EVERY = 100
"""Steps between two lines."""
TOGETHER, AT_FIRST = 32, 4
"""Volumes that share network calls, at most and as long as it is not known how long one takes."""


@dataclass(frozen=True)
class TrainingStage:
    """One training of a system. folder: relative to the system's, in that of another system where it is shared."""

    name: str
    facts: NetworkFacts
    spec: TrainSpec
    folder: str


@dataclass(frozen=True)
class RecipeFacts:
    """What of a recipe is not a tensor."""

    name: str
    p: float
    seed: int


@dataclass(frozen=True)
class PackedSystem:
    """trainings: in their order, a later one tunes the one before; the last one's network draws.

    latents: their folder, relative to the system's.
    """

    trainings: tuple[TrainingStage, ...]
    latents: str
    diffusion: DiffusionSpec
    sample: SampleSpec
    labels: tuple[int, ...]
    emphasis: tuple[float, ...]
    seed: int
    recipes: tuple[RecipeFacts, ...]

    def write(self, folder: Path) -> None:
        """Write system.json."""
        with atomic(folder / SYSTEM) as building:
            building.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, folder: Path) -> "PackedSystem":
        """The inverse of `write`. Raises BadInput where nothing was packed."""
        if not (folder / SYSTEM).exists():
            raise BadInput(f"{folder} holds no {SYSTEM}: pack a system into it first")
        values: dict[str, Any] = json.loads((folder / SYSTEM).read_text())
        return cls(
            trainings=tuple(
                TrainingStage(t["name"], facts_from(t["facts"]), TrainSpec(**t["spec"]), t["folder"])
                for t in values["trainings"]
            ),
            latents=values["latents"],
            diffusion=DiffusionSpec(**values["diffusion"]),
            sample=SampleSpec(**values["sample"]),
            labels=tuple(values["labels"]),
            emphasis=tuple(values["emphasis"]),
            seed=values["seed"],
            recipes=tuple(RecipeFacts(**recipe) for recipe in values["recipes"]),
        )


@dataclass(frozen=True)
class Finished:
    """A volume that was drawn: slices (Z, H, W) in [-1, 1], and where its windows meet."""

    slices: torch.Tensor
    borders: tuple[int, ...]


def save_recipe(folder: Path, recipe: Recipe) -> RecipeFacts:
    """Write a recipe's tensors into a packed folder; returns the rest of it."""
    tensors = {"mask": recipe.mask, "outline": recipe.outline, "informed": recipe.informed}
    tensors |= {} if recipe.condition is None else {"condition": recipe.condition}
    path = folder / "recipes" / f"{recipe.name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return RecipeFacts(recipe.name, recipe.p, recipe.seed)


def load_drawn(folder: Path, name: str) -> Finished:
    """A finished volume. Raises BadInput where it is not there."""
    path = folder / DRAWN / f"{name}.safetensors"
    if not path.exists():
        raise BadInput(f"{path} is not there: bring it back, or give the command of the pieces again until all is done")
    stored = load_file(path)
    return Finished(stored["slices"].float(), tuple(stored["borders"].tolist()))


def trained_seconds(folder: Path, training: TrainingStage) -> float:
    """What a training of a system took so far, in all pieces."""
    return _seconds_of((folder / training.folder).parent, training.name)


def drawing_seconds(folder: Path) -> float:
    """What drawing the volumes of a system took so far, in all pieces."""
    return _seconds_of(folder, DRAWN)


def devices_of(folder: Path) -> set[str]:
    """Names of the devices that trained and drew a system."""
    folders = {(folder / training.folder).parent for training in PackedSystem.read(folder).trainings} | {folder}
    return {name for each in folders for name in _read_seconds(each)["devices"]}


def _seconds_of(folder: Path, name: str) -> float:
    counted = _read_seconds(folder)
    if name not in counted:
        raise BadInput(f"{folder / SECONDS} does not know how long {name} took: give the command of the pieces again")
    return float(counted[name])


def _read_seconds(folder: Path) -> dict[str, Any]:
    if not (folder / SECONDS).exists():
        raise BadInput(f"{folder} holds no {SECONDS}: bring it back from where that system was trained")
    counted: dict[str, Any] = json.loads((folder / SECONDS).read_text())
    return counted


def work(folder: Path, device: torch.device, seconds: float) -> bool:
    """Train and draw for about so many seconds from where the last piece ended; returns whether all is done."""
    system, until = PackedSystem.read(folder), time.monotonic() + seconds
    for number, stage in enumerate(system.trainings):
        if (folder / stage.folder / WEIGHTS).exists():
            continue
        before = system.trainings[number - 1].folder if number else None
        if time.monotonic() >= until or not _train(folder, system, stage, before, device, until):
            return False
    return _draw(folder, system, device, until)


def _train(
    folder: Path, system: PackedSystem, stage: TrainingStage, before: str | None, device: torch.device, until: float
) -> bool:
    """Go on with a training; returns whether it came to its end."""
    latents = {path.stem: str(path) for path in sorted((folder / system.latents).glob("*.safetensors"))}
    if not latents:
        raise BadInput(f"{folder / system.latents} holds no latents: bring the folders of all rows that were packed")
    job = Job(
        facts=stage.facts,
        latents=latents,
        diffusion=system.diffusion,
        spec=stage.spec,
        seed=system.seed,
        folder=str(folder / stage.folder / "checkpoints"),
        emphasis=system.emphasis,
        slice_weights=None if before is None else str(folder / before / WEIGHTS),
    )

    def tell(step: int, loss: float) -> None:
        if step % PROGRESS_EVERY == 0 or step == stage.spec.steps:
            sys.stderr.write(f"{stage.name}: step {step} of {stage.spec.steps}, loss {loss:.4f}\n")
        if step % stage.spec.checkpoint_every == 0:
            note()
        if time.monotonic() >= until:
            os.kill(os.getpid(), signal.SIGTERM)  # at which a training writes a checkpoint and ends

    try:
        with _counted((folder / stage.folder).parent, stage.name, device) as note:
            weights, _ = train_job(job, device, tell)
    except Interrupted:
        return False
    save_tensors(folder / stage.folder / WEIGHTS, weights)
    return True


def _draw(folder: Path, system: PackedSystem, device: torch.device, until: float) -> bool:
    """Draw what is not drawn yet, as many volumes as there is time for; returns whether none is left."""
    waiting = [r for r in system.recipes if not (folder / DRAWN / f"{r.name}.safetensors").exists()]
    if not waiting:
        return True
    model, spec = _open(folder, system, device, TOGETHER)
    with _counted(folder, DRAWN, device) as note:
        began, count = time.monotonic(), 0
        while count < len(waiting) and (now := time.monotonic()) < until:
            group = waiting[count : count + _together(count, now - began, until - now)]
            for drawn in draw_volumes(model, _recipes(folder, group, until), spec):
                path = folder / DRAWN / f"{drawn.name}.safetensors"
                path.parent.mkdir(exist_ok=True)
                with atomic(path) as building:
                    save_file({"slices": drawn.slices.half(), "borders": torch.tensor(drawn.borders)}, building)
                note()
            count += len(group)
    return all((folder / DRAWN / f"{recipe.name}.safetensors").exists() for recipe in system.recipes)


def _together(count: int, seconds: float, left: float) -> int:
    """Volumes to begin together, after `count` that took so many seconds: what is likely finished in those left.

    All of a group are finished before the next is begun; a piece that is ended meanwhile loses what is in flight.
    """
    return max(1, min(TOGETHER, int(count * left / seconds))) if count else AT_FIRST


def _recipes(folder: Path, waiting: list[RecipeFacts], until: float) -> Iterator[Recipe]:
    """Recipes, as long as there is time: what was begun is finished."""
    for facts in waiting:
        if time.monotonic() >= until:
            return
        tensors = load_file(folder / "recipes" / f"{facts.name}.safetensors")
        yield Recipe(
            name=facts.name,
            mask=tensors["mask"],
            outline=tensors["outline"],
            informed=tensors["informed"],
            p=facts.p,
            seed=facts.seed,
            condition=tensors.get("condition"),
        )


def _open(folder: Path, system: PackedSystem, device: torch.device, volumes: int) -> tuple[VolumeModel, SampleSpec]:
    """The network that draws, and the sampler with as many windows a call as a GPU's memory holds."""
    last, codec = system.trainings[-1], load_codec(folder / "codec", device)
    network = load_network(last.facts, folder / last.folder / WEIGHTS, device, codec)
    if KINDS[last.facts.kind].told != "conditions":
        raise BadInput(f"{folder}: the last training is of a {last.facts.kind} network, expected one that draws")
    spec, budget = system.sample, budget_on(device, None)
    if budget is not None:
        Z, H, W = next(_recipes(folder, list(system.recipes[:1]), math.inf)).mask.shape
        kl = codec.model if isinstance(codec, KL) else None
        fitting, _ = plan_drawing(network, kl, (H // codec.factor, W // codec.factor), budget)
        useful = windows_at_once([Z] * volumes, network.facts.condition, spec)
        spec = replace(spec, batch=max(1, min(fitting, useful)))
    return VolumeModel(network, codec, make_schedule(system.diffusion), system.labels, device), spec


@contextmanager
def _counted(folder: Path, name: str, device: torch.device) -> Iterator[Callable[[], None]]:
    """Add the seconds of the block, and the device, to what seconds.json holds: at its end, and at every call.

    So a piece that is killed loses no more than the seconds since the last call.
    """
    path, began = folder / SECONDS, time.monotonic()
    counted: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    before = counted.get(name, 0.0)
    here = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    counted["devices"] = sorted({here, *counted.get("devices", [])})

    def note() -> None:
        counted[name] = before + time.monotonic() - began
        with atomic(path) as building:
            building.write_text(json.dumps(counted))

    try:
        yield note
    finally:
        note()


def main() -> None:
    """One piece; ends with 0 when all is done and with 75 (try again) when something is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="one after the other")
    parser.add_argument("--seconds", type=float, default=540.0, help="of this piece, about")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    until = time.monotonic() + given.seconds
    done = all(work(folder, torch.device(given.device), until - time.monotonic()) for folder in given.folders)
    sys.stderr.write("all is done\n" if done else "something is left: give the same command again\n")
    sys.exit(0 if done else os.EX_TEMPFAIL)


if __name__ == "__main__":
    main()
