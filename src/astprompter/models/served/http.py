"""JSON over HTTP to an OpenAI-compatible server: retries, deadlines, an error budget, and no secret in any message.

One request is one row of a batch. A row that fails for good becomes a :class:`Failed` value, never an exception, so
that its batch mates go on; what only the user can mend (wrong key, no such model) is a ``UserError`` at once.
"""

from __future__ import annotations

import email.utils
import functools
import json
import logging
import os
import re
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import numpy as np

from ...base.errors import OutageError, RunError, UserError
from ...base.randomness import uniform
from ...config import ServerSettings
from .answers import BadAnswerError, filtered, json_of, message_of

_log = logging.getLogger(__name__)
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
"""Seconds before the first retry, and the most that any wait may last."""
_LARGEST_BODY = 64 * 2**20
_WINDOW = 100
PASSING = frozenset({408, 409, 425, 429})
"""Refusals that another try may mend, as those of 500 and above."""
_USERS = {401: "the key is missing or wrong", 403: "the key may not use this model", 404: "no such address or model"}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that failed for good.

    Attributes:
        reason: A few words of a small fixed set, so that errors can be counted by reason.
        detail: What the server or the network said, redacted, one line.
        status: HTTP status of an answer that refuses.
        blocked: Whether a content filter refused the text: the server works, so no error budget is spent.
    """

    reason: str
    detail: str = ""
    status: int | None = None
    blocked: bool = False

    def __str__(self) -> str:
        """The reason, and what was said where something was."""
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


@functools.cache
def _certificates() -> ssl.SSLContext:
    """What certificates of servers are checked by: read once, since that takes a tenth of a second."""
    import httpx2

    return httpx2.create_ssl_context()


class Endpoint:
    """A server's address, its key, and the requests under way."""

    def __init__(
        self,
        server: ServerSettings,
        *,
        section: str = "remote",
        key_needed: bool = True,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """Check the settings; nothing is sent yet.

        Args:
            server: How the server is reached.
            section: Settings section that names it: ``remote`` or ``scorer``; messages and reasons begin with it.
            key_needed: Whether to refuse a named variable that holds no key, instead of sending none.
            sleep: Waits between tries; tests replace it.

        Raises:
            UserError: A malformed address, or no key in the named variable.
        """
        import httpx2

        self._stopped = threading.Event()
        self.server, self.section = server, section
        self._sleep, self._http = sleep or self._stopped.wait, httpx2
        self.url = _checked_url(server.base_url, section)
        self._key = _key_of(server.key_env, section, needed=key_needed)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx2.Client(
            verify=_certificates(),
            timeout=server.timeout,
            headers=headers,
            follow_redirects=False,  # a redirect would carry the key to another host
            limits=httpx2.Limits(max_connections=server.concurrency, max_keepalive_connections=server.concurrency),
        )
        weakref.finalize(self, self._client.close)  # connections live as long as the endpoint
        self._lock = threading.Lock()
        self._recent: deque[bool] = deque(maxlen=_WINDOW)
        self._told: set[str] = set()

    def many(
        self,
        path: str,
        bodies: Sequence[Mapping[str, Any]],
        keys: Sequence[int],
        read: Callable[[Any], T],
        *,
        patient: bool = True,
    ) -> list[T | Failed]:
        """Send one request per body, ``concurrency`` at a time.

        Args:
            path: Below the base address, for instance ``completions``.
            bodies: JSON bodies.
            keys: A random key per body, for the jitter of its waits.
            read: Takes the answer apart; raises :class:`BadAnswerError` when it has another form.
            patient: ``False`` for trying what a server can do: an answer of another form is final, any other
                failure is tried once more, and none counts for the error budget.

        Returns:
            In the order of the bodies, what ``read`` made of each answer, or why there is none.

        Raises:
            UserError: The key or the model is refused.
            OutageError: The error budget is spent.
        """
        if not bodies:
            return []
        pool = ThreadPoolExecutor(max_workers=min(self.server.concurrency, len(bodies)))
        try:
            futures = [
                pool.submit(self.one, path, body, key, read, patient=patient)
                for body, key in zip(bodies, keys, strict=True)
            ]
            return [future.result() for future in futures]
        except BaseException:
            self._stopped.set()  # nobody waits for what is still to be tried again
            raise
        finally:
            pool.shutdown(wait=not self._stopped.is_set(), cancel_futures=True)

    def one(
        self, path: str, body: Mapping[str, Any], key: int, read: Callable[[Any], T], *, patient: bool = True
    ) -> T | Failed:
        """Send one request, with retries; see :meth:`many`."""
        failed = Failed("")
        retries = self.server.retries if patient else min(1, self.server.retries)
        for attempt in range(retries + 1):
            result, wait = self._try(path, body, read, patient=patient)
            if not isinstance(result, Failed):
                if patient:
                    self._count(None)
                return result
            failed = result
            if wait is None or attempt == retries or self._stopped.is_set():
                break
            self._sleep(max(wait, backoff(key, attempt)))
        with self._lock:
            news = patient and failed.reason not in self._told
            self._told.add(failed.reason)
        level = logging.WARNING if news else logging.DEBUG  # each reason is told once, with its details
        _log.log(level, "request to %s failed: %s", self.url, failed)
        if patient:
            self._count(None if failed.blocked else failed)
        return failed

    def redact(self, text: str) -> str:
        """One printable line without the key, cut short."""
        for secret in {self._key, quote(self._key, safe="")} - {""}:
            text = text.replace(secret, "[key]")
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return line if len(line) <= 200 else line[:200] + "…"

    def _because(self, words: str) -> str:
        return f"{self.section}: {words}"

    def _try(
        self, path: str, body: Mapping[str, Any], read: Callable[[Any], T], *, patient: bool
    ) -> tuple[T | Failed, float | None]:
        """One try: the result, and the least wait before the next one (``None`` where another is useless)."""
        try:
            status, wait, content = self._post(path, body)
            if status >= 300:
                return self._refused(status, wait, content)
            return self._read(content, read)
        except self._http.TimeoutException:
            return Failed(self._because("timeout"), f"no answer within {self.server.timeout:g} s"), 0.0
        except (self._http.TransportError, self._http.DecodingError) as error:
            return Failed(self._because("connection"), self.redact(f"{type(error).__name__}: {error}")), 0.0
        except BadAnswerError as error:
            return Failed(self._because(self.redact(str(error)))), 0.0 if patient else None

    def _read(self, content: bytes, read: Callable[[Any], T]) -> tuple[T | Failed, float | None]:
        """What an answer says; some servers send their errors with status 200."""
        answer = json_of(content)
        try:
            return read(answer), None
        except BadAnswerError as error:
            if not (isinstance(answer, dict) and answer.get("error")):
                raise
            said, blocked = self.redact(message_of(content)), filtered(content)
            reason = "blocked by a content filter" if blocked else str(error)
            return Failed(self._because(reason), said, blocked=blocked), None if blocked else 0.0

    def _post(self, path: str, body: Mapping[str, Any]) -> tuple[int, float, bytes]:
        """Status, seconds of Retry-After, and body, all within one deadline."""
        end, parts, size = time.monotonic() + self.server.timeout, [], 0
        content = json.dumps(dict(body), allow_nan=False).encode("ascii")  # escapes: half a surrogate pair passes too
        headers = {"Content-Type": "application/json"}
        with self._client.stream("POST", f"{self.url}/{path}", content=content, headers=headers) as response:
            for chunk in response.iter_bytes():
                parts.append(chunk)
                size += len(chunk)
                if time.monotonic() > end:
                    raise self._http.ReadTimeout("slow body")
                if size > _LARGEST_BODY:
                    raise BadAnswerError("answer too large")
            return response.status_code, retry_after(response.headers.get("retry-after")), b"".join(parts)

    def _refused(self, status: int, wait: float, content: bytes) -> tuple[Failed, float | None]:
        said = self.redact(message_of(content))
        if 400 <= status < 500 and filtered(content):
            return Failed(self._because("blocked by a content filter"), said, status, blocked=True), None
        if status in _USERS:
            name = self.server.key_env
            variable = f"environment variable {name}" if name else "no environment variable"
            remedy = "" if status == 404 else f"; {self.section}.key_env names {variable}"
            raise UserError(f"server {self.url} answered HTTP {status}: {_USERS[status]} ({said}){remedy}")
        failed = Failed(self._because(f"HTTP {status}"), said, status)
        if status not in PASSING and status < 500:
            return failed, None
        if wait > _LONGEST_WAIT:
            return Failed(failed.reason, f"asks to wait {wait:.0f} s; {said}", status), None
        return failed, wait

    def _count(self, failed: Failed | None) -> None:
        with self._lock:
            self._recent.append(failed is not None)
            spent, seen, section = sum(self._recent), len(self._recent), self.section
        if failed is not None and spent > self.server.error_budget:
            raise OutageError(
                f"server {self.url}: {spent} of the last {seen} requests failed for good, more than "
                f"{section}.error_budget={self.server.error_budget} (last: {failed}); mend the "
                f"server or lower {section}.concurrency"
            )


def ended_by(failed: Failed) -> type[UserError]:
    """Whose fault it is that a server cannot be used: the user's where it refuses the request, else the run's."""
    refused = failed.status is not None and failed.status < 500 and failed.status not in PASSING
    return UserError if refused else RunError


def backoff(key: int, attempt: int) -> float:
    """Seconds before try ``attempt + 1``: doubling, between half and all of it by the row's own random number."""
    jitter = float(uniform(np.array([key], dtype=np.uint64), attempt)[0])
    full: float = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**attempt)
    return full * (0.5 + 0.5 * jitter)


def retry_after(value: str | None, *, now: Callable[[], float] = time.time) -> float:
    """Seconds that a ``Retry-After`` header asks for, as a number or a date; 0 without one that can be read."""
    if not value:
        return 0.0
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _checked_url(url: str, section: str) -> str:
    setting = f"{section}.base_url"
    try:
        parts = urlsplit(url)
        host, odd = parts.hostname, parts.username or parts.password or parts.query or parts.fragment
    except ValueError:
        host, odd, parts = None, None, urlsplit("")
    if odd:
        raise UserError(
            f"{setting} must hold no name, password or query, since settings are written to the run; "
            f"put a key in an environment variable and its name in {section}.key_env"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(f"'{url}' is no address; check {setting}, for instance http://localhost:8000/v1")
    return url.rstrip("/")


def _key_of(variable: str, section: str, *, needed: bool) -> str:
    setting = f"{section}.key_env"
    if not variable:
        return ""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):
        raise UserError(f"{setting} takes the NAME of an environment variable (capitals), never the key itself")
    key = os.environ.get(variable, "").strip()
    if not key and not needed:
        return ""
    if not key or not key.isascii() or not key.isprintable():
        raise UserError(f"environment variable {variable} ({setting}) holds no usable key; export it first")
    return key
