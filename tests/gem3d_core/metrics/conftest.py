"""What tests of the measures share."""

from pathlib import Path

import pytest
import torch
from lpips import LPIPS
from safetensors.torch import save_file

from gem3d_core.metrics.features import LPIPS_TRUNK


@pytest.fixture
def trunk_folder(tmp_path: Path) -> Path:
    """A weights folder with an AlexNet trunk that nobody trained, under torchvision's names."""
    torch.manual_seed(0)
    network = LPIPS(net="alex", pnet_rand=True, verbose=False).net
    trunk = {f"features.{key.split('.', 1)[1]}": 2 * value for key, value in network.state_dict().items()}
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file(trunk, folder / LPIPS_TRUNK)
    return folder
