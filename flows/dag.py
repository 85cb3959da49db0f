"""The stages and their order, here alone: runs, re-sampling, tables, the dry run and its estimates all go by this list.

A step names its stages one after the other and is told the reference of each; who goes through it decides whether a
stage is performed or only looked for in the catalog.
"""

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from configs import Config
from data_catalog import Catalog
from gem3d_core.errors import BadInput
from tasks.artifacts.lineage import DatasetRefs
from tasks.artifacts.prepared import split_sizes
from tasks.evaluation.agreement import MaskAgreement
from tasks.evaluation.downstream import Downstream, arms_of
from tasks.evaluation.fidelity import Fidelity
from tasks.evaluation.real_features import RealFeatures
from tasks.evaluation.report import WriteReport
from tasks.frame.stage import Run, Stage, StageResult
from tasks.planning import estimates
from tasks.planning.estimates import Estimate
from tasks.planning.workload import Load
from tasks.stages.encode import Encode
from tasks.stages.informed import InformedSlices, mode_of
from tasks.stages.ingest import Ingest
from tasks.stages.masks import AugmentMasks
from tasks.stages.preprocess import Preprocess
from tasks.stages.publish import Publish
from tasks.stages.resample import Resample
from tasks.stages.train import TrainInformed, TrainSlices, TuneVolume

Stages = Generator[Stage, str, None]
"""One stage after the other; each is answered with the reference to its product."""


class NotMade(Exception):  # noqa: N818 - an answer, not an error
    """A product that is needed is not in the catalog."""


@dataclass
class Made:
    """References to what steps made, by the names of the steps."""

    refs: dict[str, list[str]] = field(default_factory=dict)
    compared: dict[str, str] = field(default_factory=dict)
    """Datasets of other systems that are arms of the evaluation, by system."""
    lacking: set[str] = field(default_factory=set)
    """Steps that were looked for and not found."""

    def all(self, step: "Step") -> list[str]:
        """All products of a step. Raises NotMade where it has none."""
        if step.name not in self.refs:
            raise NotMade(step.name)
        return self.refs[step.name]

    def one(self, step: "Step") -> str:
        """The one product of a step. Raises NotMade where it has none."""
        return self.all(step)[0]

    def maybe(self, step: "Step") -> list[str]:
        """Those of a step that may have been left out. Raises NotMade where it is needed and was not found."""
        if step.name in self.lacking:
            raise NotMade(step.name)
        return self.refs.get(step.name, [])

    @property
    def data(self) -> DatasetRefs:
        """The dataset as it was read, prepared and encoded."""
        return DatasetRefs(source=self.one(INGEST), prepared=self.one(PREPROCESS), latents=self.one(ENCODE))

    @property
    def models(self) -> list[str]:
        """All that were trained, in the order of their stages."""
        return [ref for step in TRAININGS for ref in self.maybe(step)]

    def generator(self, config: Config) -> str:
        """The model that samples volumes."""
        return self.one(generating(config))

    def copy(self) -> "Made":
        """Another one with the same references."""
        return Made(dict(self.refs), dict(self.compared), set(self.lacking))


@dataclass(frozen=True)
class Step:
    """One entry of the list. `name` is that of its flow and of its deployment.

    part: whether a system has it at all. needless: why a run can do without it and what would need it, of the
    configuration and the number of training patients; empty where it is needed.
    """

    name: str
    stages: Callable[[Run, Made], Stages]
    estimate: Callable[[Load], Estimate]
    part: Callable[[Config], bool] = lambda _config: True
    needless: Callable[[Config, int], str] = lambda _config, _patients: ""


def _ingest(run: Run, _made: Made) -> Stages:
    yield Ingest(run)


def _preprocess(run: Run, made: Made) -> Stages:
    yield Preprocess(run, made.one(INGEST))


def _encode(run: Run, made: Made) -> Stages:
    yield Encode(run, made.one(PREPROCESS))


def _train_slices(run: Run, made: Made) -> Stages:
    yield TrainSlices(run, made.one(ENCODE))


def _tune_volume(run: Run, made: Made) -> Stages:
    sliced = made.maybe(TRAIN_SLICES)
    yield TuneVolume(run, made.one(ENCODE), sliced[0] if sliced else None)


def _train_informed(run: Run, made: Made) -> Stages:
    yield TrainInformed(run, made.one(ENCODE))


def _without_position_model(config: Config, patients: int) -> str:
    if mode_of(config, patients) == "generated":
        return ""
    return "informed slices are those of other patients: informed.mode=generated needs it"


def _informed_slices(run: Run, made: Made) -> Stages:
    position = made.maybe(TRAIN_INFORMED)
    for repeat in range(run.config.factor):
        yield InformedSlices(run, made.one(PREPROCESS), made.one(ENCODE), position[0] if position else None, repeat)


def _augment_masks(run: Run, made: Made) -> Stages:
    for repeat in range(run.config.factor):
        yield AugmentMasks(run, made.one(PREPROCESS), repeat)


def _without_edits(config: Config, _patients: int) -> str:
    return "true masks are used: masks.use=augmented or both needs it" if config.masks.use == "true" else ""


def _resample(run: Run, made: Made) -> Stages:
    edited: Sequence[str | None] = made.maybe(AUGMENT_MASKS) or [None] * run.config.factor
    for repeat, (slices, masks) in enumerate(zip(made.all(INFORMED_SLICES), edited, strict=True)):
        data = made.one(PREPROCESS), made.one(ENCODE)
        yield Resample(run, *data, made.generator(run.config), slices, masks, repeat)


