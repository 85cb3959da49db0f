"""prefect.yaml against the flows, and its deployments on a real server with a real worker."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import httpx
import pytest
import yaml
from prefect.flows import Flow, load_flow_from_entrypoint

from flows.dag import STEPS
from gem3d_core.scans.phantoms import write_cohort
from tasks.artifacts.lineage import DatasetRefs

ROOT = Path(__file__).resolve().parents[2]
HIPPOCAMPUS = ROOT.parent / "shared" / "data" / "Task04_Hippocampus"
PREFECT = str(Path(sys.executable).with_name("prefect"))
CASES = 6

Deployment = dict[str, object]


def _deployments() -> list[Deployment]:
    found: list[Deployment] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    return found


def _flow(deployment: Deployment) -> Flow[..., object]:
    return load_flow_from_entrypoint(str(ROOT / str(deployment["entrypoint"])), use_placeholder_flow=False)


@pytest.mark.parametrize("deployment", _deployments(), ids=lambda deployment: str(deployment["name"]))
def test_entrypoint_is_the_flow_of_the_deployments_name(deployment: Deployment) -> None:
    assert _flow(deployment).name == deployment["name"]


@pytest.mark.parametrize("deployment", _deployments(), ids=lambda deployment: str(deployment["name"]))
def test_parameters_fit_the_flow(deployment: Deployment) -> None:
    """Beside those of prefect.yaml only references to what a stage reads have to be given."""
    flow = _flow(deployment)
    stated = deployment.get("parameters", {})
    assert isinstance(stated, dict)
    given = {
        str: "kind/name",
        list[str]: ["kind/name"],
        DatasetRefs: dict.fromkeys(DatasetRefs.model_fields, "kind/name"),
    }
    references = {
        name: given[parameter.annotation]
        for name, parameter in signature(flow.fn).parameters.items()
        if parameter.default is parameter.empty and name not in stated
    }
    assert flow.validate_parameters({**stated, **references}).keys() >= stated.keys()


def test_every_stage_and_every_whole_flow_is_deployed() -> None:
    names = [deployment["name"] for deployment in _deployments()]
    whole = ["enhance-dataset", "resample-dataset", "reproduce-tables"]
    assert sorted(map(str, names)) == sorted([*(step.name for step in STEPS), *whole])


def test_only_resampling_is_scheduled_once_a_night() -> None:
    schedules = {deployment["name"]: deployment.get("schedules") for deployment in _deployments()}
    scheduled = {name: schedule for name, schedule in schedules.items() if schedule}
    assert scheduled == {"resample-dataset": [{"cron": "0 2 * * *", "timezone": "UTC", "slug": "nightly"}]}


@dataclass(frozen=True)
class Site:
    """A server with a worker: its address, the environment to speak to it in, and the folder of logs."""

    url: str
    environment: Mapping[str, str]
    folder: Path

    def prefect(self, *arguments: str, seconds: float = 180) -> subprocess.CompletedProcess[str]:
        """Run Prefect's command line in the project's folder."""
        return subprocess.run(
            [PREFECT, *arguments], cwd=ROOT, env=dict(self.environment), capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip

    def ask(self, what: str, **body: object) -> list[dict[str, object]]:
        """What the server's API finds."""
        answer = httpx.post(f"{self.url}/{what}/filter", json=body, timeout=30)
        answer.raise_for_status()
        found: list[dict[str, object]] = answer.json()
        return found


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six hippocampus cases in a Decathlon folder; phantoms where the data is not at hand."""
    folder = tmp_path_factory.mktemp("data")
    if not HIPPOCAMPUS.is_dir():
        return write_cohort(folder, cases=CASES, size=32)
    root = folder / HIPPOCAMPUS.name
    declared = json.loads((HIPPOCAMPUS / "dataset.json").read_text())
    declared["training"] = declared["training"][:CASES]
    declared["numTraining"] = CASES
    for file in (str(pair[role]) for pair in declared["training"] for role in ("image", "label")):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HIPPOCAMPUS / file, root / file)
    (root / "dataset.json").write_text(json.dumps(declared))
    return root


@pytest.fixture(scope="session")
def site(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server of its own, everything deployed, and a worker that was started in some other folder."""
    folder = tmp_path_factory.mktemp("site")
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "GEM3D_"))}
    environment = {
        **kept,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "GEM3D_DATASET": str(dataset),
        "GEM3D_PROFILE": "smoke",
        "GEM3D_CATALOG": str(folder / "catalog"),
    }
    site = Site(url, environment, folder)
    with _running(site, "server", "server", "start", "--host", "127.0.0.1", "--port", str(port)):
        _wait_until_healthy(site)
        _succeed(site.prefect("work-pool", "create", "gem3d", "--type", "process"))
        _succeed(site.prefect("--no-prompt", "deploy", "--all"))
        with _running(site, "worker", "worker", "start", "--pool", "gem3d", "--limit", "1"):
            yield site


@pytest.mark.slow
def test_both_names_start_the_flow_and_the_second_run_finds_everything_cached(site: Site) -> None:
    first = site.prefect("deployment", "run", "enhance-dataset", "--watch", seconds=900)
    assert first.returncode == 0, _told(site, first)
    second = site.prefect("deployment", "run", "enhance-dataset/enhance-dataset", "--watch", seconds=300)
    assert second.returncode == 0, _told(site, second)

    runs = site.ask("flow_runs", flows={"name": {"any_": ["enhance-dataset"]}}, sort="START_TIME_ASC")
    assert [run["state_type"] for run in runs] == ["COMPLETED", "COMPLETED"]
    made, found = (_stages(site, str(run["id"])) for run in runs)
    assert list(made) == list(found) == [step.name for step in STEPS]
    assert not any(made.values())
    assert {name for name, cached in found.items() if not cached} == {"train-informed"}, "which is not needed"
    assert (Path(site.environment["GEM3D_CATALOG"])).is_dir()


@pytest.mark.slow
def test_an_unknown_bare_name_is_reported_as_not_found(site: Site) -> None:
    done = site.prefect("deployment", "run", "enhance-datasets")
    assert done.returncode == 1
    assert "'enhance-datasets/enhance-datasets' not found" in done.stdout


def _stages(site: Site, run: str) -> dict[str, bool]:
    """Stage by stage whether a run found it in the catalog, from the table that the run left in Prefect."""
    tables = site.ask("artifacts", artifacts={"key": {"any_": ["stages"]}, "flow_run_id": {"any_": [run]}})
    assert len(tables) == 1
    return {row["name"]: row["cached"] for row in json.loads(str(tables[0]["data"]))}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _running(site: Site, name: str, *arguments: str) -> Iterator[None]:
    """A Prefect process in a group of its own, ended with all that it started."""
    with (site.folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [PREFECT, *arguments], cwd=site.folder, env=dict(site.environment), stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            yield
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the group to end; end what is left of it after 20 seconds."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_until_healthy(site: Site, seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            if httpx.get(f"{site.url}/health", timeout=5).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    pytest.fail(f"no server after {seconds:.0f} s:\n{(site.folder / 'server.log').read_text()[-3000:]}")


def _succeed(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr


def _told(site: Site, done: subprocess.CompletedProcess[str]) -> str:
    """What a failure shows: the command's output and the end of the worker's log."""
    return f"{done.stdout}{done.stderr}\nworker:\n{(site.folder / 'worker.log').read_text()[-6000:]}"
