"""The codec's training: resumed equals uninterrupted, nothing around it is touched, faults name their step."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gem3d_core.codec import kl_training
from gem3d_core.codec.kl import KL
from gem3d_core.codec.kl_training import train_kl
from gem3d_core.errors import Gem3dError
from gem3d_core.machine.checkpoints import load_checkpoint
from gem3d_core.machine.processes import Interrupted
from gem3d_core.spec.method import CodecSpec

SPEC = CodecSpec(kind="kl", weights="train", train_steps=5, base_channels=8)
SEED = 5


class Crash(Exception):  # noqa: N818 - stands for a machine that stops
    """Raised where a run is to end without warning."""


def ramps(count: int = 20) -> Tensor:
    """Slices (count, 16, 24), brighter than the middle, of varying brightness and slope."""
    rng = torch.Generator().manual_seed(0)
    level, slope = torch.rand(2, count, 1, 1, generator=rng)
    return (0.2 + 0.6 * level + slope * torch.linspace(-0.2, 0.2, 24)).expand(count, 16, 24)


def trained(folder: Path, on_step: Callable[[int, float], None] = lambda _step, _loss: None) -> KL:
    return train_kl(SPEC, ramps(), SEED, folder, on_step=on_step)


def assert_same(found: KL, expected: KL) -> None:
    assert found.scale == expected.scale
    weights, others = found.model.state_dict(), expected.model.state_dict()
    assert [name for name in others if not torch.equal(weights[name], others[name])] == []


def assert_same_checkpoints(found: Path, expected: Path) -> None:
    one, other = load_checkpoint(found), load_checkpoint(expected)
    assert one is not None
    assert other is not None
    assert one[0] == other[0] == SPEC.train_steps
    for group, tensors in other[1].items():
        assert [name for name in tensors if not torch.equal(one[1][group][name], tensors[name])] == []


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[KL, Path]:
    """A training that nothing interrupted, and its checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    return trained(folder), folder


@pytest.mark.parametrize("crash_at", [1, 4])
def test_resumed_after_a_crash_equals_uninterrupted(
    crash_at: int, whole: tuple[KL, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kl_training, "CHECKPOINT_EVERY", 2)
    steps: list[int] = []

    def crash(step: int, _loss: float) -> None:
        if step == crash_at:
            raise Crash

    with pytest.raises(Crash):
        trained(tmp_path, crash)
    resumed = trained(tmp_path, lambda step, _loss: steps.append(step))
    assert steps[0] == (crash_at - 1) // 2 * 2 + 1
    assert_same(resumed, whole[0])
    assert_same_checkpoints(tmp_path, whole[1])


def test_sigterm_writes_a_checkpoint_and_the_training_goes_on_from_it(whole: tuple[KL, Path], tmp_path: Path) -> None:
    def terminate(step: int, _loss: float) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped at codec step 2 of 5"):
        trained(tmp_path, terminate)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == 2
    assert_same(trained(tmp_path), whole[0])
    assert_same_checkpoints(tmp_path, whole[1])


def test_a_finished_training_is_not_repeated(whole: tuple[KL, Path]) -> None:
    steps: list[int] = []
    assert_same(trained(whole[1], lambda step, _loss: steps.append(step)), whole[0])
    assert steps == []


def test_the_seed_makes_the_codec_and_the_callers_generator_is_left_alone(
    whole: tuple[KL, Path], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert_same(trained(tmp_path), whole[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_training_lowers_the_error(whole: tuple[KL, Path], tmp_path: Path) -> None:
    def error(codec: KL) -> float:
        return float((codec.decode(codec.encode(ramps())) - ramps()).abs().mean())

    longer = train_kl(replace(SPEC, train_steps=40), ramps(), SEED, tmp_path)
    assert error(longer) < 0.8 * error(whole[0])


def test_a_loss_that_is_not_finite_names_the_step_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Gem3dError, match=r"loss became nan .* at step 1: .*codec\.kind=haar"):
        train_kl(SPEC, torch.full((4, 16, 24), torch.nan), SEED, tmp_path)
    assert load_checkpoint(tmp_path) is None
