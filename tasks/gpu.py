"""The GPU slot: one stage at a time."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SLOT = "gpu"
"""Global concurrency limit of a Prefect server; where none of this name exists, nothing is held back."""
OWN_SERVER = "GEM3D_OWN_SERVER"
"""Environment variable: set while a command runs a Prefect server of its own."""


@contextmanager
def gpu_slot() -> Iterator[None]:
    """Hold the GPU alone: among all workers of a Prefect server, or among the commands of this user on this machine.

    A server that belongs to one command ends with it and cannot free the slot of one that was killed; a file's lock is
    freed by the system.
    """
    if OWN_SERVER in os.environ:
        with (Path(tempfile.gettempdir()) / f"gem3d-gpu-{os.getuid()}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        return
    from prefect.concurrency.sync import concurrency

    with concurrency(SLOT, occupy=1, strict=False):
        yield
