"""Tell rows to a person, as a table, or to a program, as lines of JSON."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benching.rows import Row, geomean
from paramserver.console import say

WIDTH = 100
"""Columns of a table that is not printed in a terminal."""


class Sheet:
    """Where suites put their rows."""

    def __init__(self, stream: TextIO, *, as_json: bool) -> None:
        self._stream = stream
        self._as_json = as_json
        self._rows: list[Row] = []
        terminal = stream.isatty()
        self._console = Console(
            file=stream, width=None if terminal else WIDTH, highlight=False, markup=False
        )

    @contextlib.contextmanager
    def open(self, name: str, times: str) -> Iterator[None]:
        """Take a suite's rows while the context is open; the geometric mean is its last.

        What was measured before an error or a signal is told too, without a mean.
        """
        self._rows = []
        self._tell(f"{name}: {times}", style="bold")
        whole = False
        try:
            yield
            whole = True
        finally:
            self._clear()
            mean = geomean(self._rows) if whole and self._rows else None
            if self._as_json and mean is not None:
                self._line(mean)
            elif self._rows and not self._as_json:
                self._table(mean)

    def note(self, text: str) -> None:
        """Say what the suite runs on."""
        self._tell(f"  {text}")

    def begin(self, case: str, number: int, count: int) -> None:
        """Show at which case the suite is, where a person looks on.

        One line a case and nothing that moves by itself: it would take time from what is measured.
        """
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{number} of {count}: {case}")
            sys.stderr.flush()

    def add(self, row: Row) -> None:
        """Take a case's row."""
        self._rows.append(row)
        if self._as_json:
            self._clear()
            self._line(row)

    def _tell(self, text: str, style: str = "") -> None:
        self._clear()
        if self._as_json:
            say(f"bench: {text.strip()}")  # stdout is for rows
        else:
            self._console.print(Text(text, style=style))

    def _clear(self) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _line(self, row: Row) -> None:
        print(json.dumps(row.dump(), ensure_ascii=False), file=self._stream, flush=True)

    def _table(self, mean: Row | None) -> None:
        first = self._rows[0]
        more = list(first.more)
        several = first.against in more  # rivals, which have a column each
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("case")
        titles = [name.replace("_", " ") for name in more]
        for title in ("ours", *titles) if several else ("ours", first.against, *titles):
            table.add_column(title, justify="right")
        table.add_column("unit")
        for title in ("ratio", "spread"):
            table.add_column(title, justify="right")
        if several:
            table.add_column("against")
        for row in self._rows:
            others = [row.more[name] for name in more]
            figures = (row.ours, *others) if several else (row.ours, row.other, *others)
            table.add_row(
                row.case,
                *(_readable(figure) for figure in figures),
                row.unit,
                f"{row.ratio:.2f}",
                f"{row.spread:.0%}",
                *([row.against] if several else []),
            )
        if mean is not None:
            blank = [""] * (2 + len(more) - several)
            table.add_section()
            kinds = mean.more["kinds"]
            for kind, ratio in kinds.items() if 1 < len(kinds) < len(self._rows) else ():
                table.add_row(f"geomean of {kind}", *blank, "", f"{ratio:.2f}", "")
            spread = f"{mean.spread:.0%}"
            table.add_row("geomean", *blank, "", f"{mean.ratio:.2f}", spread, style="bold")
            if len(self._rows) > 1:
                worst = f"worst: {mean.more['worst_case']}"
                table.add_row(worst, *blank, "", f"{mean.more['worst']:.2f}")
        self._console.print(table)
        if mean is None:
            self._console.print("(not finished)")
        self._console.print()


def _readable(figure: float | None) -> str:
    """Return a figure with four digits, and thousands apart."""
    if figure is None:
        return ""
    return f"{figure:,.0f}" if figure >= 1000 else f"{figure:.4g}"
