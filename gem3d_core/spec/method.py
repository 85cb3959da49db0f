"""Settings of the method as frozen, torch-free values; `configs` builds them from a profile.

Letters and numbers follow the paper (section 3, Appendix A); each field says what it does where it stands.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal

Precision = Literal["fp32", "bf16", "auto"]
"""Precision of the network's arithmetic. auto: bf16 on a GPU and on a CPU with matrix units for it (AMX), else fp32."""

FirstWindow = Literal["at_start", "fewest"]
"""Where a volume's first window lies: at_start begins it at the start slice [paper]; fewest lays it around the start
slice so that the fewest windows follow."""

Injection = Literal["concat", "controlnet", "cross_attention"]
"""How conditions reach the network (Appendix C.3): concatenated to the noisy latent [paper]; through a condition branch
that is trained together with the main one; mask concatenated and informed slice attended to, as tokens of an image
encoder."""

NetworkKind = str
"""One of `spec.kinds.KINDS`."""

Continuation = Literal["repaint", "known", "informed", "none"]
"""What a window takes over from finished ones: repaint pins the overlapped slices at every step [paper]; known gives
them to a network that was trained with known slices; informed hands on the informed slice alone (Appendix C.1); none
draws windows independently of each other (Make-A-Volume)."""


@dataclass(frozen=True)
class CodecSpec:
    """The frozen first stage z = E(x), x = D(z)."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["haar", "kl"] = "haar"
    """haar: orthonormal wavelet, lossless, nothing to train; kl: diffusers AutoencoderKL."""
    levels: int = 2
    """Halvings of the slice by the wavelet; the latent has 4**levels channels."""
    weights: str = "train"
    """kl only: a folder or hub id of an AutoencoderKL, or `train` to train one on this dataset."""
    train_steps: int = 2000
    """kl with weights=train: optimiser steps."""
    base_channels: int = 32
    """kl with weights=train: width of the first level; the bottleneck is three halvings (f8)."""

    def __post_init__(self) -> None:
        _require_positive(self, "levels", "train_steps", "base_channels")


@dataclass(frozen=True)
class UNetSpec:
    """Shape of a 2D UNet."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    base_channels: int = 64
    """Width of the first level."""
    multipliers: tuple[int, ...] = (1, 2, 2)
    """Width of each level over that of the first; as many levels as numbers."""
    blocks: int = 2
    """Residual blocks a level."""
    attention_at: tuple[int, ...] = (2, 4)
    """Downsampling factors at which self-attention stands."""
    head_channels: int = 32
    """Channels of an attention head."""
    norm_groups: int = 32
    """Groups of a group norm; base_channels is a multiple of it."""

    def __post_init__(self) -> None:
        if self.base_channels % self.norm_groups or self.base_channels % self.head_channels:
            raise ValueError(
                f"base_channels={self.base_channels} must be a multiple of norm_groups={self.norm_groups} "
                f"and of head_channels={self.head_channels}"
            )


@dataclass(frozen=True)
class DiffusionSpec:
    """Forward process, what the network predicts, and the weight of the loss."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    T: int = 1000
    """Timesteps of the process [paper]."""
    schedule: Literal["cosine", "scaled_linear"] = "cosine"
    """cosine ends at exactly zero SNR; scaled_linear is the release's, 0.00085 to 0.0120."""
    prediction: Literal["v", "epsilon", "sample"] = "v"
    """What the network predicts. v: a mixture of noise and clean latent; epsilon: the noise [paper]; sample: the clean
    latent itself."""
    weighting: Literal["min_snr", "uniform"] = "min_snr"
    """How timesteps count in the loss. min_snr: by their signal-to-noise ratio, clamped; uniform: all alike [paper]."""
    gamma: float = 5.0
    """Clamp of the min-SNR weight."""
    channel_weighting: Literal["spread", "uniform"] = "spread"
    """How latent channels count in the loss. spread: as the codec weighs them, a wavelet channel by its spread in the
    slice; uniform: all alike [paper]."""
    spacing: Literal["trailing", "leading"] = "trailing"
    """Which of the T timesteps a sampler of fewer steps visits."""

    def __post_init__(self) -> None:
        _require_positive(self, "T", "gamma")
        if self.schedule == "cosine" and self.prediction == "epsilon":
            raise ValueError(
                "prediction=epsilon cannot be trained on schedule=cosine, which ends at zero SNR: "
                "use prediction=v, or schedule=scaled_linear"
            )
        if (self.schedule, self.prediction, self.weighting) == ("cosine", "sample", "min_snr"):
            raise ValueError(
                "weighting=min_snr gives prediction=sample no weight at zero SNR, where a sampler on schedule=cosine "
                "starts: use weighting=uniform"
            )
        if self.schedule == "cosine" and self.spacing == "leading":
            raise ValueError(
                "spacing=leading never visits the last timestep, where a schedule with zero terminal SNR "
                "(cosine) starts: use spacing=trailing"
            )


