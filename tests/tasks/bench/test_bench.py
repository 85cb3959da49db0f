"""`gem3d bench sampling` on tiny random networks: numbers that fit together, and measurements that go on."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from configs import load
from data_catalog import Artifact, Catalog
from gem3d_core.bench import sampling
from gem3d_core.bench.comparison import Comparison
from gem3d_core.bench.sampling import Measured, Method
from gem3d_core.codec.haar import Haar
from gem3d_core.errors import BadInput, NotAvailable
from gem3d_core.networks.files import build
from gem3d_core.networks.volumetric import VolumeNetwork
from gem3d_core.sampling.model import ModelFacts, save_model
from gem3d_core.sampling.volumes import Recipe, VolumeModel
from gem3d_core.spec.method import NetworkFacts, SampleSpec
from tasks.artifacts.configuration import as_yaml
from tasks.artifacts.prepared import Prepared
from tasks.bench import models as bench

SIDE, WINDOW = 16, 8
CONFIG = load(
    "smoke",
    {
        "prepare.slice_size": [SIDE, SIDE],
        "unet.base_channels": 8,
        "unet.head_channels": 8,
        "unet.norm_groups": 4,
        "resample.steps": 3,
        "resample.resample": 2,
        "runtime.device": "cpu",
    },
)
DEPTHS = {"short": WINDOW, "deep": 20}
REFERENCE_WINDOWS = {"short": 1, "deep": 4}
"""Overlap 1: slices 10-17 first, then 12-19 up, 3-10 and 0-7 down."""
ROUNDS = 2
"""Batches that draw both volumes: the first windows, of the deep one slices 6-13 or so; up and down."""
CALLS, REFERENCE_CALLS = 5, 4
"""Network calls of a window: three steps, the first two taken twice; the steps of the reference here."""


class Phantoms(Prepared):
    """Made up when they are read."""

    def image(self, case: str) -> np.ndarray:
        rng = np.random.default_rng(DEPTHS[case])
        return rng.uniform(-1, 1, (DEPTHS[case], SIDE, SIDE)).astype(np.float32)

    def mask(self, case: str) -> np.ndarray:
        return (self.image(case) > 0).astype(np.int64)

    def outline(self, case: str) -> np.ndarray:
        return np.ones(self.image(case).shape, bool)


class Distance(nn.Module):
    """In the place of LPIPS."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).abs().mean(dim=(1, 2, 3), keepdim=True)


def put(
    catalog: Catalog, kind: str, name: str, files: dict[str, Path], meta: dict[str, object], *up: Artifact
) -> Artifact:
    facts = {"run_id": "run", "code_version": "0", "config_hash": "0", "seed": 0, "key": f"{kind}-{name}"}
    return catalog.put(kind, name, files=files, meta=meta, parents=[a.ref for a in up], **facts)  # type: ignore[arg-type]  # plain values of a test


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """A volume model with random weights and all that it descends from."""
    catalog = Catalog.open(tmp_path / "catalog")
    source = put(catalog, "source", "N", {}, {"what": "source"})
    prepared = put(catalog, "prepared", "N", {}, {"what": "prepared"}, source)
    Haar(2, torch.zeros(16), torch.ones(16)).save(tmp_path / "codec")
    codec = {f"codec/{file.name}": file for file in (tmp_path / "codec").iterdir()}
    latents = put(catalog, "latents", "N", codec, {"label_ids": [1]}, prepared)
    facts = NetworkFacts("volume", CONFIG.unet, 16, 2, CONFIG.condition)
    known = ModelFacts(facts, CONFIG.diffusion, (1,), ("CT",), (SIDE, SIDE), (1.0, 1.0, 1.0), ())
    weights, folder = build(facts, seed=0).state_dict(), tmp_path / "model"
    save_model(folder, known, weights, tmp_path / "codec", configuration=as_yaml(CONFIG))
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    put(catalog, "model", "N-volume", files, {"network": "volume", "own": True}, latents)

    cases = {case: SimpleNamespace(train=False, depth=Z) for case, Z in DEPTHS.items()}
    monkeypatch.setattr(bench, "open_prepared", lambda catalog, _ref: Phantoms(catalog, prepared, cases))
    monkeypatch.setattr(bench, "load_lpips", lambda _weights, _device: Distance())
    monkeypatch.setattr(bench, "reference_method", lambda: sampling.reference_method(REFERENCE_CALLS))
    monkeypatch.setattr(bench, "STEPS", REFERENCE_CALLS)
    return catalog


