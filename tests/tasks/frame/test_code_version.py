"""What counts as a change of a stage's code."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tasks.frame import code_version as module

STAGES = [
    f"tasks.{room}.{path.stem}"
    for room in ("stages", "evaluation")
    for path in sorted((module.ROOT / "tasks" / room).glob("[!_]*.py"))
]
"""Every module that has a stage, and what stands beside them."""
TELL = """
import json, sys
from tasks.frame.code_version import code_version
told = {name: code_version(name, lambda library: "1") for name in sys.argv[1:]}
print(json.dumps(["%d.%d" % sys.version_info[:2], told]))
"""
"""What another Python is asked: nothing but the standard library is imported."""


def test_a_stage_reaches_the_core_that_it_uses_and_no_more() -> None:
    training, publishing = module.closure("tasks.stages.train"), module.closure("tasks.stages.publish")
    assert {"gem3d_core.training.loop", "gem3d_core.networks.slices", "gem3d_core.diffusion.schedule"} <= training
    assert "gem3d_core.sampling.batched" not in training
    assert "gem3d_core.networks.slices" not in publishing
    assert {"tasks.stages.train", "tasks.artifacts.latents"} <= training
    assert not {name for name in training | publishing if name == "tasks" or name.startswith("tasks.frame")}
    assert not {name for name in training | publishing if name.startswith(("data_catalog", "configs", "flows"))}


def test_versions_of_two_stages_differ() -> None:
    assert module.code_version("tasks.stages.train") != module.code_version("tasks.stages.encode")


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("x = 1\n", "x = 2\n", False),
        ("x = 1\n", "x = 1  # one\n", True),
        ('def f():\n    """Old."""\n    return 1\n', 'def f():\n    """New."""\n    return 1\n', True),
        ('x = 1\n"""Of it."""\n', 'x = 1\n"""Of x."""\n', True),
        ("def f():\n    return 1\n", "def f():\n    return (1)\n", True),
        ('x = f"a{y}b"\n', 'x = f"a{y}c"\n', False),
        ('x = f"a{y}b"\n', 'x = f"a" f"{y}" "b"\n', True),
    ],
)
def test_only_what_is_executed_counts(tmp_path: Path, before: str, after: str, *, same: bool) -> None:
    for name, text in (("before.py", before), ("after.py", after)):
        (tmp_path / name).write_text(text)
    assert (module._syntax(tmp_path / "after.py") == module._syntax(tmp_path / "before.py")) is same


def test_files_that_are_used_without_an_import_count() -> None:
    assert "gem3d_core.nnunet.arms" in module.closure("tasks.evaluation.downstream")
    for reached, files in module.BESIDE.items():
        assert module._exists(reached)
        assert all((module.ROOT / file).is_file() for file in files)


def test_only_libraries_that_a_stage_imports_count() -> None:
    assert {"torch", "diffusers", "numpy"} <= module.libraries("tasks.stages.train")
    assert not {"torchio", "lpips"} & module.libraries("tasks.stages.train")
    assert {"torchio", "nibabel"} <= module.libraries("tasks.stages.masks")
    assert "monai" in module.libraries("tasks.evaluation.downstream")


@pytest.mark.parametrize(
    ("stage", "same"),
    [
        ("tasks.stages.encode", True),
        ("tasks.stages.train", True),
        ("tasks.stages.preprocess", False),  # plans with it, and resamples every case by its functions
        ("tasks.evaluation.downstream", False),
    ],
)
def test_an_upgrade_of_nnunet_concerns_the_stages_that_it_computes_for(stage: str, *, same: bool) -> None:
    def upgraded(library: str) -> str:
        return "99" if library == "nnunetv2" else module.installed(library)

    assert (module.code_version(stage, upgraded) == module.code_version(stage)) is same


def told_by(version: str) -> dict[str, str] | None:
    """Code versions of all stages as another Python tells them, of any libraries; none where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed = [shutil.which(f"python{version}"), *pyenv.glob(f"versions/{version}.*/bin/python")]
    for python in filter(None, installed):
        asked = [str(python), "-c", TELL, *STAGES]
        told = subprocess.run(asked, cwd=module.ROOT, capture_output=True, text=True, check=False)
        if told.returncode:  # a link of pyenv to a version that is not switched on, or too bare to start
            assert "Traceback" not in told.stderr, told.stderr
            continue
        found, versions = json.loads(told.stdout)
        if found == version:
            return dict(versions)
    return None


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_version_of_python_tells_the_same(version: str) -> None:
    told = told_by(version)
    if told is None:
        pytest.skip(f"no Python {version} is installed here")
    assert told == {stage: module.code_version(stage, lambda _library: "1") for stage in STAGES}
