"""Object stores: files under the sha256 of their bytes, written whole or not at all."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Protocol

from data_catalog.digest import copy_hashed, settle, sha256_of, sound, trust
from data_catalog.errors import Corrupt, Invalid
from data_catalog.refs import FileEntry

_READ_ONLY = 0o444
_STALE_SECONDS = 24 * 3600


class ObjectStore(Protocol):
    """Where the bytes of artifacts lie."""

    @property
    def local_root(self) -> Path:
        """A local folder beside the objects for views and scratch."""
        ...

    def add(self, source: Path) -> FileEntry:
        """Store a file; on return its bytes are durable. Bytes that are already there are not written twice.

        Raises:
            Invalid: `source` is not a readable regular file.
        """
        ...

    def local(self, entry: FileEntry) -> Path:
        """A read-only local file with exactly these bytes.

        Raises:
            Corrupt: the object is missing or its bytes have another hash.
        """
        ...

    def missing(self, entries: Iterable[FileEntry]) -> set[str]:
        """The hashes of those entries that are not stored at their full size (the bytes are not read)."""
        ...

    def stored(self) -> dict[str, int]:
        """Name (a sha256) and size in bytes of every stored object."""
        ...

    def digest(self, sha256: str) -> str:
        """Sha256 of the bytes that are stored under this name."""
        ...


def readable(store: ObjectStore, entries: Iterable[FileEntry]) -> bool:
    """Whether all these objects are stored with the bytes that were put."""
    wanted = list(entries)
    try:
        for entry in wanted:
            store.local(entry)
    except Corrupt:
        return False
    return not store.missing(wanted)


class LocalStore:
    """Objects in a local folder: `objects/ab/<sha256>`, read-only files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._swept = False

    @property
    def local_root(self) -> Path:
        return self.root

    def object_path(self, sha256: str) -> Path:
        return self.root / "objects" / sha256[:2] / sha256

    def add(self, source: Path) -> FileEntry:
        if not source.is_file():
            raise Invalid(f"{source} is not a file; an artifact is made of regular files that exist")
        if source == self.object_path(source.name):  # what one artifact takes over from another is not copied again
            entry = FileEntry(source.name, source.stat().st_size)
            if sound(source, entry):
                return entry
        with source.open("rb") as stream:
            return self.receive(stream)

    def receive(self, stream: BinaryIO) -> FileEntry:
        """Store a stream's bytes: temporary name, fsync, rename, fsync of the folder."""
        temporary = self._temporary()
        try:
            with temporary.open("xb") as target:
                entry = copy_hashed(stream, target)
            if not sound(self.object_path(entry.sha256), entry):
                self._adopt(temporary, entry)
        finally:
            temporary.unlink(missing_ok=True)
        return entry

    def local(self, entry: FileEntry) -> Path:
        path = self.object_path(entry.sha256)
        if not sound(path, entry):
            state = "has other bytes than were put" if path.exists() else "is missing"
            raise Corrupt(f"object {path} ({entry.size} bytes) {state}")
        return path

    def missing(self, entries: Iterable[FileEntry]) -> set[str]:
        return {entry.sha256 for entry in entries if self._size(entry.sha256) != entry.size}

    def stored(self) -> dict[str, int]:
        found = (self.root / "objects").glob("[0-9a-f][0-9a-f]/*")
        return {path.name: path.stat().st_size for path in found if path == self.object_path(path.name)}

    def digest(self, sha256: str) -> str:
        return sha256_of(self.object_path(sha256))

    def _size(self, sha256: str) -> int | None:
        try:
            return self.object_path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def _adopt(self, temporary: Path, entry: FileEntry) -> None:
        target = self.object_path(entry.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.chmod(_READ_ONLY)
        settle(temporary)
        temporary.replace(target)
        settle(target.parent)
        settle(target.parent.parent)
        trust(target, entry.sha256)

    def _temporary(self) -> Path:
        folder = self.root / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        self._sweep(folder)
        return folder / f"{os.getpid()}-{uuid.uuid4().hex}"

    def _sweep(self, folder: Path) -> None:
        """Remove what writers that were killed left here; no write lasts a day."""
        if self._swept:
            return
        self._swept = True
        limit = time.time() - _STALE_SECONDS
        for path in folder.iterdir():
            try:
                if path.stat().st_mtime < limit:
                    path.unlink()
            except FileNotFoundError:
                continue  # its own writer, or another sweep, was faster
