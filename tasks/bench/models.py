"""`gem3d bench`: measurements on the models and test volumes of a catalog."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import nn

from configs import Config, change, load
from data_catalog import Artifact, Catalog
from gem3d_core.bench.comparison import Comparison, Speed, largest_difference, summarise, yardstick
from gem3d_core.bench.sampling import Measured, Method, Results, Score, Scores, measure, reference_method
from gem3d_core.bench.training import TrainingCase, TrainingComparison, compare_training
from gem3d_core.budget.costs import MATRIX_PRODUCTS, matrix_flops, network_cost
from gem3d_core.errors import BadInput, NotAvailable
from gem3d_core.machine.devices import resolved
from gem3d_core.machine.files import read_json, write_json
from gem3d_core.metrics.continuity import all_differences, border_ratio, smoothness_ratio
from gem3d_core.metrics.features import load_lpips
from gem3d_core.metrics.paired import lpips_distance, ms_ssim
from gem3d_core.prepare.split import evenly
from gem3d_core.sampling.literal import STEPS
from gem3d_core.sampling.volumes import Recipe, VolumeModel
from gem3d_core.spec.method import SampleSpec
from tasks.artifacts.lineage import refs_behind
from tasks.artifacts.model import configuration_of, newest_volume_model, open_volume_model, sampler
from tasks.artifacts.prepared import Prepared, open_prepared
from tasks.evaluation.paired import paired_recipe
from tasks.evaluation.weights import weights_folder
from tasks.frame.code_version import code_version
from tasks.frame.policy import accelerator
from tasks.frame.progress import Progress, open_progress
from tasks.frame.stage import canonical

VOLUMES = 8
"""Test volumes where not all are asked for, with one seed."""
TOGETHER = 8
"""Volumes that are measured as a whole, because their windows share network calls."""
SEEDS = 3
"""Where all test volumes are asked for."""


@dataclass(frozen=True)
class _Subject:
    """What is measured on."""

    catalog: Catalog
    model: Artifact
    prepared: Prepared
    config: Config
    cases: tuple[str, ...]
    seeds: tuple[int, ...]

    def drawn_by(self, method: Method) -> list[tuple[str, int]]:
        """Cases and seeds; of the literal algorithm a few volumes."""
        if method.literal:
            return [(case, self.seeds[0]) for case in evenly(self.cases, VOLUMES)]
        return [(case, seed) for seed in self.seeds for case in self.cases]


def bench_sampling(
    address: str, model: str | None, steps: tuple[int, ...], overrides: Mapping[str, object], *, full: bool
) -> Comparison:
    """Re-sampling of test volumes beside Algorithm 1, and with other numbers of steps.

    full: all test volumes with three seeds. Algorithm 1 is drawn to the letter for as many volumes as else, with one
    seed; for the others the fast path stands in at its settings, which draws the same volumes. overrides: settings of
    `resample` and `runtime` in place of those that the model was made with. Volumes are drawn eight at a time; those
    that are finished are kept in the catalog's working folder until all are, so that after an interruption the same
    call goes on from there. Raises BadInput where there is no volume model, no test volume, or no such step.
    """
    subject = _subject(Catalog.open(address), model, overrides, full=full)
    _check_steps(subject.config, steps)
    with accelerator(subject.config) as device, open_progress("bench sampling") as progress:
        opened = open_volume_model(subject.catalog, subject.model, subject.config, device)
        spec = sampler(
            subject.config, opened, [subject.prepared.cases[case].depth for case in subject.cases[:TOGETHER]]
        )
        ours, others = _methods(replace(spec, precision=resolved(spec.precision, opened.device)), steps)
        if subject.config.runtime.compile:
            ours, others = (replace(ours, compiled=True), [replace(other, compiled=True) for other in others])
        reference = reference_method()
        same = replace(ours, spec=replace(reference.spec, batch=ours.spec.batch))
        others = [same, *others] if full else others
        score, missing = _score(subject, device)
        product = matrix_flops(opened.device, MATRIX_PRODUCTS)
        scratch = _scratch_key(subject, ours, missing, device)
        with subject.catalog.work.hold(scratch) as folder:
            methods = list(dict.fromkeys([reference, ours, *others]))
            results = _measure_all(subject, opened, methods, score, folder, progress)
            subject.catalog.work.clear(scratch)
        speed = _speed(subject, opened, product)
    against = yardstick(results[reference], results.get(same, {}))
    rows = {method: summarise(method, results[method], against, speed) for method in methods[1:]}
    return Comparison(
        speedup=rows[ours].speedup,
        reference=summarise(reference, results[reference], against, speed, against.quality),
        ours=rows[ours],
        others=tuple(rows[method] for method in others),
        model=subject.model.ref.full,
        volumes=len(subject.cases),
        seeds=subject.seeds,
        device=_device_name(device),
        threads=torch.get_num_threads(),
        matrix_flops=speed.matrix_flops,
        missing=missing,
        literal_volumes=len(results[reference]),
        difference=largest_difference(results[reference], results[same]) if full else None,
    )


def bench_training(profile: str, windows: int, steps: int) -> TrainingComparison:
    """The slice network of a profile, trained on random slices through a KL-f8 codec of the paper's size.

    The slices are of the profile's size, rounded up to what codec and network can halve as often as they do.
    """
    config = load(profile)
    halvings = 8 * 2 ** (len(config.unet.multipliers) - 1)
    H, W = (-(-side // halvings) * halvings for side in config.prepare.slice_size)
    with accelerator(config) as device:
        case = TrainingCase(
            unet=config.unet,
            size=(H, W),
            n=config.condition.window,
            windows=windows,
            device=torch.device(device),
            precision=config.train_slices.precision,
        )
        return compare_training(case, steps)


def _subject(catalog: Catalog, model: str | None, overrides: Mapping[str, object], *, full: bool) -> _Subject:
    artifact = catalog.get(model) if model else newest_volume_model(catalog, ["volume"])
    if artifact is None:
        raise BadInput(f"{catalog.address} holds no volume model of a dataset: train one with `gem3d enhance`")
    if artifact.meta.get("network") != "volume":
        raise BadInput(f"{artifact.ref} is no volume model, with which alone Algorithm 1 samples: name one")
    config = change(configuration_of(catalog, artifact), overrides)
    prepared = open_prepared(catalog, catalog.get(refs_behind(catalog, artifact).prepared))
    if not prepared.test:
        raise BadInput(f"{artifact.ref} has no test volumes: its dataset has fewer than two patients")
    cases = evenly(prepared.test, None if full else VOLUMES)
    seeds = range(config.seed, config.seed + (SEEDS if full else 1))
    return _Subject(catalog, artifact, prepared, config, tuple(cases), tuple(seeds))


def _check_steps(config: Config, steps: tuple[int, ...]) -> None:
    T = config.diffusion.T
    if wrong := [k for k in (STEPS, *steps) if not 1 <= k <= T]:
        raise BadInput(f"{wrong[0]} sampling steps of a process of {T}: choose 1 to {T}")


def _methods(ours: SampleSpec, steps: tuple[int, ...]) -> tuple[Method, list[Method]]:
    """The model's own sampler settings; and others in steps, in the first window's place, and the release's sampler."""
    others = [replace(ours, steps=k) for k in steps]
    if steps:
        others.append(replace(ours, first_window="at_start"))
        others.append(replace(ours, solver="ddim", steps=STEPS, eta=1.0, resample=1))
    return Method(ours), [Method(spec) for spec in others]


