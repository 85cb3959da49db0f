"""Training within a memory budget: a batch in pieces, or with activations computed again, takes the same steps."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gem3d_core.batches import LatentCase
from gem3d_core.checkpoints import NetworkFacts, save_network
from gem3d_core.costs import network_cost, plan_training, step_bytes
from gem3d_core.memory import OVERHEAD, PROCESS_BYTES
from gem3d_core.models import Training, TrainingPlan, build, train_position_model, train_slice_model, tune_volume_model
from gem3d_core.schedule import make_schedule
from gem3d_core.settings import DiffusionSpec, TrainSpec, UNetSpec
from gem3d_core.training import Trained

UNET = UNetSpec(base_channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=8, norm_groups=4)
C, M, N = 2, 2, 4
FACTS = NetworkFacts("slice", UNET, C, M, offset=True, window=N)
SPEC = TrainSpec(steps=3, batch=4, slices_per_window=2, warmup=1, ema=0.5)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(kind: str, folder: Path, plan: TrainingPlan) -> tuple[dict[str, Tensor], Trained]:
    def latents(channels: int, seed: int) -> Tensor:
        return torch.randn(9, channels, 4, 4, generator=torch.Generator().manual_seed(seed))

    cases = [LatentCase(name, latents(C, k), latents(M, 10 + k), 9) for k, name in enumerate("abc")]
    schedule = make_schedule(DiffusionSpec())
    training = Training(cases, schedule, SPEC, 5, folder / "run", CPU, lambda *_: None, plan=plan)
    if kind == "slice":
        return train_slice_model(FACTS, training)
    if kind == "position":
        return train_position_model(replace(FACTS, kind="position", mask_channels=0, offset=False), training)
    save_network(folder / "slice", FACTS, build(FACTS, seed=1).state_dict())
    return tune_volume_model(replace(FACTS, kind="volume"), folder / "slice" / "weights.safetensors", training)


@pytest.mark.parametrize("kind", ["slice", "volume", "position"])
@pytest.mark.parametrize("plan", [TrainingPlan(2), TrainingPlan(4), TrainingPlan(4, recompute=True)])
def test_the_steps_do_not_depend_on_the_plan(kind: str, plan: TrainingPlan, tmp_path: Path) -> None:
    weights, trained = run(kind, tmp_path / "planned", plan)
    expected, whole = run(kind, tmp_path / "whole", TrainingPlan())
    torch.testing.assert_close(trained.losses, whole.losses, rtol=1e-5, atol=0)
    assert weights.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=1e-3, atol=1e-5)


def test_a_budget_makes_the_fewest_pieces_that_fit() -> None:
    facts = replace(FACTS, kind="volume")
    state = network_cost(facts, N, (16, 12)).state_bytes
    bytes_of = {count: step_bytes(facts, count * N, (16, 12)) for count in (1, 4, 8)}
    lean = {count: step_bytes(facts, count * N, (16, 12), recompute=True) for count in (1, 2)}

    def plan(room: float) -> TrainingPlan:
        return plan_training(facts, 8, N, (16, 12), PROCESS_BYTES + state + OVERHEAD * room)

    assert plan(bytes_of[8] * 1.001) == TrainingPlan(1)
    assert plan(bytes_of[8] * 0.95) == TrainingPlan(2)
    assert plan(bytes_of[4] * 1.001) == TrainingPlan(2)
    assert plan(bytes_of[1] * 1.001) == TrainingPlan(8)
    assert lean[1] < bytes_of[1] < lean[2], "otherwise the next line says nothing"
    assert plan(bytes_of[1] * 0.99) == plan(lean[1] * 1.01) == plan(0) == TrainingPlan(8, recompute=True)
