"""Algorithm 1 of the paper (Appendix B) to the letter: the yardstick of speed, and the oracle of the fast sampler.

One volume, one window, one direction at a time; DDIM with 200 steps (Appendix A); float32. It shares no line with
`sampling`, `windows` and `solvers`: only the request, the schedule and the names of the noise generators.

Where the release errs, it does as the paper says: pinned slices stand at the noise level of the timestep that the
sample moves to, both directions go on from the first window, and the last window of each is shifted to the volume's
end, where all finished slices that it covers are pinned where they lie.
"""

from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor

from gem3d_core.diffusion.schedule import Schedule
from gem3d_core.networks.conditions import Conditions, encode_mask
from gem3d_core.networks.volumetric import VolumeNetwork
from gem3d_core.sampling.batched import VolumeRequest
from gem3d_core.sampling.volumes import OUTSIDE, Recipe, VolumeModel
from gem3d_core.seeds import generator

STEPS = 200
"""DDIM steps of a window (Appendix A)."""


class Algorithm1:
    """Bi-directional sampling with the paper's letters: w is a window, o a pinned slice, h the overlap.

    `steps` and `eta` are DDIM's: eta = 0 deterministic, 1 ancestral. `network_calls` counts all calls so far.
    """

    def __init__(
        self,
        network: VolumeNetwork,
        schedule: Schedule,
        device: torch.device,
        h: int = 1,
        steps: int = STEPS,
        eta: float = 0.0,
    ) -> None:
        self.network = network.to(memory_format=torch.contiguous_format)  # as torch lays weights out by itself
        self.schedule = schedule
        self.device = device
        self.n, self.h = network.n, h
        self.times = [*schedule.timesteps(steps), -1]
        self.eta = eta
        self.network_calls = 0

    # as written also where the network is compiled for the fast path
    @torch.compiler.set_stance("force_eager")  # type: ignore[untyped-decorator]  # torch gives it no types
    @torch.no_grad()
    def sample(self, request: VolumeRequest) -> Tensor:
        """Latents {x_0, ..., x_Z-1}_0, (Z, c, h, w) float32 on the CPU, of one volume (lines 3-27)."""
        Z, n, h = len(request.condition), self.n, self.h
        x = torch.zeros(Z, *request.informed.shape)

        # First Sampling (lines 3-9)
        j = max(0, min(request.start, Z - n))
        low, high = j, min(j + n, Z)  # slices low ... high - 1 are finished
        w = self._denoise(request, j, x, slice(0, 0), c_I=request.informed, i=request.start)
        x[low:high] = w[: high - low]

        # Bi-directional Propagation, UP (lines 10-27)
        while high < Z:
            j = min(high - h, Z - n)
            w = self._denoise(request, j, x, slice(0, high - j), c_I=x[high - 1], i=high - 1)
            x[high : j + n] = w[high - j :]
            high = j + n

        # DOWN
        while low > 0:
            j = max(low + h - n, 0)
            w = self._denoise(request, j, x, slice(low - j, n), c_I=x[low], i=low)
            x[j:low] = w[: low - j]
            low = j
        return x

    def _denoise(self, request: VolumeRequest, j: int, x: Tensor, known: slice, c_I: Tensor, i: int) -> Tensor:
        """{x_j, ..., x_j+n-1}_0, (n, c, h, w), of one window (lines 7-9, 15-25).

        x (Z, c, h, w): the finished slices. known: slots of the window that are pinned to them.
        c_I (c, h, w): the informed slice, with its slice index i.
        """
        slices = [min(j + k, len(x) - 1) for k in range(self.n)]  # a short volume repeats its last slice
        o_0 = x[slices].to(self.device)
        c_M = request.condition[slices].to(self.device)
        offset = torch.arange(j - i, j - i + self.n, dtype=torch.float32, device=self.device)
        informed = c_I.expand_as(o_0).to(self.device) if self.network.facts.condition.informed else None
        c = self.network.prepared(Conditions(c_M, informed, offset, torch.ones_like(offset)))  # lines 8 and 19
        rng = generator(request.seed, "window", j)

        def noise(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=rng).to(self.device)

        first = [generator(request.seed, "first", j + k) for k in range(self.n)]
        w = torch.stack([torch.randn(o_0.shape[1:], generator=g) for g in first]).to(self.device)
        o_0 = o_0[known]
        w[known] = self._noised(o_0, self.times[0], noise(o_0))
        for t, s in pairwise(self.times):
            w = self._ddim_step(w, self._x_0(w, t, c), t, s, noise(w) if self.eta else torch.zeros_like(w))
            w[known] = self._noised(o_0, s, noise(o_0))  # lines 22 and 24
        return w.cpu()

    def _x_0(self, w: Tensor, t: int, c: Conditions) -> Tensor:
        """The clean window that the network's prediction at timestep t implies."""
        times = torch.full((self.n,), t, device=self.device)
        prediction = self.network(w, times, c)
        self.network_calls += 1
        return self.schedule.to_x0(w, prediction, times)

    def _ddim_step(self, w: Tensor, x_0: Tensor, t: int, s: int, z: Tensor) -> Tensor:
        """w_s of w_t (line 23, by DDIM: Song et al., equations 12 and 16); sigma z is the noise that is added."""
        abar_t, abar_s = self._abar(t), self._abar(s)
        eps = (w - sqrt(abar_t) * x_0) / sqrt(1 - abar_t)
        sigma = self.eta * sqrt((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s))
        return sqrt(abar_s) * x_0 + sqrt(max(1 - abar_s - sigma**2, 0)) * eps + sigma * z

    def _noised(self, o_0: Tensor, s: int, eps: Tensor) -> Tensor:
        """o_s = sqrt(abar_s) o_0 + sqrt(1 - abar_s) eps (line 22)."""
        abar_s = self._abar(s)
        return sqrt(abar_s) * o_0 + sqrt(1 - abar_s) * eps

    def _abar(self, t: int) -> float:
        """abar of timestep t; 1 for -1, which is clean data."""
        return 1.0 if t == -1 else float(self.schedule.abar[t])


def draw_reference(model: VolumeModel, recipe: Recipe, algorithm: Algorithm1) -> Tensor:
    """One volume from its mask and informed slice: encode, sample, decode (lines 2-4, 8, 28-30).

    Slices (Z, H, W) float32 in [-1, 1], -1 outside the outline.
    """
    c_I = model.codec.encode(recipe.informed[None])[0]
    condition = encode_mask(model.network.facts.condition, model.codec, model.labels, recipe.mask, recipe.outline)
    Z = len(condition)
    start = min(int(recipe.p * Z), Z - 1)
    x = algorithm.sample(VolumeRequest(recipe.name, condition, c_I, start, recipe.seed))
    slices = model.codec.decode(x).clamp(-1, 1)
    slices[~recipe.outline] = OUTSIDE
    return slices
