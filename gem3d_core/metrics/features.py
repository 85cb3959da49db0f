"""Networks that others trained, used as rulers: feature extractors for FID and the perceptual network of LPIPS.

Weights are looked for where they are allowed to be and never replaced by something else: what cannot be found
raises NotAvailable with what to do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import interpolate

from gem3d_core.codec.efficientnet import efficientnet_lite0_network
from gem3d_core.errors import Gem3dError, NotAvailable
from gem3d_core.machine.download import fetch

Slices = NDArray[np.float32]
LPIPS_TRUNK = "alexnet_features.safetensors"
DOWNLOADS = {LPIPS_TRUNK: "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"}
"""Where torchvision publishes the same weights; such a name ends in the first digits of the file's sha256."""


@dataclass(frozen=True)
class Extractor:
    """Pooled features of a frozen network for grey slices.

    Calling it on (N, h, w) slices in [-1, 1] gives (N, dim) float32. Slices are resized bilinearly
    (antialiased) to side x side, repeated to three channels and shifted by `mean` to what the network was
    trained on.
    """

    name: str
    dim: int
    side: int
    network: nn.Module
    device: torch.device
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0

    @torch.inference_mode()
    def __call__(self, slices: Slices) -> Slices:
        grey = torch.from_numpy(np.ascontiguousarray(slices, dtype=np.float32))[:, None].to(self.device)
        grey = interpolate(grey, size=(self.side, self.side), mode="bilinear", antialias=True)
        colour = (grey * self.scale).repeat(1, 3, 1, 1) - grey.new_tensor(self.mean)[None, :, None, None]
        # channels last halves the time of depthwise convolutions on a CPU
        colour = colour.contiguous(memory_format=torch.channels_last)
        features: Slices = self.network(colour).float().cpu().numpy()
        return features


def efficientnet_lite0(device: str | torch.device = "cpu") -> Extractor:
    """ImageNet's EfficientNet-Lite0; needs no network. Raises NotAvailable where a package is missing."""
    name, network = "EfficientNet-Lite0 (ImageNet)", efficientnet_lite0_network()
    return _frozen(Extractor(name, 1280, 224, network, torch.device(device)))


def radimagenet_resnet50(path: Path, device: str | torch.device = "cpu") -> Extractor:
    """RadImageNet's ResNet-50 (the paper's choice for FID) from a weights file.

    Two published files are understood and told apart by their keys: RadImageNet's own PyTorch file
    (`backbone.0.weight`; values in [-1, 1]) and the hub port of its Keras weights that MONAI's examples use
    (`conv1.bias`; values in [0, 1] less the ImageNet means, blue first). A classifier in the file is ignored.
    Raises NotAvailable where the file is missing or is neither.
    """
    if not path.is_file():
        remedy = "ask for it at radimagenet.com and give its path, or use EfficientNet-Lite0"
        raise NotAvailable(f"RadImageNet ResNet-50: no file {path}; {remedy}")
    import timm

    network = timm.create_model("resnet50", pretrained=False, num_classes=0)
    stored = {key.removeprefix("module."): value for key, value in _read_weights(path).items()}
    stored = {key: value for key, value in stored.items() if not key.startswith("fc.")}
    from_keras = "conv1.bias" in stored
    weights = _without_biases(stored) if from_keras else _by_child_name(stored, network)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        expected = "expected RadImageNet's ResNet50.pt or the hub's RadImageNet-ResNet50_notop.pth"
        raise NotAvailable(f"{path} does not hold that ResNet-50 ({str(error)[:200]}); {expected}") from error
    name, where = "ResNet-50 (RadImageNet)", torch.device(device)
    if not from_keras:
        return _frozen(Extractor(name, 2048, 224, network, where))
    _stride_as_keras(network)
    # (v + 1) / 2 - mean, written as v / 2 - (mean - 1 / 2)
    mean = (0.406 - 0.5, 0.456 - 0.5, 0.485 - 0.5)
    return _frozen(Extractor(name, 2048, 224, network, where, mean=mean, scale=0.5))


