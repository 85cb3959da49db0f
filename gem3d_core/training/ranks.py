"""Several processes that train one network: what each takes of a batch, and what they agree on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gem3d_core.errors import BadInput


@dataclass(frozen=True)
class Ranks:
    """This process's number among all, as torch.distributed has started them; alone by default.

    Every rank draws the whole batch from the same generator and takes its own rows, so that k ranks at batch b take
    the very steps of one at batch k b.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and tells for all."""
        return self.rank == 0

    def rows(self, total: int) -> slice:
        """This rank's share of a batch. Raises BadInput where the ranks cannot share it evenly."""
        if total % self.count:
            raise BadInput(f"a batch of {total} cannot be shared by {self.count} processes: choose a multiple of them")
        share = total // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type and device by their mean over the ranks, in one exchange."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        torch.distributed.all_reduce(flat)
        parts = torch.split(flat / self.count, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def mean(self, value: float, device: torch.device) -> float:
        """The mean of a number over the ranks."""
        return self._sum(value, device) / self.count

    def any(self, flag: bool, device: torch.device) -> bool:  # noqa: FBT001
        """Whether any rank raised the flag."""
        return self._sum(float(flag), device) > 0

    def _sum(self, value: float, device: torch.device) -> float:
        if self.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(total)
        return float(total)


ALONE = Ranks()
