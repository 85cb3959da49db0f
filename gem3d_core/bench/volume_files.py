"""Writing and reading `.nii.gz`, and the deflate in use beside Python's own.

Seconds are those of the processor: one core does the work, and what others do on the machine does not count. Waiting
for the disk does not count either.
"""

import gzip
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from isal import igzip

from gem3d_core.report.document import Column, Table
from gem3d_core.scans.volumes import DEFLATE_LEVEL, Volume, read_volume, write_nifti

TRIALS = 3
"""Trials of each measurement; the shortest counts."""
METHODS: Mapping[str, Callable[[bytes], bytes]] = {
    **{f"gzip {level}": partial(gzip.compress, compresslevel=level, mtime=0) for level in (1, 3, 6, 9)},
    "igzip 1": partial(igzip.compress, compresslevel=1, mtime=0),
    f"igzip {DEFLATE_LEVEL} (in use)": partial(igzip.compress, compresslevel=DEFLATE_LEVEL, mtime=0),
}
"""Name and level of each deflate that is compared; gzip is Python's own, by zlib."""


@dataclass(frozen=True)
class Rate:
    """Seconds, and millions of bytes a second, counted before deflate."""

    seconds: float
    mb_per_second: float


@dataclass(frozen=True)
class Deflated:
    """One method on all volumes: bytes after it, and its rates; `read` by Python's gzip and by igzip."""

    method: str
    bytes: int
    write: Rate
    read_gzip: Rate
    read_igzip: Rate


@dataclass(frozen=True)
class FileSpeed:
    """What `gem3d bench io` tells. `write` and `read` are the whole way between an array and its file."""

    volumes: int
    bytes: int
    write: Rate
    read: Rate
    deflate: tuple[Deflated, ...]


def bench_files(volumes: Sequence[Volume], folder: Path) -> FileSpeed:
    """Write the volumes into a folder and read them again, one at a time."""
    contents = [_content(volume, folder / "volume.nii") for volume in volumes]
    ways = [_there_and_back(volume, folder / "volume.nii.gz") for volume in volumes]
    total = sum(map(len, contents))
    return FileSpeed(
        volumes=len(volumes),
        bytes=total,
        write=_rate(sum(write for write, _ in ways), total),
        read=_rate(sum(read for _, read in ways), total),
        deflate=tuple(_deflated(method, contents) for method in METHODS),
    )


def _content(volume: Volume, path: Path) -> bytes:
    """What there is to deflate."""
    write_nifti(path, volume.array, volume.affine)
    return path.read_bytes()


def _there_and_back(volume: Volume, path: Path) -> tuple[float, float]:
    """Seconds of writing and of reading."""
    write = _seconds(lambda: write_nifti(path, volume.array, volume.affine))
    return write, _seconds(lambda: read_volume(path))


def _deflated(method: str, contents: Sequence[bytes]) -> Deflated:
    compress, total = METHODS[method], sum(map(len, contents))
    files = [compress(content) for content in contents]

    def rate(work: Callable[[bytes], bytes], of: Sequence[bytes]) -> Rate:
        return _rate(sum(_seconds(partial(work, one)) for one in of), total)

    return Deflated(
        method=method,
        bytes=sum(map(len, files)),
        write=rate(compress, contents),
        read_gzip=rate(gzip.decompress, files),
        read_igzip=rate(igzip.decompress, files),
    )


def _seconds(work: Callable[[], object]) -> float:
    trials = []
    for _ in range(TRIALS):
        began = time.process_time()
        work()
        trials.append(time.process_time() - began)
    return min(trials)


def _rate(seconds: float, size: int) -> Rate:
    return Rate(seconds, size / 1e6 / seconds)


def files_table(speed: FileSpeed, title: str) -> Table:
    """Every method; then the whole way of write_nifti and read_volume."""
    rows = [
        (d.method, 100 * d.bytes / speed.bytes, *_cells(d.write), *_cells(d.read_gzip), *_cells(d.read_igzip))
        for d in speed.deflate
    ]
    return Table(
        title=title,
        caption=(
            f"Seconds of the processor for all volumes, the shortest of {TRIALS} trials; millions of bytes a second, "
            f"counted before deflate ({speed.bytes / 1e6:.1f} in all). From array to file and back, header, checks and "
            f"hash included, in use: {speed.write.seconds:.3f} s to write, {speed.read.seconds:.3f} s to read."
        ),
        n=f"{speed.volumes} volume(s)",
        columns=(
            Column("method"),
            Column("size", "%", "lower", 1),
            *(c for way in ("write", "read by gzip", "read by igzip") for c in _columns(way)),
        ),
        rows=tuple(rows),
    )


def _cells(rate: Rate) -> tuple[float, float]:
    return rate.seconds, rate.mb_per_second


def _columns(way: str) -> tuple[Column, Column]:
    return Column(way, "s", "lower", 4), Column(way, "MB/s", "higher", 0)
