"""The Delta tables of a catalog: appended exactly once, by any number of processes."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from data_catalog.digest import settle
from data_catalog.errors import CatalogError, Corrupt
from data_catalog.frames import align

if TYPE_CHECKING:
    import arro3.core
    import pyarrow as pa
    from deltalake import DeltaTable

# Every put is a commit of its own and so a Parquet file of its own: readers slow down with their number.
_COMPACT_ABOVE = 32
_ATTEMPTS = 12


class Tables:
    """The tables under one address (a folder or `s3://bucket/prefix`), each named by its last path element."""

    def __init__(self, address: str, options: Mapping[str, str] | None = None) -> None:
        """`options` are what deltalake needs to reach a remote address."""
        self.address = address
        self.options = dict(options or {})

    def read(
        self, name: str, columns: list[str] | None = None, where: Mapping[str, str] | None = None
    ) -> arro3.core.Table | None:
        """Rows of one table, only those whose text columns equal `where`; None where there is no table yet.

        deltalake reads by itself: the import of pyarrow takes longer than the reading of a catalog.

        Raises:
            Corrupt: a file of the table is missing or damaged, or the storage does not answer.
        """
        try:
            table = self._load(name)
            return None if table is None else self._rows(table, columns, where or {})
        except Exception as error:  # deltalake raises bare ones where a file of a table is damaged
            reason = str(error).partition("\n")[0]
            raise Corrupt(
                f"tables/{name} of {self.address} cannot be read ({reason}); restore its folder from a backup"
            ) from error

    def count(self, name: str, column: str) -> Counter[str]:
        """How many rows of a table have each value of a column.

        Raises:
            Corrupt: as `read`.
        """
        rows = self.read(name, columns=[column])
        return Counter([] if rows is None else rows[column].to_pylist())

    def check(self, name: str, rows: pa.Table) -> None:
        """Find out, before anything is written, whether the rows fit the stored columns.

        Raises:
            Invalid: they do not.
        """
        if (table := self._load(name)) is not None:
            align(rows, _schema(table), name)

    def append(self, name: str, rows: pa.Table, once: Mapping[str, str]) -> int:
        """Append the rows in one commit unless rows that equal `once` are there; how many there are now.

        Two processes that append the same at the same moment collide in the log (both name the transaction after
        `once`); the loser looks again and finds the rows.

        Raises:
            Invalid: a column's type does not fit the stored one.
            CatalogError: other writers won every attempt, or the storage refused.
        """
        from deltalake.exceptions import CommitFailedError, DeltaError

        for attempt in range(_ATTEMPTS):
            try:
                table = self._load(name) or self._create(name, rows.schema)
                if standing := self._rows(table, list(once), once).num_rows:
                    return standing
                self._commit(name, table, rows, once)
            except CommitFailedError as error:
                _back_off(attempt, name, error)
            except (DeltaError, OSError) as error:
                raise CatalogError(f"table {name} in {self.address}: {error}") from error
            else:
                return int(rows.num_rows)
        raise AssertionError("unreachable: the last attempt raises")

    def _uri(self, name: str) -> str:
        return self._folder(name).as_uri() if self._local else f"{self.address}/tables/{name}"

    def _folder(self, name: str) -> Path:
        """Where a local table lies."""
        return Path(self.address) / "tables" / name

    @property
    def _local(self) -> bool:
        return "://" not in self.address

    def _load(self, name: str) -> DeltaTable | None:
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            return DeltaTable(self._uri(name), storage_options=self.options or None)
        except TableNotFoundError:
            return None

    def _rows(self, table: DeltaTable, columns: list[str] | None, where: Mapping[str, str]) -> arro3.core.Table:
        from arro3.core import Table

        terms = [f"{column} = {_literal(value)}" for column, value in where.items()]
        reader = table.scan(columns, " AND ".join(terms) or None)
        return reader.read_all() if self._local else Table.from_arrow(_read_remote(reader))

    def _create(self, name: str, schema: pa.Schema) -> DeltaTable:
        """The table without rows. Making it is a step of its own, because an append that also makes the table does
        not collide with another one that does the same."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        try:
            DeltaTable.create(self._uri(name), schema=schema, mode="error", storage_options=self.options or None)
        except DeltaError:
            if self._load(name) is None:  # otherwise another process made it first
                raise
        return DeltaTable(self._uri(name), storage_options=self.options or None)

    def _commit(self, name: str, table: DeltaTable, rows: pa.Table, once: Mapping[str, str]) -> None:
        from deltalake import CommitProperties, Transaction, write_deltalake

        identity = "/".join(once[column] for column in sorted(once))
        write_deltalake(
            table,
            align(rows, _schema(table), name),
            mode="append",
            schema_mode="merge",
            storage_options=self.options or None,
            commit_properties=CommitProperties(app_transactions=[Transaction(identity, 1)]),
        )
        self._tidy(name, table)

    def _tidy(self, name: str, table: DeltaTable) -> None:
        if self._local:
            _settle_commit(self._folder(name), table.version())
        if len(table.file_uris()) > _COMPACT_ABOVE:
            _compact(table)


def _read_remote(reader: arro3.core.RecordBatchReader) -> pa.Table:
    """Read by pyarrow, which lets other threads run while it waits for the network."""
    import pyarrow as pa

    return pa.RecordBatchReader.from_stream(reader).read_all()


def _literal(text: str) -> str:
    """The text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _schema(table: DeltaTable) -> pa.Schema:
    import pyarrow as pa

    return pa.schema(table.schema())


def _compact(table: DeltaTable) -> None:
    """Merge small files. Appenders do not notice; of two compactions at once one gives up, which is fine."""
    from deltalake.exceptions import CommitFailedError

    try:
        table.optimize.compact()
        table.create_checkpoint()
    except CommitFailedError:
        return


def _settle_commit(root: Path, version: int) -> None:
    """Force a commit to the disk, so that an acknowledged row survives a power cut."""
    log = root / "_delta_log" / f"{version:020d}.json"
    actions = [json.loads(line) for line in log.read_text().split("\n") if line]
    for action in actions:
        if "add" in action:
            settle(root / unquote(action["add"]["path"]))
    for path in (log, log.parent, root):
        settle(path)


def _back_off(attempt: int, name: str, error: Exception) -> None:
    if attempt == _ATTEMPTS - 1:
        raise CatalogError(
            f"table {name}: gave up after {_ATTEMPTS} attempts to append beside other writers ({error}); try again"
        ) from error
    spread = random.uniform(0.5, 1.0)  # noqa: S311  # keeps writers out of step, no secret
    time.sleep(spread * min(2.0, 0.02 * 2**attempt))
