"""Where numbers come from: the command, the commit, the machine and the date."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"


def provenance(command: list[str]) -> dict[str, str]:
    """What stands beside every recorded number; the command without the program."""
    changed = _git("status", "--porcelain", "--", ".", ":!docs/results")
    return {
        "command": " ".join(["gem3d", *command]),
        "commit": _git("rev-parse", "HEAD") + (" with changes" if changed else ""),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def keep(name: str, command: str, sections: list[str], numbers: Mapping[str, object]) -> None:
    """Write docs/results/NAME.md and NAME.json, each with where they come from, and print the first."""
    facts = provenance([]) | {"command": command}
    told = f"`{facts['command']}`, commit {facts['commit']}, {facts['machine']}, {facts['date']}."
    text = "\n\n".join([*sections, told]) + "\n"
    (RESULTS / f"{name}.json").write_text(json.dumps({**facts, **numbers}, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(text)
    sys.stdout.write(text)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
