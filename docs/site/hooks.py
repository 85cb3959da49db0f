"""What mkdocs calls while it builds: pages are filled with what the code itself says, so that nobody copies it by hand.

A page says where by `<!-- generated: NAME -->` on a line of its own; `<!-- include: FILE -->` takes over a file of the
project's root. Marks of figures (benchmarks/figures.py) are taken out.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from commands import command_reference
from presets import deployments_table, details_of, fetch_table, profiles_table, rows_table, stages_table, systems_table
from settings import settings_reference

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOOR = ROOT / "gem3d_core" / "door.py"
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "README.md": "index.md"}
"""Files of the root that are pages of the site too; links to others become plain words."""


def door_reference() -> str:
    """The reference of the public door, as soon as its module is there."""
    return "::: gem3d_core.door" if DOOR.exists() else "The reference follows with the module `gem3d_core.door`."


GENERATED = {
    "settings": settings_reference,
    "commands": command_reference,
    "profiles": profiles_table,
    "profile details": lambda: details_of("profiles"),
    "systems": systems_table,
    "system details": lambda: details_of("systems"),
    "rows": rows_table,
    "stages": stages_table,
    "deployments": deployments_table,
    "fetch": fetch_table,
    "door": door_reference,
}


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:  # noqa: ARG001
    """The page with all that it asks for."""
    text = re.sub(r"^<!-- include: (\S+) -->$", lambda found: included(found.group(1)), markdown, flags=re.MULTILINE)
    text = re.sub(
        r"^<!-- generated: ([\w ]+) -->$", lambda found: GENERATED[found.group(1)](), text, flags=re.MULTILINE
    )
    text = re.sub(r"<!-- /?figure[^>]*-->", "", text)
    return re.sub(r"(?<=[\d%m] )(\\?\[-?[\d.]+), (-?[\d.]+)", r"\1,&nbsp;\2", text)  # an interval stays on one line


def included(name: str) -> str:
    """A file of the project's root, its links as they are from docs/."""
    return re.sub(r"(!?)\[([^\]]*)\]\(([^)]+)\)", _link, (ROOT / name).read_text())


def _link(found: re.Match[str]) -> str:
    mark, text, target = found.groups()
    if "://" in target or target.startswith("#"):
        return found.group(0)
    file, _, anchor = target.partition("#")
    if file.startswith("docs/"):
        return f"{mark}[{text}]({target.removeprefix('docs/')})"
    if file in PAGES:
        return f"{mark}[{text}]({PAGES[file]}{'#' + anchor if anchor else ''})"
    return text if text.startswith("`") else f"`{file}`" if text == file else text
