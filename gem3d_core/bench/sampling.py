"""Drawing volumes by the fast path or by Algorithm 1 to the letter, and what it takes."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np

from gem3d_core.bench.effort import Effort, watched
from gem3d_core.diffusion.denoise import window_calls
from gem3d_core.networks.volumetric import VolumeNetwork
from gem3d_core.sampling.literal import STEPS, Algorithm1, draw_reference
from gem3d_core.sampling.volumes import Drawn, Recipe, VolumeModel, draw_volumes, drawn_borders
from gem3d_core.spec.method import SampleSpec


@dataclass(frozen=True)
class Scores:
    """Scores of a sampled volume against the true one: MS-SSIM, LPIPS (None: not available), both continuity measures.

    border: difference of neighbouring slices at borders of windows over that inside (None: no border). smoothness: that
    of all neighbours over the true volume's, mean of the three planes.
    """

    ms_ssim: float
    lpips: float | None
    border: float | None
    smoothness: float


Score = Callable[[str, np.ndarray, tuple[int, ...]], Scores]
"""Scores a volume, given its name, slices (Z, H, W) in [-1, 1] and window borders."""


@dataclass(frozen=True)
class Method:
    """A way to draw volumes: Algorithm 1 to the letter, or the fast path, perhaps compiled."""

    spec: SampleSpec
    literal: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """Tells methods apart; fit for a file's name."""
        kind = "reference" if self.literal else "compiled" if self.compiled else "ours"
        spec = self.spec
        windows = f"h{spec.overlap}-{spec.first_window}"
        rest = hashlib.sha256(repr(spec).encode()).hexdigest()[:8]
        return f"{kind}-{spec.solver}-{spec.steps}-eta{spec.eta:g}-{windows}-x{spec.resample}-{spec.precision}-{rest}"


def reference_method(steps: int = STEPS) -> Method:
    """DDIM, eta 0, overlap 1, the first window at the start slice, fp32 [paper]."""
    spec = SampleSpec(solver="ddim", steps=steps, overlap=1, first_window="at_start", batch=1, precision="fp32")
    return Method(spec, literal=True)


@dataclass(frozen=True)
class Measured:
    """One volume. What it took is counted from when the one before was finished: volumes share batches, sums hold."""

    seconds: float
    windows: int
    network_calls: int
    peak_bytes: int
    scores: Scores


Results = Mapping[tuple[str, int], Measured]
"""What was measured of one method, by case and seed."""


@dataclass
class _Tally:
    windows: int = 0
    network_calls: int = 0


def measure(
    model: VolumeModel, method: Method, recipes: Callable[[], Iterable[Recipe]], score: Score
) -> dict[str, Measured]:
    """Draw volumes, from reading their recipes to their slices, and say what each took and how good it is.

    A first pass of one step over as many volumes as share a batch sets the machine up and is not counted. Scoring is
    not counted either: it begins when all are drawn, so that nothing is decoded behind a clock that stands still.
    """
    first = islice(recipes(), method.spec.batch)
    for _ in _draw(model, replace(method, spec=replace(method.spec, steps=1)), first, _Tally()):
        pass

    tally, drawn = _Tally(), list[tuple[Drawn, Effort, _Tally]]()
    drawing = _draw(model, method, recipes(), tally)
    while True:
        before = replace(tally)
        one, effort = watched(partial(next, drawing, None), model.device)
        if one is None:
            break
        took = _Tally(tally.windows - before.windows, tally.network_calls - before.network_calls)
        drawn.append((one, effort, took))
    return {
        one.name: Measured(
            effort.seconds,
            took.windows,
            took.network_calls,
            effort.peak_bytes,
            score(one.name, one.slices.numpy(), one.borders),
        )
        for one, effort, took in drawn
    }


def _draw(model: VolumeModel, method: Method, recipes: Iterable[Recipe], tally: _Tally) -> Iterator[Drawn]:
    """Volumes as they are finished; windows and calls so far stand in the tally."""
    spec = method.spec
    if method.literal:
        assert isinstance(model.network, VolumeNetwork)
        algorithm = Algorithm1(model.network, model.schedule, model.device, spec.overlap, spec.steps, spec.eta)
        for recipe in recipes:
            slices = draw_reference(model, recipe, algorithm)
            tally.network_calls = algorithm.network_calls
            tally.windows = algorithm.network_calls // spec.steps
            yield Drawn(recipe, slices, drawn_borders(model, recipe, spec))
        return

    calls = window_calls(spec, informed=model.network.facts.condition.informed)

    def count(windows: int) -> None:
        tally.windows += windows
        tally.network_calls += calls

    yield from draw_volumes(model, recipes, spec, count)
