import hashlib
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gem3d_core.errors import BadInput, Gem3dError
from gem3d_core.machine import download as module
from gem3d_core.machine.download import extract, fetch

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT with ranges; closes each connection after the next entry of `cuts` bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag = CONTENT, '"one"'
        self.cuts: list[int] = []
        self.refusals: list[int] = []
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/data.tar"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.ranges.append(asked)
        if server.refusals:
            self.send_error(server.refusals.pop(0))
            return
        same = self.headers.get("If-Range") == server.etag and not server.etag.startswith("W/")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and same else 0
        if start and start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "PAUSE", 0.0)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_whole_download_leaves_only_the_file(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(server.url, SHA, tmp_path / "new" / "x.tar", lambda done, all_: seen.append((done, all_)))
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["x.tar"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)

    fetch(server.url, SHA.upper(), path)
    assert len(server.ranges) == 1


def test_a_cut_connection_is_continued_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000, 50_000]
    assert fetch(server.url, SHA, tmp_path / "x").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_call_goes_on(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000]
    with pytest.raises(Gem3dError, match=r"after 100000 bytes .*run the same command again"):
        fetch(server.url, SHA, tmp_path / "x", attempts=1)
    assert not (tmp_path / "x").exists()
    assert (tmp_path / "x.part").read_bytes() == CONTENT[:100_000]
    assert fetch(server.url, SHA, tmp_path / "x").read_bytes() == CONTENT
    assert server.ranges[1:] == ["bytes=100000-"]


@pytest.mark.parametrize("etag", ['"two"', 'W/"weak"'])
def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, tmp_path: Path, etag: str) -> None:
    (tmp_path / "x.part").write_bytes(b"old" * 1000)
    (tmp_path / "x.part.json").write_text(json.dumps({"url": server.url, "validator": '"one"'}))
    server.etag = etag
    assert fetch(server.url, SHA, tmp_path / "x").read_bytes() == CONTENT


@pytest.mark.parametrize("note", [None, "{", '{"url": "http://elsewhere/x", "validator": "\\"one\\""}'])
def test_a_part_of_unknown_origin_is_not_continued(server: Server, tmp_path: Path, note: str | None) -> None:
    (tmp_path / "x.part").write_bytes(b"unknown")
    if note is not None:
        (tmp_path / "x.part.json").write_text(note)
    assert fetch(server.url, SHA, tmp_path / "x").read_bytes() == CONTENT
    assert server.ranges == [None]


def test_a_part_longer_than_the_file_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(CONTENT + b"more")
    (tmp_path / "x.part.json").write_text(json.dumps({"url": server.url, "validator": '"one"'}))
    assert fetch(server.url, SHA, tmp_path / "x").read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.content = b"something else"
    with pytest.raises(Gem3dError, match=f"expected {SHA}"):
        fetch(server.url, SHA, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_in_place_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT[:-1])
    assert fetch(server.url, SHA, tmp_path / "x").read_bytes() == CONTENT


def test_without_checksum_what_is_there_is_kept(server: Server, tmp_path: Path) -> None:
    assert fetch(server.url, None, tmp_path / "x").read_bytes() == CONTENT
    server.content = b"newer"
    assert fetch(server.url, None, tmp_path / "x").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_and_a_refusal_is_final(server: Server, tmp_path: Path) -> None:
    server.refusals = [503, 429]
    assert fetch(server.url, SHA, tmp_path / "x").read_bytes() == CONTENT
    server.refusals = [404]
    with pytest.raises(BadInput, match="404 Not Found; check the address"):
        fetch(server.url, SHA, tmp_path / "y")
    server.refusals = [503] * 9
    with pytest.raises(Gem3dError, match="503"):
        fetch(server.url, SHA, tmp_path / "y")
    assert len(server.refusals) == 9 - module.ATTEMPTS


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://host/x", "host/x", "https://"])
def test_other_schemes_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected http"):
        fetch(url, None, tmp_path / "x")


def test_a_malformed_checksum_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="64 hexadecimal"):
        fetch("http://localhost/x", "abc", tmp_path / "x")


def archive(path: Path, members: dict[str, bytes | str], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_an_archive_of_one_folder(tmp_path: Path, mode: str) -> None:
    members = {"Task/a.txt": b"a", "Task/._a.txt": b"junk", "._Task": b"junk", "Task/.DS_Store": b"junk"}
    root = extract(archive(tmp_path / "x.tar", members, mode), tmp_path / "out")
    assert root == tmp_path / "out" / "Task"
    assert [p.name for p in root.iterdir()] == ["a.txt"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["Task"]
    with pytest.raises(BadInput, match="already exists"):
        extract(tmp_path / "x.tar", tmp_path / "out")


def test_an_archive_of_loose_files_gives_the_folder(tmp_path: Path) -> None:
    assert extract(archive(tmp_path / "x.tar", {"a": b"1", "b": b"2"}), tmp_path / "out") == tmp_path / "out"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    "members",
    [{"../evil": b"x"}, {"a/../../../evil": b"x"}, {"link": "/etc"}, {"link": "../..", "link/evil": b"x"}],
)
def test_nothing_is_written_outside_the_folder(tmp_path: Path, members: dict[str, bytes | str]) -> None:
    path = archive(tmp_path / "x.tar", {"good": b"x"} | members)
    with pytest.raises(BadInput, match="not safe"):
        extract(path, tmp_path / "deep" / "out")
    assert list((tmp_path / "deep" / "out").iterdir()) == []
    assert not list(tmp_path.rglob("evil"))


def test_damaged_archives(tmp_path: Path) -> None:
    whole = archive(tmp_path / "x.tar.gz", {"a": CONTENT}, "w:gz").read_bytes()
    for name, content in (("cut.tar.gz", whole[:-5000]), ("text.tar", b"<html>" * 100), ("none.tar", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=f"{name}: no complete tar archive"):
            extract(tmp_path / name, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(BadInput, match="empty"):
        extract(archive(tmp_path / "e.tar", {}), tmp_path / "out")
