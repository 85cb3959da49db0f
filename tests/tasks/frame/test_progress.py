"""What a log file gets of a stage's progress; on a terminal it is a bar."""

import time

import pytest
from httpx import ConnectError

from tasks.frame import progress


def test_a_log_file_gets_lines_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with progress.open_progress("train-slices") as shown:
        shown.total(1000, "steps")
        for step in range(500, 701):  # resumed at step 500, a step a second
            shown.at(step, "loss 0.5")
            clock[0] += 1

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0].endswith("train-slices: 560 of 1000 steps loss 0.5, about 7 min left")
    assert lines[2].endswith("train-slices: 680 of 1000 steps loss 0.5, about 5 min left")
    assert lines[3].endswith("train-slices: done")


def test_a_server_that_does_not_answer_ends_no_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*_: object, **__: object) -> None:
        raise ConnectError("server is away")

    monkeypatch.setattr("prefect.artifacts.create_progress_artifact", away)
    monkeypatch.setattr("prefect.context.get_run_context", object)
    with progress.open_progress("tune-volume") as shown:
        shown.total(10, "steps")
        shown.at(10)
    assert "progress could not be told to Prefect (ConnectError: server is away)" in capsys.readouterr().err
