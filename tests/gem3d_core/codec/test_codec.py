"""The frozen first stage: orthonormal, lossless, deterministic, and the same again from its folder."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gem3d_core.codec.haar import Haar, fit_haar, haar, inverse_haar
from gem3d_core.codec.interface import load_codec, psnr
from gem3d_core.codec.kl import find_kl, open_kl
from gem3d_core.codec.kl_training import train_kl
from gem3d_core.errors import BadInput, NotAvailable
from gem3d_core.machine.out_of_memory import in_batches
from gem3d_core.spec.method import CodecSpec

TINY = CodecSpec(kind="kl", weights="train", train_steps=3, base_channels=8)


def phantoms(count: int = 6, H: int = 16, W: int = 24, seed: int = 0) -> Tensor:
    """Smooth slices in [-1, 1]: a bright disc of varying size on a ramp, with a little noise."""
    rng = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, H), torch.linspace(-1, 1, W), indexing="ij")
    radius = 0.3 + 0.4 * torch.rand(count, 1, 1, generator=rng)
    disc = (x**2 + y**2).sqrt() < radius
    noise = 0.02 * torch.randn(count, H, W, generator=rng)
    return (0.8 * disc - 0.5 + 0.2 * x + noise).clamp(-1, 1)


@st.composite
def wavelet_inputs(draw: st.DrawFn) -> tuple[Tensor, int]:
    levels = draw(st.integers(1, 3))
    sides = st.integers(1, 4).map(lambda k: k * 2**levels)
    shape = (draw(st.integers(1, 3)), 1, draw(sides), draw(sides))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return draw(st.sampled_from([1e-3, 1.0, 1e3])) * torch.randn(shape, generator=rng), levels


@settings(max_examples=80, deadline=None)
@given(wavelet_inputs())
def test_haar_keeps_energy_and_loses_nothing(drawn: tuple[Tensor, int]) -> None:
    x, levels = drawn
    z = haar(x, levels)
    assert z.shape == (len(x), 4**levels, x.shape[2] // 2**levels, x.shape[3] // 2**levels)
    torch.testing.assert_close(z.double().square().sum(), x.double().square().sum(), rtol=1e-5, atol=0)
    torch.testing.assert_close(inverse_haar(z, levels), x, rtol=1e-5, atol=1e-5 * float(x.abs().max()))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_haar_is_an_orthonormal_matrix(levels: int) -> None:
    side = 2**levels
    basis = torch.eye(side * side).reshape(-1, 1, side, side)
    matrix = haar(basis, levels).flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(side * side), atol=1e-6, rtol=0)


def test_haar_keeps_cells_where_they_lie() -> None:
    """Latent cell (i, j) depends on the pixels below it alone, and channel 0 is their mean up to a factor."""
    x = torch.zeros(1, 1, 8, 8)
    x[..., 4:, :4] = 3
    z = haar(x, 2)
    expected = torch.tensor([[0.0, 0.0], [12.0, 0.0]])
    assert torch.equal(z[0, 0], expected)
    assert torch.equal(z[0, 1:], torch.zeros(15, 2, 2))


def test_a_side_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(BadInput, match=r"slice size \(12, 16\) cannot be halved 3 times.*multiple of 8"):
        haar(torch.zeros(1, 1, 12, 16), 3)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_haar_codec_round_trips_slices_and_folders(levels: int, tmp_path: Path) -> None:
    slices = phantoms(H=24, W=16)
    codec = fit_haar(CodecSpec(levels=levels), slices)
    z = codec.encode(slices)
    assert (codec.channels, codec.factor) == (4**levels, 2**levels)
    assert z.shape == (6, codec.channels, 24 // codec.factor, 16 // codec.factor)
    torch.testing.assert_close(codec.decode(z), slices, atol=1e-5, rtol=0)

    codec.save(tmp_path / "codec")
    again = load_codec(tmp_path / "codec")
    assert isinstance(again, Haar)
    assert torch.equal(again.encode(slices), z)
    assert torch.equal(again.decode(z), codec.decode(z))


def test_haar_latents_have_unit_variance_and_the_emphasis_their_spread() -> None:
    slices = phantoms(count=40)
    spread = haar(slices[:, None], 2).std(dim=(0, 2, 3))
    codec = fit_haar(CodecSpec(levels=2), slices)
    z = codec.encode(slices)
    torch.testing.assert_close(codec.emphasis, spread / spread.max(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(16), rtol=1e-3, atol=0)


def test_slices_without_contrast_encode_to_finite_latents() -> None:
    blank = torch.full((4, 8, 8), -1.0)
    codec = fit_haar(CodecSpec(levels=2), blank)
    assert bool(codec.encode(phantoms(2, 8, 8)).isfinite().all())
    torch.testing.assert_close(codec.decode(codec.encode(blank)), blank, atol=1e-5, rtol=0)


def test_trained_kl_encodes_the_mean_and_round_trips_through_its_folder(tmp_path: Path) -> None:
    slices = phantoms(20)
    codec = train_kl(TINY, slices, 5, tmp_path / "checkpoints")
    z = codec.encode(slices)
    assert (codec.channels, codec.factor, z.shape) == (4, 8, (20, 4, 2, 3))
    torch.manual_seed(1)
    assert torch.equal(codec.encode(slices), z)  # the mean: no draw
    assert float(z.std()) == pytest.approx(1, rel=1e-3)
    decoded = codec.decode(z)
    assert decoded.shape == slices.shape
    assert not any(p.requires_grad for p in codec.model.parameters())

    codec.save(tmp_path / "codec")
    for again in (load_codec(tmp_path / "codec"), open_kl(tmp_path / "codec")):
        torch.testing.assert_close(again.encode(slices), z, atol=1e-6, rtol=0)
        torch.testing.assert_close(again.decode(z), decoded, atol=1e-6, rtol=0)


def test_kl_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    slices = phantoms(5)
    codec = train_kl(TINY, slices, 0, tmp_path)
    whole = codec.encode(slices)
    codec.batch = 2
    torch.testing.assert_close(codec.encode(slices), whole, atol=1e-5, rtol=0)


def test_a_kl_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match=r"^codec.weights='.*no-such-folder.*config\.json.*codec\.kind=haar$"):
        find_kl(str(tmp_path / "no-such-folder"), download=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotAvailable, match="empty"):
        open_kl(tmp_path / "empty")


def test_a_kl_of_the_hub_is_found_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "hub" / "models--someone--kl-f2"
    trained = train_kl(TINY, phantoms(), 0, tmp_path / "checkpoints")
    trained.save(place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = find_kl("someone/kl-f2", download=False)
    assert found == place / "snapshots" / commit
    with pytest.raises(NotAvailable, match="someone/other"):
        find_kl("someone/other", download=False)


def test_an_unfinished_kl_folder_is_not_available(tmp_path: Path) -> None:
    folder = tmp_path / "codec"
    train_kl(TINY, phantoms(), 0, tmp_path / "checkpoints").save(folder)
    next(folder.glob("*.safetensors")).unlink()
    assert json.loads((folder / "codec.json").read_text())["kind"] == "kl"
    with pytest.raises(NotAvailable):
        open_kl(folder)


@pytest.mark.parametrize("error", [0.5, 0.01])
def test_psnr_of_a_constant_error_in_closed_form(error: float) -> None:
    slices = torch.zeros(2, 8, 8)
    assert psnr(slices, slices + error) == pytest.approx(20 * math.log10(2 / error), abs=1e-3)


def test_psnr_clamps_the_reconstruction_and_bounds_the_lossless() -> None:
    slices = torch.ones(2, 8, 8)
    assert psnr(slices, slices + 5) == psnr(slices, slices) == pytest.approx(10 * math.log10(4 / 1e-20))


def test_a_batch_of_slices_that_does_not_fit_into_memory_is_halved() -> None:
    most, sizes = 3, list[int]()

    def double(slices: Tensor) -> Tensor:
        if len(slices) > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        sizes.append(len(slices))
        return 2 * slices

    x = torch.arange(10.0)
    assert torch.equal(in_batches(double, 8, x), 2 * x)
    assert sizes == [2, 2, 2, 2, 2]
    most = 0
    with pytest.raises(RuntimeError, match="allocate memory"):
        in_batches(double, 8, x)
