"""The code version of a stage: what could change its result, and nothing else.

It is a hash of the stage's own module, of every module of `gem3d_core` and `tasks` that it imports, directly or not,
and of the versions of the libraries that do the arithmetic. Documentation, the catalog, the flows and the frame that
is the same around every stage are not part of it.
"""

import ast
import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COUNTED = ("gem3d_core", "tasks")
FRAME = frozenset(
    {"tasks", "tasks.frame.code_version", "tasks.frame.policy", "tasks.frame.progress", "tasks.frame.stage"}
)
"""Modules around every stage, which decide when it runs and what is shown, not what it makes."""
ARITHMETIC = frozenset(
    {"acvl_utils", "diffusers", "einops", "lpips", "monai", "nibabel", "nnunetv2", "numpy", "scipy", "SimpleITK"}
    | {"timm", "torch", "torchio", "torchmetrics"}
)
"""Libraries whose version may change a result; one counts where a module of the stage imports it."""
BESIDE = {
    "gem3d_core.nnunet.arms": ("gem3d_core/nnunet/trainer.py",),
    "gem3d_core.report.document": (
        "gem3d_core/report/templates/report.html.j2",
        "gem3d_core/report/templates/report.md.j2",
    ),
}
"""Files that a module uses without importing them."""


@cache
def code_version(module: str) -> str:
    """Hash of the sources of `module` (dotted) and of the libraries."""
    digest = hashlib.sha256()
    names = sorted(_closure(module))
    for name in names:
        digest.update(f"{name}\n".encode() + _tree_bytes(name))
        for file in BESIDE.get(name, ()):
            digest.update((ROOT / file).read_bytes())
    for library in sorted({found for name in names for found in _imported(name)} & ARITHMETIC):
        digest.update(f"{library}=={version(library)}\n".encode())
    return digest.hexdigest()


def _closure(module: str) -> set[str]:
    """The module and all that counts of what it reaches."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(_imports(name) - found)
    return found


def _imports(module: str) -> set[str]:
    """Modules of the project that count and that this one imports itself."""
    return {name for name in _names(module) - FRAME if name.split(".")[0] in COUNTED and _exists(name)}


def _imported(module: str) -> set[str]:
    """Top-level names of everything that a module imports itself."""
    return {name.split(".")[0] for name in _names(module)}


def _names(module: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(_path(module).read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _tree_bytes(module: str) -> bytes:
    """The module's syntax without comments, formatting and docstrings, so that a word about it retrains nothing."""
    tree = ast.parse(_path(module).read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [statement for statement in body if not _is_text(statement)] or [ast.Pass()]
    return ast.dump(tree).encode()


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _exists(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _path(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
