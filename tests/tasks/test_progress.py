"""What a log file gets of a stage's progress; on a terminal it is a bar."""

import time

import pytest

from tasks import progress


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
