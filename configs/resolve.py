"""From a profile and `--set` values to a configuration; an unknown name is answered with the nearest known one."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from importlib.resources import files
from typing import get_args

import yaml
from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from configs.schema import Config
from gem3d_core.errors import BadInput

Tree = dict[str, object]


def profile_names() -> list[str]:
    """The profiles that ship with the project."""
    return sorted(f.name.removesuffix(".yaml") for f in files("configs.profiles").iterdir() if f.name.endswith(".yaml"))


def system_names() -> list[str]:
    """The systems that ship with the project."""
    return sorted(f.name.removesuffix(".yaml") for f in files("configs.systems").iterdir() if f.name.endswith(".yaml"))


def load(profile: str, overrides: Mapping[str, object] | None = None) -> Config:
    """The configuration of a profile with dotted overrides (`{"resample.steps": 10}`).

    Raises BadInput naming the key, the value, what was expected and, for an unknown name, the nearest known one.
    """
    if profile not in profile_names():
        raise BadInput(f"no profile {profile!r}{nearest(profile, profile_names())}")
    tree: Tree = yaml.safe_load((files("configs.profiles") / f"{profile}.yaml").read_text())
    tree["profile"] = profile
    return _resolved(tree, overrides or {})


def change(config: Config, overrides: Mapping[str, object]) -> Config:
    """A configuration with dotted overrides. Raises BadInput as `load`, and for another system: that is chosen before
    anything is trained."""
    if overrides.get("system", config.system) != config.system:
        raise BadInput(
            f"system={overrides['system']}: this was made with system={config.system}; run `gem3d enhance` anew"
        )
    return _resolved(config.model_dump(), overrides)


def _resolved(tree: Tree, overrides: Mapping[str, object]) -> Config:
    """The system's settings come first, so that those by hand change them too."""
    system = overrides.get("system")
    for key, value in [*(system_settings(str(system)) if system is not None else {}).items(), *overrides.items()]:
        _set(tree, key, value)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise BadInput("; ".join(_explain(e) for e in error.errors())) from error


def system_settings(name: str) -> dict[str, JsonValue]:
    """What a system sets, by dotted keys. Raises BadInput for a name that is not one."""
    if name not in system_names():
        raise BadInput(f"no system {name!r}{nearest(name, system_names())}")
    return _laid(name)


def _laid(name: str) -> dict[str, JsonValue]:
    """A file of configs/systems over its base, another one."""
    own: dict[str, JsonValue] = yaml.safe_load((files("configs.systems") / f"{name}.yaml").read_text())
    base = own.pop("base", None)
    return {**(_laid(str(base)) if base else {}), **own}


def parse_overrides(settings: Iterable[str]) -> dict[str, object]:
    """`["a.b=3"]` -> `{"a.b": 3}`; values are read as YAML."""
    overrides: dict[str, object] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise BadInput(f"--set {text!r}: expected KEY=VALUE, such as resample.steps=10")
        try:
            overrides[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise BadInput(f"--set {text!r}: the value is not YAML ({error})") from error
    return overrides


def nearest(name: str, known: Iterable[str]) -> str:
    """`: did you mean 'x'? Known: ...` for an error message."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (f": did you mean {close[0]!r}?" if close else ".") + f" Known: {', '.join(known)}"


def _set(tree: Tree, key: str, value: object) -> None:
    if key == "profile":
        raise BadInput(f"--set profile={value}: a profile is chosen by --profile, before anything is set")
    *sections, last = key.split(".")
    for depth, name in enumerate(sections):
        below = tree.setdefault(name, {})
        if not isinstance(below, dict):
            raise BadInput(f"--set {key}: {'.'.join(sections[: depth + 1])} is a value, not a section")
        tree = below
    tree[last] = value


def _explain(error: ErrorDetails) -> str:
    path = [str(part) for part in error["loc"]]
    dotted = ".".join(path)
    if error["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        return f"unknown configuration key {dotted!r}{_nearest_key(path)}"
    message = error["msg"].removeprefix("Value error, ")
    if not path:
        return f"configuration: {message}"
    if error["type"] in {"model_type", "dataclass_type"}:
        message = f"a section, not a value; its keys are {', '.join(sorted(_field_types(_section(path))))}"
    return f"configuration {dotted}: {message} (given: {_short(error['input'])})"


def _nearest_key(path: list[str]) -> str:
    close = nearest(path[-1], _field_types(_section(path[:-1])))
    prefix = ".".join(path[:-1])
    if prefix:
        return close.replace("did you mean '", f"did you mean '{prefix}.")
    deeper = [key for key in _keys(Config) if key.endswith(f".{path[-1]}")]
    return f": did you mean {', '.join(deeper)}?" if deeper else close


def _section(path: list[str]) -> object:
    """The type of a section by its keys."""
    section: object = Config
    for name in path:
        section = _field_types(section).get(name)
    return section


def _keys(section: object, prefix: str = "") -> list[str]:
    """Dotted keys of a section and of all sections in it."""
    found = []
    for name, inner in _field_types(section).items():
        found += [f"{prefix}{name}", *_keys(inner, f"{prefix}{name}.")]
    return found


def _field_types(section: object) -> dict[str, object]:
    """Names and types of the fields of a pydantic model or a dataclass."""
    if isinstance(section, type) and issubclass(section, BaseModel):
        return {name: _plain(info.annotation) for name, info in section.model_fields.items()}
    if isinstance(section, type) and is_dataclass(section):
        return {f.name: _plain(f.type) for f in fields(section)}
    return {}


def _plain(annotation: object) -> object:
    """The class within `X | None`."""
    classes = [a for a in get_args(annotation) if isinstance(a, type) and a is not type(None)]
    return annotation if isinstance(annotation, type) else next(iter(classes), annotation)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
