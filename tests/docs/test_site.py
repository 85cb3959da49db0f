"""References of the site are made from the code: all of it is there, and pages ask for what can be made."""

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from configs import Config, profile_names, table_rows
from configs.resolve import system_names
from flows.cli.main import app
from flows.dag import STEPS

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "docs" / "site"
VARIABLES = re.compile(r"\bGEM3D_[A-Z_]+\b")
NOT_FOR_PEOPLE = {"GEM3D_OWN_SERVER"}
"""Variables that a command sets for itself."""
OF_CONTAINERS = {"GEM3D_DATA"}
"""Variables that docker-compose.yml alone reads, and .env.example explains."""


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SITE))
    return import_module("hooks")


def test_pages_ask_for_what_can_be_made(hooks: ModuleType) -> None:
    asked = {
        name
        for page in (ROOT / "docs").glob("*.md")
        for name in re.findall(r"^<!-- generated: (.+) -->$", page.read_text(), re.MULTILINE)
    }
    assert asked == set(hooks.GENERATED)


def test_every_setting_is_there_and_explained(hooks: ModuleType) -> None:
    text = hooks.GENERATED["settings"]()
    for key, section in import_module("settings").sections(Config):
        assert f"`{key}`" in text
        for setting in import_module("settings").settings_of(section):
            assert setting.told or import_module("settings").is_section(setting.kind), f"{key}.{setting.name}"


def test_every_command_is_there(hooks: ModuleType) -> None:
    text = hooks.GENERATED["commands"]()
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert names
    assert all(f"## `gem3d {name}`" in text for name in names)
    assert "## `gem3d catalog lineage`" in text


def test_stages_profiles_systems_and_rows_are_all_there(hooks: ModuleType) -> None:
    stages = re.findall(r"^\| \d+ \| `([a-z-]+)`", hooks.GENERATED["stages"](), re.MULTILINE)
    assert stages == [step.name for step in STEPS]
    assert all(f"`{name}`" in hooks.GENERATED["profiles"]() for name in profile_names())
    assert all(f"`{name}`" in hooks.GENERATED["systems"]() for name in system_names())
    assert all(f"`{row.name}`" in hooks.GENERATED["rows"]() for row in table_rows())


def test_links_of_the_readme_lead_from_the_site_too(hooks: ModuleType) -> None:
    text = hooks.included("README.md")
    assert "](results/README.md)" in text
    assert "](contributing.md)" in text
    assert "](docs/" not in text
    assert "](LICENSE)" not in text


def test_nothing_comes_from_outside() -> None:
    settings = yaml.safe_load(re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text()))
    assert settings["theme"]["font"] is False
    assert "extra_javascript" not in settings
    assert "://" not in (ROOT / "docs" / "assets" / "extra.css").read_text()


def test_one_version_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == version


FORMS = [(file.name, "github-issue-forms") for file in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))]


@pytest.mark.parametrize(("name", "schema"), [*FORMS, ("CITATION.cff", "citation-file-format")])
def test_forms_and_citation_follow_their_schemas(name: str, schema: str) -> None:
    pytest.importorskip("check_jsonschema", reason="the schemas come with check-jsonschema")
    file = next(path for path in (ROOT / name, ROOT / ".github" / "ISSUE_TEMPLATE" / name) if path.exists())
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_environment_variables_are_explained() -> None:
    explained = set(VARIABLES.findall((ROOT / "docs" / "systems-and-settings.md").read_text()))
    parts = ("configs", "data_catalog", "flows", "gem3d_core", "tasks")
    used = {
        name
        for part in parts
        for path in (ROOT / part).rglob("*.py")
        for name in VARIABLES.findall(path.read_text())
        if not name.endswith("_")
    }
    assert used - NOT_FOR_PEOPLE - OF_CONTAINERS == explained
