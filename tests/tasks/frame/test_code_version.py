"""What counts as a change of a stage's code."""

from pathlib import Path

import pytest

from tasks.frame import code_version as module


def test_a_stage_reaches_the_core_that_it_uses_and_no_more() -> None:
    training, publishing = module._closure("tasks.stages.train"), module._closure("tasks.stages.publish")
    assert {"gem3d_core.training.loop", "gem3d_core.networks.slices", "gem3d_core.diffusion.schedule"} <= training
    assert "gem3d_core.sampling.batched" not in training
    assert "gem3d_core.networks.slices" not in publishing
    assert {"tasks.stages.train", "tasks.artifacts.prepared"} <= training
    assert not {"tasks.frame.stage", "tasks.frame.policy", "tasks.frame.progress"} & (training | publishing)
    assert not {name for name in training | publishing if name.startswith(("data_catalog", "configs", "flows"))}


def test_versions_of_two_stages_differ() -> None:
    assert module.code_version("tasks.stages.train") != module.code_version("tasks.stages.encode")


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("x = 1\n", "x = 2\n", False),
        ("x = 1\n", "x = 1  # one\n", True),
        ('def f():\n    """Old."""\n    return 1\n', 'def f():\n    """New."""\n    return 1\n', True),
        ("def f():\n    return 1\n", "def f():\n    return (1)\n", True),
    ],
)
def test_only_what_is_executed_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, *, same: bool
) -> None:
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "one.py").write_text(before)
    first = module._tree_bytes("one")
    (tmp_path / "one.py").write_text(after)
    assert (module._tree_bytes("one") == first) is same


def test_files_that_are_used_without_an_import_count() -> None:
    assert "gem3d_core.nnunet.arms" in module._closure("tasks.evaluation.downstream")
    for reached, files in module.BESIDE.items():
        assert module._exists(reached)
        assert all((module.ROOT / file).is_file() for file in files)


def test_only_libraries_that_a_stage_imports_count() -> None:
    def libraries(stage: str) -> set[str]:
        return {name for reached in module._closure(stage) for name in module._imported(reached)} & module.ARITHMETIC

    assert {"torch", "diffusers", "numpy"} <= libraries("tasks.stages.train")
    assert not {"torchio", "lpips"} & libraries("tasks.stages.train")
    assert {"torchio", "nibabel"} <= libraries("tasks.stages.masks")
    assert "monai" in libraries("tasks.evaluation.downstream")
