"""The catalog: what exists, in which version, made by which run from which parents."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from data_catalog import layout, lineage, records
from data_catalog.audit import Verification, audit
from data_catalog.content import SUFFIX, digest_of_rows
from data_catalog.errors import Ambiguous, Corrupt, Invalid, NotFound
from data_catalog.frames import RESERVED, to_rows
from data_catalog.records import from_rows, latest, ref_of, to_list
from data_catalog.refs import Artifact, FileEntry, Ref, check_logical, check_name, listed, plain_mapping, version_of
from data_catalog.store import LocalStore, ObjectStore, readable
from data_catalog.tables import Tables
from data_catalog.working import WorkingFolders

if TYPE_CHECKING:
    import pandas as pd

TABLES = (records.TABLE, "volumes", "metrics", "losses", "draws")


class Catalog:
    """Artifacts of one place: a local folder or `s3://bucket/prefix`. Safe for several processes at once."""

    def __init__(self, address: str, store: ObjectStore, tables: Tables) -> None:
        self.address = address
        self._store = store
        self._tables = tables
        self.work = WorkingFolders(store.local_root / "work")
        self.memory = store.local_root / "memory"
        """Folder for what only this machine knows; whoever deletes it loses time, nothing else."""

    @classmethod
    def open(cls, address: str | Path) -> Catalog:
        """The catalog at a folder (made by the first write) or an S3 address.

        Raises:
            CatalogError: an S3 server that does not answer, a bucket that does not exist.
        """
        text = str(address)
        if text.startswith("s3://"):
            from data_catalog.s3 import open_s3

            remote, options = open_s3(text.rstrip("/"))
            return cls(text.rstrip("/"), remote, Tables(text.rstrip("/"), options))
        root = Path(text).expanduser().absolute()
        if "%" in str(root):
            raise Invalid(f"catalog {root}: a Delta table cannot lie in a folder with a % in its name; choose another")
        there = next(place for place in (root, *root.parents) if place.exists())
        if not there.is_dir():
            raise Invalid(f"catalog {root}: {there} is not a folder; give a folder or an s3:// address")
        return cls(str(root), LocalStore(root), Tables(str(root)))

    def put(
        self,
        kind: str,
        name: str,
        *,
        files: Mapping[str, Path],
        meta: Mapping[str, object],
        run_id: str,
        code_version: str,
        config_hash: str,
        seed: int,
        key: str,
        parents: Sequence[Ref | str] = (),
        tables: Mapping[str, pd.DataFrame] | None = None,
    ) -> Artifact:
        """Store content and record where it came from; files first, table rows next, the record last.

        Kind, name, files and meta are the content and make the version; what else must tell two versions apart
        belongs in one of them. Content that was put before under the same key returns its record and adds nothing;
        under another key it gains a second record. A put that was killed can simply be repeated. A `.parquet` file is
        the same content where its rows are, however they were written.

        Args:
            files: logical relative path (with `/`) to a local file, which is copied.
            meta: small JSON: finite numbers, text, lists, mappings with text keys.
            key: the stage key by which `find` will know the artifact.
            tables: rows for Delta tables; kind, name, version and run_id are added as columns.

        Raises:
            Invalid: a name, a path, the meta or a table cannot be stored; nothing was written then.
        """
        frames = self._checked(kind, name, files, tables or {})
        content = plain_mapping(meta)
        lines = tuple(self._exact(parent).full for parent in parents)
        entries = {logical: self._add(logical, Path(files[logical])) for logical in sorted(files)}
        artifact = Artifact(
            kind=kind,
            name=name,
            version=version_of(kind, name, entries, content),
            created=datetime.now(UTC),
            run_id=run_id,
            code_version=code_version,
            config_hash=config_hash,
            seed=seed,
            key=key,
            parents=lines,
            meta=content,
            files=entries,
        )
        return self._commit(artifact, frames)

    def find(self, key: str) -> Artifact | None:
        """The newest artifact that was put under this stage key and whose files are all present."""
        for artifact in self._records({"key": key}):
            if not self._store.missing(artifact.files.values()):
                return artifact
        return None

    def get(self, ref: Ref | str) -> Artifact:
        """The artifact of a reference: the newest version where it names none; a version may be a prefix.

        Raises:
            NotFound: nothing has this reference.
            Ambiguous: several versions begin with the prefix.
        """
        wanted = Ref.parse(ref) if isinstance(ref, str) else ref
        rows = to_list(self._tables.read(records.TABLE, where={"kind": wanted.kind, "name": wanted.name}))
        fitting = latest(row for row in rows if row["version"].startswith(wanted.version or ""))
        if not fitting:
            raise NotFound(self._unknown(wanted, list(latest(rows))))
        if wanted.version and len(fitting) > 1:
            raise Ambiguous(f"{wanted} fits {listed([ref_of(row) for row in fitting.values()])}; give more digits")
        return from_rows(fitting.values())[0]

    def path(self, artifact: Artifact, logical: str) -> Path:
        """A local, read-only file with the verified bytes of one of the artifact's files.

        Raises:
            NotFound: the artifact has no such file.
            Corrupt: the bytes are missing or damaged.
        """
        if logical not in artifact.files:
            near = difflib.get_close_matches(logical, artifact.files, 3, 0.3) or sorted(artifact.files)[:3]
            raise NotFound(f"{artifact.ref} has no file {logical!r}; nearest: {listed(near)}")
        try:
            return self._store.local(artifact.files[logical])
        except Corrupt as error:
            raise Corrupt(
                f"{artifact.ref} {logical}: {error}; restore it from a backup, or run the stage that made it again "
                "without its cache"
            ) from error

    def paths(self, artifact: Artifact, prefix: str = "") -> dict[str, Path]:
        """`path` of every file whose logical name begins with `prefix`, in the order of the names."""
        return {name: self.path(artifact, name) for name in sorted(artifact.files) if name.startswith(prefix)}

    def table(self, name: str, where: Artifact | Ref | str | None = None) -> pd.DataFrame:
        """Rows of a Delta table, of one artifact or of all; rows of a put that never finished are left out.

        Raises:
            NotFound: no table has this name, or no artifact has this name or version prefix.
        """
        known = set(self._tables.count(records.TABLE, "version"))
        rows = self._tables.read(name, where={} if where is None else {"version": str(self._exact(where).version)})
        if rows is None:
            return _empty(name)
        import pyarrow as pa

        frame: pd.DataFrame = pa.table(rows).to_pandas()
        return frame[frame["version"].isin(known)].reset_index(drop=True)

    def ls(self, kind: str | None = None, name: str | None = None) -> list[Artifact]:
        """One artifact for each version, the newest first."""
        where = {column: value for column, value in (("kind", kind), ("name", name)) if value is not None}
        return from_rows(latest(to_list(self._tables.read(records.TABLE, where=where))).values())

    def lineage(self, ref: Artifact | Ref | str) -> list[tuple[int, Artifact | Ref]]:
        """The artifact (depth 0) and all it descends from, each once; a bare `Ref` is a parent not held here.

        Of content that was put more than once the newest record tells the parents, but for an artifact that is given.

        Raises:
            NotFound, Ambiguous: as `get`.
        """
        start = self._exact(ref)
        known = {artifact.version: artifact for artifact in self.ls()}
        if isinstance(ref, Artifact):
            known[ref.version] = ref  # the same content may have been made more than once, from different parents
        if start.version not in known:
            raise NotFound(self._unknown(start, []))
        return lineage.upward(start.version, known)

    def children(self, ref: Artifact | Ref | str) -> list[Artifact]:
        """The artifacts that were made directly from this one, the newest first."""
        return lineage.downward(str(self._exact(ref).version), self.ls())

    def verify(self) -> Verification:
        """Hash every object again and look for every file and table row that a record names."""
        artifacts, rows, unreadable = [], {}, []
        try:
            artifacts = list({(each.version, each.key): each for each in reversed(self._records({}))}.values())
        except Corrupt as error:
            unreadable.append(str(error))
        for table in sorted({table for artifact in artifacts for table in artifact.tables}):
            try:
                rows[table] = self._tables.count(table, "version")
            except Corrupt as error:
                unreadable.append(str(error))
        return audit(artifacts, self._store, rows, unreadable)

    def export(self, ref: Artifact | Ref | str, folder: Path) -> Path:
        """Copy an artifact's files to a new or empty folder, with its record as `manifest.json`.

        Raises:
            Invalid: the folder is not empty.
            NotFound, Ambiguous, Corrupt: as `get` and `path`.
        """
        artifact = ref if isinstance(ref, Artifact) else self.get(ref)
        return layout.export(artifact, self.paths(artifact), Path(folder).absolute())

    def view(self, artifact: Artifact, folder: Path | None = None, *, part: str = "") -> Path:
        """A folder with the files under their logical names, read-only; made once and reused.

        Args:
            part: only the files of this folder of the artifact, so that no others are fetched and hashed.

        Raises:
            Corrupt: as `path`.
        """
        place = self._store.local_root / "views" / artifact.kind / str(artifact.ref).rpartition("/")[2]
        if part:
            place = place.with_name(f"{place.name}.{part}")
            files = {name: entry for name, entry in artifact.files.items() if name.startswith(f"{part}/")}
            artifact = dataclasses.replace(artifact, files=files)
        return layout.view(artifact, self._store, (folder or place).absolute())

    def _checked(
        self, kind: str, name: str, files: Mapping[str, Path], tables: Mapping[str, pd.DataFrame]
    ) -> dict[str, pd.DataFrame]:
        """The tables that have rows, after everything about the put that can be wrong was looked at."""
        check_name(kind, "kind")
        check_name(name, "name")
        check_logical(files)
        frames = {table: frame for table, frame in tables.items() if len(frame)}
        for table, frame in frames.items():
            if check_name(table, "table") == records.TABLE:
                raise Invalid(f"table {table!r} is the catalog's own; choose another name")
            self._tables.check(table, to_rows(frame, table, dict.fromkeys(RESERVED, "")))
        return frames

    def _add(self, logical: str, source: Path) -> FileEntry:
        entry = self._store.add(source)
        rows = digest_of_rows(self._store.local(entry)) if logical.endswith(SUFFIX) else None
        return dataclasses.replace(entry, rows=rows)

    def _commit(self, artifact: Artifact, frames: Mapping[str, pd.DataFrame]) -> Artifact:
        counts = {table: self._append(table, frame, artifact) for table, frame in frames.items()}
        once = {"version": artifact.version, "key": artifact.key}
        row = records.to_row(dataclasses.replace(artifact, tables=counts))
        self._tables.append(records.TABLE, row, once)
        record = self._records(once)[0]
        if not readable(self._store, [entry for name, entry in record.files.items() if entry != artifact.files[name]]):
            # the same rows were put before as other bytes, which were lost
            self._tables.append(records.TABLE, row, once | {"files": row["files"][0].as_py()})
            record = self._records(once)[0]
        return record

    def _records(self, where: Mapping[str, str]) -> list[Artifact]:
        """Every record, the newest first."""
        return from_rows(to_list(self._tables.read(records.TABLE, where=where)))

    def _append(self, table: str, frame: pd.DataFrame, artifact: Artifact) -> int:
        stamp = {field: str(getattr(artifact, field)) for field in RESERVED}
        return self._tables.append(table, to_rows(frame, table, stamp), {"version": artifact.version})

    def _exact(self, ref: Artifact | Ref | str) -> Ref:
        """The reference with its whole version, looked up only where it is not whole yet."""
        if isinstance(ref, Artifact):
            return ref.ref
        wanted = Ref.parse(ref) if isinstance(ref, str) else ref
        return wanted if wanted.exact else self.get(wanted).ref

    def _unknown(self, wanted: Ref, versions: Sequence[str]) -> str:
        """What to say of a reference that fits nothing: the versions of its name, or the nearest names."""
        if versions:
            held = listed([Ref(wanted.kind, wanted.name, version) for version in versions])
            return f"{wanted} has no such version in {self.address}; it has {held}"
        rows = to_list(self._tables.read(records.TABLE, columns=["kind", "name", "version", "created"]))
        names = list(dict.fromkeys(f"{row['kind']}/{row['name']}" for row in rows))
        if not names:
            return f"{wanted} is not in {self.address}, which holds nothing yet; check the catalog's address"
        near = difflib.get_close_matches(f"{wanted.kind}/{wanted.name}", names, 3, 0.3) or names[:3]
        return f"{wanted} is not in {self.address}; nearest: {listed(near)}; `gem3d catalog ls` shows all"


def _empty(name: str) -> pd.DataFrame:
    if name not in TABLES:
        raise NotFound(f"no table {name!r}; the catalog's tables are {listed(TABLES)}")
    import pandas as pd

    return pd.DataFrame({column: pd.Series(dtype="str") for column in RESERVED})
