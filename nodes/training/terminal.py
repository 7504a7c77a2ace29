"""A run's progress drawn at the bottom of a terminal; what is said meanwhile scrolls above it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.control import Control
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import ControlType, Segment
from rich.table import Table
from rich.text import Text

from nodes.training.progress import (
    Losses,
    Progress,
    State,
    epoch,
    in_foreground,
    number,
    trains,
    waiting,
    workers,
)
from nodes.training.result import Result
from paramserver.console import said_through, say

REFRESHES = 5
"""How often a second the display is drawn."""

INDENT = "  "
SPARE = 3
"""Columns left free at the right, for the ^C that a terminal shows."""

WIPE_ROW = (
    ControlType.CARRIAGE_RETURN,
    (ControlType.ERASE_IN_LINE, 2),
    (ControlType.CURSOR_UP, 1),
)

COLOURS = {"done": "green", "stopped": "yellow", "failed": "red"}


def drawable() -> bool:
    """Say whether stderr is a terminal that can move its cursor, and nobody else draws there."""
    console = _Terminal()
    return console.is_terminal and console.is_interactive and not isinstance(sys.stderr, FileProxy)


class TerminalProgress(Progress):
    """Draws bar, loss, accuracy, speed, staleness and peers of one run on stderr."""

    def __init__(self) -> None:
        self._console = _Terminal()
        self._frame = _Frame()
        self._live = _Live(self._frame, self._console)
        self._losses = Losses()
        self._said = said_through(self._print)

    def __enter__(self) -> TerminalProgress:
        with contextlib.suppress(OSError):
            self._live.start(refresh=True)
        self._said.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._said.__exit__(None, None, None)
        self.close()

    def close(self) -> None:
        """Leave the last state on the screen, and the cursor on a line of its own."""
        with contextlib.suppress(OSError):
            self._live.stop()

    def __call__(self, state: State) -> None:
        """Take a run's state; see `paramserver.runreport.snapshot`. It is drawn in a moment."""
        self._frame.state = state
        for name, why in self._losses.new(state):
            say(f"lost {name}: {why}")

    def end(self, result: Result) -> None:
        """Take how the run ended."""
        self._frame.result = result

    def _print(self, text: str) -> None:
        self._live.print(Text(text))


class _Terminal(Console):
    """A console on stderr that leaves the cursor as it is: whatever ends us, it is there."""

    def __init__(self) -> None:
        super().__init__(stderr=True, force_jupyter=False, highlight=False)

    def show_cursor(self, show: bool = True) -> bool:
        return False


class _Live(Live):
    """A live display that holds when the terminal gets narrower, and when it goes away."""

    def __init__(self, frame: _Frame, console: Console) -> None:
        super().__init__(
            frame,
            console=console,
            refresh_per_second=REFRESHES,
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
            vertical_overflow="crop",
        )
        self._frame = frame

    def print(self, text: Text) -> None:
        """Print a line above the display; the terminal breaks it, so that it is copied whole."""
        with self._lock:
            self.console.print(text, soft_wrap=True)

    def refresh(self) -> None:
        # A job in the background draws nothing. A terminal that is gone sends its own signal.
        if in_foreground() or not self._started:
            with contextlib.suppress(OSError):
                super().refresh()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        with self._lock:
            more = self._frame.rows(self.console.size.width) - self._frame.rows(None)
            wipe = Control(*(WIPE_ROW * more))
            return [wipe, *super().process_renderables(renderables)]


