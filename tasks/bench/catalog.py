"""`gem3d bench catalog`: a catalog as it is after long use, and how long its everyday commands take."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from data_catalog import Artifact, Catalog

if TYPE_CHECKING:
    import pandas as pd


T = TypeVar("T")

REPEATS = 5
"""Artifacts of volumes, which have many files; all others have one."""
KINDS = ("prepared", "latents", "model", "informed", "dataset", "metrics")
"""Kinds of the others, in turn."""
TRIALS = 3
"""How often each measurement is made. The shortest counts: other work on the machine only ever adds."""


@dataclass(frozen=True)
class CatalogSpeed:
    """Sizes of the catalog, and seconds. Those of commands include the start of their process; `cpu` is what a command
    takes of the processor, however busy the machine is."""

    volumes: int
    artifacts: int
    files: int
    help_seconds: float
    help_cpu_seconds: float
    ls_seconds: float
    ls_cpu_seconds: float
    show_seconds: float
    show_cpu_seconds: float
    lineage_seconds: float
    lineage_cpu_seconds: float
    find_seconds: float
    put_seconds: float
    fill_seconds: float


def bench_catalog(folder: Path, volumes: int, artifacts: int, command: Sequence[str]) -> CatalogSpeed:
    """Fill a catalog in an empty folder and measure there; `command` is how `gem3d` is started."""
    catalog = Catalog.open(folder / "catalog")
    filling, (largest, last) = _seconds(lambda: fill(catalog, folder / "files", volumes, artifacts))
    held = catalog.ls()
    where = ("--catalog", catalog.address)
    told, told_cpu = _command([*command, "--help"])
    ls, ls_cpu = _command([*command, "catalog", "ls", *where])
    show, show_cpu = _command([*command, "catalog", "show", largest.ref.full, *where])
    lineage, lineage_cpu = _command([*command, "catalog", "lineage", last.ref.full, *where])
    return CatalogSpeed(
        volumes=len(catalog.table("volumes")),
        artifacts=len(held),
        files=sum(len(artifact.files) for artifact in held),
        help_seconds=told,
        help_cpu_seconds=told_cpu,
        ls_seconds=ls,
        ls_cpu_seconds=ls_cpu,
        show_seconds=show,
        show_cpu_seconds=show_cpu,
        lineage_seconds=lineage,
        lineage_cpu_seconds=lineage_cpu,
        find_seconds=min(_seconds(lambda: catalog.find(largest.key))[0] for _ in range(TRIALS)),
        put_seconds=min(_seconds(partial(_put_small, catalog, folder, artifacts + n))[0] for n in range(TRIALS)),
        fill_seconds=filling,
    )


def fill(catalog: Catalog, folder: Path, volumes: int, artifacts: int) -> tuple[Artifact, Artifact]:
    """Put so many volumes, spread over REPEATS artifacts, and small artifacts; each descends from the one before.

    Returns the largest artifact and the last.
    """
    repeats = [
        _put_repeat(catalog, folder, repeat, range(repeat, volumes, REPEATS)) for repeat in range(min(REPEATS, volumes))
    ]
    last = repeats[-1]
    for number in range(len(repeats), artifacts):
        last = _put_small(catalog, folder, number, last)
    return repeats[0], last


def _put_repeat(catalog: Catalog, folder: Path, repeat: int, numbers: range) -> Artifact:
    """One repeat of re-sampling: every volume has a file of its own and a row."""
    files = {f"volumes/gem{repeat}_{n:04d}/image.nii.gz": _file(folder, f"volume {n}") for n in numbers}
    return _put(catalog, "volumes", f"Bench-r{repeat}", files, {"volumes": _rows(numbers)})


def _put_small(catalog: Catalog, folder: Path, number: int, parent: Artifact | None = None) -> Artifact:
    import pandas as pd

    files = {"index.parquet": _file(folder, f"artifact {number}")}
    metrics = pd.DataFrame([{"metric": "seconds", "value": float(number)}])
    return _put(catalog, KINDS[number % len(KINDS)], f"Bench-{number // 50}", files, {"metrics": metrics}, parent)


def _put(
    catalog: Catalog,
    kind: str,
    name: str,
    files: dict[str, Path],
    tables: "dict[str, pd.DataFrame]",
    parent: Artifact | None = None,
) -> Artifact:
    return catalog.put(
        kind,
        name,
        files=files,
        meta={"stage": "bench"},
        tables=tables,
        parents=[parent.ref] if parent else [],
        run_id="bench",
        code_version="0" * 64,
        config_hash="0" * 64,
        seed=0,
        key=f"{kind}-{name}-{next(iter(files.values())).name}".replace(" ", "-"),
    )


def _file(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / content
    path.write_text(content)
    return path


def _rows(numbers: range) -> "pd.DataFrame":
    import pandas as pd

    rows = [
        {
            "volume": f"gem_{n:04d}",
            "mask_case": f"case_{n % 200:03d}",
            "variant": "true",
            "donor": f"case_{(n + 1) % 200:03d}",
            "donor_slice": n % 155,
            "noise_seed": n,
            "intensity": '{"kind": "mri", "low": 0.0, "high": 1.0}',
            "spread": 0.5,
            "accepted": True,
        }
        for n in numbers
    ]
    return pd.DataFrame(rows)


def _seconds(work: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    done = work()
    return time.perf_counter() - began, done


def _command(line: Sequence[str]) -> tuple[float, float]:
    """Seconds by the clock and of the processor of one command line."""

    def run() -> float:
        before = os.times()
        subprocess.run(line, stdout=subprocess.DEVNULL, check=True)  # noqa: S603  # our own command line
        after = os.times()
        return sum(after[2:4]) - sum(before[2:4])

    return min(_seconds(run) for _ in range(TRIALS))
