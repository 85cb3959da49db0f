"""What a person reads at the end of a run."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from flows.session.ledger import StageLine, Summary


def tell(summary: Summary) -> str:
    """Stages with their times, where everything lies, and what to try next."""
    if summary.note:
        return summary.note
    lines = [_stage(line) for line in summary.stages]
    if all(line.cached or line.note for line in summary.stages):
        lines.append("Nothing to do: every stage was in the catalog already.")
    lines += ["", f"catalog   {summary.catalog}"]
    lines += [f"dataset   {d.path}  ({d.factor}x, {_short(d.ref)})" for d in summary.datasets]
    if summary.report:
        folder = Path(summary.report)
        lines += [f"report    {folder / 'report.html'}", f"pictures  {folder / 'pictures'}"]
    lines += [*_metrics(summary), *_next(summary)]
    return "\n".join(lines)


def _stage(line: StageLine) -> str:
    return f"{line.name:<26}{line.note or ('cached' if line.cached else _clock(line.seconds)):>10}"


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _short(ref: str) -> str:
    name, _, version = ref.partition("@")
    return f"{name}@{version[:12]}"


def _metrics(summary: Summary) -> list[str]:
    if not summary.metrics:
        return []
    width = max(len(name) for name in summary.metrics)
    rows = [f"  {name:<{width}}  {'not available' if v is None else f'{v:.4f}'}" for name, v in summary.metrics.items()]
    return ["", "metrics (the report says how they were measured)", *rows]


def _next(summary: Summary) -> list[str]:
    models = [ref for ref in summary.artifacts if ref.startswith("model/") and "-volume@" in ref]
    if not models:
        return []
    at = f"--catalog {shlex.quote(summary.catalog)}"
    model, program = models[0].partition("@")[0], shlex.quote(_program())
    return [
        "",
        "next",
        f"  {program} resample {model} --factor 1 --seed 7 {at}",
        f"  {program} catalog lineage {_short(summary.artifacts[-1])} {at}",
        f"  {program} catalog verify {at}",
    ]


def _program() -> str:
    """The command line as it can be called from here: its name where the shell finds it, else where it lies."""
    if shutil.which("gem3d"):
        return "gem3d"
    beside = Path(sys.executable).with_name("gem3d")
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)
