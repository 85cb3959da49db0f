"""Which settings need which others: what network, conditions and sampler must have of each other."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from configs.schema import Config


class Need(NamedTuple):
    """A setting that is of no use without another; both told as one would set them."""

    what: str
    asked: Callable[[Config], bool]
    needed: str
    met: Callable[[Config], bool]


def _adversarial(c: Config) -> bool:
    return c.tune_volume.objective == "adversarial"


def _tuned(c: Config) -> bool:
    return c.generator == "volume"


def _in_slices(c: Config) -> bool:
    return c.generator != "whole"


NEEDS = (
    Need("condition.known=true", lambda c: c.condition.known, "generator=volume", _tuned),
    Need("condition.strides beyond 1", lambda c: c.condition.strided, "generator=volume", _tuned),
    Need("condition.slice_offset=true", lambda c: c.condition.slice_offset, "generator=volume or slice", _in_slices),
    Need(
        "condition.injection=controlnet or cross_attention",
        lambda c: c.condition.injection != "concat",
        "generator=volume or slice",
        _in_slices,
    ),
    Need(
        "resample.resample above 1",
        lambda c: c.resample.resample > 1,
        "resample.continuation=repaint or known, whose windows repeat steps beside what they continue",
        lambda c: c.resample.continuation in {"repaint", "known"},
    ),
    Need(
        "resample.continuation=known",
        lambda c: c.resample.continuation == "known",
        "condition.known=true",
        lambda c: c.condition.known,
    ),
    Need(
        "resample.continuation=informed",
        lambda c: c.resample.continuation == "informed",
        "condition.informed=true",
        lambda c: c.condition.informed,
    ),
    Need(
        "resample.plan=keyframes",
        lambda c: c.resample.plan == "keyframes",
        "condition.strides such as [1, 3]",
        lambda c: c.condition.strided,
    ),
    Need(
        "resample.plan=keyframes",
        lambda c: c.resample.plan == "keyframes",
        "resample.continuation=known or repaint",
        lambda c: c.resample.continuation in {"known", "repaint"},
    ),
    Need(
        "resample.informed_guidance",
        lambda c: c.resample.informed_guidance != 1,
        "condition.drop_informed above 0",
        lambda c: c.condition.drop_informed > 0,
    ),
    Need(
        "resample.mask_guidance",
        lambda c: c.resample.mask_guidance != 1,
        "condition.drop_mask and drop_informed above 0",
        lambda c: c.condition.drop_mask > 0 and (c.condition.drop_informed > 0 or not c.condition.informed),
    ),
    Need(
        "informed.donor=outline",
        lambda c: c.informed.donor == "outline",
        "informed.mode=cross and condition.informed=true, for which a donor is chosen",
        lambda c: c.informed.mode == "cross" and c.condition.informed,
    ),
    Need(
        "objective=adversarial",
        lambda c: "adversarial" in {c.train_slices.objective, c.train_informed.objective},
        "tune_volume, which trains a whole network",
        lambda _: False,
    ),
    Need(
        "tune_volume.objective=adversarial",
        _adversarial,
        "generator=whole, diffusion.prediction=sample and resample.steps=1",
        lambda c: c.generator == "whole" and c.diffusion.prediction == "sample" and c.resample.steps == 1,
    ),
    Need(
        "tune_volume.objective=adversarial",
        _adversarial,
        "diffusion.schedule=cosine and diffusion.spacing=trailing, to begin with noise alone",
        lambda c: c.diffusion.schedule == "cosine" and c.diffusion.spacing == "trailing",
    ),
)


def check_combinations(config: Config) -> None:
    """Raise ValueError, with what to set, where a setting lacks what it needs."""
    for need in NEEDS:
        if need.asked(config) and not need.met(config):
            raise ValueError(f"{need.what} needs {need.needed}")
    strides, window = config.condition.strides, config.condition.window
    if any(coarse // fine >= window for fine, coarse in pairwise(strides)):
        raise ValueError(
            f"condition.strides={strides}: a window of {window} slots does not reach from one slice of a stride to the "
            "next"
        )
