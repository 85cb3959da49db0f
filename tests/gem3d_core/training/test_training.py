"""Training: what is learnt, what is kept, and that a run killed at any step ends as one that was not.

Run as a program (`test_training.py FOLDER`), this file is the child process that gets killed.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gem3d_core.diffusion.adversarial import adversarial_loss
from gem3d_core.diffusion.denoise import predict_slices
from gem3d_core.diffusion.losses import Example, diffusion_loss, draw_timesteps
from gem3d_core.diffusion.schedule import Schedule, make_schedule
from gem3d_core.errors import BadInput, Gem3dError
from gem3d_core.machine.checkpoints import load_checkpoint, save_checkpoint, save_tensors
from gem3d_core.machine.processes import Interrupted
from gem3d_core.networks.files import build, load_network
from gem3d_core.networks.slices import SliceNetwork
from gem3d_core.networks.volumetric import VolumeNetwork
from gem3d_core.spec.method import ConditionSpec, DiffusionSpec, NetworkFacts, TrainSpec, UNetSpec
from gem3d_core.training import models
from gem3d_core.training.batches import LatentCase, draw_windows
from gem3d_core.training.loop import Draw, Trained, learning_rate, train
from gem3d_core.training.models import Training, train_model

UNET = UNetSpec(base_channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=8, norm_groups=4)
C, M, N = 2, 2, 4
SLICE = NetworkFacts("slice", UNET, C, M, ConditionSpec(window=N))
VOLUME = replace(SLICE, kind="volume")
POSITION = replace(SLICE, kind="position", mask_channels=0)
WHOLE = NetworkFacts("whole", UNET, C, M, ConditionSpec(window=16, informed=False, slice_offset=False))
SPEC = TrainSpec(steps=10, batch=3, slices_per_window=2, warmup=3, ema=0.9, cosine_decay=True, checkpoint_every=3)
SCHEDULE = make_schedule(DiffusionSpec())
LOSS = partial(diffusion_loss, schedule=SCHEDULE)
CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[3]

KILLED_SPEC = replace(SPEC, steps=30, checkpoint_every=4)
Outcome = tuple[dict[str, Tensor], Trained]


class Crash(Exception):  # noqa: N818 - stands for a machine that stops
    """Raised where a run is to end without warning."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, in this process and in the child."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def latents(Z: int, channels: int, seed: int) -> Tensor:
    return torch.randn(Z, channels, 4, 4, generator=torch.Generator().manual_seed(seed))


def cases() -> list[LatentCase]:
    return [LatentCase(f"case{Z}", latents(Z, C, Z), latents(Z, M, 100 + Z), Z) for Z in (9, 6, N)]


def training(folder: Path, spec: TrainSpec = SPEC, on_step: Callable[[int, float], None] | None = None) -> Training:
    return Training(cases(), SCHEDULE, spec, 11, folder, CPU, on_step or (lambda _step, _loss: None), torch.ones(C))


@pytest.fixture(scope="module")
def stage_one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A trained slice model, saved."""
    folder = tmp_path_factory.mktemp("stage-one")
    outcome = train_model(SLICE, training(folder / "checkpoints"))
    save_tensors(folder / "weights.safetensors", outcome[0])
    return folder / "weights.safetensors", outcome


Run = Callable[[Training], Outcome]


@pytest.fixture(params=["slice", "volume", "position", "whole", "adversarial"])
def run(request: pytest.FixtureRequest, stage_one: tuple[Path, Outcome]) -> Run:
    weights = stage_one[0]
    runs: dict[str, Run] = {
        "slice": lambda t: train_model(SLICE, t),
        "volume": lambda t: train_model(VOLUME, t, weights),
        "position": lambda t: train_model(POSITION, t),
        "whole": lambda t: train_model(WHOLE, t),
        "adversarial": lambda t: train_model(WHOLE, replace(t, spec=replace(t.spec, objective="adversarial"))),
    }
    return runs[request.param]


def assert_same(found: Outcome, expected: Outcome) -> None:
    assert torch.equal(found[1].losses, expected[1].losses)
    assert found[0].keys() == expected[0].keys()
    assert [name for name in expected[0] if not torch.equal(found[0][name], expected[0][name])] == []


def test_a_network_of_one_step_is_trained_where_it_draws_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the one timestep of one step: at an earlier one the answer would shine through the noise."""
    told: list[Example] = []

    def look(example: Example, schedule: Schedule) -> Tensor:
        told.append(example)
        return adversarial_loss(example, schedule)

    monkeypatch.setattr(models, "adversarial_loss", look)
    train_model(WHOLE, training(tmp_path, replace(SPEC, steps=2, objective="adversarial")))
    assert len(told) == 2
    for example in told:
        assert set(example.t.tolist()) == set(SCHEDULE.timesteps(1)) == {999}


