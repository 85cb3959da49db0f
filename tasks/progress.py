"""Progress of a stage: a bar on the terminal and a progress artifact in Prefect, from one callback."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from uuid import UUID

SECONDS_BETWEEN_UPDATES = 5.0


class Progress(Protocol):
    """Where a stage says how far it is."""

    def total(self, units: int, what: str) -> None:
        """Begin to count `units` of something."""

    def at(self, done: int, note: str = "") -> None:
        """So many are done."""


class Nothing:
    """Shows nothing."""

    def total(self, units: int, what: str) -> None:
        """Not counted."""

    def at(self, done: int, note: str = "") -> None:
        """Not shown."""


class _Shown:
    """Both displays; Prefect's is updated every few seconds, since each update is a request."""

    def __init__(self, stage: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.stage = stage
        self.bar = Progress(*columns, console=Console(file=sys.stderr), disable=not sys.stderr.isatty())
        self.task = self.bar.add_task(stage, total=None, note="")
        self.units = 0
        self.what = ""
        self.artifact: UUID | None = None
        self.updated = 0.0

    def total(self, units: int, what: str) -> None:
        self.units, self.what = units, what
        self.bar.update(self.task, total=units, completed=0, description=f"{self.stage}: {what}")
        self._publish(0, "")

    def at(self, done: int, note: str = "") -> None:
        self.bar.update(self.task, completed=done, note=note)
        if time.monotonic() - self.updated >= SECONDS_BETWEEN_UPDATES or done == self.units:
            self._publish(done, note)

    def _publish(self, done: int, note: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact
        from prefect.context import get_run_context
        from prefect.exceptions import MissingContextError

        self.updated = time.monotonic()
        try:
            get_run_context()
        except MissingContextError:
            return
        percent = 100.0 * done / max(1, self.units)
        text = f"{self.what}: {done} of {self.units} {note}".strip()
        if self.artifact is None:
            artifact = create_progress_artifact(percent, key=self.stage, description=text)
            self.artifact = artifact if isinstance(artifact, UUID) else None
        else:
            update_progress_artifact(self.artifact, percent, description=text)


@contextmanager
def open_progress(stage: str) -> Iterator[Progress]:
    """The progress of one stage, shown while the block runs."""
    shown = _Shown(stage)
    with shown.bar:
        yield shown
