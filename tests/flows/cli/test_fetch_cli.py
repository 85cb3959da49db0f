"""`gem3d fetch` against a server on this machine."""

import functools
import hashlib
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.main import app


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Address and checksum of an archive that holds Task04_Hippocampus/dataset.json."""
    folder = tmp_path / "www"
    dataset = folder / "Task04_Hippocampus"
    dataset.mkdir(parents=True)
    (dataset / "dataset.json").write_text("{}")
    archive = folder / "Task04_Hippocampus.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(dataset, arcname=dataset.name)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/Task04_Hippocampus.tar"
        yield address, hashlib.md5(archive.read_bytes()).hexdigest()
        server.shutdown()


def test_the_archive_is_fetched_checked_and_unpacked(served: tuple[str, str], tmp_path: Path) -> None:
    url, checksum = served
    asked = ["fetch", "hippocampus", "--to", str(tmp_path / "data"), "--url", url, "--checksum", checksum]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    folder = Path(done.stdout.strip())
    assert folder == tmp_path / "data" / "Task04_Hippocampus"
    assert (folder / "dataset.json").read_text() == "{}"


def test_another_file_than_the_publishers_is_refused(served: tuple[str, str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["fetch", "hippocampus", "--to", str(tmp_path / "data"), "--url", served[0]])
    assert done.exit_code != 0
    assert "expected 9d24dba78a72977dbd1d2e110310f31b" in str(done.exception)
    assert not (tmp_path / "data" / "Task04_Hippocampus").exists()


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["fetch", "hipocampus", "--to", str(tmp_path)])
    assert "did you mean 'hippocampus'" in str(done.exception)
