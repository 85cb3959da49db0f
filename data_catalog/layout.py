"""Laying an artifact's files out under their logical names: views to work from, exports to give away."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from data_catalog.digest import sound
from data_catalog.errors import Invalid
from data_catalog.refs import MANIFEST, Artifact
from data_catalog.store import ObjectStore


def view(artifact: Artifact, store: ObjectStore, folder: Path) -> Path:
    """The folder with the artifact's files: hard links to the read-only objects, copies where that cannot be.

    A folder that is there and whole is left alone; one whose files changed is built anew. It is built beside its
    place and renamed, so nobody sees half of it.

    Raises:
        Corrupt: an object is missing or damaged.
        Invalid: the place is taken by something that is no view.
    """
    if _whole(artifact, folder):
        return folder
    if folder.exists() and not folder.is_dir():
        raise Invalid(f"{folder} is not a folder; give another place for the view of {artifact.ref}")
    building = _beside(folder)
    try:
        for logical, entry in artifact.files.items():
            _link(store.local(entry), building / logical)
        _replace(building, folder, artifact)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def export(artifact: Artifact, paths: Mapping[str, Path], folder: Path) -> Path:
    """Copies of the files under their logical names, and `manifest.json` with all that is recorded of them.

    Raises:
        Invalid: the folder holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Invalid(f"{folder} is not an empty folder; give a new one for the export of {artifact.ref}")
    building = _beside(folder)
    try:
        for logical, source in paths.items():
            _copy(source, building / logical)
        (building / MANIFEST).write_text(manifest(artifact))
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def manifest(artifact: Artifact) -> str:
    """Everything that the catalog records of an artifact, as indented JSON."""
    recorded = dataclasses.asdict(artifact) | {"ref": artifact.ref.full, "created": artifact.created.isoformat()}
    return json.dumps(recorded, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _whole(artifact: Artifact, folder: Path) -> bool:
    return folder.is_dir() and all(sound(folder / logical, entry) for logical, entry in artifact.files.items())


def _beside(folder: Path) -> Path:
    building = folder.with_name(f".{folder.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    building.mkdir(parents=True)
    return building


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        _copy(source, target)
        target.chmod(0o444)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _replace(building: Path, folder: Path, artifact: Artifact) -> None:
    """Put the new folder in its place; a damaged one goes, one that another process just built stays."""
    try:
        building.rename(folder)
    except OSError:
        if _whole(artifact, folder):
            return
        aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}-old")
        folder.rename(aside)
        building.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
