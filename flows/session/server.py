"""A Prefect server for one command, so that nobody has to start one.

Prefect has a temporary server of its own, but a command that is killed leaves that one behind, and a package that
shadows a module of the standard library keeps it from starting. This one ends with the process that started it.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import distributions
from pathlib import Path

from gem3d_core.errors import Gem3dError
from gem3d_core.machine.processes import end_with_parent
from tasks.frame.policy import OWN_SERVER

SECONDS_TO_START = 180
SECONDS_TO_END = 10
LAST_LINES = 20
SHADOWING = ("argparse", "unittest2", "traceback2", "linecache2")
"""Backports from PyPI that hide modules of the standard library."""


@contextmanager
def own_server() -> Iterator[Callable[[], None]]:
    """Prefect talks to a server of this process's own within the block, or to the one that its settings name.

    The server starts while the block begins; the callable waits for it. It raises Gem3dError with the end of the
    server's log when it does not start.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

    if PREFECT_API_URL.value():
        yield lambda: None
        return
    url = f"http://127.0.0.1:{_free_port()}/api"
    with tempfile.TemporaryDirectory(prefix="gem3d-server-") as folder:
        log = Path(folder) / "server.log"
        process = _start(url, log)
        os.environ[OWN_SERVER] = url
        try:
            # nobody reads this server's log, and what is said last would not reach it
            with temporary_settings(updates={PREFECT_API_URL: url, PREFECT_LOGGING_TO_API_ENABLED: False}):
                yield partial(_wait_until_healthy, process, url, log)
        finally:
            del os.environ[OWN_SERVER]
            _end(process)


def _start(url: str, log: Path) -> subprocess.Popen[bytes]:
    port = url.removesuffix("/api").rpartition(":")[2]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603 - our own interpreter, arguments as a list
            [*command, "--no-services", "--no-ui"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - before any thread here
        )


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    limit = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < limit and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as answer:  # noqa: S310 - http, ours
            if answer.status == 200:
                return
        time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
    raise Gem3dError(
        f"Prefect's server did not start within {SECONDS_TO_START} s (exit code {process.poll()}): start one yourself "
        f"with `prefect server start` and set PREFECT_API_URL. {_shadows()}The end of its log:\n{tail}"
    )


def _shadows() -> str:
    """What to do where packages that come with nnU-Net's requirements keep every server from starting."""
    found = [name for name in SHADOWING if any(distributions(name=name))]
    if not found:
        return ""
    return f"Installed {', '.join(found)} shadow(s) Python's own modules: `pip uninstall {' '.join(found)}`. "


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        process.terminate()
        process.wait(SECONDS_TO_END)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
