"""Hashing and durable writing of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from data_catalog.refs import FileEntry

_BLOCK = 1 << 20

# (device, inode, mtime in ns, size, sha256) of files whose bytes this process has already hashed; by inode, so that
# an object and the hard links of a view are hashed once.
_seen: set[tuple[int, int, int, int, str]] = set()


def sha256_of(path: Path) -> str:
    """Sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def copy_hashed(source: BinaryIO, target: BinaryIO) -> FileEntry:
    """Copy a stream and hash exactly the bytes that were written."""
    digest, size = hashlib.sha256(), 0
    while block := source.read(_BLOCK):
        digest.update(block)
        target.write(block)
        size += len(block)
    return FileEntry(digest.hexdigest(), size)


def sound(path: Path, entry: FileEntry) -> bool:
    """Whether the file is there with the bytes of `entry`; an unchanged file is hashed once per process."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if found.st_size != entry.size:
        return False
    mark = _mark(found, entry.sha256)
    if mark not in _seen:
        if sha256_of(path) != entry.sha256:
            return False
        _seen.add(mark)
    return True


def trust(path: Path, sha256: str) -> None:
    """Take a file as hashed: its bytes were, when this process wrote them."""
    _seen.add(_mark(path.stat(), sha256))


def _mark(found: os.stat_result, sha256: str) -> tuple[int, int, int, int, str]:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size, sha256


def settle(path: Path) -> None:
    """Force a file or a folder entry to the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
