"""What both commands share: signals before, in and after the event loop."""

import asyncio
import os
import signal

import pytest

from paramserver.console import ENDING, Interrupted, Signals, interruptible, run_loop


def test_the_loop_gives_signals_back() -> None:
    before = [signal.getsignal(number) for number in ENDING]

    async def install() -> None:
        Signals(lambda _: None).install()
        assert signal.getsignal(signal.SIGTERM) not in before

    run_loop(install())
    assert [signal.getsignal(number) for number in ENDING] == before


def test_a_signal_before_the_loop_undoes_what_was_begun() -> None:
    undone = []

    def begin() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            undone.append(signal.getsignal(signal.SIGTERM))

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with pytest.raises(Interrupted) as caught, interruptible():
        begin()
    assert caught.value.number is signal.SIGTERM
    assert undone == [signal.SIG_DFL], "the second one is not waited for"


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)

        async def install() -> None:
            Signals(lambda name: pytest.fail(name)).install()
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0)

        run_loop(install())
    finally:
        signal.signal(signal.SIGHUP, before)
