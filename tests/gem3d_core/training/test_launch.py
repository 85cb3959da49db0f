"""Training in several processes takes the very steps of one."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gem3d_core.errors import BadInput, Gem3dError
from gem3d_core.machine.checkpoints import load_checkpoint
from gem3d_core.machine.processes import Interrupted
from gem3d_core.spec.method import ConditionSpec, DiffusionSpec, NetworkFacts, TrainSpec, UNetSpec
from gem3d_core.training.launch import Job, train_job, train_job_in_processes
from gem3d_core.training.ranks import Ranks

UNET = UNetSpec(base_channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=4, norm_groups=4)
FACTS = NetworkFacts("slice", UNET, 4, 2, ConditionSpec(window=4))
CPU = torch.device("cpu")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    rng = torch.Generator().manual_seed(0)
    files = {}
    for case in ("a", "b"):
        files[case] = str(tmp_path / f"{case}.safetensors")
        tensors = {
            "image": torch.randn(6, 4, 8, 8, generator=rng),
            "condition": torch.rand(6, 2, 8, 8, generator=rng),
        }
        save_file(tensors, files[case])
    spec = TrainSpec(steps=6, batch=4, slices_per_window=2, warmup=2, checkpoint_every=2)
    return Job(FACTS, files, DiffusionSpec(), spec, 3, str(tmp_path / "one"), emphasis=(0.1, 1.0, 2.0, 0.9))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As each of several processes has: another number of threads adds in another order, and AdamW, which divides by
    the gradient's size, makes of that rounding a step."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ignore(_step: int, _loss: float) -> None:
    """Nobody watches."""


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_job_outlives_being_written_down(job: Job, tmp_path: Path) -> None:
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job


def test_ranks_share_a_batch_evenly_or_not_at_all() -> None:
    assert [Ranks(rank, 3).rows(6) for rank in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    with pytest.raises(BadInput, match="a batch of 5 cannot be shared by 2"):
        Ranks(0, 2).rows(5)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_processes_at_batch_b_equal_one_at_2b(job: Job, tmp_path: Path) -> None:
    weights, alone = train_job(job, CPU, ignore)
    ours, together = train_job_in_processes(replace(job, folder=str(tmp_path / "two")), "cpu", 2, ignore)
    torch.testing.assert_close(together.losses, alone.losses, rtol=1e-4, atol=1e-5, check_dtype=False)
    assert_close(ours, weights)


@pytest.mark.slow
def test_sigterm_reaches_all_processes_and_a_checkpoint_is_written(job: Job) -> None:
    endless = replace(job, spec=replace(job.spec, steps=100_000, checkpoint_every=100_000))

    def terminate(step: int, _loss: float) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped"):
        train_job_in_processes(endless, "cpu", 2, terminate)
    assert load_checkpoint(Path(job.folder)) is not None


@pytest.mark.slow
def test_a_process_that_fails_is_told_with_its_log(job: Job, tmp_path: Path) -> None:
    broken = replace(job, folder=str(tmp_path / "two"), latents={"a": str(tmp_path / "missing.safetensors")})
    with pytest.raises(Gem3dError, match=r"(?s)training in 2 processes failed.*missing\.safetensors"):
        train_job_in_processes(broken, "cpu", 2, ignore)
