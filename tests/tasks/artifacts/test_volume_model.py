"""A trained model is opened under what it was trained with, or not at all; its folder is all that it needs."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs import Config, load
from data_catalog import Artifact, Catalog
from gem3d_core.codec.haar import fit_haar
from gem3d_core.errors import BadInput
from gem3d_core.networks.conditions import condition_channels
from gem3d_core.networks.files import build, encoder_of
from gem3d_core.sampling.model import CONFIGURATION, ENCODER, FACTS, OLD_FACTS, ModelFacts, read_facts, save_model
from gem3d_core.spec.method import NetworkFacts
from tasks.artifacts.configuration import as_yaml, read_configuration, without_machine
from tasks.artifacts.model import configuration_of, open_volume_model

LABELS = (1, 2)
ATTENDING = {"condition.injection": "cross_attention", "generator": "slice"}
Change = Callable[[dict[str, dict[str, object]]], object]
"""Of what model.json says."""


def trained(folder: Path, config: Config, encoder: Path | None = None) -> Path:
    """The folder of a model that was trained under a configuration, as far as facts and files go."""
    codec = fit_haar(config.codec, torch.rand(4, *config.prepare.slice_size))
    channels = condition_channels(config.condition, codec, LABELS)
    facts = NetworkFacts(config.generator, config.unet, codec.channels, channels, config.condition)
    network = build(facts, 0, encoder_of(facts, codec, torch.device("cpu"), encoder))
    codec.save(folder / "of-latents")
    known = ModelFacts(
        facts, config.diffusion, LABELS, ("T1",), config.prepare.slice_size, (1.0, 1.0, 1.0), ({"kind": "line"},)
    )
    described = as_yaml(without_machine(config))
    return save_model(folder / "model", known, network.state_dict(), folder / "of-latents", encoder, described)


def stored(folder: Path, model: Path, change: Change = lambda _: None) -> tuple[Catalog, Artifact]:
    """A model in a catalog, with what its facts say changed before."""
    facts = json.loads((model / FACTS).read_text())
    change(facts)
    (model / FACTS).write_text(json.dumps(facts))
    files = {str(path.relative_to(model)): path for path in model.rglob("*") if path.is_file()}
    names = {"run_id": "test", "code_version": "0", "config_hash": "0", "seed": 0, "key": "k"}
    catalog = Catalog.open(folder / "catalog")
    return catalog, catalog.put("model", "N-volume", files=files, meta={}, **names)  # type: ignore[arg-type]  # plain values of a test


def clip_model(folder: Path) -> Path:
    """A small image encoder as it would be downloaded."""
    clip = pytest.importorskip("transformers", reason="a CLIP encoder needs the extra clip")
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = clip.CLIPVisionModel(clip.CLIPVisionConfig(**shape, image_size=32, patch_size=16))
    model.save_pretrained(folder)
    return folder


def test_a_model_opens_with_what_is_in_its_folder_alone(tmp_path: Path) -> None:
    config = load("smoke")
    catalog, artifact = stored(tmp_path, trained(tmp_path, config))
    shutil.rmtree(tmp_path / "of-latents")
    model = open_volume_model(catalog, artifact, config, "cpu")
    assert model.network.facts.kind == "volume"
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert (model.labels, model.codec.factor, model.schedule.spec) == (LABELS, 4, config.diffusion)
    assert configuration_of(catalog, artifact) == without_machine(config)


def test_a_model_of_another_kind_or_diffusion_is_refused(tmp_path: Path) -> None:
    catalog, artifact = stored(tmp_path, trained(tmp_path, load("smoke")))
    for change, said in (
        ({"generator": "slice"}, "is a volume model: generator=slice needs another"),
        ({"condition.window": 4}, "was trained with condition"),
        ({"diffusion.T": 500}, "was trained with diffusion"),
    ):
        with pytest.raises(BadInput, match=said):
            open_volume_model(catalog, artifact, load("smoke", change), "cpu")


def test_a_window_that_holds_the_deepest_volume_is_the_model_s_own(tmp_path: Path) -> None:
    """It comes of the training volumes; the configuration's is of networks of windows."""
    config = load("smoke", {"system": "pix2pix-3d", "condition.window": 8})
    deep = config.model_copy(update={"condition": replace(config.condition, window=12)})
    catalog, artifact = stored(tmp_path, trained(tmp_path, deep))
    assert open_volume_model(catalog, artifact, config, "cpu").network.facts.condition.window == 12


