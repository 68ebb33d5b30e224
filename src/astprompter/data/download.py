"""Fetch a file once: checked, resumed where it broke off, and kept."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import RunError, UserError
from ..base.files import write_json
from ..base.progress import Progress, Silent
from .readers import shown

_CHUNK = 2**18
_LONGEST_WAIT = 30.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file in the cache.

    Attributes:
        path: The file.
        sha256: Its SHA-256, hexadecimal.
        verified: What the checksum was compared with: ``given``, ``recorded`` on an earlier download, or ``first use``.
        url: Where it came from: of a file that was there already, the address it was fetched from then.
    """

    path: Path
    sha256: str
    verified: str
    url: str


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
    attempts: int = 6,
    sleep: Callable[[float], None] = time.sleep,
) -> Fetched:
    """Download a file into the cache, or take it from there.

    A transfer that breaks is continued where it stopped, by a Range request that holds only while the file on the
    server is the same (``If-Range``); a later call continues what an earlier one left. Without a known checksum, that
    of the first download is recorded beside the file, and every later one must equal it.

    Args:
        url: Address.
        path: Where the file is kept; ``.part`` and ``.sha256.json`` files lie beside it.
        sha256: Known checksum, hexadecimal.
        offline: Whether to refuse the network.
        progress: Where progress is shown.
        attempts: Requests in a row that may bring nothing new.
        sleep: How to wait between requests.

    Raises:
        UserError: No such file there, offline without the file, or another checksum.
        RunError: No network, or no space.
    """
    record = path.with_name(path.name + ".sha256.json")
    before = _recorded(record)
    came_from = before["url"] if before and path.is_file() else url  # what is there did not come from another address
    known = sha256.lower() if sha256 else before["sha256"] if before and before["url"] == came_from else None
    origin = "given" if sha256 else "recorded" if known else "first use"
    if not path.is_file():
        if offline:
            raise UserError(f"{shown(path)} is not there and the network is off; run once without --offline")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        _Transfer(url, part, progress or Silent(), attempts, sleep).run()
        digest = checksum(part)
        if known and digest != known:
            part.unlink()
            raise UserError(_other_checksum(f"'{url}' gave a file", digest, known, origin))
        part.replace(path)
        part.with_name(part.name + ".json").unlink(missing_ok=True)
    digest = checksum(path)
    if known and digest != known:
        raise UserError(_other_checksum(shown(path), digest, known, origin) + ", or delete the file to fetch it again")
    write_json(record, {"url": came_from, "sha256": digest})
    return Fetched(path, digest, origin, came_from)


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(url: str) -> int | None:
    """Bytes that the server announces for a file, ``None`` where it does not, or is not reached."""
    import httpx2

    try:
        response = httpx2.head(url, follow_redirects=True, timeout=20.0)
    except (httpx2.HTTPError, httpx2.InvalidURL):
        return None
    length = response.headers.get("Content-Length", "")
    return int(length) if response.status_code == 200 and length.isdecimal() else None


