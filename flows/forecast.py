"""`--dry-run`: which stages would run, how much they hold, and about how long they take. Writes nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel

from configs import Config
from flows.parameters import EnhanceParameters, dataset_folder, open_run
from gem3d_core.checkpoints import NetworkFacts
from gem3d_core.costs import Cost, network_cost, network_flops
from gem3d_core.dataset import Dataset, open_dataset
from gem3d_core.errors import BadInput
from gem3d_core.sampling import count_windows
from gem3d_core.settings import TrainSpec, UNetSpec
from gem3d_core.volumes import axial_depth, read_header
from tasks.encode import encode
from tasks.informed import informed, variants
from tasks.ingest import ingest
from tasks.masks import masks
from tasks.preprocess import preprocess
from tasks.publish import publish
from tasks.resample import resample
from tasks.stage import Run, WouldRun
from tasks.train import train_informed, train_slices, tune_volume

BACKWARD = 2.0
"""Operations of a backward pass over those of the forward pass."""
KL_CHANNELS = 4


class StageForecast(BaseModel):
    """One stage: whether the catalog has it, what it would do, and an estimate where there is a basis for one."""

    name: str
    cached: bool
    work: str
    network_calls: int = 0
    seconds: float | None = None
    memory_gib: float | None = None


class Forecast(BaseModel):
    """The whole run."""

    dataset: str
    profile: str
    cases: int
    slices: int
    stages: list[StageForecast]

    def text(self) -> str:
        """A table for a person."""
        lines = [f"{self.dataset}: {self.cases} cases, about {self.slices} slices; profile {self.profile}", ""]
        lines.append(f"{'stage':<26}{'state':>8}{'calls':>10}{'about':>10}{'memory':>10}  work")
        for s in self.stages:
            seconds = "-" if s.seconds is None else f"{s.seconds / 60:.1f} min"
            memory = "-" if s.memory_gib is None else f"{s.memory_gib:.1f} GiB"
            state = "cached" if s.cached else "to do"
            lines.append(f"{s.name:<26}{state:>8}{s.network_calls or '-':>10}{seconds:>10}{memory:>10}  {s.work}")
        lines += [
            "",
            "Times are operations counted over this machine's measured speed; expect them within a factor of three.",
        ]
        return "\n".join(lines)


def forecast(params: EnhanceParameters) -> Forecast:
    """What `enhance` would do. Reads headers only; raises BadInput as `enhance` does for configuration and layout."""
    folder = dataset_folder(params)
    run = open_run(params.model_copy(update={"dataset": folder})).model_copy(update={"dry": True})
    dataset = open_dataset(
        Path(folder), channel=run.config.data.channel, patient_pattern=run.config.data.patient_pattern
    )
    depths = _depths(dataset, run.config)
    cached = _cached(run, folder, skip_bad=params.skip_bad)
    stages = [_forecast(name, run.config, depths, cached=name in cached) for name in STAGES]
    return Forecast(dataset=folder, profile=run.config.profile, cases=len(depths), slices=sum(depths), stages=stages)


def _depths(dataset: Dataset, config: Config) -> list[int]:
    """Slices of every readable case: voxels along the axis that runs most along the body."""
    depths = []
    for case in dataset.cases[: config.data.max_cases]:
        try:
            header = read_header(case.image)
        except BadInput:
            continue  # `check` reports it; a forecast goes on without it
        depths.append(axial_depth(header))
    return depths


def _cached(run: Run, folder: str, *, skip_bad: bool) -> set[str]:
    """Stages that the catalog holds, found as the stages themselves find them."""
    found: dict[str, list[str]] = {}

    def look(stage: str, needs: tuple[str, ...], make: Callable[..., list[str]]) -> None:
        if all(need in found for need in needs):
            try:
                found[stage] = make(*(found[need] for need in needs))
            except WouldRun:
                return

    repeats = range(run.config.factor)
    look("ingest", (), lambda: [ingest.fn(run, folder, skip_bad=skip_bad).ref])
    look("preprocess", ("ingest",), lambda s: [preprocess.fn(run, s[0]).ref])
    look("encode", ("preprocess",), lambda p: [encode.fn(run, p[0]).ref])
    look("train-slices", ("encode",), lambda e: [train_slices.fn(run, e[0]).ref])
    look("tune-volume", ("encode", "train-slices"), lambda e, m: [tune_volume.fn(run, e[0], m[0]).ref])
    look("train-informed", ("encode",), lambda e: [train_informed.fn(run, e[0]).ref])
    look(
        "generate-informed-slices",
        ("encode", "train-informed"),
        lambda e, m: [informed.fn(run, e[0], m[0], r).ref for r in repeats],
    )
    look("augment-masks", ("preprocess",), lambda p: [masks.fn(run, p[0], r).ref for r in repeats])
    look(
        "resample",
        ("tune-volume", "encode", "generate-informed-slices", "augment-masks"),
        lambda v, e, i, m: [resample.fn(run, v[0], e[0], i[r], m[r], r).ref for r in repeats],
    )
    look("publish", ("resample",), lambda v: [publish.fn(run, v[: k + 1], k + 1).ref for k in repeats])
    return set(found)


STAGES = (
    "ingest",
    "preprocess",
    "encode",
    "train-slices",
    "tune-volume",
    "train-informed",
    "generate-informed-slices",
    "augment-masks",
    "resample",
    "publish",
    "evaluate",
)


def _forecast(name: str, config: Config, depths: list[int], *, cached: bool) -> StageForecast:
    told = StageForecast(name=name, cached=cached, work="")
    train = [depth for k, depth in enumerate(depths) if k % 5 or len(depths) < 2]
    if name == "train-slices":
        slices = config.train_slices.batch * min(config.train_slices.slices_per_window, config.condition.window)
        return _training(told, config, "slice", config.unet, config.train_slices, slices)
    if name == "tune-volume":
        slices = config.tune_volume.batch * config.condition.window
        return _training(told, config, "volume", config.unet, config.tune_volume, slices)
    if name == "train-informed":
        return _training(
            told, config, "position", config.position_unet, config.train_informed, config.train_informed.batch
        )
    if name == "resample":
        return _resampling(told, config, train)
    work = {
        "ingest": f"{len(depths)} cases checked",
        "preprocess": f"nnU-Net's plan; {len(depths)} cases prepared",
        "encode": f"{sum(depths)} slices encoded ({config.codec.kind})",
        "generate-informed-slices": f"{_volumes(config, train)} slices ({config.informed.mode})",
        "augment-masks": f"{config.factor * len(train)} masks edited",
        "publish": f"datasets at 1x to {config.factor}x",
        "evaluate": "fidelity"
        + (
            f"; nnU-Net {1 + config.factor} times, {config.evaluate.arm.epochs} epochs"
            if config.evaluate.downstream
            else ""
        ),
    }
    return told.model_copy(update={"work": work[name]})


def _training(
    told: StageForecast, config: Config, kind: str, unet: UNetSpec, spec: TrainSpec, slices: int
) -> StageForecast:
    cost = _cost(config, kind, unet, slices)
    return told.model_copy(
        update={
            "work": f"{spec.steps} steps of {slices} slices; {cost.parameters / 1e6:.1f} M parameters",
            "network_calls": spec.steps,
            "seconds": spec.steps * cost.forward_flops * (1 + BACKWARD) / network_flops(config.runtime.device),
            "memory_gib": cost.training_bytes / 2**30,
        }
    )


def _resampling(told: StageForecast, config: Config, train: list[int]) -> StageForecast:
    spec, n = config.resample, config.condition.window
    windows = config.factor * len(variants(config)) * count_windows(train, n, spec.overlap)
    cost = _cost(config, "volume", config.unet, n)
    calls = -(-windows // spec.batch) * spec.steps * spec.resample
    return told.model_copy(
        update={
            "work": f"{_volumes(config, train)} volumes, {windows} windows",
            "network_calls": calls,
            "seconds": windows * spec.steps * spec.resample * cost.forward_flops / network_flops(config.runtime.device),
            "memory_gib": (4 * cost.parameters + spec.batch * cost.kept_bytes / 8) / 2**30,
        }
    )


def _volumes(config: Config, train: list[int]) -> int:
    return config.factor * len(train) * len(variants(config))


def _cost(config: Config, kind: str, unet: UNetSpec, slices: int) -> Cost:
    haar = config.codec.kind == "haar"
    channels, factor = (4**config.codec.levels, 2**config.codec.levels) if haar else (KL_CHANNELS, 8)
    mask = 3 if config.condition.mask == "one_hot" else channels
    facts = NetworkFacts(kind, unet, channels, mask, config.condition.slice_offset, config.condition.window)
    H, W = config.prepare.slice_size
    return network_cost(replace(facts), slices, (H // factor, W // factor))
