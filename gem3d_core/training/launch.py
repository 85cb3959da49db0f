"""Training a model in this process, or in several of their own, one for each GPU, that torchrun starts."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from gem3d_core.budget.costs import TrainingPlan, plan_training, training_units
from gem3d_core.budget.memory import budget_on
from gem3d_core.codec.interface import load_codec
from gem3d_core.diffusion.schedule import make_schedule
from gem3d_core.errors import Gem3dError
from gem3d_core.machine.checkpoints import save_tensors
from gem3d_core.machine.files import write_json
from gem3d_core.machine.processes import Interrupted, end_with_parent, terminated
from gem3d_core.networks.files import facts_from
from gem3d_core.spec.method import DiffusionSpec, NetworkFacts, TrainSpec
from gem3d_core.training.batches import LatentCase, held_on, open_latents
from gem3d_core.training.loop import OnStep, Trained
from gem3d_core.training.models import Training, train_model
from gem3d_core.training.ranks import ALONE, Ranks

Outcome = tuple[dict[str, Tensor], Trained]
POLL_SECONDS = 0.5
LAST_LINES = 30
LATENTS_SHARE = 0.25
"""Share of a GPU's memory that training latents may take, so that no step waits for them."""


@dataclass(frozen=True)
class Job:
    """All that a training depends on, in a form that can be written down for another process."""

    facts: NetworkFacts
    latents: dict[str, str]
    """Training case -> its safetensors file."""
    diffusion: DiffusionSpec
    spec: TrainSpec
    seed: int
    folder: str
    """Where checkpoints are kept."""
    emphasis: tuple[float, ...]
    """The codec's weight of each latent channel."""
    codec: str | None = None
    """Folder of the codec whose latents these are, for networks that see decoded slices."""
    slice_weights: str | None = None
    """Stage 1's weights; for stage 2."""
    memory: float | None = None
    """Bytes that a process may take, on its GPU or of its own; none: all of a GPU, and no limit on a CPU."""

    def write(self, path: Path) -> None:
        """Write JSON."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Job":
        """The inverse of `write`."""
        values = json.loads(path.read_text())
        emphasis = values.pop("emphasis")
        return cls(
            facts=facts_from(values.pop("facts")),
            diffusion=DiffusionSpec(**values.pop("diffusion")),
            spec=TrainSpec(**values.pop("spec")),
            emphasis=tuple(emphasis),
            **values,
        )


def train_job(job: Job, device: torch.device, on_step: OnStep, ranks: Ranks = ALONE) -> Outcome:
    """Train here. Raises as `training.train` does."""
    cases = open_latents({case: Path(file) for case, file in job.latents.items()}, job.facts.window)
    budget = budget_on(device, job.memory)
    if device.type == "cuda" and budget is not None:
        cases = held_on(device, cases, LATENTS_SHARE * budget)
        budget -= torch.cuda.memory_allocated(device)
    training = Training(
        cases=cases,
        schedule=make_schedule(job.diffusion),
        spec=job.spec,
        seed=job.seed,
        folder=Path(job.folder),
        device=device,
        on_step=on_step,
        emphasis=torch.tensor(job.emphasis),
        codec=None if job.codec is None else load_codec(Path(job.codec), device),
        ranks=ranks,
        plan=_plan(job, budget, ranks, cases[0]),
    )
    return train_model(job.facts, training, None if job.slice_weights is None else Path(job.slice_weights))


def _plan(job: Job, budget: float | None, ranks: Ranks, case: LatentCase) -> TrainingPlan:
    """How a step is brought through the memory that there is."""
    units, slices = training_units(job.facts, job.spec, ranks.count)
    if budget is None:
        return TrainingPlan(units=units)
    height, width = case.image.shape[-2:]
    return plan_training(job.facts, units, slices, (height, width), budget)


def train_job_in_processes(job: Job, device: str, count: int, on_step: OnStep) -> Outcome:
    """Train in `count` processes, on as many GPUs or all on the CPU; the same steps as in one process.

    Raises BadInput where they cannot share a batch evenly, Interrupted after SIGTERM, and Gem3dError with the last
    lines of the log when a process fails.
    """
    Ranks(0, count).rows(job.spec.batch)
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    job.write(folder / "job.json")
    for told in folder.glob("error-*.txt"):
        told.unlink()
    log = folder / "processes.log"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    threads = max(1, torch.get_num_threads() // count)
    with log.open("wb") as output, terminated() as stop:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, arguments as a list
            [*command, "-m", "gem3d_core.training.launch", str(folder), device],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            preexec_fn=end_with_parent,  # noqa: PLW1509 - it only makes one system call
        )
        try:
            _follow(process, log, on_step, stop.is_set)
        finally:
            process.terminate()
            process.wait()
    if stop.is_set():
        raise Interrupted("stopped in training; the same command goes on from its last checkpoint")
    if process.returncode:
        raise Gem3dError(f"training in {count} processes failed: {_reason(folder, log)}")
    return _read_outcome(folder)


def _reason(folder: Path, log: Path) -> str:
    """What the first rank that failed wrote down; the end of the log where none could."""
    told = sorted(folder.glob("error-*.txt"), key=lambda file: file.stat().st_mtime_ns)
    return told[0].read_text() if told else "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])


def _follow(process: subprocess.Popen[bytes], log: Path, on_step: OnStep, stopped: Callable[[], bool]) -> None:
    """Tell of the steps that the first rank writes, until the processes end; pass a SIGTERM on to them."""
    told = False
    with log.open(errors="replace") as lines:
        while process.poll() is None:
            for line in lines:
                if line.startswith("step ") and line.endswith("\n"):
                    _, step, loss = line.split()
                    on_step(int(step), float(loss))
            if stopped() and not told:
                process.terminate()
                told = True
            time.sleep(POLL_SECONDS)


def _read_outcome(folder: Path) -> Outcome:
    facts = json.loads((folder / "outcome.json").read_text())
    losses = torch.tensor(facts["losses"], dtype=torch.float64)
    trained = Trained(load_file(folder / "ema.safetensors"), losses, facts["seconds"], facts["resumed_at"])
    return load_file(folder / "weights.safetensors"), trained


def _write_outcome(folder: Path, outcome: Outcome) -> None:
    weights, trained = outcome
    for name, tensors in (("weights", weights), ("ema", trained.ema)):
        save_tensors(folder / f"{name}.safetensors", tensors)
    facts = {"losses": trained.losses.tolist(), "seconds": trained.seconds, "resumed_at": trained.resumed_at}
    write_json(folder / "outcome.json", facts)


def _main() -> None:
    """One of the processes: `python -m gem3d_core.training.launch FOLDER DEVICE` under torchrun."""
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    device = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        outcome = train_job(
            Job.read(folder / "job.json"),
            device,
            lambda step, loss: print(f"step {step} {loss!r}", flush=True),  # noqa: T201 - read by `_follow`
            ranks,
        )
        if ranks.first:
            _write_outcome(folder, outcome)
    except Exception as error:
        (folder / f"error-{ranks.rank}.txt").write_text(f"{type(error).__name__}: {error}")
        raise
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _main()
