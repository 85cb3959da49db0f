"""`--dry-run`: which stages would run, how much they hold, and about how long they take. Writes nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from configs import Config
from gem3d_core.checkpoints import NetworkFacts
from gem3d_core.costs import Cost, network_cost, network_flops
from gem3d_core.dataset import Dataset, open_dataset
from gem3d_core.errors import BadInput
from gem3d_core.sampling import count_windows
from gem3d_core.settings import TrainSpec, UNetSpec
from gem3d_core.split import split_cases
from gem3d_core.volumes import axial_depth, read_header
from tasks.downstream import arms_of, downstream
from tasks.encode import encode
from tasks.fidelity import fidelity
from tasks.informed import informed, variants
from tasks.ingest import ingest
from tasks.masks import masks
from tasks.preprocess import preprocess
from tasks.publish import publish
from tasks.report import report
from tasks.resample import resample
from tasks.stage import Run, StageName, WouldRun
from tasks.train import train_informed, train_slices, tune_volume

BACKWARD = 2.0
"""Operations of a backward pass over those of the forward pass."""
KL_CHANNELS, KL_FACTOR = 4, 8
INFERENCE_SHARE = 8
"""What a training step keeps of activations over what a call without gradients holds at once, about."""


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
        waiting = sum(s.seconds or 0.0 for s in self.stages if not s.cached)
        lines += [
            "",
            f"Networks to run: about {waiting / 60:.0f} min in all, by operations counted over this machine's",
        ]
        lines += ["measured speed, right within a factor of two or three. Reading, nnU-Net and metrics come on top."]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Load:
    """What a run has to get through."""

    config: Config
    depths: dict[str, int]
    train: tuple[str, ...]
    labels: int

    @property
    def slices(self) -> int:
        return sum(self.depths.values())

    @property
    def volumes(self) -> int:
        return self.config.factor * len(self.train) * len(variants(self.config))

    @property
    def windows(self) -> int:
        n, h = self.config.condition.window, self.config.resample.overlap
        return self.volumes // max(1, len(self.train)) * count_windows((self.depths[c] for c in self.train), n, h)


def forecast(run: Run, folder: str, *, skip_bad: bool) -> Forecast:
    """What `enhance` would do. Reads headers only; raises BadInput as `enhance` does for configuration and layout."""
    data = run.config.data
    dataset = open_dataset(Path(folder), channel=data.channel, patient_pattern=data.patient_pattern)
    load = _load(dataset, run.config)
    cached = _cached(run.model_copy(update={"dry": True}), folder, skip_bad=skip_bad)
    stages = [_forecast(name, load).model_copy(update={"cached": name in cached}) for name in get_args(StageName)]
    return Forecast(
        dataset=folder, profile=run.config.profile, cases=len(load.depths), slices=load.slices, stages=stages
    )


def _load(dataset: Dataset, config: Config) -> _Load:
    depths = {}
    for case in dataset.cases:
        try:
            depths[case.case] = axial_depth(read_header(case.image))
        except BadInput:
            continue  # `check` reports it; a forecast goes on without it
    depths = dict(sorted(depths.items())[: config.data.max_cases])
    patients = {case.case: case.patient for case in dataset.cases}
    others = {case.case for case in dataset.cases} - depths.keys()
    split = split_cases(sorted(depths), config.data.split, patients, quarantined=others)
    return _Load(config, depths, split.train, len(dataset.label_ids))


def _cached(run: Run, folder: str, *, skip_bad: bool) -> set[str]:
    """Stages that the catalog holds, found as the stages themselves find them."""
    found: dict[str, list[str]] = {}

    def look(stage: StageName, needs: tuple[StageName, ...], make: Callable[..., list[str]]) -> None:
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
    look("evaluate", ("publish",), lambda _: _evaluated(run, found))
    return set(found)


def _evaluated(run: Run, found: dict[str, list[str]]) -> list[str]:
    """The metrics and the report, of which all stages before are there."""
    prepared, latents = found["preprocess"][0], found["encode"][0]
    models = [found[stage][0] for stage in ("train-slices", "tune-volume", "train-informed")]
    made = [fidelity.fn(run, latents, models[1], found["resample"]).ref] if run.config.evaluate.fidelity else []
    arms = arms_of(run, prepared, found["publish"])
    made += [downstream.fn(run, prepared, arm, dataset).ref for arm, dataset in arms.items()]
    written = report.fn(run, prepared, latents, models, found["resample"], found["publish"], made)
    return [*made, written.ref]


def _forecast(name: StageName, load: _Load) -> StageForecast:
    config = load.config
    if name == "train-slices":
        spec = config.train_slices
        slices = spec.batch * min(spec.slices_per_window, config.condition.window)
        return _training(name, load, "slice", config.unet, spec, slices)
    if name == "tune-volume":
        spec = config.tune_volume
        return _training(name, load, "volume", config.unet, spec, spec.batch * config.condition.window)
    if name == "train-informed":
        spec = config.train_informed
        return _training(name, load, "position", config.position_unet, spec, spec.batch)
    if name == "resample":
        return _resampling(load)
    return StageForecast(name=name, cached=False, work=_work(load)[name])


def _work(load: _Load) -> dict[StageName, str]:
    """What the stages do that run no network of ours, or hardly."""
    config, cases = load.config, len(load.depths)
    arms = f"; nnU-Net {1 + config.factor} times, {config.evaluate.arm.epochs} epochs each"
    return {
        "ingest": f"{cases} cases checked",
        "preprocess": f"nnU-Net's plan; {cases} cases prepared",
        "encode": f"{load.slices} slices encoded ({config.codec.kind})",
        "generate-informed-slices": f"{load.volumes} slices ({config.informed.mode})",
        "augment-masks": f"{config.factor * len(load.train)} masks edited",
        "publish": f"datasets at 1x to {config.factor}x",
        "evaluate": "fidelity" + (arms if config.evaluate.downstream else ""),
    }


def _training(name: StageName, load: _Load, kind: str, unet: UNetSpec, spec: TrainSpec, slices: int) -> StageForecast:
    cost = _cost(load, kind, unet, slices)
    return StageForecast(
        name=name,
        cached=False,
        work=f"{spec.steps} steps of {slices} slices; {cost.parameters / 1e6:.1f} M parameters",
        network_calls=spec.steps,
        seconds=spec.steps * cost.forward_flops * (1 + BACKWARD) / network_flops(load.config.runtime.device),
        memory_gib=cost.training_bytes / 2**30,
    )


def _resampling(load: _Load) -> StageForecast:
    spec = load.config.resample
    cost = _cost(load, "volume", load.config.unet, load.config.condition.window)
    steps = spec.steps * spec.resample
    held = 4 * cost.parameters + spec.batch * cost.kept_bytes / INFERENCE_SHARE
    return StageForecast(
        name="resample",
        cached=False,
        work=f"{load.volumes} volumes, {load.windows} windows",
        network_calls=-(-load.windows // spec.batch) * steps,
        seconds=load.windows * steps * cost.forward_flops / network_flops(load.config.runtime.device),
        memory_gib=held / 2**30,
    )


def _cost(load: _Load, kind: str, unet: UNetSpec, slices: int) -> Cost:
    config = load.config
    haar = config.codec.kind == "haar"
    channels, factor = (4**config.codec.levels, 2**config.codec.levels) if haar else (KL_CHANNELS, KL_FACTOR)
    mask = load.labels + 1 if config.condition.mask == "one_hot" else channels
    facts = NetworkFacts(kind, unet, channels, mask, config.condition.slice_offset, config.condition.window)
    H, W = config.prepare.slice_size
    return network_cost(facts, slices, (H // factor, W // factor))
