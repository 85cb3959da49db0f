"""Measure `gem3d bench io` on volumes of real datasets and `gem3d bench catalog`: docs/results/io.md and io.json.

Example: python benchmarks/files.py ../data

About three minutes on two cores.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from provenance import keep

from gem3d_core.bench.volume_files import FileSpeed, bench_files, files_table
from gem3d_core.report.markdown import markdown
from gem3d_core.scans.volumes import read_label, read_volume
from tasks.bench.catalog import CatalogSpeed, bench_catalog

SETS = {
    "Hippocampus MRI, about 35x51x35, uint8": ("Task04_Hippocampus/imagesTr", 30, read_volume),
    "Hippocampus masks": ("Task04_Hippocampus/labelsTr", 30, read_label),
    "Brain MRI (BraTS 2013), 240x240x155, float32": ("Dataset113_BraTS2013/imagesTr", 1, read_volume),
    "Brain tumour mask (BraTS 2013), 240x240x155": ("Dataset113_BraTS2013/labelsTr", 1, read_label),
    "Abdominal CT, 122x101x112, int16": ("Dataset114_AbdomenCT/imagesTr", 1, read_volume),
}
"""Folder, number of volumes and reader of each set."""
FILES = """# Files and the catalog

## In use: igzip, level 2

[isal](https://pypi.org/project/isal) beside zlib at level 3, which was in use before, on the sets below: it writes in \
{write} of the time, and reads its own files in {read} of the time that gzip takes for them. Its files have {size} of \
the size. Other readers (gzip) take {others} of the time for them, at most {later:.0f} ms \
more for a volume.

Versions are hashes of bytes, so the bytes must not depend on the machine. Levels 0 to 2 gave the same bytes on an \
AVX-512 processor and on emulated ones with AVX2 (Haswell) and with SSE4.2 alone (Nehalem); level 3 gave others on \
each, and was no smaller. ARM was not looked at. zlib-ng 1.1.0 at level 2, measured once, took 1.6 to 4 times as long \
as igzip to write files of the same size."""
CATALOG = """## The catalog

When its tables were read by pyarrow, whose datasets also import pandas, `ls`, `show` and `lineage` on the same \
catalog took 0.76 to 0.81 s of the processor. Most of what is left is the start of Python and of the command line."""


def main() -> None:
    """Measure everything, then write tables and numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the datasets")
    given = parser.parse_args()
    numbers, sections, speeds = {}, [], []
    with tempfile.TemporaryDirectory() as folder:
        for title, (place, count, read) in SETS.items():
            paths = sorted((given.data / place).glob("[!.]*.nii.gz"))[:count]
            speed = bench_files([read(path) for path in paths], Path(folder))
            numbers[title] = asdict(speed)
            speeds.append(speed)
            sections.append(markdown(files_table(speed, title)))
        catalog = bench_catalog(Path(folder), 10_000, 300, [sys.executable, "-m", "flows.cli.main"])
    sections = [_in_use(speeds), *sections, CATALOG, _catalog_table(catalog)]
    keep("io", "python benchmarks/files.py ../data", sections, {"files": numbers, "catalog": asdict(catalog)})


def _in_use(speeds: list[FileSpeed]) -> str:
    """What was chosen beside what was in use before, over all sets."""
    ratios: dict[str, list[float]] = {"write": [], "read": [], "size": [], "others": []}
    for speed in speeds:
        before, now = (next(d for d in speed.deflate if d.method.startswith(name)) for name in ("gzip 3", "igzip 2"))
        ratios["write"].append(now.write.seconds / before.write.seconds)
        ratios["read"].append(now.read_igzip.seconds / now.read_gzip.seconds)
        ratios["size"].append(now.bytes / before.bytes)
        ratios["others"].append(now.read_gzip.seconds / before.read_gzip.seconds)
    later = max(_gzip(speed, "igzip 2") - _gzip(speed, "gzip 3") for speed in speeds)
    return FILES.format(
        later=1000 * later, **{name: f"{min(found):.0%} to {max(found):.0%}" for name, found in ratios.items()}
    )


def _gzip(speed: FileSpeed, method: str) -> float:
    """Seconds in which gzip reads a volume that a method wrote."""
    return next(d for d in speed.deflate if d.method.startswith(method)).read_gzip.seconds / speed.volumes


def _catalog_table(speed: CatalogSpeed) -> str:
    held = f"{speed.volumes:,} volumes, {speed.artifacts} artifacts, {speed.files:,} files"
    rows = [f"| {held} | seconds | of the processor |", "| --- | ---: | ---: |"]
    for name, command in {"help": "--help", **{n: f"catalog {n}" for n in ("ls", "show", "lineage")}}.items():
        wall, spent = getattr(speed, f"{name}_seconds"), getattr(speed, f"{name}_cpu_seconds")
        rows.append(f"| `gem3d {command}`, start of the process included | {wall:.2f} | {spent:.2f} |")
    rows += [
        f"| `Catalog.find` of the largest artifact | {speed.find_seconds:.3f} | |",
        f"| `Catalog.put` of one file and one row | {speed.put_seconds:.3f} | |",
        f"| all puts | {speed.fill_seconds:.0f} | |",
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
