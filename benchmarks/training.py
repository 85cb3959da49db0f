"""Measure `gem3d bench training`: docs/results/training.md and training.json.

Example: python benchmarks/training.py

The network of hippocampus-cpu on slices of 64x64; about one minute on two cores.
"""

from dataclasses import asdict

from provenance import keep

from gem3d_core.bench.training import Pace, TrainingComparison
from gem3d_core.report.document import Column, Table
from gem3d_core.report.markdown import markdown
from tasks.bench.models import bench_training

PROFILE, WINDOWS, STEPS = "hippocampus-cpu", 1, 8


def main() -> None:
    """Measure, then write table and numbers."""
    compared = bench_training(PROFILE, WINDOWS, STEPS)
    sections = ["# Training steps", markdown(_table(compared))]
    command = f"gem3d bench training --profile {PROFILE} --windows {WINDOWS} --steps {STEPS}"
    keep("training", command, sections, asdict(compared))


def _table(compared: TrainingComparison) -> Table:
    return Table(
        title=f"`{PROFILE}`, one window of 16 slices a step",
        caption=(
            "Literal: every step encodes the images, the masks and 16 copies of the informed slice with an autoencoder "
            f"of KL-f8's size ({compared.codec_parameters / 1e6:.1f} M parameters, random weights) in float32. Stored: "
            f"the same latents, encoded once ({compared.encoding_seconds:.3f} s a slice). Same network "
            f"({compared.network_parameters / 1e6:.1f} M parameters), weights, windows, noise and t. Memory: above "
            "what the process held before. Share: operations of matrix products and convolutions a second, forward and "
            f"backward, over those of the machine's float32 matrix product, {compared.matrix_flops / 1e9:.0f} GFLOP/s."
        ),
        n=f"{STEPS} steps after one that warms up",
        columns=(
            Column("step"),
            Column("steps", "per s", "higher", 3),
            Column("first loss", digits=6),
            Column("memory", "MiB", "lower", 0),
            Column("speed", "GFLOP/s", "higher", 1),
            Column("share of the matrix product", "%", "higher", 0),
            Column("times as fast", better="higher", digits=1),
        ),
        rows=(_row("literal", compared.reference, 1.0), _row("stored latents", compared.ours, compared.speedup)),
    )


def _row(name: str, pace: Pace, speedup: float) -> tuple[str | float, ...]:
    speed, share = pace.flops_per_second / 1e9, 100 * pace.share_of_matrix_product
    return name, pace.steps_per_second, pace.first_loss, pace.peak_bytes / 2**20, speed, share, speedup


if __name__ == "__main__":
    main()
