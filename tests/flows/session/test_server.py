"""The Prefect server that a command starts for itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WAITS_FOR_EVER = """
import json, os, sys, time, urllib.request
from flows.session.environment import prepare_environment
prepare_environment()
from flows.session.server import own_server
with own_server() as wait:
    wait()
    from prefect.settings import PREFECT_API_URL
    print(json.dumps(urllib.request.urlopen(PREFECT_API_URL.value() + "/health").status), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return kept | {"PREFECT_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}


def servers(environment: dict[str, str]) -> list[int]:
    """Processes of Prefect's server that belong to this test's home."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes()
            belongs = environment["PREFECT_HOME"].encode() in (process / "environ").read_bytes()
        except OSError:
            continue
        if belongs and b"--no-services" in words:
            found.append(int(process.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_it_ends_with_the_command_even_when_that_is_killed(environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", WAITS_FOR_EVER]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "200\n"
        assert len(servers(environment)) == 1
        process.send_signal(signal.SIGKILL)
    limit = time.monotonic() + 30
    while servers(environment) and time.monotonic() < limit:
        time.sleep(0.2)
    assert servers(environment) == []


def test_a_server_that_is_named_is_used_and_none_is_started(environment: dict[str, str]) -> None:
    named = "http://127.0.0.1:9/api"
    code = WAITS_FOR_EVER.replace(
        "wait()\n", "wait(); print(__import__('prefect').settings.PREFECT_API_URL.value())\n    sys.exit()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"PREFECT_API_URL": named},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == named
    assert servers(environment) == []
