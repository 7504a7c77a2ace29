"""A push is judged once, however often it is sent."""

from __future__ import annotations

import pytest

from paramserver.errors import Evicted, StaleSequence
from paramserver.ledger import WINDOW, Ledger, Verdict
from paramserver.types import PeerId

WORKER = PeerId("worker-0", 7)


def test_a_retry_joins_the_push_in_work_and_is_answered_once_it_is_applied() -> None:
    ledger = Ledger()
    assert ledger.judge(WORKER, 0, 0) is Verdict.NEW
    assert ledger.judge(WORKER, 0, 0) is Verdict.NEW, "judging changes nothing"
    ledger.begin(WORKER, 0, 0)
    assert ledger.judge(WORKER, 0, 0) is Verdict.IN_WORK
    assert not ledger.applied(WORKER, 0)
    ledger.finish(WORKER, 0)
    assert ledger.applied(WORKER, 0)
    assert ledger.judge(WORKER, 0, 0) is Verdict.APPLIED


def test_what_is_settled_is_forgotten_and_refused() -> None:
    ledger = Ledger()
    for sequence in range(3):
        ledger.begin(WORKER, sequence, 0)
        ledger.finish(WORKER, sequence)
    assert ledger.judge(WORKER, 3, 2) is Verdict.NEW
    ledger.begin(WORKER, 3, 2)
    with pytest.raises(StaleSequence, match="below 2"):
        ledger.judge(WORKER, 1, 2)
    assert ledger.judge(WORKER, 2, 2) is Verdict.APPLIED


def test_the_window_is_bounded() -> None:
    with pytest.raises(StaleSequence, match="at most"):
        Ledger().judge(WORKER, WINDOW, 0)


def test_an_evicted_incarnation_is_refused_for_good_and_a_later_one_is_not() -> None:
    ledger = Ledger()
    ledger.begin(WORKER, 0, 0)
    assert ledger.evict(WORKER) == 0
    with pytest.raises(Evicted, match="worker-0"):
        ledger.judge(WORKER, 0, 0)
    later = PeerId("worker-0", 8)
    assert ledger.judge(later, 0, 0) is Verdict.NEW
    assert ledger.evict(PeerId("other", 1)) == -1
