"""Which settings fit together: everything that relates two of them is judged here, and nowhere again.

What is wrong whoever asks, also without a configuration, stands with its dataclass: the range of a value; in
`gem3d_core.spec.method` what zero terminal SNR forbids (`DiffusionSpec`), what needs an informed slice
(`ConditionSpec`), the widths of a UNet (`UNetSpec`) and the noise of a solver (`SampleSpec`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, get_args

from gem3d_core.errors import BadInput
from gem3d_core.spec.kinds import KINDS, Kind
from gem3d_core.spec.method import Injection, SampleSpec

if TYPE_CHECKING:
    from configs.schema import Config


class Rule(NamedTuple):
    """Settings that do not fit together, and what is said of them."""

    broken: Callable[[Config], bool]
    said: Callable[[Config], str]


def _needs(
    what: str, asked: Callable[[Config], bool], needed: str, met: Callable[[Config], bool] = lambda _: False
) -> Rule:
    """A setting that is of no use without another; both told as one would set them."""
    return Rule(lambda c: asked(c) and not met(c), lambda _: f"{what} needs {needed}")


def _needs_kind(what: str, asked: Callable[[Config], bool], can: Callable[[Kind], bool]) -> Rule:
    """A setting that some generators know."""
    known = [name for name, kind in KINDS.items() if can(kind)]
    return _needs(what, asked, f"generator={' or '.join(known)}", lambda c: can(KINDS[c.generator]))


def _shrinks(c: Config) -> tuple[int, int]:
    """How many times smaller codec and UNet make a slice; a codec that others trained tells when it is opened."""
    halvings = 2 ** (max(len(c.unet.multipliers), len(c.position_unet.multipliers)) - 1)
    if c.codec.kind == "haar":
        return 2**c.codec.levels, halvings
    return (8, halvings) if c.codec.weights == "train" else (1, 1)


def _unpublished(c: Config) -> list[int]:
    return [k for k in c.evaluate.factors or () if not 1 <= k <= c.factor]


def _of_windows(c: Config) -> list[str]:
    """Settings of `informed.sample` that have a meaning for windows only."""
    names = "overlap", "first_window", "continuation", "plan", "resample", "mask_guidance", "informed_guidance"
    return [name for name in names if getattr(c.informed.sample, name) != getattr(SampleSpec(), name)]


def _adversarial(c: Config) -> bool:
    return c.tune_volume.objective == "adversarial"


def _keyframes(c: Config) -> bool:
    return c.resample.plan == "keyframes"


RULES = (
    Rule(
        lambda c: any(side % (_shrinks(c)[0] * _shrinks(c)[1]) for side in c.prepare.slice_size),
        lambda c: (
            f"prepare.slice_size={c.prepare.slice_size} must be a multiple of {_shrinks(c)[0] * _shrinks(c)[1]}: the "
            f"codec shrinks by {_shrinks(c)[0]} and the widest UNet by {_shrinks(c)[1]}"
        ),
    ),
    Rule(
        lambda c: c.publish.first_id + c.factor - 1 > 999,
        lambda c: (
            f"publish.first_id={c.publish.first_id} leaves no nnU-Net number for {c.factor} datasets: 999 is the last "
            "one"
        ),
    ),
    Rule(
        lambda c: bool(_unpublished(c)),
        lambda c: f"evaluate.factors names {_unpublished(c)}, but factor={c.factor} publishes 1x to {c.factor}x",
    ),
    Rule(
        lambda c: c.resample.overlap >= c.condition.window,
        lambda c: f"resample.overlap={c.resample.overlap} must be smaller than condition.window={c.condition.window}",
    ),
    _needs_kind("condition.known=true", lambda c: c.condition.known, lambda kind: kind.sees_window),
    _needs_kind("condition.strides beyond 1", lambda c: c.condition.strided, lambda kind: kind.sees_window),
    _needs_kind("condition.slice_offset=true", lambda c: c.condition.slice_offset, lambda kind: kind.injected),
    _needs_kind(
        f"condition.injection={' or '.join(name for name in get_args(Injection) if name != 'concat')}",
        lambda c: c.condition.injection != "concat",
        lambda kind: kind.injected,
    ),
    _needs(
        "resample.resample above 1",
        lambda c: c.resample.resample > 1,
        "resample.continuation=repaint or known, whose windows repeat steps beside what they continue",
        lambda c: c.resample.continuation in {"repaint", "known"},
    ),
    _needs(
        "resample.continuation=known",
        lambda c: c.resample.continuation == "known",
        "condition.known=true",
        lambda c: c.condition.known,
    ),
    _needs(
        "resample.continuation=informed",
        lambda c: c.resample.continuation == "informed",
        "condition.informed=true",
        lambda c: c.condition.informed,
    ),
    _needs("resample.plan=keyframes", _keyframes, "condition.strides such as [1, 3]", lambda c: c.condition.strided),
    _needs(
        "resample.plan=keyframes",
        _keyframes,
        "resample.continuation=known or repaint",
        lambda c: c.resample.continuation in {"known", "repaint"},
    ),
    _needs(
        "resample.informed_guidance",
        lambda c: c.resample.informed_guidance != 1,
        "condition.drop_informed above 0",
        lambda c: c.condition.drop_informed > 0,
    ),
    _needs(
        "resample.mask_guidance",
        lambda c: c.resample.mask_guidance != 1,
        "condition.drop_mask and drop_informed above 0",
        lambda c: c.condition.drop_mask > 0 and (c.condition.drop_informed > 0 or not c.condition.informed),
    ),
    _needs(
        "informed.donor=outline",
        lambda c: c.informed.donor == "outline",
        "informed.mode=cross and condition.informed=true, for which a donor is chosen",
        lambda c: c.informed.mode == "cross" and c.condition.informed,
    ),
    _needs(
        "objective=adversarial",
        lambda c: "adversarial" in {c.train_slices.objective, c.train_informed.objective},
        "tune_volume, which trains a whole network",
    ),
    _needs(
        "tune_volume.objective=adversarial",
        _adversarial,
        "generator=whole, diffusion.prediction=sample and resample.steps=1",
        lambda c: c.generator == "whole" and c.diffusion.prediction == "sample" and c.resample.steps == 1,
    ),
    _needs(
        "tune_volume.objective=adversarial",
        _adversarial,
        "diffusion.schedule=cosine and diffusion.spacing=trailing, to begin with noise alone",
        lambda c: c.diffusion.schedule == "cosine" and c.diffusion.spacing == "trailing",
    ),
    Rule(
        lambda c: any(coarse // fine >= c.condition.window for fine, coarse in pairwise(c.condition.strides)),
        lambda c: (
            f"condition.strides={c.condition.strides}: a window of {c.condition.window} slots does not reach from one "
            "slice of a stride to the next"
        ),
    ),
    Rule(
        lambda c: c.resample.steps > c.diffusion.T,
        lambda c: f"resample.steps={c.resample.steps} is more than the process has: diffusion.T={c.diffusion.T}",
    ),
    Rule(
        lambda c: c.informed.sample.steps > c.diffusion.T,
        lambda c: (
            f"informed.sample.steps={c.informed.sample.steps} is more than the process has: diffusion.T={c.diffusion.T}"
        ),
    ),
    Rule(
        lambda c: bool(_of_windows(c)),
        lambda c: (
            f"informed.sample.{_of_windows(c)[0]}={getattr(c.informed.sample, _of_windows(c)[0])}: informed slices are "
            "drawn one by one and for no mask, without windows and guidance; it is a setting of resample"
        ),
    ),
    Rule(
        lambda c: c.evaluate.downstream and c.evaluate.baseline == c.system,
        lambda c: f"evaluate.baseline={c.system}: the run itself has this system; name another one",
    ),
)

SHARED = ("resample.solver", "resample.steps", "resample.eta")
"""Settings of systems that may be set for all rows of the tables instead."""
FIXED = {
    "system": "choose among the rows",
    "generator": "choose among the rows",
    "factor": "every row is drawn once",
    "masks.use": "choose among the rows",
    "masks.count": "set tables.masks",
    "informed.mode": "choose among the rows",
    "train_slices.steps": "set tables.train_slices",
    "tune_volume.steps": "set tables.tune_volume and tables.whole",
    "train_informed.steps": "set tables.train_informed",
    "evaluate.factors": "nothing is published",
    "evaluate.baseline": "choose among the rows",
}
"""What nobody sets for all rows of the tables, and what to do instead."""


def check(config: Config) -> None:
    """Raise ValueError, with what to set, where settings do not fit together."""
    for rule in RULES:
        if rule.broken(config):
            raise ValueError(rule.said(config))


def check_for_all_rows(given: Iterable[str], row: str, makes: Collection[str]) -> None:
    """Raise BadInput where a setting for all rows of the tables is among what makes one of them."""
    for key in given:
        if key in FIXED or key in set(makes) - set(SHARED):
            raise BadInput(f"--set {key}: it is among what makes the row {row}; {FIXED.get(key, 'leave it')}")
