"""Two processes as a launcher starts them, forked from this one, which has loaded everything."""

from __future__ import annotations

import json
import os
import socket
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from helpers.branches import counted


def in_two_processes(work: Callable[[], Any]) -> list[Any]:
    """What ``work`` returns, by rank: a value of JSON."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    started = []
    for rank in ("0", "1"):
        out, into = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads only wait for orders from outside
            pid = os.fork()
        if pid == 0:
            _run(work, into, place | {"RANK": rank, "LOCAL_RANK": rank})
        os.close(into)
        started.append((pid, out))
    said = []
    for _, out in started:
        with os.fdopen(out, "rb") as file:
            said.append(file.read())
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, _ in started]
    assert codes == [0, 0], b"\n".join(said).decode()
    return [json.loads(content) for content in said]


def _run(work: Callable[[], Any], into: int, place: dict[str, str]) -> None:
    """The child; never returns."""
    code, said = 1, ""
    try:
        from astprompter.base.processes import join, leave

        os.environ.update(place)
        with counted("fast"):
            join()
            said = json.dumps(work())
            leave()
        code = 0
    except BaseException:
        said = traceback.format_exc()
    finally:
        with os.fdopen(into, "wb") as file:
            file.write(said.encode())
        os._exit(code)
