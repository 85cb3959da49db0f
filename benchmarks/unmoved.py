"""Do two versions of the project give the same numbers? One training and one re-sampling on phantoms, by each.

    python benchmarks/unmoved.py --commit b8f2a64

The commit is checked out into a temporary folder and runs in this environment. Latents, losses and volumes are compared
value by value; exit code 1 where any differs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data_catalog import Artifact, Catalog  # noqa: E402
from gem3d_core.scans.phantoms import write_cohort  # noqa: E402
from gem3d_core.scans.volumes import read_volume  # noqa: E402
from tasks.artifacts.files import read_rows  # noqa: E402

Numbers = dict[str, np.ndarray]

SETTINGS = ("masks.use=both", "runtime.device=cpu")


def main() -> None:
    """Run both versions, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default="b8f2a64")
    parser.add_argument("--profile", default="smoke")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cohort = write_cohort(folder, cases=6, size=32)
        before = folder / "before"
        subprocess.run(["git", "worktree", "add", "--detach", str(before), given.commit], cwd=ROOT, check=True)
        try:
            old = _numbers(_enhanced(before, cohort, folder / "old", given.profile))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(before)], cwd=ROOT, check=True)
        new = _numbers(_enhanced(ROOT, cohort, folder / "new", given.profile))
    differ = _differences(old, new)
    for line in differ or [f"{len(new)} arrays are the same: latents, losses, volumes and their masks"]:
        sys.stdout.write(f"{line}\n")
    sys.exit(1 if differ else 0)


def _enhanced(sources: Path, cohort: Path, catalog: Path, profile: str) -> Catalog:
    """The catalog of a run by the sources of one version."""
    command = [sys.executable, "-m", "flows.cli" if (sources / "flows/cli.py").exists() else "flows.cli.main"]
    command += ["enhance", str(cohort), "--profile", profile, "--until", "publish", "--catalog", str(catalog)]
    command += [part for setting in SETTINGS for part in ("--set", setting)]
    subprocess.run(command, cwd=sources, env=os.environ | {"PYTHONPATH": str(sources)}, check=True)
    return Catalog.open(catalog)


def _numbers(catalog: Catalog) -> Numbers:
    """Everything that is compared, by artifact and file."""
    found: Numbers = {}
    for artifact in catalog.ls():
        for name in sorted(artifact.files):
            for key, array in _read(catalog, artifact, name):
                found[f"{artifact.kind}/{artifact.name} {name} {key}"] = np.squeeze(array)
    return {key: array for key, array in found.items() if "Phantoms-informed" not in key}  # trained where it is needed


def _read(catalog: Catalog, artifact: Artifact, name: str) -> list[tuple[str, np.ndarray]]:
    path = catalog.path(artifact, name)
    if artifact.kind == "latents" and name.startswith("latents/"):
        return list(load_file(path).items())
    if artifact.kind == "model" and name == "losses.parquet":
        return [("loss", np.array([row["loss"] for row in read_rows(path)]))]
    if artifact.kind == "volumes" and name.endswith(".nii.gz"):
        return [("voxels", read_volume(path).array)]
    return []


def _differences(old: Numbers, new: Numbers) -> list[str]:
    missing = [f"{key}: only in one of them" for key in sorted(old.keys() ^ new.keys())]
    return missing + [
        f"{key}: differs by up to {np.abs(old[key].astype(float) - new[key].astype(float)).max():.3g}"
        for key in sorted(old.keys() & new.keys())
        if old[key].shape != new[key].shape or not np.array_equal(old[key], new[key])
    ]


if __name__ == "__main__":
    main()
