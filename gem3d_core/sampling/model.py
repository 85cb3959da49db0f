"""A model as one complete folder, with which alone volumes are sampled.

model.json            what kind of network, how it was trained, labels, channels, intensities (`ModelFacts`)
weights.safetensors   of the network
codec/                of its latents
encoder/              the image encoder of others that it attends to, where it has one
config.yaml           the configuration that it was trained under, where there was one
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gem3d_core.codec.interface import Codec, load_codec
from gem3d_core.errors import BadInput
from gem3d_core.machine.checkpoints import save_tensors
from gem3d_core.machine.files import write_text
from gem3d_core.networks.files import facts_from, load_network
from gem3d_core.networks.interface import Network
from gem3d_core.spec.method import DiffusionSpec, NetworkFacts
from gem3d_core.spec.prepare import Fit

FORMAT = 1
"""Version of this layout."""
FACTS, WEIGHTS, CODEC, ENCODER, CONFIGURATION = (
    "model.json",
    "weights.safetensors",
    "codec",
    "encoder",
    "config.yaml",
)
OLD_FACTS = "network.json"
"""What models of version 0.1.0 had in place of model.json."""


@dataclass(frozen=True)
class ModelFacts:
    """What has to be known of a model besides its weights and its codec. It names no case.

    labels: non-zero ids, in the order of the mask's channels. channels: names of the image channels. slice_size: (H, W)
    of prepared slices; fit: how images were brought to it. spacing: (x, y, z) mm of prepared voxels; none where nobody
    said. intensity: for each channel the median map of the training set as plain values (`prepare.intensity`), for
    volumes without a donor.
    """

    network: NetworkFacts
    diffusion: DiffusionSpec
    labels: tuple[int, ...]
    channels: tuple[str, ...]
    slice_size: tuple[int, int]
    spacing: tuple[float, float, float] | None
    intensity: tuple[Mapping[str, object], ...]
    fit: Fit = "pad"

    def to_json(self) -> str:
        """With the format's version."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True)


def save_model(
    folder: Path,
    facts: ModelFacts,
    weights: Mapping[str, Tensor],
    codec: Path,
    encoder: Path | None = None,
    configuration: str | None = None,
) -> Path:
    """Write a model into a folder, model.json last: where that is, the rest is whole.

    codec, encoder: folders, which are copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in ((CODEC, codec), (ENCODER, encoder)):
        if part is not None:
            shutil.copytree(part, folder / name, dirs_exist_ok=True)
    if configuration is not None:
        write_text(folder / CONFIGURATION, configuration)
    save_tensors(folder / WEIGHTS, weights)
    write_text(folder / FACTS, facts.to_json())
    return folder


def read_facts(folder: Path) -> ModelFacts:
    """The facts in a model's folder. Raises BadInput, which says what to do, for no model or one of another version."""
    if not (folder / FACTS).is_file():
        old = (folder / OLD_FACTS).is_file()
        what = "a model of version 0.1.0, which is no complete folder: train it again" if old else "no model"
        raise BadInput(f"{folder} holds {what}; expected {FACTS}")
    values: dict[str, Any] = json.loads((folder / FACTS).read_text())
    if (found := values.pop("format", None)) != FORMAT:
        raise BadInput(f"{folder / FACTS}: format {found}, expected {FORMAT}: use the version of GEM-3D that wrote it")
    spacing = values["spacing"]
    return ModelFacts(
        network=facts_from(values["network"]),
        diffusion=DiffusionSpec(**values["diffusion"]),
        labels=tuple(values["labels"]),
        channels=tuple(values["channels"]),
        slice_size=(values["slice_size"][0], values["slice_size"][1]),
        spacing=None if spacing is None else (spacing[0], spacing[1], spacing[2]),
        intensity=tuple(values["intensity"]),
        fit=values["fit"],
    )


def open_network(folder: Path, device: torch.device) -> tuple[ModelFacts, Network, Codec]:
    """A model's network, frozen, on a device, with the codec of its latents. Raises as `read_facts`."""
    facts, codec = read_facts(folder), load_codec(folder / CODEC, device)
    encoder = folder / ENCODER
    network = load_network(facts.network, folder / WEIGHTS, device, codec, encoder if encoder.is_dir() else None)
    return facts, network, codec
