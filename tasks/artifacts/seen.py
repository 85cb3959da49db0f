"""Files outside the catalog by their content, each read once: hashes are remembered beside the catalog."""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_catalog import Catalog
from gem3d_core.machine.files import read_json, write_text

MEMORY = "hashes.json"


class SeenFiles:
    """SHA-256 of files, by inode, size, and times of change of what their paths lead to.

    A file that was moved is known, one of which anything changed is read again. What is remembered belongs to this
    machine and may be deleted at any time.
    """

    def __init__(self, memory: Path) -> None:
        self._file = memory / MEMORY
        self._known = _read(self._file)

    @classmethod
    def beside(cls, catalog: Catalog) -> "SeenFiles":
        """Those that are remembered beside a catalog."""
        return cls(catalog.memory)

    def known(self, path: Path) -> str | None:
        """The hash of a file that was read before and has not changed since; None for any other."""
        entry = self._known.get(_mark(path))
        return entry[0] if entry else None

    def read(self, paths: Iterable[Path], threads: int = 1) -> None:
        """Hash what is not known yet, and remember it and where every file lies now."""
        listed = list(paths)
        fresh = [path for path in listed if self.known(path) is None]
        with ThreadPoolExecutor(max(1, threads)) as pool:
            digests = dict(zip(fresh, pool.map(hash_file, fresh), strict=True))
        told = {_mark(path): [self.known(path) or digests[path], str(path)] for path in listed}
        if any(self._known.get(mark) != entry for mark, entry in told.items()):
            self._known |= told
            write_text(self._file, json.dumps(self._known), durable=False)

    def folder(self, folder: Path) -> dict[str, str] | None:
        """Hashes of all files in a folder, by their paths within it; None where one is not known."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        found = {str(path.relative_to(folder)): self.known(path) for path in paths}
        known = {name: digest for name, digest in found.items() if digest is not None}
        return known if len(known) == len(found) else None

    def find(self, sha256: str) -> Path | None:
        """A file with this content, where it was seen last and still lies unchanged."""
        places = (Path(path) for digest, path in self._known.values() if digest == sha256)
        return next((path for path in places if path.is_file() and self.known(path) == sha256), None)


def hash_file(path: Path) -> str:
    """SHA-256 of a file that a stage reads from outside the catalog."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _mark(path: Path) -> str:
    status = os.stat(path)  # noqa: PTH116 - of what a link leads to
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _read(file: Path) -> dict[str, list[str]]:
    """What is remembered; nothing where the file is missing, empty or torn."""
    known: dict[str, list[str]] | None = read_json(file)
    return known or {}