@dataclass(frozen=True)
class ConditionSpec:
    """What the network is told besides the noisy latent."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    mask: Literal["one_hot", "codec"] = "one_hot"
    """one_hot: area fraction of every label at latent resolution; codec: the mask as a grey image, encoded [paper]."""
    informed: bool = True
    """An informed slice is among the conditions; without one the network is told of the mask alone (Make-A-Volume)."""
    injection: Injection = "concat"
    image_encoder: str = "efficientnet-lite0"
    """injection=cross_attention: whose tokens stand for the informed slice; efficientnet-lite0, which comes with a
    package, or a folder or hub id of a CLIP vision model [paper]."""
    slice_offset: bool = True
    """Embed the signed distance, in slices, from the informed slice."""
    window: int = 16
    """n, slices of a window [paper]."""
    known: bool = False
    """Train stage 2 with finished slices in the window, which it sees clean and is told of."""
    strides: tuple[int, ...] = (1,)
    """Slices between two slots of a window, drawn in training; each divides the next, and the first is 1. More than
    one are told to the network, and let `resample.plan=keyframes` draw coarse slices first; as many as a chain of the
    coarsest where no window holds a volume's, so deeper volumes want more strides."""
    drop_mask: float = 0.0
    """Probability that a training window is told of nothing, neither mask nor informed slice; for guidance."""
    drop_informed: float = 0.0
    """Probability that it is told of the mask alone."""

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ValueError(f"window={self.window}: at least 2, a slice to start from and one to draw")
        if self.strides[:1] != (1,) or any(b % a or a == b for a, b in pairwise(self.strides)):
            raise ValueError(f"strides={self.strides}: expected 1 and then multiples of the one before, such as 1, 3")
        for name in ("drop_mask", "drop_informed"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: a probability from 0 to below 1")
        if self.drop_mask + self.drop_informed >= 1:
            raise ValueError(
                f"drop_mask={self.drop_mask} and drop_informed={self.drop_informed} leave nothing to learn"
            )
        if not self.informed and (self.slice_offset or self.injection != "concat" or self.drop_informed):
            raise ValueError(
                f"informed=false leaves no slice for slice_offset={self.slice_offset}, injection={self.injection}, "
                f"drop_informed={self.drop_informed}: expected false, concat and 0"
            )

    @property
    def strided(self) -> bool:
        """Whether windows have strides of their own."""
        return len(self.strides) > 1

    @property
    def attends(self) -> bool:
        """Whether the informed slice reaches the network as tokens of an image encoder."""
        return self.injection == "cross_attention"


@dataclass(frozen=True)
class NetworkFacts:
    """What has to be known to build a network again."""

    kind: NetworkKind
    unet: UNetSpec
    latent_channels: int
    mask_channels: int
    condition: ConditionSpec

    @property
    def window(self) -> int:
        """n, slices of a window."""
        return self.condition.window


@dataclass(frozen=True)
class TrainSpec:
    """One training run."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    steps: int
    """Optimiser steps."""
    batch: int
    """Windows a step."""
    slices_per_window: int = 1
    """Stage 1: slices used of each window, each with its own t; `window` is the paper's."""
    objective: Literal["diffusion", "adversarial"] = "diffusion"
    """adversarial: of a whole network that draws in one step, an L1 distance and a discriminator's (Pix2Pix)."""
    learning_rate: float = 2e-4
    """Largest learning rate of AdamW, which the warm-up ends at."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    warmup: int = 100
    """Steps of linear learning-rate warm-up."""
    cosine_decay: bool = False
    """Let the learning rate fall to zero at the last step; the paper's is constant."""
    clip: float = 1.0
    """Largest gradient norm."""
    ema: float = 0.999
    """Decay of the moving average of the weights, which is what is sampled from and saved."""
    checkpoint_every: int = 500
    """Steps between checkpoints, from which an interrupted training goes on."""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        _require_positive(
            self, "steps", "batch", "slices_per_window", "learning_rate", "warmup", "clip", "checkpoint_every"
        )
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay} must not be negative")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema={self.ema}: the decay of the moving average lies in [0, 1); 1 would never learn")


