"""`gem3d tables`: the paper's tables on a dataset of one's own."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.catalog import CatalogOption, Json

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.session.parameters import TablesJob
    from flows.tables import TablesSummary


def tables(
    dataset: str,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="[GEM3D_PROFILE, else hippocampus-cpu]")
    ] = None,
    rows: Annotated[
        str | None, typer.Option(metavar="LIST", help="Only these rows of configs/rows.yaml: paper,ours.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="For every row: tables.train_slices=500.")
    ] = None,
    catalog: CatalogOption = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of all draws after training.")] = None,
    name: Annotated[str | None, typer.Option(help="Name in the catalog.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Budget, such as 8GiB.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of weights that others trained [GEM3D_WEIGHTS]."),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without faulty cases.")] = False,
    as_json: Json = False,
) -> None:
    """Train every system of the paper and each of our changes within one budget, draw, score, and write its tables.

    Hours to days. Given again it goes on with the rows, or the parts of a row, that are not finished. A row that cannot
    be made is listed, and the command ends with 1.
    """
    from configs import parse_overrides
    from flows.session.running import FAILED, run_flow

    given = parse_overrides(overrides or [])
    given |= {"runtime.weights": str(weights.absolute())} if weights else {}
    given |= {"runtime.memory": memory} if memory else {}

    def check() -> "TablesJob":
        from flows.session.parameters import TablesParameters, checked, open_tables

        parameters = checked(
            TablesParameters,
            {
                "dataset": dataset,
                "profile": profile,
                "rows": None if rows is None else [row.strip() for row in rows.split(",")],
                "overrides": given,
                "catalog": catalog,
                "seed": seed,
                "name": name,
                "skip_bad": skip_bad,
            },
        )
        return open_tables(parameters)

    def prepare(job: "TablesJob") -> "Callable[[], TablesSummary]":
        from prefect import flow

        from flows.tables import reproduce_tables
        from flows.tables import tables as make_tables

        return partial(flow(name=reproduce_tables.name)(make_tables), job)

    if run_flow(check, prepare, _tell, as_json=as_json).failed:
        raise typer.Exit(FAILED)


def _tell(summary: "TablesSummary") -> str:
    """The tables themselves, and where they lie."""
    lines = [Path(summary.tables).read_text(), f"catalog   {summary.catalog}", f"tables    {summary.tables}"]
    failed = [f"not made  {row}: {reason}" for row, reason in summary.failed.items()]
    return "\n".join([*lines, f"numbers   {summary.numbers}", *failed])
