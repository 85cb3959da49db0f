"""Files and folders that are there whole or not at all, also after a kill or a power cut."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A new name beside `path`, at which the block writes a file or a folder that then takes the place of `path`.

    Content and name are on the disk when the block has ended. Where it fails, what it wrote is removed and what was
    at `path` stays. durable: False where a power cut may cost the content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        yield building
        put_in_place(building, path, durable=durable)
    except BaseException:
        _remove(building)
        raise


def put_in_place(building: Path, path: Path, *, durable: bool = True) -> None:
    """Give a file or folder that is whole the name `path`, in place of what is there.

    It is on the disk before it has the name. durable: False where a power cut may cost the content.
    """
    if durable:
        sync_all(building)
    if building.is_dir() and path.is_dir():
        shutil.rmtree(path)
    building.replace(path)
    if durable:
        _sync(path.parent)


def sync_all(path: Path) -> None:
    """Force a file, or a folder with all that is in it, to the disk."""
    for each in (path, *(path.rglob("*") if path.is_dir() else ())):
        if not each.is_symlink():
            _sync(each)


def write_bytes(path: Path, data: bytes) -> None:
    """The bytes as a file, by `atomic`."""
    with atomic(path) as building:
        building.write_bytes(data)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """The text as a file, by `atomic`."""
    with atomic(path, durable=durable) as building:
        building.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, *, indent: int | None = None) -> None:
    """The value as a JSON file, by `atomic`."""
    write_text(path, json.dumps(value, indent=indent))


def read_json(path: Path) -> Any:
    """The value of a JSON file; None where the file is missing, empty or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