@dataclass(frozen=True)
class SampleSpec:
    """One sampler run (Algorithm 1)."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    solver: Literal["dpm++", "ddim"] = "dpm++"
    """dpm++: DPM-Solver++, which needs few steps; ddim: the paper's."""
    steps: int = 20
    """Steps of the solver, evenly spaced over the process."""
    eta: float = 0.0
    """DDIM only: 0 deterministic, 1 ancestral."""
    overlap: int = 1
    """h, finished slices that a window starts from [paper: 1]."""
    first_window: FirstWindow = "fewest"
    """Begins at the start slice (at_start) [paper], or lies around it where the fewest windows follow."""
    continuation: Continuation = "repaint"
    plan: Literal["chain", "keyframes"] = "chain"
    """chain: window after window from the start slice outwards [paper]; keyframes: coarse slices first, then what lies
    between them, all gaps at once."""
    resample: int = 1
    """RePaint: times that each step is taken; 1 is a single pass [paper]."""
    mask_guidance: float = 1.0
    """How far the prediction moves from that without any condition towards that with the mask; 1: no guidance."""
    informed_guidance: float = 1.0
    """How far it moves from that with the mask alone towards that with the informed slice too; 1: no guidance."""
    batch: int = 8
    """Windows in one network call, where no memory budget and no GPU's memory says how many fit."""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.solver != "ddim" and self.eta:
            raise ValueError(
                f"eta={self.eta} has a meaning for solver=ddim only; solver={self.solver} is deterministic"
            )
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} lies between 0 (deterministic) and 1 (ancestral)")
        for name in ("mask_guidance", "informed_guidance"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name}={value}: expected a number from 0 on, 1 for no guidance")
        _require_positive(self, "steps", "overlap", "resample", "batch")


@dataclass(frozen=True)
class InformedSpec:
    """Where the first informed slice of a volume comes from (section 3.2)."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    mode: Literal["cross", "generated"] = "cross"
    """cross: a slice of another patient at the same normalised position (IC); generated (IG)."""
    donor: Literal["any", "outline"] = "any"
    """cross: every patient alike [paper], or the patient, of several drawn, whose outline is most like the mask's."""
    start: tuple[float, float] = (0.0, 1.0)
    """Range of the normalised start position p, drawn uniformly."""
    sample: SampleSpec = field(default_factory=SampleSpec)
    """generated: how; slices are drawn one by one, so that only solver, steps, eta, batch and precision count."""

    def __post_init__(self) -> None:
        low, high = self.start
        if not 0 <= low <= high <= 1:
            raise ValueError(f"start={self.start}: the range of p is two numbers with 0 <= low <= high <= 1")


def _require_positive(spec: object, *names: str) -> None:
    for name in names:
        value = getattr(spec, name)
        if not value > 0:
            raise ValueError(f"{name}={value} must be above zero")
