"""Tables of what ships as YAML: profiles, systems, rows of the tables, deployments and the stages among them."""

import re
from collections.abc import Sequence
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from configs import profile_names, table_rows
from configs.resolve import system_names

ROOT = Path(__file__).resolve().parents[2]


def profiles_table() -> str:
    """Each profile with what its file says at the top."""
    rows = [(f"[`{name}`](profiles.md#{name})", _first_comment("profiles", name)) for name in profile_names()]
    return _table(("profile", "for"), rows)


def systems_table() -> str:
    """Each system with what its file says at the top."""
    rows = [(f"[`{name}`](profiles.md#{name})", _first_comment("systems", name)) for name in system_names()]
    return _table(("system", "what it is"), rows)


def details_of(folder: str) -> str:
    """The files themselves."""
    names = profile_names() if folder == "profiles" else system_names()
    parts = [f"### {name}\n\n```yaml\n{_text(folder, name).strip()}\n```" for name in names]
    return "\n\n".join(f"{part}" for part in parts)


def rows_table() -> str:
    """The rows of `gem3d tables`."""
    rows = [
        (f"`{row.name}`", row.titles.get("ours", row.title), f"`{row.beside}`" if row.beside else "")
        for row in table_rows()
    ]
    return _table(("row", "what it is", "set beside"), rows)


def stages_table() -> str:
    """The stages in their order, as their deployments describe them."""
    rows = []
    for deployment in _deployments():
        stage = re.fullmatch(r"Stage (\d+): (.*)\.", deployment["description"])
        if stage:
            rows.append(
                (stage.group(1), f"`{deployment['name']}`", stage.group(2).replace("->", "→"), _queue(deployment))
            )
    return _table(("", "stage", "from → to", "runs on"), rows)


def deployments_table() -> str:
    """The deployments that are no single stage, with their schedules."""
    rows = [
        (f"`{one['name']}`", one["description"], _schedule(one), _queue(one))
        for one in _deployments()
        if not one["description"].startswith("Stage ")
    ]
    return _table(("deployment", "what it does", "schedule", "queue"), rows)


def fetch_table() -> str:
    """Datasets that `gem3d fetch` knows."""
    sources = yaml.safe_load((files("configs.profiles") / "sources.yml").read_text())
    return _table(("name", "address"), [(f"`{name}`", f"`{source['url']}`") for name, source in sources.items()])


def _table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, ("---",) * len(headings), *rows))


def _text(folder: str, name: str) -> str:
    return (files(f"configs.{folder}") / f"{name}.yaml").read_text()


def _first_comment(folder: str, name: str) -> str:
    """The first sentence of the comment that a file begins with."""
    lines = takewhile(lambda line: line.startswith("#"), _text(folder, name).splitlines())
    return re.split(r"(?<=\.)\s", " ".join(line.removeprefix("#").strip() for line in lines))[0]


def _deployments() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    return found


def _queue(deployment: dict[str, Any]) -> str:
    return f"`{deployment['work_pool']['work_queue_name']}`"


def _schedule(deployment: dict[str, Any]) -> str:
    return ", ".join(f"`{one['cron']}` {one['timezone']}" for one in deployment.get("schedules", [])) or "by hand"
