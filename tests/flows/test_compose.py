"""docker-compose.yml and the Dockerfile, as far as they can be checked without a container engine."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
OWN_IMAGE = "gem3d:0.2.0"
SCRIPTS = {script.name for script in entry_points(group="console_scripts")}
DEBIAN = {"python", "pip", "sh", "install", "useradd", "rm"}
"""Binaries of python:3.11-slim-bookworm that the files here use."""
BINARIES = {"postgres": {"pg_isready"}, "minio/minio": {"server", "mc"}}
"""What other images bring; MinIO's entry point takes `server` as its first word."""

Service = dict[str, object]


@pytest.fixture(scope="module")
def compose() -> dict[str, dict[str, Service]]:
    document: dict[str, dict[str, Service]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


@pytest.fixture(scope="module")
def services(compose: dict[str, dict[str, Service]]) -> dict[str, Service]:
    return compose["services"]


def test_the_topology(services: dict[str, Service]) -> None:
    assert set(services) == {
        "postgres", "server", "deploy", "gpu-worker", "cpu-worker", "store", "bucket",
    }  # fmt: skip


def test_the_file_follows_the_compose_specification(compose: dict[str, dict[str, Service]]) -> None:
    validator_for = import_module("jsonschema.validators").validator_for
    pytest.importorskip("check_jsonschema", reason="the Compose specification's schema comes with check-jsonschema")
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    assert schema["$id"] == "compose_spec.json"
    faults = [f"{error.json_path}: {error.message}" for error in validator_for(schema)(schema).iter_errors(compose)]
    assert faults == []


def test_images_are_pinned(services: dict[str, Service]) -> None:
    base = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for image in [*(str(service["image"]) for service in services.values()), *base]:
        name, _, tag = image.partition(":")
        assert tag, f"{name} has no tag"
        assert "latest" not in tag


def test_the_image_carries_the_version_of_the_project() -> None:
    import tomllib

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"gem3d:{version}" == OWN_IMAGE


def test_dependencies_exist_and_can_be_waited_for(services: dict[str, Service]) -> None:
    for name, service in services.items():
        for needed, how in _mapping(service.get("depends_on", {})).items():
            condition = _mapping(how)["condition"]
            assert needed in services, f"{name} waits for {needed}"
            if condition == "service_healthy":
                assert "healthcheck" in services[needed]
            else:
                assert condition == "service_completed_successfully"
                assert "restart" not in services[needed], f"{needed} would be started again and again"


def test_whatever_keeps_running_has_a_healthcheck(services: dict[str, Service]) -> None:
    running = {name for name, service in services.items() if "restart" in service}
    assert running == {name for name, service in services.items() if "healthcheck" in service}
    assert running == set(services) - {"deploy", "bucket"}


def test_named_volumes_are_declared_and_used(compose: dict[str, dict[str, Service]]) -> None:
    mounted = {str(mount).split(":")[0] for s in compose["services"].values() for mount in _list(s.get("volumes", []))}
    named = {source for source in mounted if re.fullmatch(r"\w+", source)}
    assert named == set(compose["volumes"])


def test_ports_are_open_to_this_machine_only(services: dict[str, Service]) -> None:
    ports = [str(port) for service in services.values() for port in _list(service.get("ports", []))]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_secrets_come_from_the_environment_and_are_explained() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    asked = set(re.findall(r"\$\{(\w+)", text))
    listed = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert asked == listed
    secret = re.findall(r"(?:PASSWORD|SECRET_ACCESS_KEY): (.*)", text)
    assert secret
    assert all(value.startswith("${") and ":?" in value for value in secret)


def test_every_command_exists(services: dict[str, Service]) -> None:
    for name, service in services.items():
        image = str(service["image"])
        known = SCRIPTS | DEBIAN if image == OWN_IMAGE else BINARIES[image.partition(":")[0]]
        for program in _programs(service):
            assert program in known, f"{name} runs {program}"


def test_every_command_of_the_dockerfile_exists() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    runs = re.findall(r"^RUN (.*)$", text, re.MULTILINE)
    programs = {shlex.split(part)[0] for run in runs for part in run.split("&&")}
    programs |= {json.loads(found)[0] for found in re.findall(r"^CMD (.*)$", text, re.MULTILINE)}
    assert programs >= {"pip", "gem3d"}
    assert programs <= SCRIPTS | DEBIAN


def test_the_dockerfile_copies_what_exists_and_what_the_context_lets_through() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()}
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert all((ROOT / path).exists() for path in copied)
    assert copied == {pattern.removeprefix("!") for pattern in ignored if pattern.startswith("!")}


def test_the_image_lists_the_libraries_of_the_project() -> None:
    """The one-liner that writes the requirements, run as it stands."""
    line = re.search(r'python -c "(.*)" >', (ROOT / "Dockerfile").read_text())
    assert line is not None
    script = line.group(1)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"prefect>=3.8,<3.9", "fastapi>=0.139,<0.151"} <= set(done.stdout.splitlines())


def test_the_image_is_rid_of_the_shadowing_packages_and_of_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "pip uninstall --yes argparse unittest2 traceback2 linecache2" in text
    assert re.search(r"^USER gem3d$", text, re.MULTILINE)


def test_workers_serve_the_queues_of_the_deployments(services: dict[str, Service]) -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    asked = {deployment["work_pool"]["work_queue_name"] for deployment in deployments}
    served: set[str] = set()
    for worker in ("gpu-worker", "cpu-worker"):
        words = [str(word) for word in _list(services[worker]["command"])]
        served |= {words[index + 1] for index, word in enumerate(words) if word == "--work-queue"}
    assert asked <= served


def test_the_bucket_is_made_and_made_again_without_harm(services: dict[str, Service]) -> None:
    server_module = pytest.importorskip("moto.server", reason="needs the extra s3 (moto)")
    from pyarrow.fs import FileType, S3FileSystem

    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    environment = {**_texts(services["bucket"]["environment"]), "AWS_ENDPOINT_URL": address}
    command = [sys.executable, *(str(word) for word in _list(services["bucket"]["command"])[1:])]
    try:
        for _ in range(2):
            subprocess.run(command, env={**os.environ, **environment}, check=True, timeout=60)
        there = S3FileSystem(access_key="gem3d", secret_key="any", endpoint_override=address)
        assert there.get_file_info("gem3d").type is FileType.Directory
    finally:
        server.stop()


def _programs(service: Service) -> Iterator[str]:
    """First words of a service's command and healthcheck; of each line where the command is a shell script."""
    words = [str(word) for word in _list(service.get("command", []))]
    if words[:1] == ["sh"]:
        yield "sh"
        yield from (part.split()[0] for line in words[-1].splitlines() for part in line.split("||"))
    elif words:
        yield words[0]
    if "healthcheck" in service:
        yield str(_list(_mapping(service["healthcheck"])["test"])[1])


def _mapping(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value


def _texts(value: object) -> dict[str, str]:
    return {name: str(text) for name, text in _mapping(value).items()}


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value
