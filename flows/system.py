"""What a run of any system is made of: a dataset to prepare, models to train, volumes to draw."""

from dataclasses import dataclass

from flows.session.ledger import Ledger
from flows.session.parameters import Settings
from flows.stages import (
    encode_flow,
    informed_flow,
    ingest_flow,
    masks_flow,
    preprocess_flow,
    resample_flow,
    train_informed_flow,
    train_slices_flow,
    tune_volume_flow,
)
from tasks.artifacts.lineage import DatasetRefs


@dataclass(frozen=True)
class Models:
    """References to the models that a system trained."""

    slice: str | None = None
    volume: str | None = None
    """Also a 3D network on whole volumes."""
    informed: str | None = None

    @property
    def drawing(self) -> str:
        """The one that draws volumes."""
        ref = self.volume or self.slice
        assert ref is not None
        return ref

    @property
    def all(self) -> list[str]:
        """Those that there are, in the order of their stages."""
        return [ref for ref in (self.slice, self.volume, self.informed) if ref]


def prepare_data(settings: Settings, ledger: Ledger, *, skip_bad: bool) -> DatasetRefs:
    """Stages 1 to 3."""
    source = ledger.enter("ingest", ingest_flow(settings, skip_bad))
    prepared = ledger.enter("preprocess", preprocess_flow(settings, source.ref))
    latents = ledger.enter("encode", encode_flow(settings, prepared.ref))
    return DatasetRefs(source=source.ref, prepared=prepared.ref, latents=latents.ref)


def train_models(settings: Settings, ledger: Ledger, latents: str, *, position: bool = True) -> Models:
    """Stages 4 to 6, as far as the system has them; `position`: that of the informed slices too."""
    enter, config = ledger.enter, ledger.run.config
    sliced = volume = informed = None
    if "train_slices" in config.trained:
        sliced = enter("train-slices", train_slices_flow(settings, latents)).ref
    if "tune_volume" in config.trained:
        volume = enter("tune-volume", tune_volume_flow(settings, latents, sliced)).ref
    if config.condition.informed and position:
        informed = enter("train-informed", train_informed_flow(settings, latents)).ref
    return Models(sliced, volume, informed)


def draw_volumes(settings: Settings, ledger: Ledger, data: DatasetRefs, models: Models) -> list[str]:
    """Stages 7 to 9: the volumes of every repeat."""
    informed = ledger.enter("generate-informed-slices", informed_flow(settings, data, models.informed))
    masks = ledger.enter("augment-masks", masks_flow(settings, data))
    slices, edited = [result.ref for result in informed], [result.ref for result in masks]
    drawn = ledger.enter("resample", resample_flow(settings, data, models.drawing, slices, edited))
    return [result.ref for result in drawn]
