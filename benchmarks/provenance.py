"""Where numbers come from: the command, the commit, the machine and the date."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def provenance(command: list[str]) -> dict[str, str]:
    """What stands beside every recorded number; the command without the program."""
    changed = _git("status", "--porcelain", "--", ".", ":!docs/results")
    return {
        "command": " ".join(["gem3d", *command]),
        "commit": _git("rev-parse", "HEAD") + (" with changes" if changed else ""),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