def compare(catalog: Catalog, steps: tuple[int, ...] = (), **settings: object) -> Comparison:
    overrides = {name.replace("_", ".", 1): value for name, value in settings.items()}
    return bench.bench_sampling(catalog.address, None, steps, overrides, full=False)


def test_numbers_fit_together(catalog: Catalog) -> None:
    calls = 0

    def count(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        nonlocal calls
        calls += isinstance(module, VolumeNetwork) and not arguments[0].is_meta  # there operations are counted

    handle = nn.modules.module.register_module_forward_pre_hook(count)
    try:
        compared = compare(catalog, (2,))
    finally:
        handle.remove()

    document = json.loads(json.dumps(asdict(compared)))
    assert {"seconds_per_volume", "network_calls", "ms_ssim", "lpips"} <= document["reference"].keys()
    assert document["ours"].keys() == document["reference"].keys()
    reference, ours, (few, at_start, ancestral) = compared.reference, compared.ours, compared.others
    assert compared.speedup == ours.speedup == pytest.approx(reference.seconds_per_volume / ours.seconds_per_volume)
    assert (compared.volumes, compared.seeds, compared.missing) == (2, (0,), {})
    assert (few.solver, few.steps, ancestral.solver, ancestral.eta) == ("dpm++", 2, "ddim", 1.0)
    assert (few.first_window, at_start.first_window) == ("fewest", "at_start")

    windows = sum(REFERENCE_WINDOWS.values())
    by_hand = [windows * REFERENCE_CALLS, ROUNDS * CALLS, ROUNDS * 3, 3 * CALLS, ROUNDS * REFERENCE_CALLS]
    assert [2 * row.network_calls for row in (reference, ours, few, at_start, ancestral)] == by_hand
    warming_up = REFERENCE_WINDOWS["deep"] + 3 * ROUNDS + 3
    assert calls == sum(by_hand) + warming_up

    operations = [row.flops_per_second * row.seconds_per_volume for row in (reference, ours)]
    assert operations[0] / (5 * REFERENCE_CALLS) == pytest.approx(operations[1] / (4 * CALLS)), (
        "windows of both volumes"
    )
    assert ours.share_of_matrix_product == pytest.approx(ours.flops_per_second / compared.matrix_flops)
    assert reference.lpips is not None
    assert 0 < reference.lpips < 2
    assert not list(Path(catalog.address, "work").iterdir()), "what was kept for going on is removed at the end"


def test_stopped_it_goes_on_with_what_is_left(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[bool, str]] = []
    stopping = True

    def noting(
        model: VolumeModel, method: Method, recipes: Callable[[], Iterable[Recipe]], score: sampling.Score
    ) -> dict[str, Measured]:
        if stopping and len(drawn) == 3:
            raise KeyboardInterrupt
        measured = sampling.measure(model, method, recipes, score)
        drawn.extend((method.literal, case) for case in measured)
        return measured

    monkeypatch.setattr(bench, "TOGETHER", 1)
    monkeypatch.setattr(bench, "measure", noting)
    with pytest.raises(KeyboardInterrupt):
        compare(catalog)
    stopping = False
    resumed = compare(catalog)
    assert sorted(drawn) == sorted((literal, case) for literal in (True, False) for case in DEPTHS)

    monkeypatch.setattr(bench, "measure", sampling.measure)
    whole = compare(catalog)
    assert resumed.reference.network_calls == whole.reference.network_calls
    for part in ("reference", "ours"):
        ours, expected = getattr(resumed, part), getattr(whole, part)
        assert (ours.ms_ssim, ours.lpips) == pytest.approx((expected.ms_ssim, expected.lpips), abs=1e-4)


def test_a_memory_budget_makes_the_batch(catalog: Catalog) -> None:
    plenty, none = compare(catalog, runtime_memory="3GiB"), compare(catalog, runtime_memory="1MiB")
    assert plenty.ours.batch == 3, "one window of the short volume, two directions of the deep one"
    assert none.ours.batch == 1
    assert plenty.ours.ms_ssim == pytest.approx(none.ours.ms_ssim, abs=1e-4)
    with pytest.raises(BadInput, match=r"runtime.memory.*lots"):
        compare(catalog, runtime_memory="lots")


def test_without_the_weights_of_lpips_the_rest_is_measured(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_weights: object, _device: str) -> nn.Module:
        raise NotAvailable("no weights")

    monkeypatch.setattr(bench, "load_lpips", absent)
    compared = compare(catalog)
    assert compared.missing == {"LPIPS": "no weights"}
    assert (compared.ours.lpips, compared.ours.lpips_loss) == (None, None)
    assert compared.ours.ms_ssim_loss is not None


def test_eight_volumes_or_all_with_three_seeds(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {f"{k:02}": SimpleNamespace(train=k > 30) for k in range(40)}
    prepared = bench.open_prepared(catalog, "")
    monkeypatch.setattr(bench, "open_prepared", lambda _catalog, _ref: replace(prepared, cases=cases))
    quick, full = (bench._subject(catalog, None, {}, full=full) for full in (False, True))
    assert (len(quick.cases), quick.seeds) == (8, (0,))
    assert (len(full.cases), full.seeds) == (31, (0, 1, 2))
    literal, fast = sampling.reference_method(), Method(SampleSpec())
    assert [len(subject.drawn_by(literal)) for subject in (quick, full)] == [8, 8]
    assert [len(subject.drawn_by(fast)) for subject in (quick, full)] == [8, 3 * 31]
    assert set(full.drawn_by(literal)) < set(full.drawn_by(fast))


def test_in_full_the_fast_path_stands_in_for_the_reference(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "VOLUMES", 1)
    monkeypatch.setattr(bench, "SEEDS", 2)
    compared = bench.bench_sampling(catalog.address, None, (), {}, full=True)
    assert (compared.volumes, compared.seeds, compared.literal_volumes) == (2, (0, 1), 1)
    assert compared.difference is not None
    assert compared.difference < 1e-4
    (same,) = compared.others
    reference = compared.reference
    assert (same.solver, same.steps, same.eta, same.overlap) == ("ddim", REFERENCE_CALLS, 0.0, 1)
    assert same.first_window == reference.first_window == "at_start"
    assert same.batch == compared.ours.batch > reference.batch == 1
    assert (same.ms_ssim, same.lpips) == pytest.approx((reference.ms_ssim, reference.lpips), abs=1e-4)
    for loss in (same.ms_ssim_loss, same.lpips_loss):
        assert loss is not None
        assert loss.mean == pytest.approx(0, abs=1e-3)
    assert reference.speedup == pytest.approx(1)
    assert compared.speedup == pytest.approx(reference.seconds_per_volume / compared.ours.seconds_per_volume)


def test_bad_requests_are_refused(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="0 sampling steps of a process of 1000"):
        compare(catalog, (5, 0))
    with pytest.raises(BadInput, match="holds no volume model"):
        compare(Catalog.open(tmp_path / "empty"))
    prepared = bench.open_prepared(catalog, "")
    monkeypatch.setattr(bench, "open_prepared", lambda _catalog, _ref: replace(prepared, cases={}))
    with pytest.raises(BadInput, match="has no test volumes"):
        compare(catalog)
