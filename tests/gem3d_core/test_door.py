"""The public door on phantoms: the ten lines of the documentation, and what goes wrong at it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import gem3d_core as gem3d
from gem3d_core.errors import BadInput, NotAvailable
from gem3d_core.scans.phantoms import draw_phantom
from gem3d_core.spec.method import ConditionSpec, SampleSpec, TrainSpec, UNetSpec

UNET = UNetSpec(base_channels=16, multipliers=(1, 2), blocks=1, attention_at=(), head_channels=8, norm_groups=8)
SAMPLER = SampleSpec(steps=2, overlap=2)
CONDITION = ConditionSpec(window=8)
COUNT = 3


def scans() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images and masks (X, Y, Z) of three phantoms."""
    drawn = [draw_phantom(number, size=24, seed=0) for number in range(COUNT)]
    return [one.image.array for one in drawn], [one.label.array for one in drawn]


@pytest.fixture(scope="module")
def data() -> gem3d.Encoded:
    images, masks = scans()
    return gem3d.encode(images, masks, labels=(1, 2), condition=CONDITION)


@pytest.fixture(scope="module")
def model(data: gem3d.Encoded) -> gem3d.Model:
    return gem3d.train(data, steps=6, volume_steps=2, unet=UNET, device="cpu")


def test_the_module_loads_nothing_before_it_is_asked() -> None:
    code = (
        "import sys, gem3d_core; print('torch' in sys.modules, sorted(set(gem3d_core.__all__) - set(dir(gem3d_core))))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.startswith("False")
    with pytest.raises(AttributeError, match="no attribute 'draw'"):
        _ = gem3d.draw


def test_arrays_are_encoded_as_the_pipeline_does(data: gem3d.Encoded) -> None:
    images, _ = scans()
    height, width = data.slice_size
    assert len(data.cases) == COUNT
    assert data.channel == "MRI"
    for case in data.cases:
        assert case.image.shape[1:] == (16, height // 4, width // 4)
        assert case.condition.shape == (case.depth, 3, height // 4, width // 4)
    assert data.intensity.low < data.intensity.high <= max(float(image.max()) for image in images)


def test_what_is_drawn_has_the_grid_and_the_intensities_of_what_was_given(model: gem3d.Model) -> None:
    images, masks = scans()
    new = model.draw(masks[0], informed=images[0][:, :, 8], seed=7, sampler=SAMPLER)
    assert new.shape == masks[0].shape
    assert new.dtype == np.float32
    assert np.isfinite(new).all()
    assert images[0].min() - 1 <= new.min() < new.max() <= images[0].max() + 1


def test_a_seed_makes_a_volume_alone_or_among_others(model: gem3d.Model) -> None:
    images, masks = scans()
    slices = [image[:, :, 8] for image in images]
    together = model.draw_many(masks, slices, seeds=[5, 6, 7], sampler=SAMPLER)
    alone = model.draw(masks[1], slices[1], seed=6, sampler=SAMPLER)
    other = model.draw(masks[1], slices[1], seed=60, sampler=SAMPLER)
    scale = float(np.ptp(alone))
    assert np.abs(together[1] - alone).max() < 1e-3 * scale
    assert np.abs(other - alone).max() > 1e-2 * scale


def test_a_saved_model_is_the_same_model(model: gem3d.Model, tmp_path: Path) -> None:
    images, masks = scans()
    opened = gem3d.open_model(model.save(tmp_path / "phantoms"), device="cpu")
    assert opened.facts == model.facts
    ours, theirs = (one.draw(masks[0], images[0][:, :, 8], seed=3, sampler=SAMPLER) for one in (model, opened))
    assert np.array_equal(ours, theirs)


def test_slices_are_brought_to_their_size_as_the_model_learnt_it(model: gem3d.Model, tmp_path: Path) -> None:
    """The paper stretches slices where our profiles pad them; a mask that is sampled for goes the same way."""
    images, masks = scans()
    stretching = replace(model, facts=replace(model.facts, fit="stretch"))
    opened = gem3d.open_model(stretching.save(tmp_path / "stretching"), device="cpu")
    assert opened.facts.fit == "stretch"
    padded, stretched = (one.draw(masks[0], images[0][:, :, 8], seed=3, sampler=SAMPLER) for one in (model, opened))
    assert stretched.shape == masks[0].shape
    assert not np.array_equal(padded, stretched)


def test_subjects_of_torchio_come_in_and_images_go_out(model: gem3d.Model) -> None:
    import torchio

    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    images, masks = scans()
    subjects = [
        torchio.Subject(
            scan=torchio.ScalarImage(tensor=torch.from_numpy(image[None].astype(np.float32)), affine=affine),
            truth=torchio.LabelMap(tensor=torch.from_numpy(mask[None].astype(np.uint8)), affine=affine),
        )
        for image, mask in zip(images, masks, strict=True)
    ]
    data = gem3d.encode(subjects, labels=(1, 2), condition=CONDITION)
    assert data.spacing == (1.0, 1.0, 2.0)
    new = model.draw(subjects[0]["truth"], images[0][:, :, 8], sampler=SAMPLER)
    assert isinstance(new, torchio.ScalarImage)
    assert new.spatial_shape == masks[0].shape
    assert np.array_equal(new.affine, affine)


def test_a_training_goes_on_from_its_own_checkpoints_only(data: gem3d.Encoded, tmp_path: Path) -> None:
    def steps(**changes: object) -> list[tuple[str, int]]:
        told: list[tuple[str, int]] = []
        asked = {"seed": 0} | changes
        gem3d.train(
            data, steps=4, volume_steps=2, unet=UNET, device="cpu", folder=tmp_path,
            on_step=lambda stage, step, _loss: told.append((stage, step)), **asked,  # type: ignore[arg-type]  # of a test
        )  # fmt: skip
        return told

    assert steps() == [("slice", 1), ("slice", 2), ("slice", 3), ("slice", 4), ("volume", 1), ("volume", 2)]
    assert steps() == []
    assert len(steps(seed=1)) == 6
    spec = TrainSpec(steps=1, batch=2, warmup=1)
    assert steps(volumes=spec) == [("volume", 1)]


def test_what_does_not_fit_is_told(model: gem3d.Model, tmp_path: Path) -> None:
    images, masks = scans()
    with pytest.raises(BadInput, match=r"mask 0 has label\(s\) 2: expected 0 and 1"):
        gem3d.encode(images, masks, labels=(1,))
    with pytest.raises(BadInput, match="3 images and 2 masks"):
        gem3d.encode(images, masks[:2], labels=(1, 2))
    with pytest.raises(BadInput, match=r"image 0 of shape \(2, .*one channel"):
        gem3d.encode([np.stack([images[0], images[0]])], masks[:1], labels=(1, 2))
    with pytest.raises(BadInput, match="expected whole numbers"):
        gem3d.encode(images[:1], [masks[0] + 0.5], labels=(1, 2))
    with pytest.raises(BadInput, match=r"mask 0 has label\(s\) 9"):
        model.draw(np.full_like(masks[0], 9), images[0][:, :, 8])
    with pytest.raises(BadInput, match=r"informed slice of shape \(3, 3\)"):
        model.draw(masks[0], np.zeros((3, 3)))
    with pytest.raises(BadInput, match="2 seeds for 3 masks"):
        model.draw_many(masks, [image[:, :, 8] for image in images], seeds=[1, 2])
    with pytest.raises(BadInput, match="position 2: expected a number from 0 to 1"):
        model.draw(masks[0], images[0][:, :, 8], position=2)
    with pytest.raises(BadInput, match=r"holds no model; expected model\.json"):
        gem3d.open_model(tmp_path)
    with pytest.raises(NotAvailable, match="neither a folder nor to be had from the hub"):
        gem3d.open_model(str(tmp_path / "nowhere"))


def test_ct_keeps_its_window(data: gem3d.Encoded) -> None:
    images, masks = scans()
    scaled = [(image / image.max() * 1200 - 1000).astype(np.int16) for image in images]
    encoded = gem3d.encode(scaled, masks, labels=(1, 2), modality="ct", condition=CONDITION)
    assert (encoded.intensity.low, encoded.intensity.high) == (-200.0, 300.0)
    assert replace(encoded, channel="MRI").channel == data.channel