# the adversarial loss is no sum over channels
@pytest.mark.parametrize("run", ["slice", "volume", "position", "whole"], indirect=True)
def test_channels_weigh_as_the_codec_says_or_all_alike(run: Run, tmp_path: Path) -> None:
    def first_loss(*emphasis: float, alike: bool = False) -> float:
        spec = DiffusionSpec(channel_weighting="uniform" if alike else "spread")
        folder = tmp_path / f"{emphasis}{alike}"
        one = replace(training(folder, replace(SPEC, steps=1)), emphasis=torch.tensor(emphasis))
        return float(run(replace(one, schedule=make_schedule(spec)))[1].losses[0])

    first, second = first_loss(1.0, 0.0), first_loss(0.0, 1.0)
    assert first_loss(1.0, 0.25) == pytest.approx(first + 0.25 * second, rel=1e-5)
    assert first_loss(1.0, 0.25, alike=True) == pytest.approx(first + second, rel=1e-5)


@pytest.mark.parametrize("crash_at", [2, 7])
def test_resumed_after_a_crash_equals_uninterrupted(run: Run, crash_at: int, tmp_path: Path) -> None:
    def crash(step: int, _loss: float) -> None:
        if step == crash_at:
            raise Crash

    with pytest.raises(Crash):
        run(training(tmp_path / "crashed", on_step=crash))
    resumed = run(training(tmp_path / "crashed"))
    assert resumed[1].resumed_at == crash_at // 3 * 3
    assert_same(resumed, run(training(tmp_path / "whole")))


def test_resumed_after_kill_9_of_the_process_equals_uninterrupted(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path / "killed")], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == "10":
            child.send_signal(signal.SIGKILL)
            break
    assert child.wait() == -signal.SIGKILL

    resumed = train_model(SLICE, training(tmp_path / "killed", KILLED_SPEC))
    assert 8 <= resumed[1].resumed_at < KILLED_SPEC.steps
    assert_same(resumed, train_model(SLICE, training(tmp_path / "whole", KILLED_SPEC)))


def test_sigterm_writes_a_checkpoint_and_the_run_goes_on_from_it(run: Run, tmp_path: Path) -> None:
    def terminate(step: int, _loss: float) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped at step 4 of 10"):
        run(training(tmp_path / "stopped", on_step=terminate))
    assert signal.getsignal(signal.SIGTERM) is before
    found = load_checkpoint(tmp_path / "stopped")
    assert found is not None
    assert found[0] == 4
    assert_same(run(training(tmp_path / "stopped")), run(training(tmp_path / "whole")))


def test_sigterm_at_the_last_step_is_not_lost(run: Run, tmp_path: Path) -> None:
    def terminate(step: int, _loss: float) -> None:
        if step == SPEC.steps:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped at step 10 of 10"):
        run(training(tmp_path, on_step=terminate))
    assert len(run(training(tmp_path))[1].losses) == SPEC.steps


def test_a_finished_run_is_not_trained_again(run: Run, tmp_path: Path) -> None:
    first = run(training(tmp_path))
    steps: list[int] = []
    again = run(training(tmp_path, on_step=lambda step, _loss: steps.append(step)))
    assert steps == []
    assert again[1].resumed_at == SPEC.steps
    assert_same(again, first)


def test_training_runs_outside_the_main_thread(tmp_path: Path) -> None:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(train_model(SLICE, training(tmp_path / "a"))))
    thread.start()
    thread.join()
    assert_same(outcomes[0], train_model(SLICE, training(tmp_path / "b")))


def test_a_loss_that_is_not_finite_names_step_and_batch(tmp_path: Path) -> None:
    bad = LatentCase("broken scan", torch.full((6, C, 4, 4), torch.nan), torch.zeros(6, M, 4, 4), 6)
    with pytest.raises(Gem3dError, match=r"the loss became nan at step 1 on broken scan\[\d:\d\]"):
        train_model(SLICE, replace(training(tmp_path), cases=[bad]))
    assert load_checkpoint(tmp_path) is None


