"""Tensors and checkpoints on disk, each there whole or not at all."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gem3d_core.machine.files import atomic, read_json

Tensors = Mapping[str, Tensor]


def save_tensors(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, by `atomic`."""
    with atomic(path) as building:
        save_file(_plain(tensors), building, metadata)


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a safetensors file; None where it is missing, empty or torn."""
    return load_file(path) if read_metadata(path) is not None else None


def read_metadata(path: Path) -> dict[str, str] | None:
    """The texts beside the tensors, which are not read; None where the file is missing, empty or torn."""
    try:
        with safe_open(path, framework="pt") as stored:
            return stored.metadata() or {}
    except (FileNotFoundError, SafetensorError):
        return None


def save_checkpoint(folder: Path, step: int, groups: Mapping[str, Tensors], facts: Mapping[str, object]) -> None:
    """Write step-NNNNNNNN with a safetensors file per group and facts.json; then drop all others."""
    for abandoned in folder.glob(".*/"):
        shutil.rmtree(abandoned)
    target = folder / f"step-{step:08d}"
    with atomic(target) as building:
        building.mkdir()
        for group, tensors in groups.items():
            save_file(_plain(tensors), building / f"{group}.safetensors")
        (building / "facts.json").write_text(json.dumps({"step": step, **facts}))
    for other in folder.glob("step-*"):
        if other != target:
            shutil.rmtree(other)


def load_checkpoint(folder: Path) -> tuple[int, dict[str, dict[str, Tensor]]] | None:
    """(step, groups) of the newest checkpoint in a folder that is whole, or None."""
    for found in sorted(folder.glob("step-*"), reverse=True):
        files = list(found.glob("*.safetensors"))
        facts = read_json(found / "facts.json")
        if facts is not None and all(read_metadata(file) is not None for file in files):
            return facts["step"], {file.stem: load_file(file) for file in files}
    return None


def _plain(tensors: Tensors) -> dict[str, Tensor]:
    """As safetensors takes them."""
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


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
