"""The object store on S3 and compatible servers (MinIO and others), through pyarrow."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from data_catalog.digest import copy_hashed
from data_catalog.errors import CatalogError, Corrupt, Invalid
from data_catalog.refs import FileEntry
from data_catalog.store import LocalStore

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem

_DISCARD = Path(os.devnull)


class S3Store:
    """Objects in a bucket, with a local read-only copy of each one that was put or read here.

    An S3 upload appears whole when it completes, so the object is written under its final name; an upload that
    broke off shows by its size, which `missing` compares.
    """

    def __init__(self, filesystem: S3FileSystem, base: str, cache: LocalStore) -> None:
        self.filesystem = filesystem
        self.base = base
        self.cache = cache

    @property
    def local_root(self) -> Path:
        return self.cache.root

    def object_path(self, sha256: str) -> str:
        return f"{self.base}/objects/{sha256[:2]}/{sha256}"

    def add(self, source: Path) -> FileEntry:
        entry = self.cache.add(source)
        if self.missing([entry]) or self.digest(entry.sha256) != entry.sha256:
            with (
                self.cache.local(entry).open("rb") as stream,
                self.filesystem.open_output_stream(self.object_path(entry.sha256)) as target,
            ):
                copy_hashed(stream, target)
        return entry

    def local(self, entry: FileEntry) -> Path:
        try:
            return self.cache.local(entry)
        except Corrupt:
            return self._fetch(entry)

    def missing(self, entries: Iterable[FileEntry]) -> set[str]:
        wanted = list(entries)
        found = self.filesystem.get_file_info([self.object_path(entry.sha256) for entry in wanted])
        pairs = zip(wanted, found, strict=True)
        return {entry.sha256 for entry, info in pairs if not info.is_file or info.size != entry.size}

    def stored(self) -> dict[str, int]:
        from pyarrow.fs import FileSelector

        everything = FileSelector(f"{self.base}/objects", recursive=True, allow_not_found=True)
        found = [info for info in self.filesystem.get_file_info(everything) if info.is_file]
        return {info.base_name: info.size for info in found if info.path == self.object_path(info.base_name)}

    def digest(self, sha256: str) -> str:
        with self.filesystem.open_input_stream(self.object_path(sha256)) as stream, _DISCARD.open("wb") as nowhere:
            return copy_hashed(stream, nowhere).sha256

    def _fetch(self, entry: FileEntry) -> Path:
        where = f"s3://{self.object_path(entry.sha256)}"
        try:
            with self.filesystem.open_input_stream(self.object_path(entry.sha256)) as stream:
                got = self.cache.receive(stream)
        except FileNotFoundError:
            raise Corrupt(f"object {where} ({entry.size} bytes) is missing") from None
        if got.sha256 != entry.sha256:
            raise Corrupt(f"object {where} has other bytes than were put (sha256 {got.sha256[:12]}, {got.size} bytes)")
        return self.cache.local(entry)


def open_s3(address: str, environment: Mapping[str, str] = os.environ) -> tuple[S3Store, dict[str, str]]:
    """The store behind `s3://bucket/prefix`, and the storage options that Delta tables there need.

    Credentials come from where the AWS tools look; the server from AWS_ENDPOINT_URL; local copies go under
    GEM3D_SCRATCH or the user's cache folder.

    Raises:
        Invalid: the address has no bucket.
        CatalogError: the server does not answer or the bucket does not exist.
    """
    from pyarrow.fs import FileType, S3FileSystem

    parts = urlsplit(address)
    if not parts.netloc:
        raise Invalid(f"catalog address {address!r}: expected s3://bucket/prefix")
    endpoint, region = _server(environment)
    base = "/".join(piece for piece in (parts.netloc, parts.path.strip("/")) if piece)
    server = urlsplit(endpoint)
    chosen = {"endpoint_override": server.netloc, "scheme": server.scheme} if endpoint else {}
    try:
        filesystem = S3FileSystem(region=region, **chosen)
        known = filesystem.get_file_info(parts.netloc).type is not FileType.NotFound
    except OSError as error:
        raise CatalogError(
            f"catalog {address}: the server does not answer ({_first_line(error)}); check AWS_ENDPOINT_URL, "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
        ) from error
    if not known:
        raise CatalogError(f"catalog {address}: there is no bucket {parts.netloc!r}; create it or correct the address")
    return S3Store(filesystem, base, LocalStore(_cache_folder(address, environment))), _delta(endpoint, region)


def _server(environment: Mapping[str, str]) -> tuple[str, str]:
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    return endpoint, region


def _delta(endpoint: str, region: str) -> dict[str, str]:
    options = {"AWS_REGION": region, "conditional_put": "etag"}
    if endpoint:
        options |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": str(endpoint.startswith("http:")).lower()}
    return options


def _cache_folder(address: str, environment: Mapping[str, str]) -> Path:
    chosen = environment.get("GEM3D_SCRATCH")
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gem3d"
    return (Path(chosen) if chosen else cache) / hashlib.sha256(address.encode()).hexdigest()[:16]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
