"""Memory of a call, counted without running it, beside closed forms and beside what a process really takes."""

import copy
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from gem3d_core.bench.effort import watched
from gem3d_core.budget.costs import drawing_peak
from gem3d_core.budget.memory import (
    OVERHEAD,
    PROCESS_BYTES,
    InFlight,
    largest_batch,
    live_bytes,
    plan_drawing,
    slices_that_pass,
    weight_bytes,
    windows_that_fit,
)
from gem3d_core.codec.haar import Haar
from gem3d_core.networks.files import build
from gem3d_core.networks.image_encoders import LITE, open_encoder
from gem3d_core.networks.volumetric import VolumeNetwork
from gem3d_core.sampling.volumes import volume_bytes
from gem3d_core.spec.method import ConditionSpec, NetworkFacts, UNetSpec

SIZE = (16, 12)
MIB = 2**20


@pytest.fixture(scope="module")
def network() -> VolumeNetwork:
    return small_network()


def small_network() -> VolumeNetwork:
    spec = UNetSpec(base_channels=32, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=16, norm_groups=8)
    made = build(NetworkFacts("volume", spec, 16, 4, ConditionSpec(window=8)), seed=0)
    assert isinstance(made, VolumeNetwork)
    return made.requires_grad_(requires_grad=False)


def test_what_lives_at_once_is_counted_and_not_what_lived_before() -> None:
    deep = nn.Sequential(*(nn.Linear(1000, 1000, bias=False) for _ in range(5)))
    # the input, which the caller holds, with the output of one layer and of the one before
    assert live_bytes(deep, lambda: (torch.zeros(10, 1000),)) == 3 * 10 * 1000 * 4
    assert not any(parameter.is_meta for parameter in deep.parameters())
    assert weight_bytes(deep) == 5 * 1000 * 1000 * 4


def test_the_largest_batch_is_the_last_that_fits() -> None:
    sizes = [largest_batch(60, 70, OVERHEAD * budget) for budget in (0, 60, 69.9, 70.1, 151)]
    assert sizes == [0, 1, 1, 2, 10]


def test_a_batch_that_was_found_keeps_its_budget(network: VolumeNetwork) -> None:
    room = 200 * MIB
    windows = windows_that_fit(network, SIZE, room)
    # a process of its own: what other tests left in this one's allocator would be measured too
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        peak = alone.submit(peak_of_a_call, windows).result()
    assert windows > 8
    assert room / 5 < peak < room


def peak_of_a_call(windows: int) -> int:
    """Bytes that this process takes for it."""
    network = small_network()
    few, many = (network.blank_arguments(k * network.n, SIZE) for k in (1, windows))
    with torch.no_grad():
        network(*few)  # libraries set themselves up
        _, effort = watched(lambda: network(*many), torch.device("cpu"))
    return effort.peak_bytes


def test_more_memory_is_more_windows_and_there_is_always_one(network: VolumeNetwork) -> None:
    found = [windows_that_fit(network, SIZE, mib * MIB) for mib in (0, 100, 200, 400)]
    assert found[0] == 1
    assert found == sorted(set(found))


def test_volumes_that_the_same_memory_holds_leave_room_for_fewer_windows(network: VolumeNetwork) -> None:
    room, volume = 400 * MIB, 20 * MIB
    alone = windows_that_fit(network, SIZE, room)
    found = [windows_that_fit(network, SIZE, room, InFlight(volume, most, waiting=2)) for most in (0, 1, 3, 8, 100)]
    assert found == sorted(found, reverse=True)
    assert found[0] == alone
    assert found[1] == windows_that_fit(network, SIZE, room - volume), "one volume is there once"
    assert found[2] < found[1]
    assert found[4] < found[3], "many: each window has its own, and two wait"
    flying = InFlight(volume, 100, waiting=2)
    call = live_bytes(network, lambda: network.blank_arguments(found[4] * network.n, SIZE))
    assert OVERHEAD * call + flying.held(found[4]) <= room
    assert [flying.held(windows) / volume for windows in (1, 98, 200)] == [3, 100, 100]


def test_the_planner_and_the_estimate_agree_on_volumes_in_flight(network: VolumeNetwork) -> None:
    budget, flying = PROCESS_BYTES + 300 * MIB, InFlight(20 * MIB, most=50, waiting=4)
    windows, peak = drawing_peak(network.facts, None, SIZE, budget, flying=flying)
    assert windows == plan_drawing(network, None, SIZE, budget, flying)[0] > 1
    assert windows < drawing_peak(network.facts, None, SIZE, budget)[0]
    assert 0.8 * budget < peak <= budget


def test_a_volume_in_flight_is_what_its_tensors_are() -> None:
    facts = NetworkFacts("volume", UNetSpec(), 16, 3, ConditionSpec(window=4))
    slices, labels = torch.zeros(10, 64, 48), torch.zeros(10, 64, 48, dtype=torch.long)
    latents, mask, informed = (torch.zeros(*shape, 16, 12) for shape in ((10, 16), (10, 3), (16,)))
    tensors = (slices, labels, labels == 0, latents, mask, informed)
    assert volume_bytes(facts, 4, (10, 64, 48)) == sum(t.numel() * t.element_size() for t in tensors)


def test_an_autoencoder_takes_what_fits() -> None:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    model = AutoencoderKL(block_out_channels=(16, 32), norm_num_groups=8, latent_channels=4, **blocks)
    found = [slices_that_pass(model, (32, 32), mib * MIB) for mib in (0, 100, 400)]
    assert found[0] == 1
    assert found == sorted(set(found))


def test_a_compiled_network_is_planned_as_it_is_written(network: VolumeNetwork) -> None:
    compiled = copy.deepcopy(network)
    compiled.compile_for_sampling("eager")
    assert windows_that_fit(compiled, SIZE, 200 * MIB) == windows_that_fit(network, SIZE, 200 * MIB)


def test_a_network_that_attends_is_planned_without_its_encoder() -> None:
    spec = UNetSpec(base_channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=8, norm_groups=4)
    condition = ConditionSpec(window=4, injection="cross_attention")
    encoder = open_encoder(LITE, Haar(1, torch.zeros(4), torch.ones(4)), torch.device("cpu"))
    network = build(NetworkFacts("volume", spec, 4, 2, condition), 0, encoder)
    assert isinstance(network, VolumeNetwork)
    assert plan_drawing(network, None, (8, 8), 2 * PROCESS_BYTES)[0] > 1