def find_weights(name: str, folder: Path | None, *, download: bool = False) -> Path:
    """The weights file `name` in `folder`, else in torch's hub cache, else (if asked) downloaded to there.

    In the cache it may also lie under the name that torchvision's downloads have.
    Raises NotAvailable that says where was looked (without this machine's paths: reports tell it) and what to do.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    published = DOWNLOADS.get(name)
    places = [cache / name] if folder is None else [folder / name, cache / name]
    places += [cache / published.rpartition("/")[2]] if published else []
    for place in places:
        if place.is_file():
            return place
    if download and published:
        return _download(published, places[-1])
    looked = "torch's hub cache" if folder is None else f"the folder {folder.name} and torch's hub cache"
    raise NotAvailable(f"weights {name} not found in {looked}; {_remedy(name)}")


def _remedy(name: str) -> str:
    return f"put {name} into a folder and name it by --weights or GEM3D_WEIGHTS"


def _download(url: str, destination: Path) -> Path:
    try:
        fetch(url, None, destination, attempts=1)  # asked for at every run: one without a network shall not wait
    except Gem3dError as error:
        remedy = _remedy(destination.name)
        raise NotAvailable(f"weights could not be downloaded ({error}); {remedy}") from error
    expected = destination.stem.rpartition("-")[2]
    with destination.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(expected):
        destination.unlink()
        raise NotAvailable(f"{url} came with sha256 {found[:8]}..., expected {expected}...; try again later")
    return destination


def load_lpips(weights: Path | None, device: str | torch.device = "cpu", *, download: bool = True) -> nn.Module:
    """LPIPS 0.1 with AlexNet: the linear heads ship with `lpips`, the trunk is looked for as in `find_weights`.

    The module maps two (N, 3, h, w) float tensors in [-1, 1] to (N, 1, 1, 1) distances.
    Raises NotAvailable where the trunk is missing or is not AlexNet's.
    """
    import lpips

    path = find_weights(LPIPS_TRUNK, weights, download=download)
    stored = {
        key.removeprefix("features."): value
        for key, value in _read_weights(path).items()
        if key.startswith("features.")
    }
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    trunk = {key.split(".", 1)[1]: key for key in network.net.state_dict()}
    if set(trunk) != set(stored):
        found = f"{path} holds {sorted(stored)[:4]}..."
        raise NotAvailable(f"{found}: expected torchvision's AlexNet features ({sorted(trunk)[:4]}...)")
    network.net.load_state_dict({trunk[key]: value for key, value in stored.items()})
    frozen: nn.Module = network.eval().requires_grad_(requires_grad=False).to(device)
    return frozen


def _frozen(extractor: Extractor) -> Extractor:
    network = extractor.network.eval().requires_grad_(requires_grad=False)
    network.to(extractor.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    return extractor


def _read_weights(path: Path) -> Mapping[str, torch.Tensor]:
    """A state dict from safetensors or from torch's format, read without executing anything from the file."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler meets
        raise NotAvailable(f"{path} is not a weights file that can be read safely: {error}") from error
    nested = stored.get("state_dict", stored) if isinstance(stored, dict) else None
    if not isinstance(nested, dict):
        raise NotAvailable(f"{path} holds a {type(stored).__name__}: expected a state dict")
    return nested


def _by_child_name(stored: Mapping[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """RadImageNet numbers the children of a ResNet: `backbone.4.0.conv1` is `layer1.0.conv1`."""
    children = [name for name, _ in network.named_children()]
    named = {}
    for key, value in stored.items():
        head, _, rest = key.removeprefix("backbone.").partition(".")
        known = key.startswith("backbone.") and head.isdigit() and int(head) < len(children)
        named[f"{children[int(head)]}.{rest}" if known else key] = value
    return named


def _without_biases(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keras' convolutions have biases; normalisation follows each, so its running mean takes them up exactly."""
    weights = dict(stored)
    for key in list(weights):
        stem, _, kind = key.rpartition(".")
        norm = stem.replace("conv", "bn") if "conv" in stem else f"{stem.removesuffix('0')}1"
        is_convolution = kind == "bias" and stored[f"{stem}.weight"].ndim == 4
        if is_convolution and f"{norm}.running_mean" in weights:
            weights[f"{norm}.running_mean"] = weights[f"{norm}.running_mean"] - weights.pop(key)
    return weights


def _stride_as_keras(network: nn.Module) -> None:
    """Keras' ResNet-50 halves the image in a block's first convolution, and its normalisation has another eps."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1.001e-5
        first, second = getattr(module, "conv1", None), getattr(module, "conv2", None)
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d):
            first.stride, second.stride = second.stride, first.stride
