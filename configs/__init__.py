"""Typed configuration: one frozen, closed model, filled from a profile and from `--set a.b=value`."""

from configs.resolve import change, load, parse_overrides, profile_names, system_settings
from configs.rows import TableRow, row_config, row_overrides, table_rows
from configs.schema import Config, Runtime

__all__ = [
    "Config",
    "Runtime",
    "TableRow",
    "change",
    "load",
    "parse_overrides",
    "profile_names",
    "row_config",
    "row_overrides",
    "system_settings",
    "table_rows",
]
