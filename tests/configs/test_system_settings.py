"""Systems of the paper as settings laid over a profile: they fit it, and combinations that cannot work are refused."""

from importlib.resources import files

import pytest
import yaml

from configs import change, load, system_settings
from configs.resolve import profile_names, system_names
from gem3d_core.errors import BadInput


@pytest.mark.parametrize("profile", profile_names())
@pytest.mark.parametrize("system", system_names())
def test_every_system_fits_every_profile(profile: str, system: str) -> None:
    config = load(profile, {"system": system})
    assert config.system == system
    assert config.unet == load(profile).unet, "the network's size is the profile's"


def test_a_profile_is_gem3d_as_it_has_it() -> None:
    plain = load("hippocampus-cpu")
    assert plain.system == "gem3d"
    assert load("hippocampus-cpu", {"system": "gem3d"}) == plain


def test_the_papers_configuration_is_that_of_the_paper_profiles() -> None:
    ours, paper = load("hippocampus-cpu", {"system": "paper"}), load("brats-paper")
    assert (ours.condition, ours.diffusion) == (paper.condition, paper.diffusion)
    assert {**ours.resample.__dict__, "batch": 1} == paper.resample.__dict__


def test_the_baselines_have_no_informed_slice_and_go_their_own_ways() -> None:
    volume, latent, adversarial = (
        load("hippocampus-cpu", {"system": name}) for name in ("make-a-volume", "ldm-3d", "pix2pix-3d")
    )
    assert not any(config.condition.informed for config in (volume, latent, adversarial))
    assert (volume.generator, volume.resample.continuation) == ("volume", "none")
    assert (latent.generator, latent.tune_volume.objective) == ("whole", "diffusion")
    assert (adversarial.generator, adversarial.tune_volume.objective) == ("whole", "adversarial")
    assert adversarial.resample.steps == 1


@pytest.mark.parametrize("name", [*system_names(), "bases/plain-sampler"])
def test_a_system_says_only_how_it_differs(name: str) -> None:
    """From what it is laid over, another file of the folder."""

    def laid(name: str) -> dict[str, object]:
        own = yaml.safe_load((files("configs.systems") / f"{name}.yaml").read_text())
        base = laid(own.pop("base")) if "base" in own else {}
        assert {key for key in own.keys() & base.keys() if own[key] == base[key]} == set()
        return base | own

    found = laid(name)
    if name in system_names():
        assert system_settings(name) == found


def test_what_is_set_by_hand_changes_a_system_too() -> None:
    config = load("hippocampus-cpu", {"resample.steps": 7, "system": "paper", "condition.injection": "controlnet"})
    assert (config.resample.steps, config.condition.injection) == (7, "controlnet")


def test_an_unknown_system_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="no system 'make-a-volum': did you mean 'make-a-volume'"):
        load("hippocampus-cpu", {"system": "make-a-volum"})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"resample.continuation": "known"}, "continuation=known needs condition.known=true"),
        ({"condition.known": True, "generator": "slice"}, "condition.known=true needs generator=volume"),
        ({"condition.strides": [1, 3], "generator": "slice"}, "strides beyond 1 needs generator=volume"),
        ({"resample.plan": "keyframes"}, "plan=keyframes needs condition.strides"),
        (
            {"resample.plan": "keyframes", "condition.strides": [1, 3], "resample.continuation": "none"},
            "plan=keyframes needs resample.continuation",
        ),
        ({"system": "make-a-volume", "resample.continuation": "informed"}, "needs condition.informed=true"),
        ({"resample.resample": 3, "resample.continuation": "informed"}, "needs resample.continuation=repaint or known"),
        ({"resample.informed_guidance": 2.0}, "informed_guidance needs condition.drop_informed above 0"),
        ({"resample.informed_guidance": -1.0}, "informed_guidance=-1.0: expected a number from 0 on"),
        ({"resample.mask_guidance": float("nan")}, "mask_guidance=nan: expected a number from 0 on"),
        (
            {"resample.mask_guidance": 2.0, "condition.drop_mask": 0.1},
            "mask_guidance needs condition.drop_mask and drop_informed above 0",
        ),
        (
            {"generator": "whole", "condition.injection": "controlnet", "condition.slice_offset": False},
            "cross_attention needs generator=volume or slice",
        ),
        ({"tune_volume.objective": "adversarial"}, "objective=adversarial needs generator=whole"),
        ({"system": "pix2pix-3d", "diffusion.schedule": "scaled_linear"}, "to begin with noise alone"),
        ({"condition.strides": [1, 20]}, "does not reach from one slice of a stride to the next"),
        ({"condition.strides": [2, 4]}, "expected 1 and then multiples"),
        ({"condition.informed": False}, "informed=false leaves no slice for slice_offset=True"),
        ({"condition.drop_mask": 1.0}, "a probability from 0 to below 1"),
        ({"condition.drop_mask": 0.5, "condition.drop_informed": 0.5}, "leave nothing to learn"),
        ({"generator": "whole"}, "slice_offset=true needs generator=volume or slice"),
        ({"train_slices.objective": "adversarial"}, "objective=adversarial needs tune_volume"),
        ({"diffusion.prediction": "sample"}, "use weighting=uniform"),
        ({"informed.sample.overlap": 3}, "informed.sample.overlap=3: informed slices are drawn one by one"),
        ({"system": "ours", "evaluate.baseline": "ours"}, "evaluate.baseline=ours: the run itself has this system"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load("hippocampus-cpu", settings)


def test_a_stored_configuration_is_changed_without_its_system_being_laid_anew() -> None:
    config = load("hippocampus-cpu", {"system": "make-a-volume", "resample.continuation": "repaint"})
    assert change(config, {"factor": 2}).resample.continuation == "repaint"
    with pytest.raises(BadInput, match="this was made with system=make-a-volume"):
        change(config, {"system": "gem3d"})