class _Frame:
    """What is drawn. It knows the widths of the lines drawn last."""

    def __init__(self) -> None:
        self.state: State | None = None
        self.result: Result | None = None
        self._widths: list[int] = []

    def rows(self, columns: int | None) -> int:
        """Return how many rows the lines drawn last take in a terminal of so many columns.

        None stands for the terminal that they were drawn in.
        """
        if not columns:
            return len(self._widths)
        return sum(max(-(-width // columns), 1) for width in self._widths)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        inner = options.update_width(max(options.max_width - SPARE, 1)).update(height=None)
        lines = [
            line
            for part in self._parts(inner.max_width)
            for line in console.render_lines(part, inner, pad=False)
        ]
        self._widths = [Segment.get_line_length(line) for line in lines]
        for line in lines:
            yield from line
            yield Segment.line()

    def _parts(self, width: int) -> Iterator[ConsoleRenderable]:
        yield self._bar(width)
        if self.state is not None and self.state["steps"]:
            yield from self._figures(self.state, width)

    def _bar(self, width: int) -> Table:
        """Return the first line: what is going on, how much of it is done, how long it takes."""
        done = self.state["examples"] if self.state is not None else 0
        bar = ProgressBar(
            total=max(self.state["examples_wanted"] if self.state is not None else 0, 1),
            completed=done,
            pulse=self.result is None and not done,
            complete_style="cyan",
            finished_style="green",
            pulse_style="cyan",
        )
        what = Text(INDENT) + self._what()
        after = self._measures() if self.state is not None and done else {}
        for left_out in ("step", "time", "share"):
            if what.cell_len + sum(2 + len(text) for text in after.values()) + 10 > width:
                after.pop(left_out, None)
        line = Table.grid(padding=(0, 2, 0, 0))
        line.width = width
        line.add_column(no_wrap=True, overflow="ellipsis")
        line.add_column(ratio=1, min_width=4)
        for _ in after:
            line.add_column(no_wrap=True, justify="right", overflow="ellipsis")
        line.add_row(what, bar, *after.values())
        return line

    def _what(self) -> Text:
        """Return what is going on, or how it ended."""
        state, result = self.state, self.result
        if result is not None:
            where = f" in {epoch(state)}" if state is not None and result.status != "done" else ""
            return Text(result.status + where, style=f"bold {COLOURS.get(result.status, 'red')}")
        if state is None:
            return Text("starting", style="bold")
        return Text(waiting(state) or epoch(state), style="bold")

    def _measures(self) -> dict[str, str]:
        """Return how far a run is that has begun to train, in the order of the line."""
        assert self.state is not None
        state, all_ = self.state, self.state["examples_wanted"]
        found = {
            "share": f"{min(100 * state['examples'] // max(all_, 1), 100):3d}%",
            "step": f"step {state['steps']:,}",
        }
        speed = state["samples_per_second"]
        if self.result is not None:
            found["time"] = _clock(self.result.seconds)
        elif trains(state) and speed > 0:
            found["time"] = f"{_clock(max(all_ - state['examples'], 0) / speed)} left"
        return found

    def _figures(self, state: State, width: int) -> Iterator[Text]:
        """Return the lines with the figures: as many as they need, one where all fit in one."""
        loss, accuracy = state["recent_loss"], state["recent_accuracy"]
        validated = state["validation"]["last"]
        fields = [
            *([Text(f"loss {number(loss)}")] if loss is not None else []),
            *([Text(f"accuracy {number(accuracy)}")] if accuracy is not None else []),
            *([Text(f"validation loss {number(validated['loss'])}")] if validated else []),
            Text(f"{state['samples_per_second']:,.0f} examples/s"),
            Text(f"staleness {state['staleness']['mean']:.1f}"),
            _peers(state),
        ]
        rate = Text(f"rate {state['rate']:.4g}")
        if len(_rows([*fields, rate], width)) == 1:
            fields.insert(-1, rate)
        for row in _rows(fields, width):
            line = Text(INDENT, no_wrap=True, overflow="ellipsis")
            yield line + Text("  ").join(row)


def _rows(fields: list[Text], width: int) -> list[list[Text]]:
    """Fill lines of ``width`` columns with fields, in order."""
    rows: list[list[Text]] = []
    used = width
    for field in fields:
        if used + 2 + field.cell_len > width:
            rows.append([])
            used = 0
        rows[-1].append(field)
        used += 2 + field.cell_len
    return rows


def _peers(state: State) -> Text:
    text = Text(workers(state))
    if state["dropped"]:
        text.append(", lost ")
        text.append(", ".join(state["dropped"]), style="yellow")
    return text


def _clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds: 1:02:03, 2:03, 0:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
