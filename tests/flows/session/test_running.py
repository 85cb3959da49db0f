"""Commands that cannot begin: what is wrong is told before a server is started, and named as it was given."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from gem3d_core.errors import BadInput

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
