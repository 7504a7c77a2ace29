"""A signal while a run is prepared."""

import os
import signal
import weakref
from collections.abc import Iterator

import pytest

from paramserver.console import Interrupted, interruptible


class Gone:
    """What a callback can wait for the end of."""


def signal_in_a_callback(went_on: list[bool]) -> None:
    with interruptible():
        one = Gone()
        watched = weakref.ref(one, lambda _: os.kill(os.getpid(), signal.SIGHUP))
        del one
        went_on.append(watched() is None)


@pytest.fixture
def default() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("default")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_in_a_callback_whose_errors_are_ignored_is_not_lost() -> None:
    went_on: list[bool] = []
    with pytest.raises(Interrupted) as caught:
        signal_in_a_callback(went_on)
    assert caught.value.number == signal.SIGHUP
    assert went_on == [True]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