def _recorded(record: Path) -> dict[str, str] | None:
    """Address and checksum of an earlier download."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        return {"url": str(content["url"]), "sha256": str(content["sha256"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {shown(record)}: {error}; delete it to trust the next download") from None


def _other_checksum(what: str, digest: str, known: str, origin: str) -> str:
    source = {"given": "the known one", "recorded": "the one recorded at the first download"}[origin]
    return f"{what} with SHA-256 {digest}, which is not {source}, {known}: it was changed or damaged; pass --sha256"


class _Broken(Exception):
    """The transfer stopped, and may be continued."""


class _Transfer:
    """One file on its way."""

    def __init__(self, url: str, part: Path, progress: Progress, attempts: int, sleep: Callable[[float], None]) -> None:
        self._url, self._part, self._progress = url, part, progress
        self._attempts, self._sleep = attempts, sleep
        self._state = part.with_name(part.name + ".json")

    def run(self) -> None:
        """Transfer until the file is whole."""
        failures = 0
        while True:
            before = self._size()
            try:
                self._request()
                return
            except _Broken as error:
                failures = 1 if self._size() > before else failures + 1
                if failures >= self._attempts:
                    raise RunError(
                        f"cannot download '{self._url}' ({error}; {self._size():,} bytes are kept); "
                        "run the command again to continue"
                    ) from None
                self._sleep(min(2.0**failures / 2, _LONGEST_WAIT))
            except OSError as error:
                raise RunError(f"cannot write {shown(self._part)}: {error.strerror or error}") from None

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _request(self) -> None:
        import httpx2

        have, validator = self._size(), self._validator()
        headers = {"Accept-Encoding": "identity"}
        if have and validator:
            headers |= {"Range": f"bytes={have}-", "If-Range": validator}
        try:
            with httpx2.stream("GET", self._url, headers=headers, follow_redirects=True, timeout=60.0) as response:
                self._receive(response, have)
        except httpx2.UnsupportedProtocol:
            raise UserError(f"'{self._url}' is not a web address; give http:// or https://") from None
        except (httpx2.TransportError, httpx2.TooManyRedirects) as error:
            raise _Broken(f"{type(error).__name__}: {error}".rstrip(": ")) from None
        except httpx2.InvalidURL as error:
            raise UserError(f"'{self._url}' is not a web address ({error})") from None

    def _receive(self, response: Any, have: int) -> None:
        status, headers = response.status_code, response.headers
        if status == 416 and headers.get("Content-Range") == f"bytes */{have}":
            return  # it was whole already
        if status == 416:  # what is here is not a beginning of what is there
            self._part.unlink(missing_ok=True)
            raise _Broken("the server has another file now")
        if status in (408, 429) or status >= 500:
            raise _Broken(f"HTTP {status}")
        if status not in (200, 206):
            raise UserError(
                f"cannot download '{self._url}': HTTP {status}; check the address, or name a mirror by --url"
            )
        start, total = _range_of(headers) if status == 206 else (0, _length(headers))
        if status == 206 and start != have:
            self._part.unlink(missing_ok=True)
            raise _Broken("the server sent another part than was asked for")
        if total is not None and total - start > shutil.disk_usage(self._part.parent).free:
            raise RunError(
                f"'{self._url}' has {total:,} bytes, more than the disk of {shown(self._part.parent)} has free"
            )
        validator = headers.get("ETag") or headers.get("Last-Modified")
        strong = validator is not None and not validator.startswith("W/")  # RFC 9110, 13.1.5
        write_json(self._state, {"url": self._url, "validator": validator if strong else None})
        with (
            self._part.open("ab" if status == 206 else "wb") as file,
            self._progress.task("downloading", (total or 0) // 1024, "KiB") as advance,
        ):
            done = start
            advance(done // 1024)
            for chunk in response.iter_bytes(_CHUNK):
                file.write(chunk)
                advance((done + len(chunk)) // 1024 - done // 1024)
                done += len(chunk)
        if total is not None and self._size() != total:
            if self._size() > total:
                self._part.unlink()
            raise _Broken(f"{self._size():,} of {total:,} bytes came")

    def _validator(self) -> str | None:
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        validator = state.get("validator") if state.get("url") == self._url else None
        return validator if isinstance(validator, str) else None


def _length(headers: Any) -> int | None:
    value = headers.get("Content-Length", "")
    return int(value) if value.isdecimal() else None


def _range_of(headers: Any) -> tuple[int, int | None]:
    """First byte and whole length of ``Content-Range: bytes 10-99/100``; -1 where it is malformed."""
    unit, _, rest = headers.get("Content-Range", "").partition(" ")
    span, _, total = rest.partition("/")
    first = span.partition("-")[0]
    if unit != "bytes" or not first.isdecimal():
        return -1, None
    return int(first), int(total) if total.isdecimal() else None
