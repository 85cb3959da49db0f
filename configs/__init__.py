"""Typed configuration: one frozen, closed model, filled from a profile and from `--set a.b=value`."""

from configs.resolve import change, load, parse_overrides, profile_names
from configs.schema import Config, Runtime

__all__ = ["Config", "Runtime", "change", "load", "parse_overrides", "profile_names"]
