"""Signals that become exceptions: the second one is final, what is ignored stays so, handlers come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from astprompter.base.signals import Interrupted, going_on, interruptible


def test_a_second_signal_leaves_at_once() -> None:
    program = (
        "import time; from astprompter.base.signals import interruptible\n"
        "with interruptible():\n"
        "    try:\n        print('ready', flush=True); time.sleep(60)\n"
        "    finally:\n        print('unwinding', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdout is not None
    with process.stdout as said:
        for expected in ("ready", "unwinding"):
            assert said.readline() == f"{expected}\n"
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM  # a shell calls it 143


def test_what_is_ignored_stays_ignored_and_handlers_come_back() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with interruptible():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(Interrupted) as caught, interruptible(), going_on("knock twice"):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        assert (caught.value.code, caught.value.remedy) == (130, "knock twice")
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)
