"""Finished volumes are decoded while the next are drawn: not too many at once, and no error is lost."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from gem3d_core.codec.haar import Haar
from gem3d_core.diffusion.schedule import make_schedule
from gem3d_core.networks.files import build
from gem3d_core.networks.interface import WindowNetwork
from gem3d_core.sampling.volumes import DECODED_AHEAD, Drawn, Recipe, VolumeModel, draw_volumes
from gem3d_core.spec.method import ConditionSpec, DiffusionSpec, NetworkFacts, Precision, SampleSpec, UNetSpec

N, SIDE = 4, 8
UNET = UNetSpec(base_channels=8, multipliers=(1, 2), blocks=1, attention_at=(2,), head_channels=8, norm_groups=4)
CPU = torch.device("cpu")
ONE_BY_ONE = SampleSpec(solver="dpm++", steps=2, overlap=1, batch=1)


class Windows:
    """How many windows were drawn; another thread can wait for them."""

    def __init__(self) -> None:
        self.drawn = 0
        self._changed = threading.Condition()

    def add(self, count: int) -> None:
        with self._changed:
            self.drawn += count
            self._changed.notify_all()

    def reach(self, count: int, seconds: float = 10) -> bool:
        """Whether so many are drawn within some seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.drawn >= count, seconds)


@dataclass(frozen=True)
class Watched(Haar):
    """Gives the number of the volume, as they come, to a function before it decodes it."""

    before: Callable[[int], None]
    calls: list[int]

    def decode(self, latents: Tensor, precision: Precision = "fp32") -> Tensor:
        self.calls.append(len(self.calls))
        self.before(self.calls[-1])
        return super().decode(latents, precision)


def draw(before: Callable[[int], None], windows: Windows, volumes: int) -> Iterator[Drawn]:
    """Volumes of one window each, drawn one after the other."""
    codec = Watched(1, torch.zeros(4), torch.ones(4), before, [])
    network = build(NetworkFacts("volume", UNET, codec.channels, 2, ConditionSpec(window=N)), seed=0)
    assert isinstance(network, WindowNetwork)
    network.requires_grad_(requires_grad=False).eval()
    model = VolumeModel(network, codec, make_schedule(DiffusionSpec()), (1,), CPU)
    mask, outline = torch.zeros(N, SIDE, SIDE, dtype=torch.long), torch.ones(N, SIDE, SIDE, dtype=torch.bool)
    recipes = [Recipe(str(k), mask, outline, torch.zeros(SIDE, SIDE), 0.5, seed=k) for k in range(volumes)]
    return draw_volumes(model, recipes, ONE_BY_ONE, windows.add)


def test_the_next_volume_is_drawn_while_one_is_decoded() -> None:
    windows, met = Windows(), list[bool]()

    def before(number: int) -> None:
        if number == 0:
            met.append(windows.reach(2))

    assert [volume.name for volume in draw(before, windows, 3)] == ["0", "1", "2"]
    assert met == [True]


def test_drawing_waits_where_enough_volumes_wait_for_being_decoded() -> None:
    """The volume that is being decoded and DECODED_AHEAD behind it, and no more."""
    windows, met = Windows(), list[bool]()

    def before(number: int) -> None:
        if number == 0:
            met.extend([windows.reach(1 + DECODED_AHEAD), windows.reach(2 + DECODED_AHEAD, seconds=1)])

    assert len(list(draw(before, windows, 4 + DECODED_AHEAD))) == 4 + DECODED_AHEAD
    assert met == [True, False]


def test_an_error_in_decoding_reaches_the_caller_before_all_is_drawn() -> None:
    windows = Windows()

    def before(number: int) -> None:
        if number == 1:
            raise ArithmeticError("latents that are no numbers")

    volumes = draw(before, windows, 6 + DECODED_AHEAD)
    assert next(volumes).name == "0"
    with pytest.raises(ArithmeticError, match="latents that are no numbers"):
        next(volumes)
    assert windows.drawn <= 2 + DECODED_AHEAD
