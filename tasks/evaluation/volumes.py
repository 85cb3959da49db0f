"""Stage 11, fidelity: every volume is read once, and what the measures need of it is kept."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from gem3d_core.machine.reading import read_ahead
from gem3d_core.metrics.continuity import Differences, all_differences, border_ratio, smoothness_ratio
from gem3d_core.metrics.frechet import Features, Moments, slice_features
from gem3d_core.metrics.nearest import on_grid
from gem3d_core.metrics.neighbours import Sample
from gem3d_core.metrics.paired import lpips_distance, ms_ssim
from gem3d_core.seeds import derive_seed
from gem3d_core.spec.terms import Plane
from tasks.artifacts.prepared import Prepared
from tasks.artifacts.volumes import Synthetic
from tasks.evaluation.paired import Paired, Real
from tasks.frame.progress import Progress

TRAINING, HELD_OUT = "training", "held-out real"


@dataclass(frozen=True)
class Seen:
    """What is kept of a volume that was read: nearest volumes and continuity are measured on it."""

    coarse: Tensor
    differences: Differences


@dataclass
class Reading:
    """Features that are gathered over all volumes; `features`: none where they are not available."""

    features: Features | None
    moments: dict[str, dict[Plane, Moments]] = field(default_factory=dict)
    """Moments of the slices of each set."""
    samples: dict[str, dict[Plane, Sample]] = field(default_factory=dict)
    """Feature vectors of some slices of each set."""

    def count(self, name: str, volume: np.ndarray, outline: np.ndarray, of: str) -> None:
        """Features of a volume (Z, H, W) in [-1, 1] with its outline, for the set `of`."""
        if self.features is None:
            return
        moments, samples = self.moments.setdefault(of, {}), self.samples.setdefault(of, {})
        rng = np.random.default_rng(derive_seed(0, "kept slices", name))
        for plane, vectors in slice_features(volume, outline, self.features):
            found, kept = Moments.of(vectors), Sample.of(vectors, name, rng)
            moments[plane] = moments[plane].merge(found) if plane in moments else found
            samples[plane] = samples[plane].join(kept) if plane in samples else kept


def look(volume: np.ndarray) -> Seen:
    """At a volume (Z, H, W) in [-1, 1]."""
    return Seen(on_grid(volume), all_differences(volume))


@dataclass(frozen=True)
class Continuity:
    """(a) borders over insides of windows; (b) slice-to-slice difference over the real volume's, where there is one."""

    border: float | None
    over_real: Mapping[Plane, float | None] | None


def continuity(one: Synthetic, seen: Seen, real: Seen) -> Continuity:
    """Continuity of a sampled volume; `real` is that of its case, which an edited mask is not the mask of."""
    over_real = smoothness_ratio(seen.differences, real.differences) if one.variant == "true" else None
    return Continuity(border_ratio(seen.differences, one.borders), over_real)


def read_training(
    prepared: Prepared, pictured: Collection[str], progress: Progress, threads: int
) -> tuple[dict[str, Seen], dict[str, Real]]:
    """All training volumes by case, and those that are pictured."""
    seen, kept = {}, {}
    progress.total(len(prepared.train), "training volumes read")
    images = read_ahead(lambda case: (case, prepared.image(case)), prepared.train, threads)
    for done, (case, image) in enumerate(images, start=1):
        seen[case] = look(image)
        if case in pictured:
            kept[case] = Real(image, prepared.mask(case))
        progress.at(done)
    return seen, kept


@dataclass
class TestVolumes:
    """All test volumes by case, and what was drawn for them: scores to the real volume, continuity, the first few."""

    seen: dict[str, Seen] = field(default_factory=dict)
    ms_ssim: dict[str, float] = field(default_factory=dict)
    lpips: dict[str, float] = field(default_factory=dict)
    continuity: dict[str, Continuity] = field(default_factory=dict)
    pictured: list[Paired] = field(default_factory=list)


def read_test(
    prepared: Prepared, paired: Iterable[Paired], lpips: nn.Module | None, pictured: Collection[str], threads: int
) -> TestVolumes:
    """All test volumes, those with a drawn one first. `lpips`: none, not measured."""
    test = TestVolumes()
    for pair in paired:
        one, image = pair.drawn, pair.real.image
        test.seen[one.case] = look(image)
        test.ms_ssim[one.case] = ms_ssim(one.slices, image, one.outline)
        if lpips is not None:
            test.lpips[one.case] = lpips_distance(one.slices, image, lpips, one.outline)
        test.continuity[one.case] = continuity(one, look(one.slices), test.seen[one.case])
        if one.case in pictured:
            test.pictured.append(pair)
    alone = [case for case in prepared.test if case not in test.seen]
    test.seen |= read_ahead(lambda case: (case, look(prepared.image(case))), alone, threads)
    return test


@dataclass
class DrawnVolumes:
    """Drawn volumes: names and coarse volumes of all repeats, of the first repeat also continuity and pictured ones."""

    names: list[str] = field(default_factory=list)
    coarse: list[Tensor] = field(default_factory=list)
    continuity: dict[str, tuple[str, Continuity]] = field(default_factory=dict)
    """By name: the variant of its mask, and the measures."""
    pictured: list[Synthetic] = field(default_factory=list)


def read_drawn(
    reading: Reading,
    repeats: Iterable[Iterable[Synthetic]],
    real: Mapping[str, Seen],
    chosen: Mapping[str, str],
    pictured: Collection[str],
) -> DrawnVolumes:
    """Those of every repeat. `real`: by case. `chosen`: the set whose FID a volume of the first repeat counts for."""
    drawn = DrawnVolumes()
    for repeat, volumes in enumerate(repeats):
        for one in volumes:
            drawn.names.append(one.name)
            if repeat:
                drawn.coarse.append(on_grid(one.slices))
                continue
            seen = look(one.slices)
            if one.name in chosen:
                reading.count(one.name, one.slices, one.outline, chosen[one.name])
            drawn.coarse.append(seen.coarse)
            drawn.continuity[one.name] = one.variant, continuity(one, seen, real[one.case])
            if one.name in pictured:
                drawn.pictured.append(one)
    return drawn
