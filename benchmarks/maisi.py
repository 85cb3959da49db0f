"""Re-sampling beside MONAI's MAISI at the same voxels: docs/results/maisi.{md,json}.

Example: python benchmarks/maisi.py

All with random weights, since only time is compared: MAISI's latent diffusion UNet (widths 64 to 512) with 30
rectified-flow steps and its autoencoder, without the ControlNet that a mask would need; ours as the profile
hippocampus-cpu draws, mask and informed slice included, and the network and codec of the paper's size drawn alike.
About ten minutes on two cores.
"""

from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.networks.schedulers import RFlowScheduler
from provenance import keep
from random_model import random_model, random_recipes
from torch import Tensor

from configs import load
from gem3d_core.bench.effort import watched
from gem3d_core.networks.interface import count_parameters
from gem3d_core.report.document import Column, Table
from gem3d_core.report.markdown import markdown
from gem3d_core.sampling.batched import count_windows
from gem3d_core.sampling.volumes import draw_volumes

STEPS = 30
SIDES = (64, 128)
OURS = {"hippocampus-cpu": 4, "brats-paper": 1}
"""Profiles whose networks draw, and how many volumes share batches; MAISI draws one at a time, as its memory allows."""
LATENT_CHANNELS, LATENT_FACTOR = 4, 4


@dataclass(frozen=True)
class Row:
    """One system on one volume of side^3 voxels."""

    system: str
    side: int
    steps: int
    parameters: int
    network_calls: float
    sampling_seconds: float
    decoding_seconds: float
    peak_bytes: int

    @property
    def microseconds_per_voxel(self) -> float:
        """Sampling and decoding."""
        return (self.sampling_seconds + self.decoding_seconds) / self.side**3 * 1e6


def main() -> None:
    """Measure both at every size, then write the table and the numbers."""
    rows = [row for side in SIDES for row in (maisi(side), *(ours(side, profile) for profile in OURS))]
    told = [{**asdict(row), "microseconds_per_voxel": row.microseconds_per_voxel} for row in rows]
    sections = ["# Beside MAISI", markdown(_table(rows)), _reading(rows)]
    keep("maisi", "python benchmarks/maisi.py", sections, {"rows": told})


