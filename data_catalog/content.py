"""What a Parquet file says, apart from how it says it: the identity of its rows under any writer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".parquet"

_ROWS = 1 << 16
_NAMES = {
    "is_null": "null",
    "is_boolean": "boolean",
    "is_string": "text",
    "is_large_string": "text",
    "is_string_view": "text",
    "is_signed_integer": "int",
    "is_unsigned_integer": "uint",
    "is_floating": "float",
}
_SIZED = {"int", "uint", "float"}
_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def digest_of_rows(path: Path) -> str | None:
    """Sha256 (hex) of the column names, their types and all rows, in order; None where they have no such form.

    Compression, row groups, metadata, the writer and its version do not count, nor how text is encoded. Every value
    counts exactly: floats by all their digits, 1 apart from 1.0, and a missing value apart from NaN. Times count by
    their nanoseconds, whatever their unit.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    digest = hashlib.sha256()
    try:
        with pq.ParquetFile(path) as file:
            columns = [[field.name, _type(field.type)] for field in file.schema_arrow]
            digest.update(_line({"columns": columns, "rows": file.metadata.num_rows}))
            for batch in file.iter_batches(_ROWS):
                for row in _rows(batch):
                    digest.update(_line(row))
    except (_Other, ValueError, OSError, pa.ArrowException):  # the last three: no sound Parquet file
        return None
    return digest.hexdigest()


class _Other(Exception):  # noqa: N818  # an answer, not an error
    """A type of column that has no canonical form here."""


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _type(given: pa.DataType, *, inside: bool = False) -> object:
    """A name for the type that depends neither on the library nor on how the values are encoded.

    inside: of a list or a mapping, whose values `_values` does not reach.
    """
    import pyarrow.types as kinds

    if kinds.is_list(given) or kinds.is_large_list(given):
        return ["list", _type(given.value_type, inside=True)]
    if kinds.is_struct(given):
        return ["mapping", *([field.name, _type(field.type, inside=True)] for field in given)]
    if kinds.is_dictionary(given) and not inside:
        return _type(given.value_type)
    if kinds.is_timestamp(given) and not inside:
        return "time" if given.tz is None else "time in UTC"
    for predicate, name in _NAMES.items():
        if getattr(kinds, predicate)(given):
            return f"{name}{given.bit_width}" if name in _SIZED else name
    raise _Other


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[object, ...]]:
    return zip(*(_values(column) for column in batch.columns), strict=True)


def _values(column: pa.Array) -> list[object]:
    """As JSON knows them; times as whole nanoseconds."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        return _values(column.dictionary_decode())
    if pa.types.is_timestamp(column.type):
        unit = _NANOSECONDS[column.type.unit]
        return [None if value is None else value * unit for value in column.cast(pa.int64()).to_pylist()]
    values: list[object] = column.to_pylist()
    return values
