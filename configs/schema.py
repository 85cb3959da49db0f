"""The configuration of a run. What a field does stands where the field stands, here or at the value it builds."""

import os
import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from configs.rules import check
from gem3d_core.spec.kinds import Generator, TrainingStage, trainings
from gem3d_core.spec.masks import AugmentSpec
from gem3d_core.spec.method import (
    CodecSpec,
    ConditionSpec,
    DiffusionSpec,
    InformedSpec,
    SampleSpec,
    TrainSpec,
    UNetSpec,
)
from gem3d_core.spec.nnunet import ArmSpec
from gem3d_core.spec.prepare import PrepareSpec, SplitSpec


class Section(BaseModel):
    """Frozen, and closed to names it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Which part of the dataset is used, and how it is divided."""

    channel: str | None = None
    """Name or index of the image channel; needed when there are several."""
    patient_pattern: str | None = None
    """Regular expression whose first group is the patient in a case name; none: every case is a patient."""
    max_cases: int | None = Field(None, ge=1)
    """Use only the first so many cases, in sorted order; for trials."""
    split: SplitSpec = SplitSpec()

    @field_validator("channel", mode="before")
    @classmethod
    def _number_of_yaml(cls, value: object) -> object:
        return str(value) if type(value) is int else value


class Masks(Section):
    """Stage 8, and which masks stage 9 uses."""

    use: Literal["true", "augmented", "both"] = "true"
    """true as in Table 4; both: every repeat holds a volume for each mask of either kind."""
    count: int | None = Field(None, ge=1)
    """Training masks that a repeat draws volumes for, evenly spaced; none: all."""
    augment: AugmentSpec = AugmentSpec()

    @field_validator("use", mode="before")
    @classmethod
    def _word_of_yaml(cls, value: object) -> object:
        return "true" if value is True else value  # YAML takes the bare word for a boolean


class Publish(Section):
    """Stage 10."""

    mix: Literal["none", "real"] = "none"
    """real: the training cases themselves are added to every published dataset (which is then not private)."""
    first_id: int = Field(500, ge=1, le=997)
    """nnU-Net dataset number of the 1x dataset; 2x and 3x follow."""


class Evaluate(Section):
    """Stage 11."""

    fidelity: bool = True
    """Score likeness to real volumes, continuity and distances to the training volumes."""
    features: Literal["efficientnet-lite0", "radimagenet-resnet50"] = "efficientnet-lite0"
    """Network whose features FID compares; radimagenet-resnet50 [paper] needs its file in the weights folder."""
    fid_volumes: int | None = Field(None, ge=1)
    """Volumes of each set, evenly spaced, whose slices FID compares; none: all."""
    fid_resamples: int = Field(50, ge=0)
    """Times that FID is computed again with other weights of the volumes, for its interval; 0: no interval."""
    paired_cases: int | None = Field(None, ge=1)
    """Test volumes drawn for the paired scores; none: all."""
    downstream: bool = True
    """Train nnU-Net on the true data and on every published dataset."""
    factors: tuple[int, ...] | None = None
    """Published datasets that nnU-Net is trained on; none: all."""
    baseline: str | None = None
    """A system, such as make-a-volume, that is trained beside this one and whose 1x dataset is one more arm
    (Table 4)."""
    arm: ArmSpec = ArmSpec()


class Tables(Section):
    """`gem3d tables`: what each of its systems may take; none: as much as the profile itself."""

    train_slices: int | None = Field(None, ge=1)
    """Steps of stage 1."""
    tune_volume: int | None = Field(None, ge=1)
    """Steps of stage 2."""
    train_informed: int | None = Field(None, ge=1)
    """Steps of the position-conditioned model, which systems share."""
    whole: int | None = Field(None, ge=1)
    """Steps of a 3D network on whole volumes, best as many as take as long as both stages; none: of both together."""
    masks: int | None = Field(None, ge=1)
    """Training masks, evenly spaced, that each system draws a volume for."""
    batch: dict[TrainingStage, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Windows a step of a training, where not the profile's: short trainings learn more from many small steps."""
    learning_rate: dict[TrainingStage, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Learning rate of a training, where not the profile's."""
    slower: dict[str, Annotated[float, Field(ge=1)]] = Field(default_factory=dict)
    """By row, how many times as long its training steps take as those of `paper`: so many times fewer are made."""


class Runtime(Section):
    """Where and how fast, never what: no stage's identity depends on these."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    workers: int | None = Field(None, ge=1)
    """Threads for reading, preparing and writing; processes of nnU-Net's planning. None: as many as cores."""
    processes: int | None = Field(None, ge=1)
    """Processes that train a model together, one for each GPU; none: as many GPUs as can share a batch evenly."""
    memory: str | None = None
    """Such as 8GiB, of the GPU or of the process: as many windows are drawn at once as fit, and a training batch is
    computed in as few pieces as fit. None: all of a GPU; on a CPU resample.batch windows and training as it comes."""
    compile: bool = False
    """Compile the network for re-sampling (not the slice model alone): a minute or two at the start of a run, then
    faster calls. On a CPU it takes a C++ compiler."""
    weights: str | None = None
    """Folder of weights that others trained; GEM3D_WEIGHTS when none."""

    @field_validator("memory")
    @classmethod
    def _is_a_size(cls, text: str | None) -> str | None:
        if text is not None and not re.fullmatch(r"\d+(\.\d+)? ?[MG]iB", text):
            raise ValueError("expected a number and a unit, GiB or MiB, such as 8GiB")
        return text

    @property
    def threads(self) -> int:
        """Workers that were asked for, or one for each core that this process may use."""
        return self.workers or len(os.sched_getaffinity(0))

    @property
    def memory_bytes(self) -> float | None:
        """The budget in bytes."""
        return float(self.memory[:-3]) * 2 ** {"M": 20, "G": 30}[self.memory[-3]] if self.memory else None


class Config(Section):
    """Everything that a run depends on, besides the dataset itself."""

    profile: str
    """The profile that all else is laid over; `--profile` chooses it."""
    system: str = "gem3d"
    """A system of the paper; what configs/systems/NAME.yaml says is set before all that is set by hand."""
    generator: Generator = "volume"
    """Which network draws volumes: the volume model [paper], the slice model without volumetric tuning (Appendix
    C.2), or a 3D network on whole volumes, which `tune_volume` trains from scratch."""
    seed: int = Field(0, ge=0)
    """Seed of the trainings, and of all draws after them unless `--seed` names another."""
    data: Data = Data()
    prepare: PrepareSpec = PrepareSpec()
    codec: CodecSpec = CodecSpec()
    diffusion: DiffusionSpec = DiffusionSpec()
    condition: ConditionSpec = ConditionSpec()
    unet: UNetSpec = UNetSpec()
    train_slices: TrainSpec
    tune_volume: TrainSpec
    position_unet: UNetSpec = UNetSpec()
    train_informed: TrainSpec
    informed: InformedSpec = InformedSpec()
    masks: Masks = Masks()
    resample: SampleSpec = SampleSpec()
    factor: int = Field(1, ge=1, le=20)
    """Re-sample so many times: datasets at 1x ... factor x."""
    publish: Publish = Publish()
    evaluate: Evaluate = Evaluate()
    tables: Tables = Tables()
    runtime: Runtime = Runtime()

    @property
    def trained(self) -> tuple[TrainingStage, ...]:
        """The trainings that lead to the network that draws volumes, in their order."""
        return trainings(self.generator)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check(self)
        return self
