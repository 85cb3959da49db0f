"""Retries, cache and device of all tasks, in one place.

Prefect's own result cache is off: the catalog decides what is done (tasks/frame/stage.py). Prefect retries nothing:
a stage that failed goes on from its checkpoint when the same command is given again, and a fault that is in the
input or in the configuration would only fail again.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs import Config
from gem3d_core.errors import BadInput
from tasks.frame.stage import Stage, StageResult, perform


@task(cache_policy=NO_CACHE, persist_result=False, retries=0)
def _perform(stage: Stage) -> StageResult:
    return perform(stage)


def perform_as_task(stage: Stage) -> StageResult:
    """`perform` as a Prefect task of the stage's name."""
    result: StageResult = _perform.with_options(name=stage.name)(stage)
    return result


def training_processes(config: Config, device: str, batch: int) -> int:
    """Processes that train together: as configured, else as many GPUs as can share a batch evenly."""
    import torch

    gpus = torch.cuda.device_count() if device == "cuda" else 1
    return config.runtime.processes or max(count for count in range(1, gpus + 1) if batch % count == 0)


@contextmanager
def accelerator(config: Config) -> Iterator[str]:
    """The torch device of a run, `cpu` or `cuda`; a GPU is held alone while the block runs.

    Raises BadInput where a GPU is asked for and none is here.
    """
    import torch

    from gem3d_core.machine.devices import device_type

    asked = config.runtime.device
    if asked == "cuda" and not torch.cuda.is_available():
        raise BadInput(
            f"runtime.device=cuda (profile {config.profile}): torch finds no GPU here; look at its driver, or give "
            "--set runtime.device=cpu, on which a model of such a profile may take very long"
        )
    device = device_type(asked)
    if device == "cpu":
        yield device
        return
    # sample k is the same again on the same device, at the price of some speed
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    with gpu_slot():
        yield device


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