def _scratch_key(subject: _Subject, ours: Method, missing: Mapping[str, str], device: str) -> str:
    """A hash of all that a measurement depends on, the machine included."""
    identity = {
        "bench": "sampling",
        "model": subject.model.ref.full,
        "cases": subject.cases,
        "seeds": subject.seeds,
        "method": ours,
        "missing": sorted(missing),
        "code": code_version(__name__),
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
    }
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


def _score(subject: _Subject, device: str) -> tuple[Score, dict[str, str]]:
    """MS-SSIM and LPIPS to the true test volume, and what cannot be measured."""
    prepared = subject.prepared
    network: nn.Module | None = None
    missing: dict[str, str] = {}
    try:
        network = load_lpips(weights_folder(subject.config), device)
    except NotAvailable as reason:
        missing["LPIPS"] = str(reason)

    def score(case: str, slices: np.ndarray, borders: tuple[int, ...]) -> Scores:
        true, outline = prepared.image(case), prepared.outline(case)
        distance = None if network is None else lpips_distance(slices, true, network, outline)
        drawn, real = all_differences(slices), all_differences(true)
        ratios = [ratio for ratio in smoothness_ratio(drawn, real).values() if ratio is not None]
        smoothness = sum(ratios) / len(ratios) if ratios else math.nan
        return Scores(ms_ssim(slices, true, outline), distance, border_ratio(drawn, borders), smoothness)

    return score, missing


def _measure_all(
    subject: _Subject, model: VolumeModel, methods: list[Method], score: Score, folder: Path, progress: Progress
) -> dict[Method, Results]:
    """One method after the other, so that none measures what another left behind; what is finished is not redone."""
    files = {
        (method, case, seed): folder / f"{method.name}-{seed}-{case}.json"
        for method in methods
        for case, seed in subject.drawn_by(method)
    }
    progress.total(len(files), "volumes drawn")
    for method in methods:
        for seed in subject.seeds:
            cases = [c for m, c, s in files if (m, s) == (method, seed)]
            for first in range(0, len(cases), TOGETHER):
                together = cases[first : first + TOGETHER]
                if all(read_json(files[method, case, seed]) is not None for case in together):
                    continue
                recipes = partial(_recipes, subject.prepared, together, seed)
                for case, measured in measure(model, method, recipes, score).items():
                    write_json(files[method, case, seed], asdict(measured))
                progress.at(sum(file.exists() for file in files.values()), method.name)
    read = {key: TypeAdapter(Measured).validate_python(read_json(file)) for key, file in files.items()}
    return {m: {(case, seed): one for (method, case, seed), one in read.items() if method == m} for m in methods}


def _recipes(prepared: Prepared, cases: list[str], seed: int) -> Iterator[Recipe]:
    for case in cases:
        yield paired_recipe(prepared, case, seed)


def _speed(subject: _Subject, model: VolumeModel, product: float) -> Speed:
    """product: operations a second of the matrix product as it was before; a machine that others use varies."""
    facts = model.network.facts
    height, width = (side // model.codec.factor for side in subject.config.prepare.slice_size)
    cost = network_cost(facts, facts.window, (height, width))
    now = matrix_flops(model.device, MATRIX_PRODUCTS)
    return Speed(cost.forward_flops, max(product, now), facts.condition.informed)
