"""`gem3d catalog`: what exists, where it came from, whether it is whole."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gem3d_core.errors import BadInput

if TYPE_CHECKING:
    from data_catalog import Artifact, Catalog


catalog_app = typer.Typer(no_args_is_help=True, help="Browse and verify the catalog.")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else there.")]
CatalogOption = Annotated[
    str | None, typer.Option("--catalog", help="Folder or s3:// address [GEM3D_CATALOG, else ./catalog].")
]


@catalog_app.command("ls", epilog="Example: gem3d catalog ls dataset")
def ls(
    kind: Annotated[str | None, typer.Argument(help="Only artifacts of this kind.")] = None,
    catalog: CatalogOption = None,
    as_json: Json = False,
) -> None:
    """Artifacts, the newest first."""
    opened = _open(catalog)
    artifacts = opened.ls(kind)
    if kind and not artifacts:
        kinds = ", ".join(sorted({artifact.kind for artifact in opened.ls()}))
        raise BadInput(f"{opened.address} holds nothing of kind {kind!r}; it holds {kinds}")
    if as_json:
        _print([_facts(artifact) for artifact in artifacts])
        return
    for a in artifacts:
        typer.echo(
            f"{a.ref!s:<58}{a.created:%Y-%m-%d %H:%M}  seed {a.seed:<10}{len(a.files):>6} files  run {a.run_id[:8]}"
        )


@catalog_app.command("show", epilog="Example: gem3d catalog show dataset/Hippocampus-1x")
def show(ref: str, catalog: CatalogOption = None, as_json: Json = False) -> None:
    """One artifact: its facts, files and parents."""
    artifact = _open(catalog).get(ref)
    facts = {**_facts(artifact), "files": {name: entry.sha256 for name, entry in artifact.files.items()}}
    if as_json:
        _print(facts)
        return
    for name, value in facts.items():
        typer.echo(f"{name:<14}{_text(value)}")


@catalog_app.command("lineage", epilog="Example: gem3d catalog lineage volumes/Hippocampus-r0")
def lineage(ref: str, catalog: CatalogOption = None, as_json: Json = False) -> None:
    """What an artifact was made from, back to the source."""
    from data_catalog import Artifact

    steps = _open(catalog).lineage(ref)
    if as_json:
        _print([{"depth": d, "ref": a.ref.full if isinstance(a, Artifact) else a.full} for d, a in steps])
        return
    for depth, a in steps:
        told = f"{a.ref}  {a.created:%Y-%m-%d %H:%M}" if isinstance(a, Artifact) else f"{a}  (not in this catalog)"
        typer.echo("  " * depth + told)


@catalog_app.command("verify", epilog="Example: gem3d catalog verify --json")
def verify(catalog: CatalogOption = None, as_json: Json = False) -> None:
    """Hash every object again; exit code 1 if any is corrupt or missing."""
    found = _open(catalog).verify()
    if as_json:
        _print({"objects": found.objects, "corrupt": found.corrupt, "missing": found.missing})
    else:
        for line in [f"corrupt: {c}" for c in found.corrupt] + [f"missing: {m}" for m in found.missing]:
            typer.echo(line)
        typer.echo(f"{found.objects} object(s), {len(found.corrupt)} corrupt, {len(found.missing)} missing")
    if found.corrupt or found.missing:
        raise typer.Exit(1)


@catalog_app.command("export", epilog="Example: gem3d catalog export dataset/Hippocampus-1x ./out")
def export(ref: str, folder: Path, catalog: CatalogOption = None, as_json: Json = False) -> None:
    """Copy an artifact's files to a new folder, with its record as manifest.json."""
    written = str(_open(catalog).export(ref, folder))
    if as_json:
        _print({"ref": ref, "folder": written})
    else:
        typer.echo(written)


@catalog_app.command("gc", epilog="Example: gem3d catalog gc --days 7")
def gc(
    days: Annotated[float, typer.Option(min=1, help="Without a change for so many days.")] = 30,
    catalog: CatalogOption = None,
    as_json: Json = False,
) -> None:
    """Remove working folders that unfinished stages left behind; what is in the catalog stays."""
    folders = _open(catalog).work.clear_abandoned(days)
    if as_json:
        _print({"removed": [str(folder) for folder in folders]})
    else:
        typer.echo(f"{len(folders)} working folder(s) removed")


def _open(address: str | None) -> "Catalog":
    import os

    from data_catalog import Catalog

    named = address or os.environ.get("GEM3D_CATALOG") or "catalog"
    if "://" not in named and not (Path(named).expanduser() / "tables").is_dir():
        raise BadInput(f"no catalog at {named}: name one with --catalog or GEM3D_CATALOG; `gem3d enhance` makes it")
    return Catalog.open(named)


def _facts(a: "Artifact") -> dict[str, object]:
    return {
        "ref": a.ref.full,
        "created": a.created.isoformat(),
        "run_id": a.run_id,
        "seed": a.seed,
        "code_version": a.code_version,
        "config_hash": a.config_hash,
        "parents": list(a.parents),
        "meta": dict(a.meta),
    }


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "".join(f"\n  {name}: {entry}" for name, entry in value.items())
    return "".join(f"\n  {entry}" for entry in value) if isinstance(value, list) else str(value)


def _print(document: object) -> None:
    typer.echo(json.dumps(document, indent=1))