def test_an_image_encoder_that_was_replaced_since_does_not_matter(tmp_path: Path) -> None:
    encoder = clip_model(tmp_path / "encoder")
    config = load("smoke", ATTENDING | {"condition.image_encoder": str(encoder)})
    folder = trained(tmp_path, config, encoder)
    assert {path.name for path in (folder / ENCODER).iterdir()} == {path.name for path in encoder.iterdir()}
    catalog, artifact = stored(tmp_path, folder)
    (encoder / "model.safetensors").write_bytes(b"another")
    before = open_volume_model(catalog, artifact, config, "cpu").network
    shutil.rmtree(encoder)
    after = open_volume_model(catalog, artifact, config, "cpu").network
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_a_model_is_of_the_default_of_a_setting_that_came_after_it(tmp_path: Path) -> None:
    config = load("smoke", {"diffusion.channel_weighting": "spread"})

    def before_the_setting(facts: dict[str, dict[str, object]]) -> None:
        del facts["diffusion"]["channel_weighting"]

    catalog, artifact = stored(tmp_path, trained(tmp_path, config), before_the_setting)
    assert open_volume_model(catalog, artifact, config, "cpu").schedule.spec.channel_weighting == "spread"
    with pytest.raises(BadInput, match="was trained with diffusion"):
        open_volume_model(catalog, artifact, load("smoke", {"diffusion.channel_weighting": "uniform"}), "cpu")


def test_a_model_of_version_0_1_0_is_refused_with_what_to_do(tmp_path: Path) -> None:
    model = trained(tmp_path, load("smoke"))
    (model / FACTS).rename(model / OLD_FACTS)
    names = {"run_id": "test", "code_version": "0", "config_hash": "0", "seed": 0, "key": "k"}
    catalog = Catalog.open(tmp_path / "catalog")
    artifact = catalog.put("model", "N-volume", files={OLD_FACTS: model / OLD_FACTS}, meta={}, **names)  # type: ignore[arg-type]  # plain values of a test
    for opened in (
        lambda: open_volume_model(catalog, artifact, load("smoke"), "cpu"),
        lambda: configuration_of(catalog, artifact),
        lambda: read_facts(model),
    ):
        with pytest.raises(BadInput, match=r"version 0\.1\.0, .* train it again") as refused:
            opened()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("found", [None, 2])
def test_a_folder_of_another_format_is_refused_with_what_to_do(tmp_path: Path, found: int | None) -> None:
    def other(facts: dict[str, object]) -> None:
        del facts["format"]
        facts |= {} if found is None else {"format": found}

    catalog, artifact = stored(tmp_path, trained(tmp_path, load("smoke")), other)  # type: ignore[arg-type]  # of facts
    with pytest.raises(BadInput, match=rf"format {found}, expected 1: use the version of GEM-3D that wrote it$"):
        open_volume_model(catalog, artifact, load("smoke"), "cpu")


@pytest.mark.parametrize("text", ["profile: smoke\n", "profile: smoke\nold_name: 1\n", "[]", "{profile: "])
def test_a_configuration_of_another_version_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / CONFIGURATION
    file.write_text(text)
    with pytest.raises(BadInput, match=r"stored by another version .* use that version, or train anew") as refused:
        read_configuration(file)
    assert "\n" not in str(refused.value)
