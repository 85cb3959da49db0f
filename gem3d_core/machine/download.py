"""Downloads that survive a cut connection and are never taken for whole before their checksum is right.

Beside `NAME` a download keeps `NAME.part` (what has arrived) and `NAME.part.json` (which version of which address
it belongs to), so that a later call goes on where this one ended, or starts again if the file has changed since.
"""

import gzip
import hashlib
import http.client
import json
import lzma
import os
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gem3d_core.errors import BadInput, Gem3dError
from gem3d_core.machine.files import put_in_place, read_json, sync_all

Progress = Callable[[int, int | None], None]

CHUNK = 1 << 20
TIMEOUT = 60.0  # seconds without a byte
ATTEMPTS = 5
PAUSE = 1.0  # seconds before the second attempt, doubled each time
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)

ALGORITHMS = {64: "sha256", 32: "md5"}
"""By the number of hexadecimal digits."""


class _Interrupted(Exception):  # noqa: N818 - it is no error while attempts are left
    """The connection ended before the file did."""


@dataclass(frozen=True)
class _Part:
    """What has arrived of a download, and the server's mark of its version."""

    url: str
    data: Path

    @property
    def note(self) -> Path:
        return self.data.with_name(f"{self.data.name}.json")

    def size(self) -> int:
        return self.data.stat().st_size if self.data.is_file() else 0

    def validator(self) -> str | None:
        """The mark under which the server may continue this file; None where it must start again."""
        kept = read_json(self.note)
        mark = kept.get("validator") if isinstance(kept, dict) and kept.get("url") == self.url else None
        return mark if isinstance(mark, str) and self.size() else None

    def start_again(self, validator: str | None) -> None:
        self.data.write_bytes(b"")
        self.note.write_text(json.dumps({"url": self.url, "validator": validator}))

    def drop(self) -> None:
        self.data.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def fetch(
    url: str, checksum: str | None, destination: Path, progress: Progress | None = None, *, attempts: int = ATTEMPTS
) -> Path:
    """Download `url` to the file `destination`, going on from an earlier attempt; returns `destination`.

    checksum: hexadecimal, told apart by its length: SHA-256, or MD5 where a publisher states no better. A file that
    is already there and has the checksum (or, without one, is there at all) is not fetched again. `progress` is
    called with the bytes present and the bytes expected (None where the server does not say). `attempts` is how often
    in a row the connection may fail without bringing anything new.

    Raises BadInput for an address that is not http(s), a malformed checksum or an answer 4xx, Gem3dError where the
    connection keeps failing or the checksum is wrong.
    """
    _check_arguments(url, checksum)
    if destination.is_file() and (checksum is None or _digest(destination, checksum) == checksum.lower()):
        return destination
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(url, destination.with_name(f"{destination.name}.part"))
    _download(part, progress, attempts)
    if checksum is not None and (found := _digest(part.data, checksum)) != checksum.lower():
        part.drop()
        raise Gem3dError(
            f"{url}: the file has {_algorithm(checksum)} {found}, expected {checksum.lower()}; it was removed. "
            "Fetch it again; if this repeats, the file at this address has changed: correct the address or the checksum"
        )
    put_in_place(part.data, destination)
    part.drop()
    return destination


