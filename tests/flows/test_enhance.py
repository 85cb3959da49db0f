"""The command line on real input, in processes of its own: what a person does, and what may go wrong meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from data_catalog import Catalog
from gem3d_core.scans.phantoms import write_cohort
from gem3d_core.scans.volumes import read_volume

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
BAD_INPUTS = SHARED / "data" / "Dataset120_BadInputs"
GEM3D = [sys.executable, "-m", "flows.cli.main"]
QUICK = ["--profile", "smoke", "--set", "evaluate.downstream=false", "--set", "evaluate.fidelity=false"]
SECONDS = 420

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Site:
    """A dataset with a test split, a catalog that was filled from it, and what the command said."""

    dataset: Path
    catalog: Path
    document: dict[str, object]

    def artifact_files(self, ref: str) -> dict[str, str]:
        return {name: entry.sha256 for name, entry in Catalog.open(self.catalog).get(ref).files.items()}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "GEM3D_"))}
    kept |= {"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")), "GEM3D_WEIGHTS": str(SHARED / "weights")}
    return kept | {"PYTHONUNBUFFERED": "1"}


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def gem3d(environment: dict[str, str]) -> Command:
    def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [*GEM3D, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert done.returncode == code, done.stderr[-4000:]
        return done

    return run


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, gem3d: Command) -> Site:
    """Phantoms: regions, an MRI background, orientations other than RAS; up to the published dataset at 2x."""
    folder = tmp_path_factory.mktemp("site")
    dataset = write_cohort(folder, cases=6, size=32, seed=3)
    done = gem3d("enhance", dataset, *QUICK, "--factor", 2, "--catalog", folder / "catalog", "--json")
    return Site(dataset, folder / "catalog", json.loads(done.stdout))


def test_json_says_what_scripts_rely_on(site: Site) -> None:
    assert {"run_id", "catalog", "stages", "artifacts", "datasets", "metrics"} <= site.document.keys()
    stages = site.document["stages"]
    assert isinstance(stages, list)
    assert len(stages) == 11
    assert all({"name", "seconds", "cached", "note"} == set(stage) and not stage["cached"] for stage in stages)
    notes = {stage["name"]: stage["note"] for stage in stages if stage["note"]}
    assert notes == {
        "train-informed": "not needed: informed slices are those of other patients: informed.mode=generated needs it"
    }
    assert [d["factor"] for d in site.document["datasets"]] == [1, 2]  # type: ignore[index, attr-defined]  # JSON


def test_published_volumes_lie_on_the_source_grid_with_the_source_labels(site: Site) -> None:
    catalog = Catalog.open(site.catalog)
    volumes = catalog.table("volumes")
    folder = Path(site.document["datasets"][0]["path"])  # type: ignore[index]  # JSON
    first = volumes[volumes["name"] == "Phantoms-r0"]
    assert len(first) == 8  # four training cases, true and augmented
    for row in first.to_dict("records"):
        image = nibabel.load(folder / "imagesTr" / f"{row['volume']}_0000.nii.gz")
        label = nibabel.load(folder / "labelsTr" / f"{row['volume']}.nii.gz")
        source = nibabel.load(site.dataset / "labelsTr" / f"{row['mask_case']}.nii.gz")
        assert image.shape == label.shape == source.shape
        assert np.allclose(image.affine, source.affine)
        assert np.issubdtype(label.get_data_dtype(), np.integer)
        assert np.isfinite(image.get_fdata()).all()
        if row["variant"] == "true":
            assert np.array_equal(np.asarray(label.dataobj), np.asarray(source.dataobj))


def test_published_data_name_no_patient(site: Site) -> None:
    folder = Path(site.document["datasets"][1]["path"])  # type: ignore[index]  # JSON
    provenance = pd.read_parquet(folder / "provenance.parquet")
    text = provenance.to_csv() + (folder / "dataset.json").read_text() + (folder / "README.md").read_text()
    assert "phantom_" not in text
    assert provenance["synthetic"].all()
    made_of = {"mask_of", "edit", "donor_image", "donor_slice", "p", "noise_seed", "model", "informed"}
    assert made_of <= set(provenance.columns)
    assert provenance["model"].str.startswith("model/Phantoms-volume@").all()
    for path in (folder / "imagesTr").iterdir():
        header = nibabel.load(path).header
        assert header["descrip"].tobytes().strip(b"\0") == header["aux_file"].tobytes().strip(b"\0") == b""
        assert not header.extensions


def test_regions_keep_the_order_in_which_they_are_painted(site: Site) -> None:
    source = json.loads((site.dataset / "dataset.json").read_text())
    for dataset in site.document["datasets"]:  # type: ignore[attr-defined]  # JSON
        published = json.loads((Path(dataset["path"]) / "dataset.json").read_text())
        assert list(published["labels"].items()) == list(source["labels"].items())
        assert published["regions_class_order"] == source["regions_class_order"]


def test_2x_holds_1x(site: Site) -> None:
    one, two = (Path(d["path"]) for d in site.document["datasets"])  # type: ignore[attr-defined, index]  # JSON
    names = {path.name for path in (one / "imagesTr").iterdir()}
    assert names < {path.name for path in (two / "imagesTr").iterdir()}
    assert all((one / "imagesTr" / n).read_bytes() == (two / "imagesTr" / n).read_bytes() for n in names)


def test_nnunet_accepts_what_was_published(site: Site) -> None:
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    for dataset in site.document["datasets"]:  # type: ignore[attr-defined]  # JSON
        verify_dataset_integrity(dataset["path"], num_processes=1)


def test_donors_are_other_training_patients(site: Site) -> None:
    volumes = Catalog.open(site.catalog).table("volumes")
    prepared = Catalog.open(site.catalog).get("prepared/Phantoms")
    cases = pd.read_parquet(Catalog.open(site.catalog).path(prepared, "cases.parquet")).set_index("case")
    patients = cases["patient"]
    assert (volumes["donor"].map(patients) != volumes["mask_case"].map(patients)).all()
    assert set(volumes["donor"]) | set(volumes["mask_case"]) <= set(cases.index[cases["train"]])


def test_the_same_command_again_does_nothing(site: Site, gem3d: Command) -> None:
    done = gem3d("enhance", site.dataset, *QUICK, "--factor", 2, "--catalog", site.catalog, "--json")
    again = json.loads(done.stdout)
    first, second = (sum(stage["seconds"] for stage in told["stages"]) for told in (site.document, again))  # type: ignore[index, attr-defined]  # JSON
    assert second < first / 4
    assert all(stage["cached"] or stage["note"] for stage in again["stages"])
    assert again["artifacts"] == site.document["artifacts"]


def test_a_change_of_stage_9_concerns_9_to_11_only(site: Site, gem3d: Command) -> None:
    asked = ["enhance", site.dataset, *QUICK, "--factor", 2, "--catalog", site.catalog, "--dry-run", "--json"]
    before = {s["name"] for s in json.loads(gem3d(*asked).stdout)["stages"] if s["cached"]}
    told = json.loads(gem3d(*asked, "--set", "resample.steps=4").stdout)
    after = {s["name"] for s in told["stages"] if s["cached"]}
    assert before - after == {"resample", "publish", "evaluate"}
    assert len(before) == sum(not s["needless"] for s in told["stages"])
    assert all(s["network_calls"] > 0 for s in told["stages"] if s["name"] in {"train-slices", "resample"})


def test_a_corrected_licence_reaches_the_dataset_and_trains_and_draws_nothing(site: Site, gem3d: Command) -> None:
    declared = site.dataset / "dataset.json"
    before = declared.read_text()
    declared.write_text(json.dumps(json.loads(before) | {"licence": "CC0 corrected"}))
    try:
        asked = ["enhance", site.dataset, *QUICK, "--factor", 2, "--catalog", site.catalog, "--until", "publish"]
        told = json.loads(gem3d(*asked, "--json").stdout)
    finally:
        declared.write_text(before)
    prepared = [site.artifact_files(ref) for d in (site.document, told) for ref in d["artifacts"] if "prepared/" in ref]  # type: ignore[attr-defined]  # JSON
    assert prepared[0] == prepared[1]
    made = {s["name"] for s in told["stages"] if not s["cached"] and not s["note"]}
    assert made == {"ingest", "preprocess", "publish"}
    folder = Path(told["datasets"][0]["path"])
    assert json.loads((folder / "dataset.json").read_text())["licence"] == "CC0 corrected"
    assert "CC0 corrected" in (folder / "README.md").read_text()


def test_a_mixed_dataset_says_which_images_are_of_patients(site: Site, gem3d: Command) -> None:
    asked = ["enhance", site.dataset, *QUICK, "--factor", 2, "--catalog", site.catalog, "--until", "publish"]
    told = json.loads(gem3d(*asked, "--mix", "real", "--json").stdout)
    folder = Path(told["datasets"][0]["path"])
    declared = json.loads((folder / "dataset.json").read_text())
    images = [path.name for path in (folder / "imagesTr").iterdir()]
    provenance = pd.read_parquet(folder / "provenance.parquet").set_index("volume")
    assert sum(name.startswith("real_") for name in images) == 4
    assert (declared["numTraining"], declared["synthetic"]) == (12, False)
    assert "4 images of patients" in declared["description"]
    alone = pd.read_parquet(Path(site.document["datasets"][0]["path"]) / "provenance.parquet").set_index("volume")  # type: ignore[index]  # JSON
    drawn = provenance[provenance["synthetic"]]
    for seeds in ("seed", "noise_seed"):
        assert drawn[seeds].to_dict() == alone[seeds].to_dict()
    assert provenance["synthetic"].to_dict() == {name: not name.startswith("real_") for name in provenance.index}
    readme = (folder / "README.md").read_text()
    assert "is not private" in readme
    assert "No image in this dataset was acquired from a patient" not in readme
    assert "8 synthetic volumes" in readme


def test_resampling_needs_a_volume_model_and_says_so_before_any_work(site: Site, gem3d: Command) -> None:
    before = len(Catalog.open(site.catalog).ls())
    refused = gem3d("resample", "model/Phantoms-slice", "--catalog", site.catalog, code=2)
    assert "is no volume model" in refused.stderr
    assert "model/Phantoms-volume" in refused.stderr
    assert len(Catalog.open(site.catalog).ls()) == before


def test_the_seed_makes_the_dataset(site: Site, gem3d: Command) -> None:
    def resampled(seed: int, *more: str) -> str:
        asked = ("resample", "model/Phantoms-volume", "--factor", 1, "--seed", seed, "--catalog", site.catalog)
        document = json.loads(gem3d(*asked, "--json", *more).stdout)
        return str(document["datasets"][0]["ref"])

    seven, eight = resampled(7), resampled(8)
    assert seven != eight
    assert seven.partition("@")[0] == eight.partition("@")[0]
    assert resampled(7, "--no-cache") == seven


def test_a_killed_run_goes_on_and_ends_as_if_never_killed(
    site: Site, gem3d: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    """kill -9 once while a model is trained and once while volumes are drawn."""
    command = ["enhance", site.dataset, *QUICK, "--factor", 2, "--catalog", tmp_path / "catalog"]
    for sign in ("work/*/checkpoints/step-*", "work/*/gem0_*/facts.json"):
        _kill_at(tmp_path / "catalog", sign, [*map(str, command)], environment)
    gem3d(*command)
    resumed = Site(site.dataset, tmp_path / "catalog", {})
    for model in ("slice", "volume"):
        ref = f"model/Phantoms-{model}"
        assert resumed.artifact_files(ref) == site.artifact_files(ref)
    _assert_same_volumes(resumed, site)
    told = json.loads(gem3d("catalog", "verify", "--catalog", tmp_path / "catalog", "--json").stdout)
    assert told["corrupt"] == told["missing"] == []
    assert told["objects"] > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_says_so_and_leaves_nothing_behind(
    site: Site, environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "tmp").mkdir()
    command = [*GEM3D, "enhance", site.dataset, *QUICK, "--catalog", tmp_path / "catalog", "--json"]
    process = subprocess.Popen(
        [*map(str, command)],
        env=environment | {"TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # what a shell starts in the background ignores Ctrl-C, and hands that on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no other thread here
    )
    deadline = time.monotonic() + SECONDS
    while not list((tmp_path / "catalog").glob("tables/artifacts/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert "the same command goes on from" in errors
    assert "the same command goes on from" in json.loads(output)["error"]
    assert not any(noise in errors for noise in ("Traceback", "Crash", "Error logging to API"))
    assert not list((tmp_path / "tmp").glob("gem3d-server-*"))


def _assert_same_volumes(one: Site, other: Site) -> None:
    """Up to rounding: after the kill the volumes were drawn in other batches."""
    paths = []
    for site in (one, other):
        catalog = Catalog.open(site.catalog)
        made = site.document.get("datasets")  # other tests publish later versions at the site
        ref = made[1]["ref"] if isinstance(made, list) else "dataset/Phantoms-2x"
        paths.append(catalog.paths(catalog.get(ref), "Dataset501_Phantoms2x/imagesTr/"))
    assert paths[0].keys() == paths[1].keys()
    for name in paths[0]:
        first, second = (read_volume(p[name]).array for p in paths)
        assert np.allclose(first, second, atol=1e-3 * np.ptp(second))


def _kill_at(catalog: Path, sign: str, command: list[str], environment: dict[str, str]) -> None:
    """Start the command and kill its process group as soon as a file appears in the catalog."""
    process = subprocess.Popen(
        [*GEM3D, *command],
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + SECONDS
    try:
        while not _seen(catalog, sign):
            assert process.poll() is None, f"ended before {sign} was seen"
            assert time.monotonic() < deadline, f"{sign} was never seen"
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _seen(catalog: Path, sign: str) -> bool:
    try:
        return bool(list(catalog.glob(sign)))
    except FileNotFoundError:  # a folder was removed while it was looked at
        return False


def test_test_cases_leak_nowhere(site: Site, gem3d: Command, tmp_path: Path) -> None:
    """Other images, masks and spacings in the test cases: plan, models and published volumes stay the same bytes."""
    dataset = tmp_path / site.dataset.name
    shutil.copytree(site.dataset, dataset)
    catalog = Catalog.open(site.catalog)
    cases = pd.read_parquet(catalog.path(catalog.get("prepared/Phantoms"), "cases.parquet"))
    held_out = cases.loc[~cases["train"], "case"]
    assert len(held_out) == 2
    for case in held_out:
        for path, change in (
            (dataset / "imagesTr" / f"{case}_0000.nii.gz", lambda image: image[::-1] * 3 + 1),
            (dataset / "labelsTr" / f"{case}.nii.gz", lambda label: (label[::-1] > 0).astype(np.uint8)),
        ):
            stored = nibabel.load(path)
            coarser = stored.affine @ np.diag([2.0, 1.5, 3.0, 1.0])
            nibabel.save(nibabel.Nifti1Image(change(np.asarray(stored.dataobj)), coarser), path)
    gem3d("enhance", dataset, *QUICK, "--catalog", tmp_path / "catalog", "--until", "publish")
    other = Site(dataset, tmp_path / "catalog", {})
    for ref in ("model/Phantoms-slice", "model/Phantoms-volume"):
        assert other.artifact_files(ref)["weights.safetensors"] == site.artifact_files(ref)["weights.safetensors"]
    theirs, own = (one.artifact_files("prepared/Phantoms")["plans.json"] for one in (other, site))
    assert theirs == own
    images = {n: h for n, h in other.artifact_files("dataset/Phantoms-1x").items() if n.endswith(".nii.gz")}
    assert images
    twice = {n.replace("Dataset501_Phantoms2x", ""): h for n, h in site.artifact_files("dataset/Phantoms-2x").items()}
    assert all(twice[n.replace("Dataset500_Phantoms1x", "")] == h for n, h in images.items())


@pytest.mark.skipif(not BAD_INPUTS.is_dir(), reason=f"{BAD_INPUTS} is not there")
def test_bad_inputs_stop_before_any_work_or_are_listed(gem3d: Command, tmp_path: Path) -> None:
    told = json.loads(gem3d("check", BAD_INPUTS, "--json", code=2).stdout)
    assert (told["ok"], told["cases"], len({fault["case"] for fault in told["faults"]})) == (False, 6, 13)
    catalog = tmp_path / "catalog"
    stopped = gem3d("enhance", BAD_INPUTS, *QUICK, "--catalog", catalog, code=2)
    assert sum("case_0" in line for line in stopped.stderr.splitlines()) == 13
    assert not list(catalog.glob("work/*/checkpoints"))
    done = json.loads(gem3d("enhance", BAD_INPUTS, *QUICK, "--catalog", catalog, "--skip-bad", "--json").stdout)
    report = (Path(done["report"]) / "report.md").read_text()
    assert all(f"case\\_{k:03d}" in report or f"case_{k:03d}" in report for k in range(1, 14))


def test_usage_errors_end_with_2_and_name_the_nearest(gem3d: Command, site: Site, tmp_path: Path) -> None:
    wrong = gem3d(
        "enhance", site.dataset, "--set", "resample.stepz=3", "--catalog", tmp_path / "c", "--dry-run", code=2
    )
    assert "resample.steps" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert not (tmp_path / "c").exists()
    told = json.loads(gem3d("catalog", "ls", "datasets", "--catalog", site.catalog, "--json", code=2).stdout)
    assert "it holds config, dataset" in told["error"]
    assert "no catalog at" in gem3d("catalog", "verify", "--catalog", tmp_path, code=2).stderr
    assert "--name 'a b'" in gem3d("enhance", site.dataset, "--name", "a b", "--dry-run", code=2).stderr
    missing = gem3d("catalog", "show", "model/Phantom-volume", "--catalog", site.catalog, code=2)
    assert "model/Phantoms-volume" in missing.stderr
