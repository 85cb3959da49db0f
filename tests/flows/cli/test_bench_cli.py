"""`gem3d bench sampling` as a person or a script calls it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from gem3d_core.bench.comparison import Comparison, Row
from gem3d_core.errors import BadInput
from gem3d_core.metrics.intervals import Interval

ROW = Row(
    "ddim", 200, 0.0, 1, "at_start", 1, "fp32", 30.0, 600.0, 0.1, 0.9, 0.1, 1e11, 0.5, 1.0,
    Interval(0.0, 0.0, 0.0, 8), None,
)  # fmt: skip
COMPARED = Comparison(20.0, ROW, ROW, (), "model/N-volume@0", 8, (0,), "cpu", 2, 2e11, {"LPIPS": "no weights"}, 8, None)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the task is asked for; nothing is measured and no server started."""
    found: list[object] = []

    def measured(
        address: str, model: str | None, steps: tuple[int, ...], overrides: dict[str, object], *, full: bool
    ) -> Comparison:
        found.extend([address, model, steps, overrides, full])
        return COMPARED

    @contextmanager
    def no_server() -> Iterator[Callable[[], None]]:
        yield lambda: None

    monkeypatch.setattr("tasks.bench.models.bench_sampling", measured)
    monkeypatch.setattr("flows.session.server.own_server", no_server)
    return found


def test_a_script_gets_one_document(asked: list[object]) -> None:
    arguments = ["bench", "sampling", "model/N-volume", "--full", "--steps", "5,10", "--catalog", "/c", "--json"]
    arguments += ["--memory", "8GiB", "--set", "resample.overlap=2"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert asked == ["/c", "model/N-volume", (5, 10), {"resample.overlap": 2, "runtime.memory": "8GiB"}, True]
    document = json.loads(done.stdout)
    assert document["speedup"] == 20.0
    assert document["ours"]["seconds_per_volume"] == document["reference"]["seconds_per_volume"] == 30.0


def test_a_person_gets_a_table(asked: list[object]) -> None:
    done = CliRunner().invoke(app, ["bench", "sampling", "--catalog", "/c"], catch_exceptions=False)
    assert asked == ["/c", None, (), {}, False]
    assert "| Algorithm 1: ddim, 200 steps, eta 0, overlap 1, from the start slice on, batch 1, fp32 |" in done.stdout


def test_what_belongs_to_the_model_is_not_set_here(asked: list[object]) -> None:
    with pytest.raises(BadInput, match=r"--set condition\.window: belongs to the model"):
        CliRunner().invoke(app, ["bench", "sampling", "--set", "condition.window=8"], catch_exceptions=False)
    assert asked == []


def test_steps_are_whole_numbers(asked: list[object]) -> None:
    with pytest.raises(BadInput, match="--steps '5;10': expected whole numbers"):
        CliRunner().invoke(app, ["bench", "sampling", "--steps", "5;10"], catch_exceptions=False)
    assert asked == []
