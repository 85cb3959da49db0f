"""Which informed slice a mask gets: of another patient, and where it is asked for of one with a like outline."""

from dataclasses import dataclass

import numpy as np
import pytest

from configs import load
from tasks.stages.informed import draw_sources

DEPTHS = {"a": 9, "b": 6, "c": 12, "d": 8}
SIDES = {"a": 10, "b": 11, "c": 18, "d": 3}


@dataclass(frozen=True)
class Case:
    """What is asked of a case where a donor is chosen."""

    patient: str
    depth: int


class Cohort:
    """Four patients whose outlines are centred squares of different sides."""

    def __init__(self) -> None:
        self.train = sorted(DEPTHS)
        self.cases = {name: Case(name, depth) for name, depth in DEPTHS.items()}

    def outline(self, case: str) -> np.ndarray:
        found = np.zeros((DEPTHS[case], 20, 20), bool)
        low = 10 - SIDES[case] // 2
        found[:, low : low + SIDES[case], low : low + SIDES[case]] = True
        return found


@pytest.mark.parametrize("donor", ["any", "outline"])
def test_a_donor_is_another_patient_and_its_slice_inside_its_volume(donor: str) -> None:
    config = load("smoke", {"informed.donor": donor, "masks.use": "true", "masks.count": None})
    for seed in range(20):
        for draw in draw_sources(Cohort(), config, seed, 0, "cross"):  # type: ignore[arg-type]  # a stand-in
            assert draw.donor is not None
            assert draw.donor_slice is not None
            assert draw.donor != draw.case
            assert 0 <= draw.donor_slice < DEPTHS[draw.donor]


def test_a_donor_by_outline_is_the_likest_of_those_drawn() -> None:
    """Of eight drawn among three others; that the likest is not among them happens once in 25."""
    nearest = {"a": "b", "b": "a", "c": "b", "d": "a"}
    chosen = {"any": 0, "outline": 0}
    for donor in chosen:
        config = load("smoke", {"informed.donor": donor, "masks.use": "true", "masks.count": None})
        for seed in range(50):
            for draw in draw_sources(Cohort(), config, seed, 0, "cross"):  # type: ignore[arg-type]  # a stand-in
                chosen[donor] += draw.donor == nearest[draw.case]
    assert chosen["outline"] > 0.9 * 200
    assert chosen["any"] < 0.5 * 200
