"""A bare deployment name on Prefect's command line, without a server; test_deployments.py asks a real one."""

import os
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import anyio
import pytest
from prefect.plugins import HookContext

from flows.plugin import FLAGS, bare_name_at, choose, setup_environment

ROOT = Path(__file__).resolve().parents[2]
PREFECT = "/somewhere/bin/prefect"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("deployment run enhance-dataset", "enhance-dataset"),
        ("deployment run enhance-dataset --watch", "enhance-dataset"),
        ("deployment run --watch enhance-dataset", "enhance-dataset"),
        ("deployment run -p factor=2 --tag night enhance-dataset", "enhance-dataset"),
        ("deployment run --param=factor=2 enhance-dataset", "enhance-dataset"),
        ("--no-prompt --profile clinic deployment run enhance-dataset", "enhance-dataset"),
        ("deployment run enhance-dataset/enhance-dataset", None),
        ("deployment run --id 0b6c2f5e", None),
        ("deployment run --flow-run-name tonight", None),
        ("deployment run", None),
        ("deployment run --help", None),
        ("deployment inspect enhance-dataset", None),
        ("flow-run ls", None),
        ("worker start --pool deployment run", None),
        ("", None),
    ],
)
def test_only_a_bare_name_of_deployment_run_is_found(arguments: str, name: str | None) -> None:
    argv = [PREFECT, *arguments.split()]
    position = bare_name_at(argv)
    assert (None if position is None else argv[position]) == name


@pytest.mark.parametrize("program", ["/usr/bin/pytest", "script.py", "-c", "-m", ""])
def test_other_programs_are_left_alone(program: str) -> None:
    assert bare_name_at([program, "deployment", "run", "enhance-dataset"]) is None


def test_no_arguments_at_all() -> None:
    assert bare_name_at([]) is None


def test_the_deployment_named_like_its_flow_comes_first() -> None:
    assert choose("a", ["a/a", "a/nightly", "b/a"]) == "a/a"


def test_one_candidate_is_taken_and_none_is_left_to_prefect() -> None:
    assert choose("nightly", ["a/nightly"]) == "a/nightly"
    assert choose("missing", []) == "missing/missing"


def test_several_candidates_are_listed() -> None:
    with pytest.raises(SystemExit, match="a/nightly or b/nightly"):
        choose("nightly", ["a/nightly", "b/nightly"])


def test_without_a_server_the_name_is_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    argv = [PREFECT, "deployment", "run", "enhance-dataset"]
    monkeypatch.setattr(sys, "argv", argv)
    context = HookContext(prefect_version="3", api_url=None, logger_factory=logging.getLogger)

    async def call() -> None:
        await setup_environment(ctx=context)

    anyio.run(call)
    assert argv[-1] == "enhance-dataset/enhance-dataset"


def test_flags_are_those_of_the_installed_prefect() -> None:
    from prefect.cli.deployment import run

    hints = get_type_hints(run)
    flags = {name for name in signature(run).parameters if bool in (hints[name], *get_args(hints[name]))}
    assert {f"--{name.replace('_', '-')}" for name in flags} <= FLAGS
    assert get_origin(hints["params"]) is not bool


def test_prefect_starts_and_says_that_the_server_is_away(tmp_path: Path) -> None:
    """The hook meets a server that does not answer; what the user reads is Prefect's own word on that."""
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "PREFECT_PLUGINS_ENABLED": "true",
    }
    command = [sys.executable, "-m", "prefect", "deployment", "run", "enhance-dataset"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "connection attempts failed" in done.stdout + done.stderr
    assert "Plugin gem3d failed" not in done.stdout + done.stderr
