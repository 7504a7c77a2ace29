"""What is shown of a run: lines of 80 columns, and frames that fit their terminal."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator

import pytest
from rich.console import Console

from nodes.training.progress import ProgressLines, Show, open_progress
from nodes.training.result import Result
from nodes.training.terminal import TerminalProgress, _Frame
from paramserver.console import hushed, said_through, say
from tests.unit.nodes.run_states import state


def test_a_line_has_the_figures_in_80_columns() -> None:
    lines: list[str] = []
    clock = iter([0.0, 1.0, 2.5, 3.0])
    progress = ProgressLines(lines.append, lambda: next(clock))
    progress(state())
    progress(state(steps=1240))  # too soon
    progress(state(consistency="bsp", dropped={"worker-1": "its connection ended"}))
    progress(state(phase="evaluate"))
    assert lines == [
        "epoch 3/30  step 1,234  loss 0.1234  acc 0.9721  9,872/s  stale 1.3  2 workers",
        "lost worker-1: its connection ended",
        "epoch 3/30  step 1,234  loss 0.1234  acc 0.9721  9,872/s  2 workers",
        "evaluating on the test data",
    ]


@pytest.mark.parametrize("steps", [1, 10**6, 10**9])
def test_a_line_leaves_out_what_does_not_fit(steps: int) -> None:
    lines: list[str] = []
    validation = {"last": {"loss": 0.5}, "best": None}
    ProgressLines(lines.append)(
        state(steps=steps, samples_per_second=1e7, epochs=10**6 - 1, epochs_wanted=10**6,
              validation=validation)
    )  # fmt: skip
    assert len(lines[0]) <= 80
    assert lines[0].startswith("epoch 1000000/1000000  ")
    assert "loss 0.1234" in lines[0]


def drawn(frame: _Frame, width: int) -> list[str]:
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=True,
        color_system=None,
        legacy_windows=False,
    )
    console.print(frame)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_a_frame_fits_and_uses_the_width() -> None:
    frame = _Frame()
    frame.state = state(dropped={"worker-2": "gone"})
    narrow, wide = drawn(frame, 80), drawn(frame, 120)
    assert narrow[0].startswith("  epoch 3/30  ━━")
    assert narrow[0].rstrip().endswith("  6%  step 1,234  0:56 left")
    assert narrow[1:] == [
        "  loss 0.1234  accuracy 0.9721  9,872 examples/s  staleness 1.3",
        "  2 workers, lost worker-2",
    ]
    assert wide[1:] == [
        "  loss 0.1234  accuracy 0.9721  9,872 examples/s  staleness 1.3  rate 0.05  "
        "2 workers, lost worker-2"
    ]
    assert len(wide[0]) == len(narrow[0]) + 40
    for width in range(1, 130):
        assert all(len(line) <= width for line in drawn(frame, width)), width


def test_a_frame_knows_how_many_rows_it_takes_in_a_narrower_terminal() -> None:
    frame = _Frame()
    frame.state = state()
    lines = drawn(frame, 120)
    assert frame.rows(None) == len(lines) == 2
    assert frame.rows(120) == 2
    assert frame.rows(60) == sum(-(-len(line) // 60) for line in lines) == 4


@pytest.mark.parametrize(
    ("status", "text"),
    [("done", "  done  ━"), ("stopped", "  stopped in epoch 3/30  ━"), ("failed", "  failed in")],
)
def test_the_last_frame_says_how_it_ended(status: str, text: str) -> None:
    frame = _Frame()
    frame.state = state()
    frame.result = Result("digits-1", "digits", status=status, seconds=3723.4)
    first = drawn(frame, 80)[0]
    assert first.startswith(text)
    assert first.rstrip().endswith("step 1,234  1:02:03")


@contextlib.contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make stderr a terminal."""
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        patch.setenv("TERM", "xterm")
        yield
    os.close(ours)


def test_progress_is_drawn_in_terminals_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch):
        assert type(open_progress(Show.AUTO)) is TerminalProgress
        assert type(open_progress(Show.LINES)) is ProgressLines
        monkeypatch.setenv("TERM", "dumb")
        assert type(open_progress(Show.AUTO)) is ProgressLines
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert type(open_progress(Show.AUTO)) is ProgressLines
    monkeypatch.setattr(sys, "stderr", None)
    assert type(open_progress(Show.AUTO)) is ProgressLines


def test_one_display_at_a_time_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch):
        with open_progress(Show.AUTO) as first:
            assert type(first) is TerminalProgress
            assert type(open_progress(Show.AUTO)) is ProgressLines
        assert type(open_progress(Show.AUTO)) is TerminalProgress


def test_what_is_said_can_be_led_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    with said_through(heard.append):
        say("one")
        with hushed():
            say("two")
        with hushed(False):
            say("three")
    say("four")
    assert heard == ["one", "three"]
    assert capsys.readouterr().err == "four\n"
