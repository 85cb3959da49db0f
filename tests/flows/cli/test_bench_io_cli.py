import json
from pathlib import Path

import numpy as np
import typer
from typer.testing import CliRunner

from flows.cli.bench_io import register
from gem3d_core.scans.volumes import write_nifti

bench = typer.Typer()
register(bench)


def told(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(bench, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    document: dict[str, object] = json.loads(result.output)
    return document


def test_files_of_a_dataset_and_a_phantom_are_measured(tmp_path: Path) -> None:
    labels = np.zeros((20, 20, 20), dtype=np.uint8)
    write_nifti(tmp_path / "a.nii.gz", labels, np.eye(4))
    of_file = told("io", str(tmp_path / "a.nii.gz"), "--labels")
    assert of_file["bytes"] == labels.nbytes + 352  # the header
    of_phantom = told("io", "--size", "24")
    assert of_phantom["write"].keys() == of_phantom["read"].keys() == {"seconds", "mb_per_second"}


def test_the_table_names_every_method() -> None:
    result = CliRunner().invoke(bench, ["io", "--size", "24"], catch_exceptions=False)
    assert [f"| {method} |" in result.output for method in ("gzip 1", "gzip 6", "gzip 9", "igzip 2 (in use)")] == [
        True
    ] * 4


def test_both_show_an_example() -> None:
    for name in ("io", "catalog"):
        assert "Example: gem3d bench" in CliRunner().invoke(bench, [name, "--help"]).output


def test_a_catalog_is_measured() -> None:
    speed = told("catalog", "--volumes", "5", "--artifacts", "6")
    assert speed["volumes"] == 5
    assert {"ls_seconds", "show_seconds", "lineage_seconds", "find_seconds", "put_seconds"} <= speed.keys()
