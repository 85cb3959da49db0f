"""`prefect deployment run enhance-dataset`: a bare name is completed to FLOW/DEPLOYMENT.

Prefect 3 takes FLOW/DEPLOYMENT only and ends in a traceback on a bare name. Where plugins are enabled it imports this
module and calls the hook before it reads its command line; for every other command the hook does nothing.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from prefect.plugins import register_hook

if TYPE_CHECKING:
    from prefect.plugins import HookContext

COMMAND = ["deployment", "run"]
FLAGS = frozenset({"--watch", "--prompt", "--"})
"""Options of the command, and of `prefect` itself, after which no value stands; `--no-...` are known by their form."""


@register_hook
async def setup_environment(*, ctx: "HookContext") -> None:
    """Complete the bare name of a `prefect deployment run` in `sys.argv`."""
    position = bare_name_at(sys.argv)
    if position is None:
        return
    name = sys.argv[position]
    # by convention a deployment is named after its flow: what the command is left with if the question times out
    sys.argv[position] = f"{name}/{name}"
    if ctx.api_url is not None:
        sys.argv[position] = choose(name, await _deployments(name))


def bare_name_at(argv: Sequence[str]) -> int | None:
    """Index of the deployment's name in a `prefect deployment run NAME` without a slash; None for anything else."""
    if not _is_prefect(argv) or "--help" in argv:
        return None
    found = list(_positionals(argv))
    words = [argv[index] for index in found]
    if words[:2] != COMMAND or len(words) < 3 or "/" in words[2]:
        return None
    return found[2]


def choose(name: str, known: Sequence[str]) -> str:
    """The deployment that a bare name means, among the FLOW/DEPLOYMENT names in which it occurs.

    A deployment named like its flow comes first. Where none is known, NAME/NAME is left for Prefect to report as not
    found. Raises SystemExit, listing the candidates, where the name means several.
    """
    same = f"{name}/{name}"
    if same in known or not known:
        return same
    if len(known) > 1:
        raise SystemExit(f"prefect: {name!r} may be {' or '.join(known)}; give one of these names in full")
    return known[0]


def _is_prefect(argv: Sequence[str]) -> bool:
    """Whether this process is the command `prefect` or `python -m prefect`, and not a program that imports Prefect."""
    if not argv:
        return False
    program = PurePath(argv[0])
    as_module = argv[0] == "-m" and "prefect" in sys.orig_argv
    return program.stem == "prefect" or as_module or program.parts[-2:] == ("prefect", "__main__.py")


def _positionals(argv: Sequence[str]) -> Iterator[int]:
    """Indices of the words that are neither options nor the values of options."""
    before = ""
    for index, word in enumerate(argv[1:], start=1):
        if not word.startswith("-") and not _takes_value(before):
            yield index
        before = word


def _takes_value(word: str) -> bool:
    return word.startswith("-") and "=" not in word and word not in FLAGS and not word.startswith("--no-")


async def _deployments(name: str) -> list[str]:
    """FLOW/DEPLOYMENT names on the server in which `name` is the one or the other, sorted."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterName,
        FlowFilter,
        FlowFilterId,
        FlowFilterName,
    )

    try:
        async with get_client() as client:
            named = await client.read_deployments(
                deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name]))
            )
            of_flow = await client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=[name])))
            found = {deployment.id: deployment for deployment in [*named, *of_flow]}.values()
            ids = FlowFilterId(any_=sorted({deployment.flow_id for deployment in found}))
            flows = {flow.id: flow.name for flow in await client.read_flows(flow_filter=FlowFilter(id=ids))}
    except (RuntimeError, httpx.HTTPError):
        # no server, or one that refuses: the command itself meets the same obstacle next and reports it properly
        return []
    return sorted(f"{flows[deployment.flow_id]}/{deployment.name}" for deployment in found)