class Root(nn.Module):
    """Predicts its parameter's square root everywhere: finite at zero, with an infinite gradient."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start))


def root_draw(network: Root) -> Draw:
    def draw(rng: torch.Generator) -> list[Example]:
        t = draw_timesteps(4, 1, SCHEDULE, rng)
        ones = torch.ones(4, 1, 2, 2)
        return [Example(ones, ones, t, lambda x, _t: network.w.sqrt() + 0 * x, ("these", "slices"))]

    return draw


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path: Path) -> None:
    network = Root(0.0)
    with pytest.raises(Gem3dError, match="the gradient became inf at step 1 on these, slices"):
        train(network, dict(network.named_parameters()), root_draw(network), LOSS, SPEC, 0, tmp_path, CPU)
    assert float(network.w) == 0


def test_the_moving_average_is_what_is_returned(tmp_path: Path) -> None:
    network = Root(1.0)
    raw = [1.0]
    trained = train(
        network,
        dict(network.named_parameters()),
        root_draw(network),
        LOSS,
        replace(SPEC, learning_rate=0.05),
        0,
        tmp_path,
        CPU,
        lambda _step, _loss: raw.append(float(network.w)),
    )
    average = raw[0]
    for step, value in enumerate(raw[1:]):
        decay = min(SPEC.ema, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * value
    assert float(trained.ema["w"]) == pytest.approx(average, rel=1e-5)
    assert float(trained.ema["w"]) != pytest.approx(raw[-1], rel=1e-3)


def test_the_models_weights_are_the_average_not_the_raw_ones(run: Run, tmp_path: Path) -> None:
    weights, trained = run(training(tmp_path))
    found = load_checkpoint(tmp_path)
    assert found is not None
    groups = found[1]
    averages = {name: ema for name, ema in trained.ema.items() if not name.startswith("discriminator.")}
    assert set(averages) <= set(weights)
    assert not any(name.startswith("discriminator.") for name in weights), "it is not part of the model"
    for name, average in averages.items():
        assert torch.equal(weights[name], average)
        assert torch.equal(weights[name], groups["ema"][name])
    assert any(not torch.equal(weights[name], groups["raw"][name]) for name in averages)


def test_stage_two_starts_from_the_average_of_stage_one_and_leaves_it_alone(
    stage_one: tuple[Path, Outcome], tmp_path: Path
) -> None:
    file, (slice_weights, trained_one) = stage_one
    weights, trained = train_model(VOLUME, training(tmp_path), file)
    frozen = {name: tensor for name, tensor in weights.items() if name not in trained.ema}
    plain = {name.removeprefix("slices.").replace(".spatial.", "."): tensor for name, tensor in frozen.items()}
    assert plain.keys() == slice_weights.keys()
    assert all(torch.equal(plain[name], trained_one.ema[name]) for name in plain)

    fresh = build(VOLUME, seed=11)
    assert isinstance(fresh, VolumeNetwork)
    assert trained.ema.keys() == fresh.trained_parameters().keys()
    start = {name: p.detach() for name, p in fresh.trained_parameters().items()}
    weights_that_moved = {name for name in start if not torch.equal(start[name], trained.ema[name])}
    assert weights_that_moved == set(start)


def test_stage_two_holds_gradients_for_volumetric_layers_only(tmp_path: Path) -> None:
    network = build(VOLUME, seed=0)
    assert isinstance(network, VolumeNetwork)

    def draw(rng: torch.Generator) -> list[Example]:
        batch = draw_windows(cases(), 2, SLICE.condition, N, rng)
        t = draw_timesteps(2, N, SCHEDULE, rng)
        return [Example(batch.clean, batch.clean, t, predict_slices(network, batch.conditions), batch.names)]

    volumetric = network.trained_parameters()
    train(network, volumetric, draw, LOSS, replace(SPEC, steps=1), 0, tmp_path, CPU)
    assert {name for name, p in network.named_parameters() if p.requires_grad} == set(volumetric)
    assert {name for name, p in network.named_parameters() if p.grad is not None} == set(volumetric)


def test_stage_two_begins_with_the_loss_of_the_slice_model(stage_one: tuple[Path, Outcome], tmp_path: Path) -> None:
    """The volume model equals the slice model at its start: the first batch costs both the same."""
    _, trained = train_model(VOLUME, training(tmp_path), stage_one[0])
    network = load_network(SLICE, stage_one[0], CPU)
    assert isinstance(network, SliceNetwork)
    rng = torch.Generator().manual_seed(11)
    batch = draw_windows(cases(), SPEC.batch, SLICE.condition, N, rng)
    t = draw_timesteps(SPEC.batch, N, SCHEDULE, rng)
    eps = torch.randn(batch.clean.shape, generator=rng)
    example = Example(batch.clean, eps, t, predict_slices(network, batch.conditions), batch.names)
    loss = diffusion_loss(example, SCHEDULE)
    assert float(trained.losses[0]) == pytest.approx(float(loss), rel=1e-5)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    spec = TrainSpec(steps=80, batch=8, learning_rate=3e-3, warmup=5, checkpoint_every=1000)
    _, trained = train_model(SLICE, training(tmp_path, spec))
    assert float(trained.losses[-20:].mean()) < 0.85 * float(trained.losses[:5].mean())


def test_bf16_trains_to_finite_losses_near_those_of_fp32(stage_one: tuple[Path, Outcome], tmp_path: Path) -> None:
    _, half = train_model(SLICE, training(tmp_path, replace(SPEC, precision="bf16")))
    torch.testing.assert_close(half.losses, stage_one[1][1].losses, rtol=0.05, atol=0.02)


def test_a_saved_network_is_the_same_network(stage_one: tuple[Path, Outcome]) -> None:
    file, (weights, _) = stage_one
    network = load_network(SLICE, file, CPU)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


def test_only_the_newest_checkpoint_is_kept_and_ruins_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".building-99999").mkdir()
    (tmp_path / ".building-99999" / "raw.safetensors").write_bytes(b"half a file")
    assert load_checkpoint(tmp_path) is None
    for step in (3, 6, 12):
        save_checkpoint(tmp_path, step, {"raw": {"w": torch.tensor([float(step)])}}, {"steps": 20})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000012"]
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == 12
    assert found[1]["raw"]["w"].tolist() == [12.0]


def test_learning_rate_warms_up_and_then_stays_or_falls() -> None:
    constant = TrainSpec(steps=100, batch=1, learning_rate=1.0, warmup=4)
    assert [learning_rate(constant, step) for step in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    falling = replace(constant, cosine_decay=True)
    assert learning_rate(falling, 50) == pytest.approx(0.5)
    assert learning_rate(falling, 99) < 1e-3


def test_the_loss_is_the_weighted_mean_square_of_equation_2() -> None:
    t = torch.tensor([100, 999])
    x0 = latents(2, C, 5)
    eps = latents(2, C, 5).flip(0)
    example = Example(x0, eps, t, lambda x, _t: torch.zeros_like(x), ("a", "b"))
    loss = diffusion_loss(example, SCHEDULE)
    squares = SCHEDULE.target(x0, eps, t).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss, (SCHEDULE.weight(t) * squares).mean())


def test_one_timestep_for_a_window_and_one_for_every_slice() -> None:
    rng = torch.Generator().manual_seed(0)
    of_windows = draw_timesteps(200, N, SCHEDULE, rng).reshape(200, N)
    assert bool((of_windows == of_windows[:, :1]).all())
    assert len(set(draw_timesteps(2000, 1, SCHEDULE, rng).tolist())) > 800
    every = draw_timesteps(20000, 1, SCHEDULE, rng)
    assert (int(every.min()), int(every.max())) == (0, 999)


def _train_until_killed(folder: Path) -> None:
    def report(step: int, _loss: float) -> None:
        sys.stdout.write(f"{step}\n")
        sys.stdout.flush()
        if step >= 10:
            time.sleep(0.2)  # leaves the parent time to end this process well before its last step

    train_model(SLICE, training(folder, KILLED_SPEC, report))


if __name__ == "__main__":
    torch.set_num_threads(1)
    _train_until_killed(Path(sys.argv[1]))


def test_a_folder_of_another_training_is_refused(stage_one: tuple[Path, Outcome], tmp_path: Path) -> None:
    """Else stage 2 would go on from stage 1's last step, or fail on a name that is missing."""
    train_model(SLICE, training(tmp_path))
    with pytest.raises(BadInput, match=r"the checkpoint of another training.*a folder of its own"):
        train_model(VOLUME, training(tmp_path), stage_one[0])
