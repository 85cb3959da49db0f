"""Which informed slice a mask gets: of another patient, and where it is asked for of one with a like outline."""

from typing import Literal

import numpy as np
import pytest

from gem3d_core.errors import Gem3dError
from gem3d_core.sampling.donors import Donor, InformedSource, choose_sources
from gem3d_core.spec.method import InformedSpec

DEPTHS = {"a": 9, "b": 6, "c": 12, "d": 8}
SIDES = {"a": 10, "b": 11, "c": 18, "d": 3}
DONORS = {name: Donor(name, depth) for name, depth in DEPTHS.items()}
"""Four patients whose outlines are centred squares of different sides."""


def outline(case: str) -> np.ndarray:
    found = np.zeros((DEPTHS[case], 20, 20), bool)
    low = 10 - SIDES[case] // 2
    found[:, low : low + SIDES[case], low : low + SIDES[case]] = True
    return found


def sources(donor: Literal["any", "outline"], seed: int, mode: str = "cross") -> list[InformedSource]:
    wanted = [(case, "true") for case in DONORS]
    return choose_sources(wanted, DONORS, InformedSpec(donor=donor), seed, 0, mode, outline)


@pytest.mark.parametrize("donor", ["any", "outline"])
def test_a_donor_is_another_patient_and_its_slice_inside_its_volume(donor: Literal["any", "outline"]) -> None:
    for seed in range(20):
        for source in sources(donor, seed):
            assert source.donor is not None
            assert source.donor_slice is not None
            assert source.donor != source.case
            assert 0 <= source.donor_slice < DEPTHS[source.donor]


def test_a_donor_by_outline_is_the_likest_of_those_drawn() -> None:
    """Of eight drawn among three others; that the likest is not among them happens once in 25."""
    nearest = {"a": "b", "b": "a", "c": "b", "d": "a"}
    chosen = {"any": 0, "outline": 0}
    kinds: tuple[Literal["any", "outline"], ...] = ("any", "outline")
    for donor in kinds:
        for seed in range(50):
            chosen[donor] += sum(source.donor == nearest[source.case] for source in sources(donor, seed))
    assert chosen["outline"] > 0.9 * 200
    assert chosen["any"] < 0.5 * 200


def test_slices_that_are_generated_have_no_donor_and_the_same_positions() -> None:
    crossed, generated = sources("outline", 3), sources("outline", 3, mode="generated")
    assert [source.p for source in generated] == [source.p for source in crossed]
    assert {(source.mode, source.donor, source.donor_slice) for source in generated} == {("generated", None, None)}


def test_what_one_mask_gets_does_not_depend_on_the_others() -> None:
    alone = choose_sources([("c", "true")], DONORS, InformedSpec(donor="any"), 5, 0, "cross", outline)
    assert alone == [source for source in sources("any", 5) if source.case == "c"]


def test_a_case_of_the_same_patient_is_no_donor() -> None:
    twins = {name: Donor("one", depth) for name, depth in DEPTHS.items()}
    with pytest.raises(Gem3dError, match="no donor for a: no training case of another patient than one"):
        choose_sources([("a", "true")], twins, InformedSpec(), 0, 0, "cross", outline)
