"""The command line `gem3d`. Everything heavy is imported by the command that needs it."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.session.environment import prepare_environment
from flows.session.running import BAD_INPUT, FAILED, fail, print_json, run_flow
from gem3d_core.errors import BadInput, Gem3dError

if TYPE_CHECKING:
    from flows.session.ledger import Summary
    from flows.session.parameters import EnhanceJob


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Re-sample 3D medical segmentation datasets with mask- and slice-conditioned latent diffusion (GEM-3D).",
)

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else there.")]
CatalogOption = Annotated[
    str | None, typer.Option("--catalog", help="Folder or s3:// address [GEM3D_CATALOG, else ./catalog].")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Such as resample.steps=10.")]
Weights = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Folder of weights that others trained [GEM3D_WEIGHTS]."),
]
Memory = Annotated[str | None, typer.Option(metavar="SIZE", help="Budget such as 8GiB: as much at once as fits.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Make everything anew, whatever the catalog holds.")]


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 failed, 2 bad input or usage, 130 interrupted."""
    prepare_environment()
    try:
        app()
    except RuntimeError as error:
        from data_catalog.errors import CatalogError  # here, because the catalog takes longer to import than `--help`

        if not isinstance(error, Gem3dError | CatalogError):
            raise
        fail(str(error), error.exit_code)
    except OSError as error:
        fail(f"{error}: look at the path, its rights and the space on its disk", FAILED)


@app.command(epilog="Example: gem3d check ../data/Task04_Hippocampus")
def check(
    dataset: Path,
    channel: Annotated[str | None, typer.Option(help="Name or index of the image channel.")] = None,
    as_json: Json = False,
) -> None:
    """Faults of a dataset, one line each; exit code 2 if there are any."""
    from dataclasses import asdict

    from gem3d_core.scans.check import check_dataset
    from gem3d_core.scans.dataset import open_dataset

    try:
        opened = open_dataset(dataset, channel=channel)
    except BadInput as error:
        if as_json:
            print_json({"ok": False, "cases": 0, "faults": [], "error": str(error)})
            sys.stderr.write(f"gem3d: {error}\n")
            raise typer.Exit(BAD_INPUT) from error
        raise
    facts, faults = check_dataset(opened)
    if as_json:
        listed = [asdict(fault) for fault in faults]
        print_json({"ok": not faults, "cases": len(facts), "faults": listed, "error": None})
    else:
        for fault in faults:
            typer.echo(str(fault))
        typer.echo(f"{opened.root}: {len(facts)} sound case(s), {len(faults)} fault(s)")
    if faults:
        raise typer.Exit(BAD_INPUT)


@app.command(epilog="Example: gem3d enhance ../data/Task04_Hippocampus --profile hippocampus-cpu --factor 3")
def enhance(
    dataset: str,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="[GEM3D_PROFILE, else hippocampus-cpu]")
    ] = None,
    factor: Annotated[int | None, typer.Option(min=1, help="Datasets at 1x ... FACTORx.")] = None,
    overrides: Overrides = None,
    catalog: CatalogOption = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of all draws after training.")] = None,
    name: Annotated[str | None, typer.Option(help="Name in the catalog.")] = None,
    mix: Annotated[str | None, typer.Option(help="none, or real: add the true training cases to the datasets.")] = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    with_stages: Annotated[
        list[str] | None, typer.Option("--with", metavar="STAGE", help="Run this stage although nothing needs it.")
    ] = None,
    memory: Memory = None,
    weights: Weights = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without faulty cases.")] = False,
    no_cache: NoCache = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Make an enhanced dataset: check, prepare, train, re-sample, publish, evaluate."""
    from configs import parse_overrides

    given = parse_overrides(overrides or [])
    given |= {"runtime.weights": str(weights.absolute())} if weights else {}
    given |= {"publish.mix": mix} if mix else {}
    given |= {"runtime.memory": memory} if memory else {}
    values: dict[str, object] = {
        "dataset": dataset,
        "profile": profile,
        "factor": factor,
        "overrides": given,
        "catalog": catalog,
        "seed": seed,
        "name": name,
        "until": until,
        "with_stages": with_stages or [],
        "skip_bad": skip_bad,
        "use_cache": not no_cache,
    }
    if dry_run:
        _dry_run(values, as_json=as_json)
        return

    def check() -> "EnhanceJob":
        return _enhance_job(values)

    def prepare(job: "EnhanceJob") -> "Callable[[], Summary]":
        from prefect import flow

        from flows.enhance import enhance, enhance_dataset

        return partial(flow(name=enhance_dataset.name)(enhance), job)

    from flows.session.telling import tell

    run_flow(check, prepare, tell, as_json=as_json)


def _enhance_job(values: dict[str, object]) -> "EnhanceJob":
    from flows.session.parameters import EnhanceParameters, checked, open_job

    return open_job(checked(EnhanceParameters, values))


def _dry_run(values: dict[str, object], *, as_json: bool) -> None:
    from flows.dry_run import dry_run

    told = dry_run(_enhance_job(values))
    if as_json:
        print_json(told.model_dump())
    else:
        typer.echo(told.text())


@app.command(epilog="Example: gem3d resample model/Hippocampus-volume --factor 1 --seed 7")
def resample(
    model: str,
    factor: Annotated[int, typer.Option(min=1, help="Datasets at 1x ... FACTORx.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="Of all draws; today's date when left out.")] = None,
    overrides: Overrides = None,
    memory: Memory = None,
    catalog: CatalogOption = None,
    no_cache: NoCache = False,
    as_json: Json = False,
) -> None:
    """New volumes from a trained volume model, under the configuration that it was trained with: a new version of the
    same datasets."""

    def check() -> dict[str, object]:
        from configs import parse_overrides

        return parse_overrides(overrides or [])

    def prepare(given: dict[str, object]) -> "Callable[[], Summary]":
        from flows.resample import ResampleParameters, resample_dataset

        parameters = ResampleParameters(
            model=model,
            catalog=catalog,
            factor=factor,
            seed=seed,
            memory=memory,
            overrides=given,
            use_cache=not no_cache,
        )
        return partial(resample_dataset, parameters)

    from flows.session.telling import tell

    run_flow(check, prepare, tell, as_json=as_json)


@app.command(epilog="Example: gem3d phantoms ./phantoms --cases 12")
def phantoms(
    folder: Path,
    cases: Annotated[int, typer.Option(min=1)] = 12,
    size: Annotated[int, typer.Option(min=24, help="In-plane voxels of a case, about.")] = 48,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Write a small cohort of brain-like phantoms as an nnU-Net raw dataset."""
    from gem3d_core.scans.phantoms import write_cohort

    dataset = str(write_cohort(folder, cases=cases, size=size, seed=seed))
    if as_json:
        print_json({"dataset": dataset, "cases": cases})
    else:
        typer.echo(dataset)


def _register() -> None:
    from flows.cli.bench import bench_app
    from flows.cli.catalog import catalog_app
    from flows.cli.fetch import fetch
    from flows.cli.tables import tables

    app.add_typer(bench_app, name="bench")
    app.add_typer(catalog_app, name="catalog")
    app.command(epilog="Example: gem3d fetch hippocampus --to ../data")(fetch)
    app.command(epilog="Example: gem3d tables ../data/Task04_Hippocampus --profile hippocampus-cpu --rows paper,ours")(
        tables
    )


_register()

if __name__ == "__main__":
    main()
