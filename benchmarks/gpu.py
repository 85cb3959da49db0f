"""The paper-size model (274 M + 94 M parameters, 512x512 slices) on a GPU: docs/results/gpu.{md,json}.

Examples:
    python benchmarks/gpu.py                                # the GPU of this machine, under eight minutes
    python benchmarks/gpu.py --tiny --out build             # a small network on any machine, to try the script

It needs no network connection and no packages but those of gem3d_core: torch, numpy, einops, diffusers, safetensors
(on a CPU psutil too). Weights are random: what they are does not change how long a call takes.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402 - the packages lie beside this script, wherever it was copied
from safetensors.torch import save_file  # noqa: E402

from gem3d_core.bench.effort import watched  # noqa: E402
from gem3d_core.bench.training import PAPER_LAYERS, PAPER_SCALE, PAPER_WIDTHS  # noqa: E402
from gem3d_core.budget.costs import network_cost  # noqa: E402
from gem3d_core.codec.kl import KL, autoencoder  # noqa: E402
from gem3d_core.diffusion.schedule import make_schedule  # noqa: E402
from gem3d_core.networks.files import build  # noqa: E402
from gem3d_core.networks.volumetric import VolumeNetwork  # noqa: E402
from gem3d_core.sampling.batched import count_windows  # noqa: E402
from gem3d_core.sampling.literal import STEPS, Algorithm1, draw_reference  # noqa: E402
from gem3d_core.sampling.volumes import Recipe, VolumeModel, draw_volumes  # noqa: E402
from gem3d_core.spec.method import (  # noqa: E402
    ConditionSpec,
    DiffusionSpec,
    NetworkFacts,
    NetworkKind,
    SampleSpec,
    TrainSpec,
    UNetSpec,
)
from gem3d_core.training.batches import LatentCase, held_on  # noqa: E402
from gem3d_core.training.models import Training, train_model  # noqa: E402

GIB = 2**30
LABELS = (1, 2, 3)
N = 16
DIFFUSION = DiffusionSpec(schedule="scaled_linear", prediction="epsilon", weighting="uniform")
CONDITION = ConditionSpec(mask="codec", slice_offset=False, window=N)
TRAINING = TrainSpec(steps=12, batch=1, slices_per_window=N, warmup=1, checkpoint_every=1000, precision="bf16")
LAST_START, LAST_COMPILED = 360, 240
"""Seconds after which no further row is begun, and none that compiles, so that eight minutes are enough."""
WARM_UP = 3
"""Training steps that are not counted."""


@dataclass(frozen=True)
class Setting:
    """What is measured: a network on volumes of Z slices of size x size."""

    unet: UNetSpec
    codec_widths: tuple[int, ...]
    size: int
    Z: int
    reference_steps: int
    ours: SampleSpec
    device: torch.device

    @property
    def latent_size(self) -> tuple[int, int]:
        return self.size // 8, self.size // 8

    def facts(self, kind: NetworkKind) -> NetworkFacts:
        """Of the slice or the volume network, with the mask through the codec [paper]."""
        return NetworkFacts(kind, self.unet, 4, 4, CONDITION)


@dataclass(frozen=True)
class Result:
    """One row: seconds of a unit of work, the most memory allocated meanwhile (GiB, a GPU's), and the network's
    operations a second over those of the machine's matrix product of the same precision."""

    what: str
    unit: str
    seconds: float
    peak_gib: float
    utilisation: float
    note: str


def main() -> None:
    """Measure everything and write both files; what was measured is written even if a later row fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--commit", default="not told", help="written into the results")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if not given.tiny and not torch.cuda.is_available():
        sys.exit("no GPU here that torch can use: --tiny tries the script on a CPU")

    # as `gem3d` sets them: the same volume again on the same device
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    setting, began = _tiny() if given.tiny else _paper(), time.monotonic()
    peaks = {name: matrix_peak(setting.device, getattr(torch, name)) for name in ("float32", "bfloat16")}
    results: list[Result] = []
    given.out.mkdir(parents=True, exist_ok=True)
    for result in chain(training(setting, peaks), sampling(setting, peaks, began + LAST_COMPILED)):
        sys.stderr.write(f"{result}\n")
        results.append(result)
        _write(given.out, setting, given.commit, peaks, results, tiny=given.tiny)
        if time.monotonic() - began > LAST_START:
            sys.stderr.write(f"{LAST_START} s are over: no further row is begun\n")
            break


def _paper() -> Setting:
    unet = UNetSpec(
        base_channels=224, multipliers=(1, 2, 3, 4), blocks=2, attention_at=(2, 4, 8), head_channels=32, norm_groups=32
    )
    return Setting(
        unet,
        PAPER_WIDTHS,
        size=512,
        Z=155,
        reference_steps=STEPS,
        ours=SampleSpec(steps=20, precision="bf16"),
        device=torch.device("cuda"),
    )


def _tiny() -> Setting:
    unet = UNetSpec(base_channels=32, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=32, norm_groups=32)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Setting(
        unet, codec_widths=(32, 32, 32, 32), size=64, Z=40, reference_steps=4, ours=SampleSpec(steps=2), device=device
    )


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a square matrix product; float32 without TF32, as torch is set up by default."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=dtype)
    a @ a
    return 2 * side**3 / min(_seconds(lambda: a @ a, device) for _ in range(5))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def sampling(setting: Setting, peaks: dict[str, float], compile_until: float) -> Iterator[Result]:
    """Algorithm 1 to the letter as far as one window, then whole volumes by the fast path, compiled at last."""
    model = _volume_model(setting)
    network, device = model.network, setting.device
    flops = network_cost(setting.facts("volume"), N, setting.latent_size).forward_flops
    windows = count_windows([setting.Z], CONDITION, setting.ours)
    unit = f"volume of {setting.Z} slices, {setting.size}x{setting.size}"

    for steps in (2, setting.reference_steps):  # the first sets the machine up
        reference = Algorithm1(network, model.schedule, device, steps=steps)
        window, effort = watched(lambda a=reference: draw_reference(model, _recipe(setting, "one", N), a), device)
        assert len(window) == N
    at_start = count_windows([setting.Z], CONDITION, replace(setting.ours, overlap=1, first_window="at_start"))
    literal = effort.seconds * at_start
    yield Result(
        f"Algorithm 1: DDIM {reference.network_calls} steps, one window at a time, float32", unit, literal,
        effort.peak_bytes / GIB, reference.network_calls * flops / effort.seconds / peaks["float32"],
        f"computed: {at_start} times the {effort.seconds:.1f} s of one window, encoded and decoded",
    )  # fmt: skip

    for volumes, compiled in ((1, False), (4, False), (1, True), (4, True)):
        spec = replace(setting.ours, batch=2 * volumes)  # both directions of every volume
        if compiled and time.monotonic() > compile_until:
            sys.stderr.write(f"{LAST_COMPILED} s are over: nothing is compiled\n")
            return
        if compiled and not network.fixed_batch:
            network.compile_for_sampling("inductor" if device.type == "cuda" else "eager")
        started = _seconds(lambda s=spec, v=volumes: _draw(model, setting, v, replace(s, steps=2)), device)
        effort = watched(lambda s=spec, v=volumes: _draw(model, setting, v, s), device)[1]
        peak = peaks["bfloat16" if spec.precision == "bf16" else "float32"]
        kind = f"{spec.precision}, {volumes} at once{', compiled' if compiled else ''}"
        told = f", after {started:.0f} s of compiling and two steps" if compiled else ""
        yield Result(
            f"ours: DPM-Solver++ {spec.steps} steps, {kind}", unit, effort.seconds / volumes, effort.peak_bytes / GIB,
            volumes * windows * spec.steps * flops / effort.seconds / peak,
            f"{literal * volumes / effort.seconds:.1f} times as fast as Algorithm 1, decoding included{told}",
        )  # fmt: skip


def _draw(model: VolumeModel, setting: Setting, volumes: int, spec: SampleSpec) -> None:
    recipes = [_recipe(setting, str(k), setting.Z) for k in range(volumes)]
    assert len(list(draw_volumes(model, recipes, spec))) == volumes


def training(setting: Setting, peaks: dict[str, float]) -> Iterator[Result]:
    """Steps of both stages, one window each, by the training loop itself on stored latents."""
    cases = held_on(setting.device, _random_cases(setting), room=GIB)
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch, "slices.safetensors")
        for kind in ("slice", "volume"):
            ticks: list[float] = []

            def tick(_step: int, _loss: float, ticks: list[float] = ticks) -> None:
                ticks.append(time.perf_counter())

            schedule, alike = make_schedule(DIFFUSION), torch.ones(cases[0].image.shape[1])
            plan = Training(cases, schedule, TRAINING, 0, Path(scratch, kind), setting.device, tick, alike)
            facts = setting.facts(kind)
            if kind == "slice":
                (state, _), effort = watched(lambda f=facts, p=plan: train_model(f, p), setting.device)
                save_file({name: t.detach().cpu().contiguous() for name, t in state.items()}, weights)
            else:
                (state, _), effort = watched(lambda f=facts, p=plan: train_model(f, p, weights), setting.device)
            del state
            seconds = median(b - a for a, b in zip(ticks[WARM_UP:-1], ticks[WARM_UP + 1 :], strict=True))
            flops = 3 * network_cost(facts, N, setting.latent_size).forward_flops
            yield Result(
                f"training, stage {1 if kind == 'slice' else 2}, bf16", f"step of one window of {N} slices", seconds,
                effort.peak_bytes / GIB, flops / seconds / peaks["bfloat16"],
                f"{1 / seconds:.2f} steps a second; AdamW and EMA included; a step is counted as three forward calls",
            )  # fmt: skip


def _random_cases(setting: Setting) -> list[LatentCase]:
    rng = torch.Generator().manual_seed(0)
    shape = (2 * N, 4, *setting.latent_size)
    return [
        LatentCase(str(k), torch.randn(shape, generator=rng), torch.randn(shape, generator=rng), shape[0])
        for k in range(4)
    ]


def _volume_model(setting: Setting) -> VolumeModel:
    network = build(setting.facts("volume"), 0)
    assert isinstance(network, VolumeNetwork)
    network.requires_grad_(False).eval().to(setting.device)
    codec = KL(autoencoder(setting.codec_widths, PAPER_LAYERS).to(setting.device), PAPER_SCALE)
    return VolumeModel(network, codec, make_schedule(DIFFUSION), LABELS, setting.device)


def _recipe(setting: Setting, name: str, Z: int) -> Recipe:
    rng = torch.Generator().manual_seed(0)
    shape = (Z, setting.size, setting.size)
    return Recipe(
        name=name,
        mask=torch.randint(len(LABELS) + 1, shape, generator=rng, dtype=torch.uint8),
        outline=torch.ones(shape, dtype=torch.bool),
        informed=torch.rand(shape[1:], generator=rng) * 2 - 1,
        p=0.5,
        seed=0,
    )


def _write(
    out: Path, setting: Setting, commit: str, peaks: dict[str, float], results: list[Result], *, tiny: bool
) -> None:
    name = torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else platform.machine()
    facts = {
        "device": name,
        "torch": torch.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit,
        "command": "python benchmarks/gpu.py" + (" --tiny" if tiny else ""),
        "matrix_flops": peaks,
    }
    (out / "gpu.json").write_text(json.dumps({**facts, "results": [asdict(r) for r in results]}, indent=1) + "\n")
    title = "# A tiny model, to try the script" if tiny else "# The paper-size model on a GPU"
    told = (
        f"{name}, torch {torch.__version__}, commit {commit}, {facts['date']}, `{facts['command']}`. Random weights. "
        f"Matrix product: {peaks['float32'] / 1e12:.1f} TFLOP/s float32, {peaks['bfloat16'] / 1e12:.1f} TFLOP/s bf16; "
        "utilisation is the network's operations a second over it (convolutions in float32 may use TF32, as torch "
        "does by default). Memory is all that was allocated on the GPU; on a CPU, above what was held before."
    )
    lines = [title, "", told, "", "| | unit | seconds | peak GiB | utilisation | |", "|---|---|---:|---:|---:|---|"]
    lines += [
        f"| {r.what} | {r.unit} | {r.seconds:.3g} | {r.peak_gib:.1f} | {r.utilisation:.0%} | {r.note} |"
        for r in results
    ]
    (out / "gpu.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
