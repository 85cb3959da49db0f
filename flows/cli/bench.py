"""`gem3d bench`: how fast and how good this machine is with the models of a catalog."""

import json
from typing import Annotated

import typer

from flows.cli.bench_io import register
from flows.cli.catalog import CatalogOption, Json
from gem3d_core.errors import BadInput

bench_app = typer.Typer(no_args_is_help=True, help="Measure speed, memory and quality on this machine.")


@bench_app.command("sampling", epilog="Example: gem3d bench sampling model/Hippocampus-volume --steps 5,10,20")
def sampling(
    model: Annotated[str | None, typer.Argument(help="Volume model; the newest when left out.")] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="All test volumes and three seeds (Algorithm 1 itself: eight and one); else eight and one."
        ),
    ] = False,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Also these numbers of steps: 5,10,20; and the first window at the start, and DDIM 200 eta 1.",
        ),
    ] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Budget, such as 8GiB.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Such as resample.overlap=2.")
    ] = None,
    catalog: CatalogOption = None,
    as_json: Json = False,
) -> None:
    """Re-sampling beside Algorithm 1 of the paper: the same weights, masks and noise."""
    from configs import parse_overrides
    from flows.session.environment import prepare_environment, quieten

    numbers, settings = _numbers(steps), parse_overrides(overrides or [])
    if other := [key for key in settings if key.partition(".")[0] not in {"resample", "runtime"}]:
        raise BadInput(f"--set {other[0]}: belongs to the model; here only resample.* and runtime.* can be set")
    if memory:
        settings["runtime.memory"] = memory
    prepare_environment()
    quieten()
    from flows.session.server import own_server

    with own_server() as wait:
        from dataclasses import asdict

        from flows.session.parameters import catalog_address
        from gem3d_core.bench.comparison import comparison_table
        from gem3d_core.report.markdown import markdown
        from tasks.bench.models import bench_sampling

        wait()
        compared = bench_sampling(catalog_address(catalog), model, numbers, settings, full=full)
    typer.echo(json.dumps(asdict(compared), indent=1) if as_json else markdown(comparison_table(compared)))


@bench_app.command("training", epilog="Example: gem3d bench training --profile hippocampus-cpu --json")
def training(
    profile: Annotated[str, typer.Option("--profile", "-p", help="Whose network and window.")] = "hippocampus-cpu",
    windows: Annotated[int, typer.Option(min=1, help="In a batch.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Timed, after one that warms up.")] = 4,
    as_json: Json = False,
) -> None:
    """Training steps on stored latents beside the literal ones, which encode image, mask and informed slices anew."""
    from dataclasses import asdict

    from tasks.bench.models import bench_training

    compared = bench_training(profile, windows, steps)
    if as_json:
        typer.echo(json.dumps(asdict(compared), indent=1))
        return
    for name, pace in (("literal", compared.reference), ("stored latents", compared.ours)):
        told = f"{pace.steps_per_second:9.3f} steps/s{pace.peak_bytes / 2**30:9.2f} GiB"
        typer.echo(f"{name:<16}{told}{pace.share_of_matrix_product:8.0%} of a matrix product's speed")
    typer.echo(f"{compared.speedup:.1f} times as fast; first losses differ by {compared.loss_difference:.1e}")


def _numbers(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise BadInput(f"--steps {text!r}: expected whole numbers with commas between them, such as 5,10,20") from error


register(bench_app)