def extract(archive: Path, folder: Path) -> Path:
    """Unpack a tar archive (any compression) into `folder`; returns its one top folder, or else `folder`.

    What operating systems leave behind (.DS_Store, ._name) is left out. Nothing appears in `folder` before the
    whole archive has been read. Raises BadInput where the archive is damaged, tries to write outside `folder`,
    or holds a name that already exists there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".extract-", dir=folder) as temporary:
        unpacked = Path(temporary)
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter=_safe)  # noqa: S202 - `_safe` is the data filter
        except tarfile.FilterError as error:
            raise BadInput(f"{archive}: not safe to unpack ({error}); do not use this archive") from error
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise BadInput(f"{archive}: no complete tar archive ({error}); fetch it again") from error
        except OSError as error:
            raise Gem3dError(f"{archive}: cannot be unpacked into {folder} ({error})") from error
        sync_all(unpacked)
        return _moved(archive, sorted(unpacked.iterdir()), folder)


def _check_arguments(url: str, checksum: str | None) -> None:
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).netloc:
        raise BadInput(f"{url}: not an address to download from; expected http:// or https://")
    if checksum is not None and (len(checksum) not in ALGORITHMS or set(checksum.lower()) - set("0123456789abcdef")):
        raise BadInput(f"{checksum}: no checksum; expected 64 hexadecimal digits of SHA-256, or 32 of MD5")


def _algorithm(checksum: str) -> str:
    return ALGORITHMS[len(checksum)]


def _digest(path: Path, checksum: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, _algorithm(checksum)).hexdigest()


def _download(part: _Part, progress: Progress | None, attempts: int) -> None:
    """Attempts until the file is whole; one that brought something new does not count against the limit."""
    failures = 0
    while True:
        before = part.size()
        try:
            return _attempt(part, progress)
        except _Interrupted as error:
            failures = 1 if part.size() > before else failures + 1
            if failures >= attempts:
                kept = "what arrived is kept, run the same command again to go on"
                nothing = "nothing arrived: look at the network, or name another address"
                remedy = kept if part.size() else nothing
                raise Gem3dError(f"{part.url}: download ended after {part.size()} bytes ({error}); {remedy}") from error
            time.sleep(PAUSE * 2 ** (failures - 1))


def _attempt(part: _Part, progress: Progress | None) -> None:
    try:
        with _open(part) as response:
            _receive(part, response, progress)
    except urllib.error.HTTPError as error:
        _refused(part, error)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise _Interrupted(str(error)) from error


def _open(part: _Part) -> http.client.HTTPResponse:
    headers = {"Accept-Encoding": "identity", "User-Agent": "gem3d"}
    if (validator := part.validator()) is not None:
        headers |= {"Range": f"bytes={part.size()}-", "If-Range": validator}
    request = urllib.request.Request(part.url, headers=headers)  # noqa: S310 - the scheme was checked
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
    return response


def _refused(part: _Part, error: urllib.error.HTTPError) -> None:
    """Sort the server's refusals: worth another attempt, or final."""
    if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
        part.drop()
        raise _Interrupted("the part that was kept does not fit the file any more") from error
    if error.code in TRANSIENT:
        raise _Interrupted(f"the server answered {error.code} {error.reason}") from error
    raise BadInput(f"{part.url}: the server answered {error.code} {error.reason}; check the address") from error


def _receive(part: _Part, response: http.client.HTTPResponse, progress: Progress | None) -> None:
    if response.status != http.client.PARTIAL_CONTENT:
        part.start_again(_strong_validator(response))
    elif not (response.headers.get("Content-Range") or "").startswith(f"bytes {part.size()}-"):
        part.drop()
        raise _Interrupted("the server continued at another place than asked")
    length = response.headers.get("Content-Length")
    expected = part.size() + int(length) if length and length.isdecimal() else None
    with part.data.open("ab") as stream:
        while chunk := response.read1(CHUNK):
            stream.write(chunk)
            if progress is not None:
                progress(stream.tell(), expected)
        stream.flush()
        os.fsync(stream.fileno())
    if expected is not None and part.size() < expected:
        raise _Interrupted(f"the connection closed at {part.size()} of {expected} bytes")


def _strong_validator(response: http.client.HTTPResponse) -> str | None:
    """If-Range takes a strong ETag or a date (RFC 9110, 13.1.5); a weak ETag promises too little."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _safe(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """tarfile's own `data` filter, and none of the files that file managers leave."""
    name = Path(member.name).name
    if name == ".DS_Store" or name.startswith("._"):
        return None
    return tarfile.data_filter(member, folder)


def _moved(archive: Path, entries: list[Path], folder: Path) -> Path:
    if not entries:
        raise BadInput(f"{archive}: the archive is empty; fetch it again")
    if there := [entry.name for entry in entries if (folder / entry.name).exists()]:
        raise BadInput(f"{folder / there[0]}: already exists; remove it or extract {archive.name} elsewhere")
    for entry in entries:
        shutil.move(entry, folder / entry.name)
    return folder / entries[0].name if len(entries) == 1 and (folder / entries[0].name).is_dir() else folder