@torch.no_grad()
def maisi(side: int) -> Row:
    """One volume of side^3 voxels: latents of a quarter of the side."""
    device = torch.device("cpu")
    network = _network().eval()
    decoder = _autoencoder().eval()
    shape = (1, LATENT_CHANNELS, *(3 * [side // LATENT_FACTOR]))
    network(torch.zeros(shape), torch.zeros(1), spacing_tensor=torch.ones(1, 3))
    decoder.decode_stage_2_outputs(torch.zeros(1, LATENT_CHANNELS, 8, 8, 8))  # sets the machine up, as for ours
    latents, sampling = watched(lambda: _flow(network, torch.randn(shape)), device)
    decoded, decoding = watched(lambda: decoder.decode_stage_2_outputs(latents), device)
    assert decoded.shape[2:] == 3 * (side,)
    peak = max(sampling.peak_bytes, decoding.peak_bytes)
    return Row("MAISI", side, STEPS, count_parameters(network), STEPS, sampling.seconds, decoding.seconds, peak)


def _network() -> DiffusionModelUNetMaisi:
    """The UNet of MAISI's rectified-flow model; flash attention needs a GPU."""
    return DiffusionModelUNetMaisi(
        spatial_dims=3,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_channels=[64, 128, 256, 512],
        attention_levels=[False, False, True, True],
        num_head_channels=[0, 0, 32, 32],
        num_res_blocks=[2, 2, 2, 2],
        use_flash_attention=False,
        include_spacing_input=True,
        resblock_updown=True,
        include_fc=True,
    )


def _autoencoder() -> AutoencoderKlMaisi:
    return AutoencoderKlMaisi(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        latent_channels=LATENT_CHANNELS,
        num_channels=[64, 128, 256],
        num_res_blocks=[2, 2, 2],
        norm_num_groups=32,
        attention_levels=[False, False, False],
        num_splits=1,
        dim_split=1,
    )


def _flow(network: DiffusionModelUNetMaisi, x: Tensor) -> Tensor:
    """Noise to latents along straight lines."""
    scheduler = RFlowScheduler(
        num_train_timesteps=1000, use_discrete_timesteps=False, use_timestep_transform=True, base_img_size_numel=64**3
    )
    scheduler.set_timesteps(STEPS, input_img_size_numel=x[0, 0].numel())
    times = [*scheduler.timesteps.tolist(), 0.0]
    for t, following in pairwise(times):
        velocity = network(x, torch.tensor([t]), spacing_tensor=torch.ones(1, 3))
        x, _ = scheduler.step(velocity, t, x, following)
    return x


def ours(side: int, profile: str) -> Row:
    """A volume of `side` slices (side, side) by the network of a profile, a mean over those that share batches."""
    config, spec, volumes = load(profile), load("hippocampus-cpu").resample, OURS[profile]
    model = random_model(config, (side, side))
    for _ in draw_volumes(model, random_recipes(config.condition.window, 1, (side, side)), replace(spec, steps=1)):
        pass  # sets the machine up

    def draw() -> None:
        for _ in draw_volumes(model, random_recipes(side, volumes, (side, side)), spec):
            pass

    _, effort = watched(draw, model.device)
    calls = count_windows([side], config.condition, spec) * spec.steps
    parameters = count_parameters(model.network)
    return Row(
        f"ours, {profile}", side, spec.steps, parameters, calls, effort.seconds / volumes, 0.0, effort.peak_bytes
    )


def _reading(rows: list[Row]) -> str:
    """How much longer ours takes, why, and what was done about it."""
    maisi_takes = {row.side: row.microseconds_per_voxel for row in rows if row.system == "MAISI"}
    told = [
        f"{row.system} takes {row.microseconds_per_voxel / maisi_takes[row.side]:.2f} times as long a voxel as MAISI "
        f"at side {row.side}"
        for row in rows
        if row.system != "MAISI"
    ]
    return (
        f"{'; '.join(told)}. The paper's network has twice MAISI's parameters, and as many latents a voxel (64 times "
        "fewer than voxels: 8 x 8 in the plane, where MAISI has 4 x 4 x 4), of which the slices that windows share are "
        "drawn twice. What is done about it: slices at their native size and not at 512 x 512 (16 to 64 times the "
        "work), a first window that leaves the fewest others, a third of the steps, weights laid out channels-last; on "
        "a GPU bf16 and compiled calls."
    )


def _table(rows: list[Row]) -> Table:
    return Table(
        title="Seconds of a volume of side x side x side voxels",
        caption=(
            f"Random weights, float32 or what each chooses by itself. MAISI: {STEPS} rectified-flow steps on latents "
            "of a quarter of the side, then its autoencoder; without the ControlNet that a mask needs. Ours: networks "
            "and codecs of two profiles, both drawn by the sampler of hippocampus-cpu, with mask and informed slice; "
            f"{' and '.join(map(str, OURS.values()))} volumes share batches; decoding lies within the sampling time. "
            "Calls are of one window (16 slices) or of the whole volume (MAISI). Memory: peak above what the loaded "
            "model holds."
        ),
        n="one run of each row",
        columns=(
            Column("system"), Column("side", "voxels", digits=0), Column("parameters", "M", digits=1),
            Column("steps", digits=0), Column("calls", "per volume", digits=0),
            Column("sampling", "s per volume", "lower", 2), Column("decoding", "s per volume"),
            Column("in all", "us per voxel", "lower", 2), Column("memory", "MiB", "lower", 0),
        ),
        rows=tuple(
            (r.system, r.side, r.parameters / 1e6, r.steps, r.network_calls, r.sampling_seconds, _decoding(r),
             r.microseconds_per_voxel, r.peak_bytes / 2**20)
            for r in rows
        ),
    )  # fmt: skip


def _decoding(row: Row) -> str:
    return f"{row.decoding_seconds:.2f}" if row.decoding_seconds else "within sampling"


if __name__ == "__main__":
    main()
