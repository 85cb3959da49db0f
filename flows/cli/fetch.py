"""`gem3d fetch`: public datasets, resumable and checked."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer


def fetch(
    name: str,
    to: Annotated[Path, typer.Option(help="Folder that the dataset is unpacked into.")] = Path("data"),
    url: Annotated[
        str | None, typer.Option(help="Address to use instead of the configured one [GEM3D_FETCH_URL].")
    ] = None,
    checksum: Annotated[str | None, typer.Option(help="Expected SHA-256 or MD5 instead of the configured one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Download and unpack a public dataset; an interrupted download goes on where it stopped."""
    from configs.sources import source
    from gem3d_core.machine.download import extract
    from gem3d_core.machine.download import fetch as download

    known = source(name)
    address = url or os.environ.get("GEM3D_FETCH_URL") or known.url
    archive = download(address, checksum or known.checksum, to / Path(address).name)
    folder = str(extract(archive, to))
    typer.echo(json.dumps({"dataset": folder, "address": address}) if as_json else folder)
