"""The GPU slot of one machine, and that of a Prefect server."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.frame.policy import OWN_SERVER, SLOT, gpu_slot


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A command with a server of its own."""
    monkeypatch.setenv(OWN_SERVER, "http://127.0.0.1:1/api")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))


@pytest.mark.usefixtures("alone")
def test_two_commands_hold_it_one_after_the_other() -> None:
    inside, entered = 0, []
    both = threading.Barrier(2)

    def hold() -> None:
        nonlocal inside
        both.wait(10)
        with gpu_slot():
            inside += 1
            entered.append(inside)
            threading.Event().wait(0.1)
            inside -= 1

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(hold), pool.submit(hold)]:
            done.result()
    assert entered == [1, 1]


@pytest.mark.usefixtures("alone")
def test_a_killed_holder_holds_nothing() -> None:
    code = "import os, signal, tasks.frame.policy as g; g.gpu_slot().__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code], check=False)
    with gpu_slot():
        pass


def test_workers_of_a_server_hold_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    @contextmanager
    def concurrency(name: str, *, occupy: int, strict: bool) -> Iterator[None]:
        held.append((name, occupy, strict))
        yield

    monkeypatch.delenv(OWN_SERVER, raising=False)
    monkeypatch.setattr("prefect.concurrency.sync.concurrency", concurrency)
    with gpu_slot():
        assert held == [(SLOT, 1, False)]
