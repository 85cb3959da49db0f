"""Training and test cases."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem3d_core.errors import BadInput
from gem3d_core.prepare.split import evenly, split_cases
from gem3d_core.spec.prepare import SplitSpec

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
CASES = [f"case_{i:02d}" for i in range(10)]


def test_every_fifth_sorted_case_starting_with_the_first() -> None:
    split = split_cases(list(reversed(CASES)), SplitSpec())
    assert split.test == ("case_00", "case_05")
    assert set(split.train) == set(CASES) - set(split.test)
    assert split.note == ""


def test_hippocampus_gives_forty_test_cases() -> None:
    folder = DATA / "Task04_Hippocampus" / "imagesTr"
    if not folder.is_dir():
        pytest.skip("Task04_Hippocampus is not on this machine")
    names = sorted(f.name.removesuffix(".nii.gz") for f in folder.glob("hippocampus_*.nii.gz"))
    split = split_cases(names, SplitSpec())
    assert (len(split.train), len(split.test)) == (160, 40)
    assert split.test == tuple(names[::5])


@given(
    st.dictionaries(st.text("abc0", min_size=1, max_size=4), st.sampled_from("ABCDEFG"), min_size=1, max_size=20),
    st.sampled_from(["fifth", "seed"]),
    st.integers(0, 99),
    st.sampled_from([0.1, 0.2, 0.9]),
)
@settings(max_examples=100, deadline=None)
def test_no_patient_on_both_sides(patients: dict[str, str], kind: str, seed: int, fraction: float) -> None:
    split = split_cases(list(patients), SplitSpec(kind, fraction, seed), patients)

    assert sorted(split.train + split.test) == sorted(patients)
    assert not {patients[c] for c in split.train} & {patients[c] for c in split.test}
    assert split.train
    several = len(set(patients.values())) > 1
    assert bool(split.test) == several
    assert bool(split.note) == (not several)


def test_one_case_trains_and_it_is_said() -> None:
    split = split_cases(["only"], SplitSpec())
    assert split.train == ("only",)
    assert split.test == ()
    assert "no test split" in split.note


def test_seed_decides_and_decides_the_same() -> None:
    draws = [split_cases(CASES, SplitSpec("seed", 0.3, seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert all(len(draw.test) == 3 for draw in draws)


def saved(folder: Path, content: object) -> str:
    file = folder / "split.json"
    file.write_text(json.dumps(content))
    return str(file)


def test_file_with_train_and_test(tmp_path: Path) -> None:
    file = saved(tmp_path, {"train": CASES[2:], "test": CASES[:2]})
    split = split_cases(CASES, SplitSpec("file", file=file))
    assert split.test == tuple(CASES[:2])
    assert split.train == tuple(CASES[2:])


def test_a_fold_of_nnunet(tmp_path: Path) -> None:
    folds = [{"train": CASES[5:], "val": CASES[:5]}, {"train": CASES[:5], "val": CASES[5:]}]
    split = split_cases(CASES, SplitSpec("file", file=saved(tmp_path, folds), fold=1))
    assert split.train == tuple(CASES[:5])
    assert split.test == tuple(CASES[5:])


def test_a_quarantined_case_may_stand_in_the_file(tmp_path: Path) -> None:
    file = saved(tmp_path, {"train": CASES[1:], "test": [CASES[0]]})
    split = split_cases(CASES[:-1], SplitSpec("file", file=file), quarantined=[CASES[-1]])
    assert split.train == tuple(CASES[1:-1])


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"train": CASES, "test": CASES[:1]}, "on both sides: case_00"),
        ({"train": CASES, "test": ["strange"]}, "not in the dataset: strange"),
        ({"train": CASES[1:-1], "test": CASES[:1]}, "on neither side: case_09"),
        ({"train": [], "test": CASES}, "no training case"),
        ({"train": CASES}, "train and test"),
        ({"train": CASES[1:], "test": [3]}, "train and test"),
        ([], "fold 0"),
        ("text", "train and test"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, content: object, fault: str) -> None:
    with pytest.raises(BadInput, match=fault):
        split_cases(CASES, SplitSpec("file", file=saved(tmp_path, content)))


def test_a_file_that_parts_a_patient_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path, {"train": CASES[1:], "test": CASES[:1]})
    with pytest.raises(BadInput, match="patients that are on both sides: case_00, case_01"):
        split_cases(CASES, SplitSpec("file", file=file), {"case_00": "P", "case_01": "P"})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"absent\.json"):
        split_cases(CASES, SplitSpec("file", file=str(tmp_path / "absent.json")))


def test_cases_named_twice_are_refused() -> None:
    with pytest.raises(BadInput, match=r"twice.*case_00"):
        split_cases([*CASES, "case_00"], SplitSpec())


def test_evenly_spaced() -> None:
    assert evenly(range(10), 4) == [0, 2, 5, 7]
    assert evenly([1, 2], 4) == evenly([1, 2], None) == [1, 2]