def _publish(run: Run, made: Made) -> Stages:
    volumes = made.all(RESAMPLE)
    for factor in range(1, len(volumes) + 1):
        yield Publish(run, made.one(INGEST), made.one(PREPROCESS), tuple(volumes[:factor]))


def _evaluate(run: Run, made: Made) -> Stages:
    """Fidelity of the first repeat, an nnU-Net arm for the true data and each dataset, and last the report."""
    data, volumes, datasets = made.data, made.all(RESAMPLE), made.all(PUBLISH)
    metrics = []
    if run.config.evaluate.fidelity:
        metrics.append((yield RealFeatures(run, data.prepared)))
        model = made.generator(run.config)
        metrics.append(
            (yield Fidelity(run, data.source, data.prepared, data.latents, metrics[0], model, tuple(volumes)))
        )
    test = split_sizes(Catalog.open(run.catalog), data.prepared).test
    for arm, dataset in arms_of(run.config, test=test, datasets=datasets, baselines=made.compared).items():
        metrics.append((yield Downstream(run, data.source, data.prepared, arm, dataset)))
        if arm == "true":
            judge = metrics[-1]
    if run.config.evaluate.downstream and test:
        metrics.append((yield MaskAgreement(run, data.source, data.prepared, judge, volumes[0])))
    published = (*datasets, *made.compared.values())
    yield WriteReport(run, data, tuple(made.models), tuple(volumes), published, tuple(metrics))


INGEST = Step(Ingest.name, _ingest, estimates.ingesting)
PREPROCESS = Step(Preprocess.name, _preprocess, estimates.preparing)
ENCODE = Step(Encode.name, _encode, estimates.encoding)
TRAIN_SLICES = Step(TrainSlices.name, _train_slices, estimates.training_slices, lambda c: "train_slices" in c.trained)
TUNE_VOLUME = Step(TuneVolume.name, _tune_volume, estimates.tuning_volumes, lambda c: "tune_volume" in c.trained)
TRAIN_INFORMED = Step(
    TrainInformed.name,
    _train_informed,
    estimates.training_informed,
    lambda c: c.condition.informed,
    _without_position_model,
)
INFORMED_SLICES = Step(InformedSlices.name, _informed_slices, estimates.choosing_informed)
AUGMENT_MASKS = Step(AugmentMasks.name, _augment_masks, estimates.editing_masks, needless=_without_edits)
RESAMPLE = Step(Resample.name, _resample, estimates.resampling)
PUBLISH = Step(Publish.name, _publish, estimates.publishing)
EVALUATE = Step("evaluate", _evaluate, estimates.evaluating)

TRAININGS = (TRAIN_SLICES, TUNE_VOLUME, TRAIN_INFORMED)
STEPS = (INGEST, PREPROCESS, ENCODE, *TRAININGS, INFORMED_SLICES, AUGMENT_MASKS, RESAMPLE, PUBLISH, EVALUATE)
"""The list."""


def generating(config: Config) -> Step:
    """The training whose model samples volumes."""
    return TUNE_VOLUME if "tune_volume" in config.trained else TRAIN_SLICES


def named(name: str) -> Step:
    """A step by its name. Raises BadInput for another one."""
    for step in STEPS:
        if step.name == name:
            return step
    raise BadInput(f"no stage {name!r}: the stages are {', '.join(step.name for step in STEPS)}")


def steps_of(config: Config, *, after: Step | None = None, until: Step | None = None) -> list[Step]:
    """Those that a system has, in their order, from behind one step up to another.

    Raises BadInput where the last one is not among them.
    """
    if until is not None and not until.part(config):
        raise BadInput(f"--until {until.name}: not a stage of system={config.system}, which does without it")
    first = 0 if after is None else STEPS.index(after) + 1
    last = len(STEPS) if until is None else STEPS.index(until) + 1
    return [step for step in STEPS[first:last] if step.part(config)]


@dataclass(frozen=True)
class Outcome:
    """What became of a step: its results; why it was not needed; neither where something was not found."""

    step: Step
    results: Sequence[StageResult] | None
    needless: str = ""


def walk(
    run: Run,
    steps: Sequence[Step],
    made: Made,
    do: Callable[[Step], Sequence[StageResult] | None],
    *,
    asked: Collection[str] = (),
    patients: Callable[[], int],
) -> Iterator[Outcome]:
    """Do steps in their order but for those that are not needed; what they make is added to `made`.

    asked: names of steps that are done all the same. patients: of the training cases.
    """
    for step in steps:
        reason = "" if step.name in asked else step.needless(run.config, patients())
        if reason:
            yield Outcome(step, None, reason)
            continue
        results = do(step)
        if results is None:
            made.lacking.add(step.name)
        else:
            made.refs[step.name] = [result.ref for result in results]
        yield Outcome(step, results)


def follow(step: Step, run: Run, made: Made, act: Callable[[Stage], StageResult | None]) -> list[StageResult] | None:
    """Do what `act` does with every stage of a step; None where a product is lacking."""
    results: list[StageResult] = []
    try:
        stages = step.stages(run, made)
        stage = next(stages)
        while (result := act(stage)) is not None:
            results.append(result)
            stage = stages.send(result.ref)
    except StopIteration:
        return results
    except NotMade:
        return None
    return None


def made_of(refs: Mapping[Step, Sequence[str]]) -> Made:
    """What was made elsewhere, by step."""
    return Made({step.name: list(given) for step, given in refs.items() if given})
