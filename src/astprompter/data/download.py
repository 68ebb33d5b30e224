"""Fetch a file once: checked, resumed where it broke off, and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import RunError, UserError, words_of
from ..base.files import checksum, write_json
from ..base.progress import Progress, Silent
from ..base.strict_json import read_object
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
    before, is_new = _noted(record), not path.is_file()
    came_from = url if is_new else before.get("url", url)  # what is there did not come from another address
    known = sha256.lower() if sha256 else before.get("sha256") if before.get("url") == came_from else None
    if is_new and offline:
        raise UserError(f"{shown(path)} is not there and the network is off; run once without --offline")
    part = path.with_name(path.name + ".part")
    if is_new:
        path.parent.mkdir(parents=True, exist_ok=True)
        _transfer(url, part, progress or Silent(), attempts, sleep)
    digest = checksum(part if is_new else path)
    if known and digest != known:
        part.unlink(missing_ok=True)
        what, remedy = (
            (f"'{url}' gave a file", "") if is_new else (shown(path), ", or delete the file to fetch it again")
        )
        source = "the known one" if sha256 else "the one recorded at the first download"
        raise UserError(
            f"{what} with SHA-256 {digest}, which is not {source}, {known}: it was changed or damaged; "
            f"pass --sha256{remedy}"
        )
    if is_new:
        part.replace(path)
        _state_of(part).unlink(missing_ok=True)
    write_json(record, {"url": came_from, "sha256": digest})
    return Fetched(path, digest, "given" if sha256 else "recorded" if known else "first use", came_from)


def size_of(url: str) -> int | None:
    """Bytes that the server announces for a file, ``None`` where it does not, or is not reached."""
    response = _head(url, follow_redirects=True, timeout=20.0)
    length = response.headers.get("Content-Length", "") if response is not None and response.status_code == 200 else ""
    return int(length) if length.isdecimal() else None


def reaches(url: str) -> bool:
    """Whether a server answers at all, within some seconds."""
    return _head(url, timeout=5.0) is not None


def _head(url: str, **options: Any) -> Any:
    import httpx2

    try:
        return httpx2.head(url, **options)
    except (httpx2.HTTPError, httpx2.InvalidURL):
        return None


def _noted(path: Path) -> dict[str, str]:
    """What was written down about a download; nothing where there was none."""
    return read_object(path, dict[str, str]) if path.is_file() else {}


def _state_of(part: Path) -> Path:
    """Where address and validator of a file's part are written down."""
    return part.with_name(part.name + ".json")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


class _BrokenError(Exception):
    """The transfer stopped, and may be continued."""


def _transfer(url: str, part: Path, progress: Progress, attempts: int, sleep: Callable[[float], None]) -> None:
    """Transfer until the file is whole."""
    import httpx2

    failures = 0
    while True:
        have, headers = _size(part), {"Accept-Encoding": "identity"}
        if have and (state := _noted(_state_of(part))).get("url") == url:
            headers |= {"Range": f"bytes={have}-", "If-Range": state["validator"]}
        try:
            with httpx2.stream("GET", url, headers=headers, follow_redirects=True, timeout=60.0) as response:
                _receive(response, url, part, progress)
            return
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL):
            raise UserError(f"'{url}' is not a web address; give http:// or https://") from None
        except (httpx2.TransportError, httpx2.TooManyRedirects, _BrokenError) as error:
            failures = 1 if _size(part) > have else failures + 1
            if failures >= attempts:
                reason = words_of(error) or type(error).__name__
                raise RunError(
                    f"cannot download '{url}' ({reason}; {_size(part):,} bytes are kept); "
                    "run the command again to continue"
                ) from None
            sleep(min(2.0**failures / 2, _LONGEST_WAIT))
        except OSError as error:
            raise RunError(f"cannot write {shown(part)}: {error.strerror or error}") from None


def _receive(response: Any, url: str, part: Path, progress: Progress) -> None:
    """Write what a server sends behind what is there, or in its place."""
    status, have, span = response.status_code, _size(part), response.headers.get("Content-Range", "")
    if status == 416 and span == f"bytes */{have}":
        return  # it was whole already
    if status == 416 or (status == 206 and not span.startswith(f"bytes {have}-")):
        part.unlink(missing_ok=True)  # what is here is not a beginning of what is there
        raise _BrokenError("the server has another file now")
    if status in (408, 429) or status >= 500:
        raise _BrokenError(f"HTTP {status}")
    if status not in (200, 206):
        raise UserError(f"cannot download '{url}': HTTP {status}; check the address, or name a mirror by --url")
    done = have if status == 206 else 0
    length = response.headers.get("Content-Length", "")
    total = done + int(length) if length.isdecimal() else None
    validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or "W/"
    _state_of(part).unlink(missing_ok=True)
    if not validator.startswith("W/"):  # a weak one does not tell equal bytes (RFC 9110, 13.1.5)
        write_json(_state_of(part), {"url": url, "validator": validator})
    with (
        part.open("ab" if done else "wb") as file,
        progress.task("downloading", (total or 0) // 1024, "KiB") as advance,
    ):
        advance(done // 1024)
        for chunk in response.iter_bytes(_CHUNK):
            file.write(chunk)
            advance((done + len(chunk)) // 1024 - done // 1024)
            done += len(chunk)
    if total is not None and done != total:
        raise _BrokenError(f"{done:,} of {total:,} bytes came")
