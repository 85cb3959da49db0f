"""What the documents tell a newcomer to type exists: targets, commands, options, deployments, profiles, files."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from flows.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GROUP = get_command(app)


def _commands(program: str) -> Iterator[list[str]]:
    """Arguments of every call of a program in code blocks and inline code."""
    for text in (document.read_text() for document in DOCUMENTS):
        for code in re.findall(r"`{1,3}([^`]+)`{1,3}", text):
            for line in code.splitlines():
                if line.strip().startswith(f"{program} "):
                    yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("words", _commands("gem3d"), ids=" ".join)
def test_commands_and_options_of_gem3d_exist(words: list[str]) -> None:
    command: object = GROUP
    rest = list(words)
    while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands
        command = command.commands[rest.pop(0)]
    assert isinstance(command, TyperCommand | TyperGroup)
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word for word in rest if word.startswith("-")} <= known


def test_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = {words[0] for words in _commands("make")}
    assert {"demo", "test"} <= told <= targets
    assert targets == {"help", "setup", "demo", "test", "check", "docs", "clean"}


def test_deployments_exist() -> None:
    known = {entry["name"] for entry in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    told = {words[2] for words in _commands("prefect") if words[:2] == ["deployment", "run"] and len(words) > 2}
    assert told
    assert told <= known | {f"{name}/{name}" for name in known}


def test_links_lead_somewhere() -> None:
    for document in (*DOCUMENTS, *sorted((ROOT / "docs" / "results").rglob("*.md"))):
        for target, heading in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", document.read_text()):
            if "://" in target:
                continue
            there = document.parent / target if target else document
            assert there.exists(), f"{document.name}: {target}"
            assert not heading or heading in _anchors(there), f"{document.name}: {target}#{heading}"


def _anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
