"""Local working folders of resumable stages: each is held by one process at a time, and outlives a kill."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from data_catalog.refs import check_name

LOCK = "lock"
"""File in a folder that its holder has locked; the system lets go of it when the process ends, however it ends."""


class WorkingFolders:
    """One folder for each stage key."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def hold(self, key: str) -> Iterator[Path]:
        """The folder of a key, made if missing, with what an unfinished stage left in it; waits for another holder."""
        folder = self._folder(key)
        with _locked(folder):
            yield folder

    def clear(self, key: str) -> None:
        """Remove the folder of a key, if there is one; its holder does so when the stage is done."""
        if (folder := self._folder(key)).exists():
            shutil.rmtree(folder)

    def clear_abandoned(self, days: float) -> list[Path]:
        """Remove, and name, folders that nobody holds and in which nothing was written for so many days."""
        cleared = []
        for folder in sorted(self._root.glob("*/")):
            if _days_unused(folder) < days:
                continue
            with suppress(BlockingIOError), _locked(folder, wait=False):
                if _days_unused(folder) >= days:  # a stage may have gone on here and stopped again meanwhile
                    shutil.rmtree(folder)
                    cleared.append(folder)
        return cleared

    def _folder(self, key: str) -> Path:
        return self._root / check_name(key, "stage key")[:32]


@contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a folder alone, made if missing. Raises BlockingIOError where another holds it and `wait` is false."""
    lock = None
    while lock is None:
        lock = _lock(folder, wait=wait)
    with lock:
        yield


def _lock(folder: Path, *, wait: bool) -> IO[str] | None:
    """The folder's lock; None where the one that was waited for has removed the folder and this lock with it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = (folder / LOCK).open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.fstat(lock.fileno()).st_ino == (folder / LOCK).stat().st_ino:
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()
    except FileNotFoundError:
        pass
    return None


def _days_unused(folder: Path) -> float:
    """Days since the newest change of a file, or of the folder where it has none."""
    files = [path for path in folder.rglob("*") if path.name != LOCK]
    times = []
    for path in files or [folder]:
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return (time.time() - max(times, default=time.time())) / 86400
