"""Progress of a stage, from one callback: a bar on a terminal, else a line a minute, and an artifact in Prefect."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from uuid import UUID

SECONDS_BETWEEN_UPDATES = 5.0
SECONDS_BETWEEN_LINES = 60.0


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
    """All displays; Prefect's is updated every few seconds, since each update is a request."""

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
        self.began = self.told = time.monotonic()
        self.before: int | None = None

    def total(self, units: int, what: str) -> None:
        self.units, self.what = units, what
        self.began = self.told = time.monotonic()
        self.before = None
        self.bar.update(self.task, total=units, completed=0, description=f"{self.stage}: {what}")
        self._publish(0, "")

    def at(self, done: int, note: str = "") -> None:
        if self.before is None:
            self.before, self.began = done, time.monotonic()  # a resumed stage does not begin at nought
        self.bar.update(self.task, completed=done, note=note)
        if time.monotonic() - self.updated >= SECONDS_BETWEEN_UPDATES or done == self.units:
            self._publish(done, note)
        if self.bar.disable and time.monotonic() - self.told >= SECONDS_BETWEEN_LINES:
            self._tell(done, note)

    def _tell(self, done: int, note: str) -> None:
        """One line for a log file: how far, and how long it will take at the pace so far."""
        self.told = time.monotonic()
        here = done - (self.before or 0)
        left = f"about {(self.told - self.began) / here * (self.units - done) / 60:.0f} min left" if here else "begun"
        text = f"{self.stage}: {done} of {self.units} {self.what} {note}".rstrip()
        sys.stderr.write(f"{time.strftime('%H:%M')} {text}, {left}\n")

    def _publish(self, done: int, note: str) -> None:
        from httpx import HTTPError
        from prefect.artifacts import create_progress_artifact, update_progress_artifact
        from prefect.context import get_run_context
        from prefect.exceptions import MissingContextError, PrefectException

        self.updated = time.monotonic()
        try:
            get_run_context()
        except MissingContextError:
            return
        percent = 100.0 * done / max(1, self.units)
        text = f"{self.what}: {done} of {self.units} {note}".strip()
        try:
            if self.artifact is None:
                artifact = create_progress_artifact(percent, key=self.stage, description=text)
                self.artifact = artifact if isinstance(artifact, UUID) else None
            else:
                update_progress_artifact(self.artifact, percent, description=text)
        except (HTTPError, PrefectException) as error:  # a display that fails ends no training
            sys.stderr.write(f"{self.stage}: progress could not be told to Prefect ({type(error).__name__}: {error})\n")


@contextmanager
def open_progress(stage: str) -> Iterator[Progress]:
    """The progress of one stage, shown while the block runs."""
    shown = _Shown(stage)
    with shown.bar:
        yield shown
    if shown.bar.disable:
        sys.stderr.write(f"{time.strftime('%H:%M')} {stage}: done\n")
