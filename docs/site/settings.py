"""The reference of all settings, from the classes of the configuration and the docstrings of their fields."""

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from configs.schema import Config

WORDS: dict[object, str] = {int: "whole number", float: "number", str: "text", bool: "true or false", NoneType: "none"}
BY_PROFILE = "by the profile"
"""Where a field has no default of its own."""


@dataclass(frozen=True)
class Setting:
    """One key: what may stand there, what stands there when nothing is said, and what it does."""

    name: str
    kind: object
    default: object
    told: str


def settings_reference() -> str:
    """All sections; those that are of one class, such as three trainings, stand together."""
    by_class: dict[type, list[str]] = {}
    for key, section in sections(Config):
        by_class.setdefault(section, []).append(key)
    plain = [s for s in settings_of(Config) if not is_section(s.kind)]
    parts = ["## The run", "", *_table(plain)]
    for section, keys in by_class.items():
        told = inspect.cleandoc(section.__doc__ or "").replace("\n", " ").replace("  ", "\n\n")
        shown = [s for s in settings_of(section) if not is_section(s.kind)]
        parts += ["", f"## {', '.join(f'`{key}`' for key in keys)}", "", told, "", *_table(shown)]
    return "\n".join(parts)


def sections(section: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Every section below one, by its dotted key."""
    for setting in settings_of(section):
        if isinstance(setting.kind, type) and is_section(setting.kind):
            yield f"{prefix}{setting.name}", setting.kind
            yield from sections(setting.kind, f"{prefix}{setting.name}.")


def is_section(kind: object) -> bool:
    """Whether a field holds settings of its own."""
    return isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, BaseModel))


@cache
def settings_of(section: type) -> tuple[Setting, ...]:
    """The fields of a class, in their order."""
    told = dict(_docstrings(section))
    kinds = get_type_hints(section, include_extras=True)
    return tuple(Setting(name, _bare(kinds[name]), default, told.get(name, "")) for name, default in _defaults(section))


def _bare(kind: object) -> object:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _defaults(section: type) -> Iterator[tuple[str, object]]:
    if issubclass(section, BaseModel):
        for name, told in section.model_fields.items():
            yield name, BY_PROFILE if told.is_required() else told.get_default(call_default_factory=True)
    elif is_dataclass(section):
        for field in fields(section):
            made = field.default if field.default_factory is MISSING else field.default_factory()
            yield field.name, BY_PROFILE if made is MISSING else made


def _docstrings(section: type) -> Iterator[tuple[str, str]]:
    """What stands beneath each field, and after it what stands beneath the name of its type."""
    module = sys.modules[section.__module__]
    body = next(
        node.body
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.ClassDef) and node.name == section.__name__
    )
    of_types = dict(_told(_tree(module).body, ast.Assign))
    kinds = {
        node.target.id: ast.unparse(node.annotation)
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    own = dict(_told(body, ast.AnnAssign))
    for name, kind in kinds.items():
        yield name, " ".join(filter(None, [own.get(name, ""), of_types.get(kind, "")]))


def _told(body: list[ast.stmt], kind: type[ast.AnnAssign] | type[ast.Assign]) -> Iterator[tuple[str, str]]:
    for node, after in pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        told = after.value if isinstance(after, ast.Expr) else None
        if isinstance(node, kind) and isinstance(target, ast.Name) and isinstance(told, ast.Constant):
            yield target.id, " ".join(str(told.value).split())


@cache
def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def _table(settings: list[Setting]) -> list[str]:
    rows = [(f"`{s.name}`", _kind(s.kind), _default(s.default), s.told.replace("|", "\\|")) for s in settings]
    heading = ["| key | values | default | what it does |", "| --- | --- | --- | --- |"]
    return [*heading, *(f"| {' | '.join(row)} |" for row in rows)]


def _kind(kind: Any) -> str:
    """A type in words: `Literal["a", "b"]` is `a`, `b`. Raises TypeError for one that has none."""
    kind = _bare(kind)
    if kind in WORDS:
        return WORDS[kind]
    arguments = get_args(kind)
    match get_origin(kind):
        case origin if origin is Literal:
            told = ", ".join(f"`{choice}`" for choice in arguments)
        case origin if origin in {Union, UnionType}:
            told = ", or ".join(_kind(one) for one in arguments)
        case origin if origin is tuple:
            many = "list of" if arguments[-1] is Ellipsis else str(len(arguments))
            told = f"{many} {_kind(arguments[0])}s"
        case origin if origin is dict:
            told = f"{_kind(arguments[1])} for each of: {_kind(arguments[0])}"
        case _:
            raise TypeError(f"settings reference: no words for the type {kind}")
    return told


def _default(value: object) -> str:
    if value is None:
        return "none"
    if value == BY_PROFILE:
        return BY_PROFILE
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple | list):
        return f"`{list(value)}`"
    return "none" if value == {} else f"`{value}`"
