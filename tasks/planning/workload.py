"""What a run has to get through, from the headers of a dataset and a configuration."""

from dataclasses import dataclass, replace
from math import prod

from configs import Config
from gem3d_core.errors import BadInput
from gem3d_core.networks.whole import whole_window
from gem3d_core.prepare.split import evenly, split_cases
from gem3d_core.sampling.batched import count_windows
from gem3d_core.scans.dataset import Dataset
from gem3d_core.scans.volumes import axial_depth, read_header
from gem3d_core.spec.kinds import KINDS
from gem3d_core.spec.method import ConditionSpec
from tasks.stages.informed import variants


@dataclass(frozen=True)
class Load:
    """What a run has to get through: axial depth and shape of each case, and which of them train."""

    config: Config
    depths: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    train: tuple[str, ...]
    patients: int
    """How many patients the training cases are of."""
    labels: int
    unreadable: tuple[str, ...] = ()
    """What is wrong with cases that are left out."""

    @property
    def slices(self) -> int:
        """Axial slices of all cases."""
        return sum(self.depths.values())

    @property
    def volumes(self) -> int:
        """Synthetic volumes of all repeats."""
        return self.config.factor * len(self.drawn_for) * len(variants(self.config))

    @property
    def drawn_for(self) -> list[str]:
        """Training cases for whose masks a repeat draws."""
        return evenly(self.train, self.config.masks.count)

    @property
    def windows(self) -> int:
        """Windows of all synthetic volumes."""
        repeats = self.volumes // max(1, len(self.drawn_for))
        return repeats * count_windows((self.depths[c] for c in self.drawn_for), self.drawn_under, self.config.resample)

    @property
    def paired(self) -> list[str]:
        """Test cases that are drawn for the paired scores."""
        return sorted(self.depths.keys() - set(self.train))[: self.config.evaluate.paired_cases]

    @property
    def paired_windows(self) -> int:
        """Windows of the test volumes that are drawn for the paired scores."""
        return count_windows((self.depths[case] for case in self.paired), self.drawn_under, self.config.resample)

    @property
    def drawn_under(self) -> ConditionSpec:
        """Conditions of the network that draws, its window as deep as it will be."""
        condition = self.config.condition
        if not KINDS[self.config.generator].all_slices:
            return condition
        return replace(condition, window=whole_window(max(self.depths[c] for c in self.train), self.config.unet))

    @property
    def voxels(self) -> int:
        """Voxels of all cases."""
        return sum(prod(shape) for shape in self.shapes.values())

    @property
    def train_voxels(self) -> int:
        """Voxels of the training cases."""
        return sum(prod(self.shapes[case]) for case in self.train)


def measure_load(dataset: Dataset, config: Config) -> Load:
    """Reads headers only. A case whose image and mask cannot be read, or do not fit, is left out and listed."""
    headers, unreadable = {}, []
    for case in dataset.cases:
        try:
            image, label = read_header(case.image), read_header(case.label)
        except BadInput as error:
            unreadable.append(str(error))
            continue
        if image.shape == label.shape:
            headers[case.case] = image
        else:
            unreadable.append(f"{case.case}: image of {image.shape} voxels, mask of {label.shape}")
    kept = dict(sorted(headers.items())[: config.data.max_cases])
    patients = {case.case: case.patient for case in dataset.cases}
    others = {case.case for case in dataset.cases} - kept.keys()
    split = split_cases(sorted(kept), config.data.split, patients, quarantined=others)
    depths = {case: axial_depth(header) for case, header in kept.items()}
    shapes: dict[str, tuple[int, ...]] = {case: header.shape for case, header in kept.items()}
    return Load(
        config,
        depths,
        shapes,
        split.train,
        len({patients[case] for case in split.train}),
        len(dataset.label_ids),
        tuple(unreadable),
    )
