"""The nouns of the catalog: what an artifact is, and how it is referred to."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath

from data_catalog.errors import Invalid

MANIFEST = "manifest.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = re.compile(r"[0-9a-f]{1,64}")
_SHORT = 12


@dataclass(frozen=True)
class Ref:
    """A reference `kind/name` (the newest version) or `kind/name@version` (a version or a prefix of one)."""

    kind: str
    name: str
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Read `kind/name` or `kind/name@version`.

        Raises:
            Invalid: the text has another form.
        """
        place, at, version = text.strip().partition("@")
        kind, slash, name = place.partition("/")
        if not slash or not _NAME.fullmatch(kind) or not _NAME.fullmatch(name):
            raise Invalid(f"reference {text!r}: expected kind/name or kind/name@version, as in model/slice@1a2b3c")
        if at and not _VERSION.fullmatch(version):
            raise Invalid(f"reference {text!r}: a version is 1 to 64 lower-case hexadecimal digits")
        return cls(kind, name, version or None)

    @property
    def full(self) -> str:
        """The reference with the whole version, as parents are recorded."""
        return f"{self.kind}/{self.name}" + (f"@{self.version}" if self.version else "")

    @property
    def exact(self) -> bool:
        """Whether the version is whole, so that it can mean one artifact only."""
        return self.version is not None and len(self.version) == 64

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}" + (f"@{self.version[:_SHORT]}" if self.version else "")


@dataclass(frozen=True)
class FileEntry:
    """One stored object: the sha256 (hex) of its bytes, their number, and of a Parquet file a digest of its rows."""

    sha256: str
    size: int
    rows: str | None = None

    @property
    def content(self) -> str:
        """What tells this file from others: the digest of its rows where there is one, else that of its bytes."""
        return self.rows or self.sha256


@dataclass(frozen=True)
class Artifact:
    """What one put recorded: the content (kind, name, files, meta) and where it came from.

    `version` is the sha256 of the content only; `created` (UTC), run, code, configuration, seed, stage key and
    parents tell how this record of it came about. `tables` counts the rows the artifact has in each Delta table.
    """

    kind: str
    name: str
    version: str
    created: datetime
    run_id: str
    code_version: str
    config_hash: str
    seed: int
    key: str
    parents: tuple[str, ...]
    meta: Mapping[str, object]
    files: Mapping[str, FileEntry]
    tables: Mapping[str, int] = field(default_factory=dict)

    @property
    def ref(self) -> Ref:
        return Ref(self.kind, self.name, self.version)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())


def version_of(kind: str, name: str, files: Mapping[str, FileEntry], meta: Mapping[str, object]) -> str:
    """Sha256 (hex) of the canonical JSON of the content; times, runs and seeds are not part of it.

    Files written by other versions of a library are the same content where they hold the same rows.
    """
    listing = [[logical, files[logical].content] for logical in sorted(files)]
    content = {"kind": kind, "name": name, "files": listing, "meta": plain_mapping(meta)}
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def canonical(value: object) -> str:
    """JSON text that is the same for the same value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def plain(value: object, where: str = "meta") -> object:
    """The value as JSON knows it (tuples become lists).

    Raises:
        Invalid: something in it has no exact JSON form; the message names the place.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{place}]") for place, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return plain_mapping(value, where)
    raise Invalid(
        f"{where}: {value!r} ({type(value).__name__}) has no JSON form; give finite numbers, text, lists "
        "or mappings with text keys"
    )


def plain_mapping(values: Mapping[str, object], where: str = "meta") -> dict[str, object]:
    """`plain` of each value."""
    return {key: plain(item, f"{where}.{key}") for key, item in values.items()}


def listed(items: Sequence[object]) -> str:
    """The first few, for a message."""
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return ", ".join(str(item) for item in items[:5]) + more


def check_name(text: str, what: str) -> str:
    """The text itself if it can stand in a reference, a folder name and an address.

    Raises:
        Invalid: it holds other characters than letters, digits, dot, dash and underscore.
    """
    if not _NAME.fullmatch(text):
        raise Invalid(f"{what} {text!r}: expected letters, digits, '.', '_' or '-', starting with a letter or digit")
    return text


def check_logical(paths: Mapping[str, object]) -> None:
    """Refuse logical names that could not be laid out as one folder.

    Raises:
        Invalid: an absolute path, `..`, a reserved name, or a file that is also a folder.
    """
    for logical in paths:
        parts = logical.split("/")
        if "\\" in logical or "\0" in logical or any(part in ("", ".", "..") for part in parts):
            raise Invalid(f"file name {logical!r}: expected a relative path with '/' and without '.' or '..'")
        if logical == MANIFEST:
            raise Invalid(f"file name {logical!r} is what an export writes itself; choose another name")
        if inside := next((str(up) for up in PurePosixPath(logical).parents if str(up) in paths), None):
            raise Invalid(f"file name {inside!r} is also the folder of {logical!r}; rename one of them")
