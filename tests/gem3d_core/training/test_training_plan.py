"""Training within a memory budget: a batch in pieces, or with activations computed again, takes the same steps."""

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gem3d_core.budget.costs import TrainingPlan, network_cost, plan_training, step_bytes, training_units
from gem3d_core.budget.memory import OVERHEAD, PROCESS_BYTES
from gem3d_core.diffusion.schedule import make_schedule
from gem3d_core.errors import Gem3dError
from gem3d_core.machine.checkpoints import save_tensors
from gem3d_core.machine.out_of_memory import IN_WORDS, is_out_of_memory
from gem3d_core.networks.conditions import Conditions
from gem3d_core.networks.files import build
from gem3d_core.networks.slices import SliceNetwork
from gem3d_core.spec.method import ConditionSpec, DiffusionSpec, NetworkFacts, TrainSpec, UNetSpec
from gem3d_core.training.batches import LatentCase
from gem3d_core.training.launch import Job, train_job
from gem3d_core.training.loop import Trained
from gem3d_core.training.models import Training, train_model

UNET = UNetSpec(base_channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=8, norm_groups=4)
C, M, N = 2, 2, 4
FACTS = NetworkFacts("slice", UNET, C, M, ConditionSpec(window=N))
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
    training = Training(cases, schedule, SPEC, 5, folder / "run", CPU, lambda *_: None, torch.ones(C), plan=plan)
    if kind == "slice":
        return train_model(FACTS, training)
    if kind == "position":
        return train_model(replace(FACTS, kind="position", mask_channels=0), training)
    save_tensors(folder / "slice.safetensors", build(FACTS, seed=1).state_dict())
    return train_model(replace(FACTS, kind="volume"), training, folder / "slice.safetensors")


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

    assert plan(bytes_of[8] * 1.001) == TrainingPlan(1, units=8)
    assert plan(bytes_of[8] * 0.95) == TrainingPlan(2, units=8)
    assert plan(bytes_of[4] * 1.001) == TrainingPlan(2, units=8)
    assert plan(bytes_of[1] * 1.001) == TrainingPlan(8, units=8)
    assert lean[1] < bytes_of[1] < lean[2], "otherwise the next line says nothing"
    assert plan(bytes_of[1] * 0.99) == plan(lean[1] * 1.01) == plan(0) == TrainingPlan(8, recompute=True, units=8)


def test_slices_of_stage_1_are_cut_apart_and_windows_are_not() -> None:
    spec = TrainSpec(steps=1, batch=6, slices_per_window=2)
    assert training_units(FACTS, spec) == (12, 1)
    assert training_units(FACTS, spec, processes=3) == (4, 1)
    assert training_units(replace(FACTS, kind="volume"), spec) == (6, N)
    assert training_units(replace(FACTS, kind="position"), spec) == (6, 1)


def test_a_plan_is_divided_until_every_piece_is_one_unit() -> None:
    plan = TrainingPlan(units=12)
    pieces = [plan.pieces]
    while plan.divide():
        pieces.append(plan.pieces)
    assert pieces == [1, 2, 4, 12]


def test_a_batch_that_does_not_fit_into_memory_is_computed_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same weights as in one piece, from the same batch."""
    whole, forward = _trained(tmp_path / "whole"), SliceNetwork.forward
    most, sizes = 2, list[int]()

    def small(self: SliceNetwork, x: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        if len(x) > most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        sizes.append(len(x))
        return forward(self, x, t, cond)

    monkeypatch.setattr(SliceNetwork, "forward", small)
    for name, weights in _trained(tmp_path / "pieces").items():
        torch.testing.assert_close(weights, whole[name], rtol=1e-3, atol=1e-5)
    assert set(sizes) == {2}
    most = 0
    with pytest.raises(Gem3dError, match="the smallest piece of a training batch does not fit"):
        _trained(tmp_path / "none")


def test_running_out_of_memory_is_known_by_its_words_and_other_errors_are_not_it() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert all(is_out_of_memory(RuntimeError(f"CUDA error: {words} when calling it")) for words in IN_WORDS)
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


class Held:
    """Something that a graph holds on to."""


def test_what_did_not_fit_is_gone_before_the_next_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the backward pass was what failed: its graph is what takes the memory."""
    graphs: list[weakref.ref[Held]] = []
    left: list[bool] = []

    class Full(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]  # as torch calls it
            ctx.held = Held()
            graphs.append(weakref.ref(ctx.held))
            return x.clone()

        @staticmethod
        def backward(_ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]  # as torch calls it
            if len(gradient) > 2:
                raise RuntimeError("CUDA error: out of memory")
            return gradient

    forward = SliceNetwork.forward
    monkeypatch.setattr(SliceNetwork, "forward", lambda *given: Full.apply(forward(*given)))
    monkeypatch.setattr("gem3d_core.machine.out_of_memory.give_back", lambda: left.append(graphs[-1]() is not None))
    _trained(tmp_path / "pieces")
    assert left == [False, False], "halved twice, from 8 slices to 2"


def _trained(folder: Path) -> dict[str, Tensor]:
    spec = TrainSpec(steps=3, batch=4, slices_per_window=2, warmup=1, checkpoint_every=10)
    files = {"a": folder / "a.safetensors"}
    folder.mkdir()
    rng = torch.Generator().manual_seed(0)
    image, condition = torch.randn(9, C, 8, 8, generator=rng), torch.rand(9, M, 8, 8, generator=rng)
    save_file({"image": image, "condition": condition}, files["a"])
    named = {case: str(file) for case, file in files.items()}
    job = Job(FACTS, named, DiffusionSpec(), spec, 1, str(folder / "checkpoints"), (1.0,) * C)
    weights, _ = train_job(job, torch.device("cpu"), lambda _step, _loss: None)
    return weights
