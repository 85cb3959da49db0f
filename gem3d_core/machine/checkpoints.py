"""Checkpoints and models on disk: safetensors and JSON, written under a temporary name and renamed."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = Mapping[str, Tensor]


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
