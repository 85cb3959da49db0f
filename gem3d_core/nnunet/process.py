"""nnU-Net as a subprocess: its own process group, its output in a file, and no orphan when we are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gem3d_core.errors import Gem3dError

LAST_LINES = 20
POLL_SECONDS = 0.2
GRACE_SECONDS = 5.0

# Stands between us and nnU-Net and leads the process group. PR_SET_PDEATHSIG (1) asks the kernel for SIGTERM when
# our thread dies; then the whole group ends, because nnU-Net's pool workers outlive their parent otherwise.
# A process of its own, because a handler inside nnU-Net would be inherited by workers that it forks and ends.
# argv: our pid, then the command.
GUARD = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(143)
code = subprocess.call(sys.argv[2:])
sys.exit(code if code >= 0 else 128 - code)
"""

# argv: module, function, then the arguments that the function reads from the command line.
ENTRY = """
import importlib, sys
module, function = sys.argv[1:3]
sys.argv = [function, *sys.argv[3:]]
sys.exit(getattr(importlib.import_module(module), function)())
"""


@dataclass(frozen=True)
class Workspace:
    """The folders of one nnU-Net: raw, preprocessed, results, trainer and logs under the absolute `root`."""

    root: Path

    @property
    def raw(self) -> Path:
        """nnUNet_raw."""
        return self.root / "raw"

    @property
    def preprocessed(self) -> Path:
        """nnUNet_preprocessed."""
        return self.root / "preprocessed"

    @property
    def results(self) -> Path:
        """nnUNet_results."""
        return self.root / "results"

    @property
    def trainer(self) -> Path:
        """nnUNet_extTrainer, which holds our trainer and nothing else: nnU-Net imports every file in it."""
        return self.root / "trainer"

    @property
    def logs(self) -> Path:
        """One file a step."""
        return self.root / "logs"

    def environment(self, *, workers: int, compiled: bool) -> dict[str, str]:
        """Our own environment with nnU-Net's variables set and none of the user's left."""
        kept = {name: value for name, value in os.environ.items() if not name.lower().startswith("nnunet")}
        ours = {
            "nnUNet_raw": self.raw,
            "nnUNet_preprocessed": self.preprocessed,
            "nnUNet_results": self.results,
            "nnUNet_extTrainer": self.trainer,
            "nnUNet_compile": "t" if compiled else "f",
            "nnUNet_def_n_proc": 1,
            "nnUNet_n_proc_DA": workers,
            "PYTHONUNBUFFERED": 1,
        }
        return kept | {name: str(value) for name, value in ours.items()}


def run_step(
    workspace: Workspace,
    step: str,
    entry: tuple[str, str],
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    on_output: Callable[[str], None] | None = None,
) -> None:
    """Run `entry` (module, function) of nnU-Net with command-line `arguments`; output to logs/STEP.log.

    on_output gets what was written since the last call. Raises Gem3dError with the log's last lines on a non-zero
    exit. When we are interrupted the whole process group ends before the exception goes on.
    """
    workspace.logs.mkdir(parents=True, exist_ok=True)
    log = workspace.logs / f"{step}.log"
    python = [sys.executable, "-P", "-c"]
    command = [*python, GUARD, str(os.getpid()), *python, ENTRY, *entry, *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, arguments as a list
            command, cwd=workspace.root, env=dict(environment), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        _follow(process, log, on_output)
    finally:
        _end_group(process)
    if process.returncode != 0:
        raise Gem3dError(
            f"nnU-Net: {step} ended with code {process.returncode}; the last lines of {log}:\n{_tail(log)}"
        )


def _follow(process: subprocess.Popen[bytes], log: Path, on_output: Callable[[str], None] | None) -> None:
    with log.open("r", encoding="utf-8", errors="replace") as lines:
        running = True
        while running:
            running = process.poll() is None
            fresh = lines.read() if on_output else ""
            if on_output and fresh:
                on_output(fresh)
            if running:
                time.sleep(POLL_SECONDS)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the group: the process itself if we were interrupted, stray workers otherwise."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
