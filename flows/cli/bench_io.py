"""`gem3d bench io` and `gem3d bench catalog`: how fast files and the catalog are on this machine."""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.catalog import Json


def register(bench: typer.Typer) -> None:
    """Add both commands to `gem3d bench`."""
    bench.command("io", epilog="Example: gem3d bench io ../data/Task04_Hippocampus/imagesTr/*.nii.gz")(io)
    bench.command("catalog", epilog="Example: gem3d bench catalog --volumes 10000 --json")(catalog)


def io(
    files: Annotated[list[Path] | None, typer.Argument(help="Volumes; a phantom when left out.")] = None,
    labels: Annotated[bool, typer.Option("--labels", help="The volumes are label maps.")] = False,
    size: Annotated[int, typer.Option(min=24, help="In-plane voxels of the phantom, about.")] = 128,
    as_json: Json = False,
) -> None:
    """Writing and reading `.nii.gz`, with the deflate in use and with Python's own."""
    from gem3d_core.bench.volume_files import bench_files, files_table
    from gem3d_core.scans.phantoms import draw_phantom
    from gem3d_core.scans.volumes import read_label, read_volume

    if files:
        volumes = [(read_label if labels else read_volume)(path) for path in files]
    else:
        phantom = draw_phantom(2, size=size, seed=0)
        volumes = [phantom.label if labels else phantom.image]
    with tempfile.TemporaryDirectory() as folder:
        speed = bench_files(volumes, Path(folder))
    if as_json:
        typer.echo(json.dumps(asdict(speed), indent=1))
        return
    from gem3d_core.report.markdown import markdown

    typer.echo(markdown(files_table(speed, "Writing and reading .nii.gz")))


def catalog(
    volumes: Annotated[int, typer.Option(min=1, help="Synthetic volumes, each with a file and a row.")] = 10_000,
    artifacts: Annotated[int, typer.Option(min=1, help="Artifacts of all kinds.")] = 300,
    as_json: Json = False,
) -> None:
    """Commands of the catalog, the start of their process included, on one that is filled in a temporary folder."""
    from tasks.bench.catalog import bench_catalog

    with tempfile.TemporaryDirectory() as folder:
        speed = bench_catalog(Path(folder), volumes, artifacts, [sys.executable, "-m", "flows.cli.main"])
    if as_json:
        typer.echo(json.dumps(asdict(speed), indent=1))
        return
    for name, value in asdict(speed).items():
        typer.echo(f"{name:<22}{value:>10.3f}" if isinstance(value, float) else f"{name:<22}{value:>10}")
