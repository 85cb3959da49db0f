"""A catalog on each kind of storage, and short ways to put something into it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_catalog import Artifact, Catalog

Put = Callable[..., Artifact]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server with a bucket `gem3d`."""
    server_module = pytest.importorskip("moto.server", reason="the S3 leg needs the extra s3 (moto)")
    server = server_module.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_address(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix in the bucket, and the environment that leads to it."""
    from pyarrow.fs import S3FileSystem

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("GEM3D_SCRATCH", str(tmp_path / "scratch"))
    S3FileSystem(endpoint_override=s3_server, allow_bucket_creation=True).create_dir("gem3d")
    return f"s3://gem3d/{uuid.uuid4().hex}"


@pytest.fixture(params=["local", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for a catalog, on each kind of storage."""
    if request.param == "local":
        return str(tmp_path / "ein Katalog über #1?")  # what a person calls a folder
    found: str = request.getfixturevalue("s3_address")
    return found


@pytest.fixture
def catalog(address: str) -> Catalog:
    return Catalog.open(address)


@pytest.fixture
def local(tmp_path: Path) -> Catalog:
    return Catalog.open(tmp_path / "catalog")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., dict[str, Path]]:
    """Files with the given bytes: `write(**{"a/b.nii": b"..."})` gives the mapping that put takes."""

    def make(contents: dict[str, bytes]) -> dict[str, Path]:
        folder = tmp_path / f"input-{uuid.uuid4().hex}"
        folder.mkdir()
        paths = {logical: folder / str(place) for place, logical in enumerate(contents)}
        for logical, path in paths.items():
            path.write_bytes(contents[logical])
        return paths

    return make


@pytest.fixture
def put(write: Callable[..., dict[str, Path]]) -> Put:
    """`put(catalog, "kind/name", {"file": b"bytes"}, key=..., ...)` with plain values for the rest."""

    def act(catalog: Catalog, place: str, contents: dict[str, bytes] | None = None, **given: object) -> Artifact:
        kind, name = place.split("/")
        usual = {"meta": {}, "run_id": "run", "code_version": "code", "config_hash": "conf", "seed": 0, "key": "key"}
        return catalog.put(kind, name, files=write(contents or {}), **(usual | given))

    return act
