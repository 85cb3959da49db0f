"""From pandas frames to rows that a Delta table takes without losing a digit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from data_catalog.errors import Invalid
from data_catalog.refs import canonical, plain

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

RESERVED = ("kind", "name", "version", "run_id")


def to_rows(frame: pd.DataFrame, table: str, constants: Mapping[str, str]) -> pa.Table:
    """The frame as Arrow rows, `constants` in front as text columns.

    Integers become int64, floats float64, times microseconds in UTC, lists and mappings JSON text; a column without
    any value is left out (Delta has no type for it, and readers see it as null).

    Raises:
        Invalid: a column is named like a constant, or holds what no column type fits.
    """
    import pyarrow as pa

    names = [str(name) for name in frame.columns]
    if clash := sorted(set(names) & set(constants) | {name for name in names if names.count(name) > 1}):
        raise Invalid(
            f"table {table!r}: rename the columns {clash}; each name stands once and {list(constants)} are added"
        )
    columns = {name: _column(frame.iloc[:, place], f"{table}.{name}") for place, name in enumerate(names)}
    kept = {name: column for name, column in columns.items() if not pa.types.is_null(column.type)}
    added = {name: pa.array([value] * len(frame), pa.string()) for name, value in constants.items()}
    return pa.table(added | kept)


def align(rows: pa.Table, schema: pa.Schema, table: str) -> pa.Table:
    """The rows with the column types of the stored table, where that changes no value.

    Raises:
        Invalid: a value would change, as 0.5 in a column of integers would.
    """
    for place, field in enumerate(rows.schema):
        wanted = schema.field(field.name).type if field.name in schema.names else field.type
        if wanted != field.type:
            cast = _cast(rows.column(place), wanted, f"{table}.{field.name}")
            rows = rows.set_column(place, field.name, cast)
    return rows


def _cast(column: pa.ChunkedArray, wanted: pa.DataType, where: str) -> pa.ChunkedArray:
    import pyarrow as pa

    misfit = f"column {where}: stored as {wanted}, given as {column.type}; give {wanted} or another column name"
    numbers = (pa.int64(), pa.float64())
    if column.type not in numbers or wanted not in numbers:
        raise Invalid(misfit)
    try:
        return column.cast(wanted, safe=True)
    except pa.ArrowInvalid as error:
        raise Invalid(f"{misfit} ({error})") from error


def _column(series: pd.Series, where: str) -> pa.Array:
    import pyarrow as pa

    if series.dtype == object:
        series = series.map(_cell, na_action="ignore")
    try:
        array = pa.array(series, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise Invalid(f"column {where}: its values have no common type ({error})") from error
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return array.cast(_stored_type(array.type, where))


def _stored_type(given: pa.DataType, where: str) -> pa.DataType:
    import pyarrow as pa

    kinds = pa.types
    if kinds.is_dictionary(given):
        return _stored_type(given.value_type, where)
    if kinds.is_null(given) or kinds.is_boolean(given):
        return given
    if kinds.is_integer(given):
        return pa.int64()
    if kinds.is_floating(given):
        return pa.float64()
    if kinds.is_timestamp(given):
        return pa.timestamp("us", tz="UTC")
    if kinds.is_string(given) or kinds.is_large_string(given):
        return pa.string()
    raise Invalid(f"column {where}: {given} is not stored; give numbers, text, times, lists or mappings")


def _cell(value: object) -> object:
    """Lists and mappings as JSON text; everything else as it is."""
    if isinstance(value, (list, tuple, dict)):
        return canonical(plain(value, "cell"))
    return value
