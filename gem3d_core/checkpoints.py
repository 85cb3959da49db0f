"""Checkpoints and models on disk: safetensors and JSON, written under a temporary name and renamed."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gem3d_core.files import atomic
from gem3d_core.settings import ConditionSpec, NetworkFacts, UNetSpec

Tensors = Mapping[str, Tensor]


def save_network(folder: Path, facts: NetworkFacts, weights: Tensors) -> None:
    """Write network.json and then weights.safetensors into a folder of their own: where those are, both are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / "network.json") as building:
        building.write_text(json.dumps(asdict(facts), indent=1, sort_keys=True))
    with atomic(folder / "weights.safetensors") as building:
        save_file({name: t.detach().cpu().contiguous() for name, t in weights.items()}, building)


def load_facts(path: Path) -> NetworkFacts:
    """The facts of a network.json."""
    return facts_from(json.loads(path.read_text()))


def facts_from(values: dict[str, Any]) -> NetworkFacts:
    """Facts of plain values, as `dataclasses.asdict` and JSON leave them."""
    plain = values | {
        "unet": UNetSpec(**_tuples(values["unet"])),
        "condition": ConditionSpec(**_tuples(values["condition"])),
    }
    return NetworkFacts(**plain)


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows lists only."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def save_checkpoint(folder: Path, step: int, groups: Mapping[str, Tensors], facts: Mapping[str, object]) -> None:
    """Write step-NNNNNNNN with a safetensors file per group and facts.json; then drop the older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{step:08d}"
    for abandoned in folder.glob(".building-*"):
        shutil.rmtree(abandoned)
    building = folder / f".building-{os.getpid()}"
    building.mkdir()
    for group, tensors in groups.items():
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in tensors.items()},
            building / f"{group}.safetensors",
        )
    (building / "facts.json").write_text(json.dumps({"step": step, **facts}))
    for file in building.iterdir():
        _fsync(file)
    _fsync(building)
    shutil.rmtree(target, ignore_errors=True)
    building.rename(target)
    _fsync(folder)
    for old in sorted(folder.glob("step-*"))[:-1]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path) -> tuple[int, dict[str, dict[str, Tensor]]] | None:
    """(step, groups) of the newest checkpoint in a folder, or None."""
    found = sorted(folder.glob("step-*"))
    if not found:
        return None
    step = json.loads((found[-1] / "facts.json").read_text())["step"]
    return step, {file.stem: load_file(file) for file in found[-1].glob("*.safetensors")}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts of an AdamW as named tensors."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{name}": torch.as_tensor(t) for index, entry in state.items() for name, t in entry.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Tensors) -> None:
    """The inverse of `optimiser_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
