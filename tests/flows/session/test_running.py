"""Commands that cannot begin or that fail: what is wrong is told, named as it was given, with the right exit code."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_catalog import Ambiguous, CatalogError, Corrupt, Invalid, NotFound
from flows.cli import main as cli
from flows.cli.main import app
from gem3d_core.errors import BadInput, Gem3dError, NotAvailable
from gem3d_core.machine.processes import Interrupted

WRONG = [
    (["enhance", "--set", "resample.stepz=3"], "resample.stepz"),
    (["enhance", "--set", "system=pix2pix-3d", "--set", "resample.steps=10"], "resample.steps=1"),
    (["enhance", "--set", "evaluate.baseline=make-a-volum"], "make-a-volum"),
    (["enhance", "--until", "trane"], "--until"),
    (["tables", "--rows", "paper,our"], "our"),
    (["tables", "--set", "system=ours"], "choose among the rows"),
    (["tables", "--set", "condition.mask=codec"], "among what makes the row"),
    (["tables", "--profile", "hippocampus-gpu", "--set", "tables.maskz=3"], "tables.maskz"),
    (["resample", "model/N-volume", "--set", "resample.steps"], "resample.steps"),
]


@pytest.mark.parametrize(("given", "named"), WRONG)
def test_what_is_wrong_is_told_before_a_server_is_started(
    given: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started() -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr("flows.session.server.own_server", started)
    command, *options = given
    dataset = [] if command == "resample" else [str(tmp_path)]
    done = CliRunner().invoke(app, [command, *dataset, *options, "--catalog", str(tmp_path / "c")])
    assert isinstance(done.exception, BadInput), done.output
    assert named in str(done.exception)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        *[(Gem3dError, 1), (BadInput, 2), (NotAvailable, 1), (Interrupted, 130)],
        *[(CatalogError, 1), (Corrupt, 1), (Invalid, 2), (NotFound, 2), (Ambiguous, 2), (OSError, 1)],
    ],
)
def test_an_error_ends_the_command_with_the_exit_code_of_its_kind(
    kind: type[Exception], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing() -> None:
        raise kind("what went wrong")

    monkeypatch.setattr(cli, "app", failing)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith("gem3d: what went wrong")


def test_an_error_of_the_program_itself_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(cli, "app", failing)
    with pytest.raises(RuntimeError, match="a fault"):
        cli.main()
