"""Train a small KL-f8 autoencoder on a dataset's own slices, for those who have no pretrained one.

A training that is stopped and started again gives the same losses and weights as one that was not.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from einops import repeat
from torch import Tensor, nn

from gem3d_core.codec.kl import KL, autoencoder, trained_widths
from gem3d_core.errors import Gem3dError
from gem3d_core.machine.checkpoints import load_checkpoint, optimiser_tensors, restore_optimiser, save_checkpoint
from gem3d_core.machine.processes import Interrupted, terminated
from gem3d_core.spec.method import CodecSpec

KL_WEIGHT = 1e-6
"""Weight of the Kullback-Leibler term of latent diffusion's autoencoders."""
BATCH = 16
LEARNING_RATE = 4e-4
CHECKPOINT_EVERY = 100
"""Steps from one checkpoint to the next."""


def train_kl(
    spec: CodecSpec,
    slices: Tensor,
    seed: int,
    folder: Path,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
) -> KL:
    """Fit reconstruction (L1) with a weak KL term, going on from the newest checkpoint in `folder`.

    slices (N, H, W) float32 in [-1, 1], on the CPU; the codec is on `device`, its latent scale makes the spread one.
    Raises Gem3dError when loss or gradient is not finite, naming the step, and Interrupted after SIGTERM, once a
    checkpoint is written.
    """
    model = _build(spec, seed).to(device)
    run = _Run(model, seed)

    with terminated() as stop:
        for step in range(run.restore(folder), spec.train_steps):
            loss = run.step(slices, step)
            on_step(step + 1, loss)
            if stop.is_set() or (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == spec.train_steps:
                run.save(folder, step + 1)
            if stop.is_set():
                raise Interrupted(
                    f"stopped at codec step {step + 1} of {spec.train_steps}; the same command goes on from there"
                )

    codec = KL(model, scale=1.0)
    codec.scale = float(1 / codec.encode(slices[:: max(1, len(slices) // 256)]).std())
    model.register_to_config(scaling_factor=codec.scale)  # so that `open_kl` finds it in the folder
    return codec


def _build(spec: CodecSpec, seed: int) -> AutoencoderKL:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return autoencoder(trained_widths(spec))


class _Run:
    """Everything that changes during training."""

    def __init__(self, model: AutoencoderKL, seed: int) -> None:
        self.model = model
        self.rng = torch.Generator().manual_seed(seed)
        self.losses: list[float] = []
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def step(self, slices: Tensor, step: int) -> float:
        """One optimiser step; returns the loss."""
        loss = self._loss(slices)
        value = float(loss.detach())
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = float(nn.utils.get_total_norm([p.grad for p in self.model.parameters()]))
        if not math.isfinite(value + norm):
            raise Gem3dError(
                f"the codec's loss became {value} and its gradient {norm} at step {step + 1}: look at the training "
                "slices, or set codec.weights to a pretrained autoencoder or codec.kind=haar; checkpoints before this "
                "step are kept"
            )
        self.optimiser.step()
        self.losses.append(value)
        return value

    def _loss(self, slices: Tensor) -> Tensor:
        batch = slices[torch.randint(len(slices), (BATCH,), generator=self.rng)]
        x = repeat(batch, "n h w -> n c h w", c=3).to(self.model.device)
        posterior = self.model.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=self.rng).to(x.device)
        loss: Tensor = (self.model.decode(z).sample - x).abs().mean() + KL_WEIGHT * posterior.kl().mean()
        return loss

    def save(self, folder: Path, step: int) -> None:
        """Write a checkpoint of everything."""
        groups = {
            "raw": self.model.state_dict(),
            "optimiser": optimiser_tensors(self.optimiser),
            "run": {
                "generator": self.rng.get_state(),
                "losses": torch.tensor(self.losses, dtype=torch.float64),
            },
        }
        save_checkpoint(folder, step, groups, {})

    def restore(self, folder: Path) -> int:
        """Go back to the newest checkpoint; returns its step, 0 when there is none."""
        found = load_checkpoint(folder)
        if found is None:
            return 0
        step, groups = found
        self.model.load_state_dict(groups["raw"])
        restore_optimiser(self.optimiser, groups["optimiser"])
        self.rng.set_state(groups["run"]["generator"])
        self.losses = groups["run"]["losses"].tolist()
        return step
