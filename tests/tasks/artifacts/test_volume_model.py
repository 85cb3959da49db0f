"""A trained model is opened under what it was trained with, or not at all."""

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from configs import load
from data_catalog import Catalog
from gem3d_core.errors import BadInput, Gem3dError
from tasks.artifacts.latents import encoder_files
from tasks.artifacts.model import open_volume_model


def catalog_of(**meta: object) -> Catalog:
    """A catalog that holds one model and is asked for nothing else."""
    return cast("Catalog", SimpleNamespace(get=lambda _ref: SimpleNamespace(meta=meta)))


def plain(section: object) -> object:
    return json.loads(json.dumps(asdict(section)))  # type: ignore[call-overload]  # a dataclass


def test_a_model_of_another_kind_or_diffusion_is_refused() -> None:
    config = load("smoke")
    trained = {"network": "volume", "condition": plain(config.condition), "diffusion": plain(config.diffusion)}
    with pytest.raises(Gem3dError, match="is a slice model: generator=volume needs another"):
        open_volume_model(catalog_of(**trained | {"network": "slice"}), "model/N-slice", "latents/N", config, "cpu")
    other = load("smoke", {"condition.window": 4})
    with pytest.raises(BadInput, match="was trained with condition"):
        open_volume_model(catalog_of(**trained), "model/N-volume", "latents/N", other, "cpu")


def test_an_image_encoder_that_was_replaced_since_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"as it was")
    config = load("smoke", {"condition.injection": "cross_attention", "condition.image_encoder": str(tmp_path)})
    trained = {"network": "volume", "condition": plain(config.condition), "diffusion": plain(config.diffusion)}
    trained["encoder"] = encoder_files(config.condition)
    assert list(trained["encoder"]) == ["model.safetensors"]
    (tmp_path / "model.safetensors").write_bytes(b"another")
    with pytest.raises(BadInput, match=r"was trained with other files in .* put those back"):
        open_volume_model(catalog_of(**trained), "model/N-volume", "latents/N", config, "cpu")


def test_a_model_is_of_the_default_of_a_setting_that_came_after_it() -> None:
    trained: dict[str, object] = {"network": "volume", "encoder": {"none": "as it has"}}  # the last that is compared
    for key, refused in (("spread", "was trained with other files"), ("uniform", "was trained with diffusion")):
        config = load("smoke", {"diffusion.channel_weighting": key})
        diffusion = cast("dict[str, object]", plain(config.diffusion))
        del diffusion["channel_weighting"]
        catalog = catalog_of(**trained, condition=plain(config.condition), diffusion=diffusion)
        with pytest.raises(BadInput, match=refused):
            open_volume_model(catalog, "model/N-volume", "latents/N", config, "cpu")
