"""The objective of Pix2Pix (Isola et al.), for a whole network that draws a volume in one step."""

from dataclasses import dataclass

from torch import Tensor
from torch.func import functional_call

from gem3d_core.diffusion.losses import Example
from gem3d_core.diffusion.schedule import Schedule
from gem3d_core.networks.conditions import Conditions
from gem3d_core.networks.whole import Discriminator

REALISM = 0.01
"""Weight of the discriminator's verdict beside the L1 distance, whose weight is 1 on average over the channels
[Pix2Pix: 1 beside 100]."""


@dataclass(frozen=True)
class Verdict:
    """A discriminator that is told the conditions of a batch."""

    discriminator: Discriminator
    conditions: Conditions

    def learning(self, x: Tensor) -> Tensor:
        """What it says of a clean volume ((b n) c h w), for its own learning."""
        said: Tensor = self.discriminator(x, self.conditions)
        return said

    def fixed(self, x: Tensor) -> Tensor:
        """The same without a gradient for its weights: for the learning of who drew x."""
        weights = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        said: Tensor = functional_call(self.discriminator, weights, (x, self.conditions))
        return said


def adversarial_loss(example: Example, schedule: Schedule) -> Tensor:
    """L1 to the true volume, realism, and the discriminator's own loss in one sum (least squares, Mao et al.).

    Network and discriminator step together: neither term has a gradient for the weights of the other.
    """
    verdict = example.judge
    assert verdict is not None
    noise = schedule.add_noise(example.clean, example.eps, example.t)
    drawn = schedule.to_x0(noise, example.predict(noise, example.t).float(), example.t)

    distance = (drawn - example.clean).abs()
    if example.emphasis is not None:
        distance = distance * (example.emphasis / example.emphasis.mean())[:, None, None]
    realism = (verdict.fixed(drawn) - 1).square().mean()
    true, false = verdict.learning(example.clean), verdict.learning(drawn.detach())
    telling = ((true - 1).square().mean() + false.square().mean()) / 2
    total: Tensor = distance.mean() + REALISM * realism + telling
    return total
