"""A kind of network is a description and a class: whatever else is asked of it finds it there."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gem3d_core.budget.costs import drawing_peak, network_cost, plan_training, step_bytes, training_units
from gem3d_core.codec.haar import Haar
from gem3d_core.diffusion.schedule import make_schedule
from gem3d_core.errors import BadInput
from gem3d_core.networks.conditions import Conditions
from gem3d_core.networks.files import NETWORKS, facts_from, load_network
from gem3d_core.networks.injections import INJECTIONS
from gem3d_core.networks.interface import Network, WindowNetwork
from gem3d_core.sampling.volumes import Recipe, VolumeModel, draw_volumes
from gem3d_core.spec.kinds import KINDS, Kind, trained_by, trainings
from gem3d_core.spec.method import ConditionSpec, DiffusionSpec, NetworkFacts, SampleSpec, TrainSpec, UNetSpec
from gem3d_core.training.launch import Job, train_job

CORE = Path(__file__).resolve().parents[3] / "gem3d_core"
UNET = UNetSpec(base_channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=8, norm_groups=4)
C, LABELS, N, SIDE = 4, (1,), 4, 8
CONDITION = ConditionSpec(window=N, slice_offset=False)
TOY = NetworkFacts("toy", UNET, C, len(LABELS) + 1, CONDITION)
CPU = torch.device("cpu")


class Toy(WindowNetwork):
    """One convolution over latent, mask and informed slice, and a shift that all slices of a window share."""

    def __init__(self, facts: NetworkFacts) -> None:
        super().__init__()
        self.facts = facts
        self.layer = nn.Conv2d(2 * facts.latent_channels + facts.mask_channels, facts.latent_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        assert cond.informed is not None
        made: Tensor = self.layer(torch.cat([x, cond.mask, cond.informed], dim=1))
        window = made.unflatten(0, (-1, self.n))
        return (window + window.mean(dim=1, keepdim=True) * (t[:: self.n] / 1000)[:, None, None, None, None]).flatten(
            0, 1
        )


class Scaled(Network):
    """A toy that was trained, and one more number."""

    def __init__(self, basis: Network, facts: NetworkFacts) -> None:
        super().__init__()
        self.facts = facts
        self.basis = basis
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor, cond: Conditions) -> Tensor:
        made: Tensor = self.scale * self.basis(x, t, cond)
        return made

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        return {"scale": self.scale}


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "toy", Kind())
    monkeypatch.setitem(NETWORKS, "toy", Toy)
    monkeypatch.setitem(KINDS, "scaled", Kind(extends="toy"))
    monkeypatch.setitem(NETWORKS, "scaled", Scaled)


def job(tmp_path: Path, facts: NetworkFacts, start: str | None = None) -> Job:
    files = {}
    for k, Z in enumerate((9, 6)):
        rng = torch.Generator().manual_seed(k)
        shapes = {"image": (Z, C, SIDE, SIDE), "condition": (Z, facts.mask_channels, SIDE, SIDE)}
        files[f"case{k}"] = str(tmp_path / f"{k}.safetensors")
        save_file({name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}, files[f"case{k}"])
    spec = TrainSpec(steps=2, batch=2, warmup=1)
    folder = str(tmp_path / facts.kind)
    return Job(facts, files, DiffusionSpec(), spec, 1, folder, (1.0,) * C, slice_weights=start)


def test_a_new_kind_is_trained_saved_opened_and_draws(tmp_path: Path) -> None:
    weights, trained = train_job(job(tmp_path, TOY), CPU, lambda _step, _loss: None)
    assert len(trained.losses) == 2
    assert trained.ema.keys() == weights.keys() == {"layer.weight", "layer.bias"}

    save_file(weights, tmp_path / "weights.safetensors")
    network = load_network(TOY, tmp_path / "weights.safetensors", CPU)
    assert isinstance(network, Toy)
    model = VolumeModel(network, Haar(1, torch.zeros(C), torch.ones(C)), make_schedule(DiffusionSpec()), LABELS, CPU)
    shape = (7, 2 * SIDE, 2 * SIDE)
    recipe = Recipe(
        "v", torch.ones(shape, dtype=torch.uint8), torch.ones(shape, dtype=torch.bool), torch.zeros(shape[1:]), 0.5, 1
    )
    (drawn,) = draw_volumes(model, [recipe], SampleSpec(steps=2))
    assert drawn.slices.shape == shape
    assert bool(drawn.slices.isfinite().all())


def test_a_new_kind_may_extend_another(tmp_path: Path) -> None:
    """Of which it keeps the weights; it cannot be trained without them."""
    weights, _ = train_job(job(tmp_path, TOY), CPU, lambda _step, _loss: None)
    save_file(weights, tmp_path / "weights.safetensors")
    facts = replace(TOY, kind="scaled")
    start = str(tmp_path / "weights.safetensors")
    tuned, trained = train_job(job(tmp_path, facts, start), CPU, lambda _step, _loss: None)
    assert trained.ema.keys() == {"scale"}
    assert all(torch.equal(tuned[f"basis.{name}"], weights[name]) for name in weights)
    with pytest.raises(ValueError, match="a scaled network extends a trained toy network: give its weights"):
        train_job(job(tmp_path, facts), CPU, lambda _step, _loss: None)


def test_a_new_kind_has_costs_and_plans() -> None:
    size = (SIDE, SIDE)
    cost = network_cost(TOY, N, size)
    layer = C * (2 * C + len(LABELS) + 1) * 9
    assert cost.parameters == cost.trained == layer + C
    assert cost.forward_flops == 2 * layer * N * SIDE**2
    assert network_cost(replace(TOY, kind="scaled"), N, size).trained == 1
    assert step_bytes(TOY, N, size) > cost.held_bytes / 2
    assert training_units(TOY, TrainSpec(steps=1, batch=6)) == (6, N)
    assert plan_training(TOY, 6, N, size, 0).pieces == 6
    assert drawing_peak(TOY, None, size, 2**31)[0] > 1


def test_every_kind_has_a_class_and_a_way_to_be_trained() -> None:
    assert KINDS.keys() == NETWORKS.keys()
    assert trainings("volume") == ("train_slices", "tune_volume")
    assert (trainings("slice"), trainings("whole")) == (("train_slices",), ("tune_volume",))
    assert trained_by("train_informed") == ("position",)


def test_a_stored_network_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(BadInput, match="network of kind 'spam'"):
        facts_from({"kind": "spam"})


@pytest.mark.parametrize(
    ("names", "homes"),
    [
        (KINDS.keys() - {"position"}, {"spec/kinds.py", "networks/files.py"}),
        (INJECTIONS.keys() - {"concat"}, {"spec/method.py", "networks/injections.py"}),
    ],
    ids=["kinds", "injections"],
)
def test_nothing_else_compares_with_their_names(names: set[str], homes: set[str]) -> None:
    """In the rooms that train, count and draw."""
    rooms = ("spec", "networks", "budget", "diffusion", "training", "sampling")
    found = set()
    for path in (file for room in rooms for file in (CORE / room).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare | ast.Dict):
                told = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
                found |= {str(path.relative_to(CORE))} if told & names else set()
    assert found <= homes
