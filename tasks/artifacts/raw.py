"""True cases as nnU-Net takes them, to plan and to train on."""

from collections.abc import Iterable, Iterator

from gem3d_core.machine.reading import BoundedCache, read_ahead
from gem3d_core.nnunet.arms import RawCase
from gem3d_core.scans.volumes import Volume
from tasks.artifacts.source import Source

KeptCases = BoundedCache[tuple[Volume, Volume]]
"""Images and label maps of a source between two passes over it."""


def keep_cases() -> KeptCases:
    """Room for them."""
    return BoundedCache(lambda pair: pair[0].array.nbytes + pair[1].array.nbytes)


def raw_cases(source: Source, names: Iterable[str], threads: int, kept: KeptCases | None = None) -> Iterator[RawCase]:
    """Cases in order, read by several threads and, where they are to be, kept."""

    def read(name: str) -> RawCase:
        image, label = source.image(name), source.label(name)
        if kept is not None:
            kept.put(name, (image, label))
        return RawCase(name, image.array, image.affine, label.array)

    return read_ahead(read, names, threads)
