"""What the doctor says: headings, one line a finding, aligned tables, and every fault."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

INDENT = "  "
WIDEST = 100


@dataclass(frozen=True, slots=True)
class Fault:
    """What is missing or broken, and what to do about it (empty where ``what`` says it)."""

    what: str
    cure: str


class Report:
    """Says findings as they come, and keeps the faults for the end."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._width = min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)
        self.faults: list[Fault] = []

    def __repr__(self) -> str:
        return f"<Report, {len(self.faults)} faults>"

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._say("")
        self._say(text)

    def ok(self, text: str) -> None:
        """Say what is well."""
        self._hang(f"{INDENT}ok       ", text)

    def note(self, text: str) -> None:
        """Say what is worth knowing and hinders nothing."""
        self._hang(f"{INDENT}note     ", text)

    def fault(self, what: str, cure: str = "") -> None:
        """Say what is missing or broken; the end repeats it with its cure."""
        self.faults.append(Fault(what, cure))
        self._hang(f"{INDENT}fault    ", what)

    def table(self, rows: Sequence[Sequence[str]], align: str) -> None:
        """Say rows in columns; ``align`` has "<" or ">" for each column."""
        for line in columns(rows, align):
            self._say(f"{INDENT}{line}")

    def end(self) -> int:
        """Say the outcome, and return the exit code: 0 where all is well, 3 otherwise."""
        self._say("")
        if not self.faults:
            self._say("All is well.")
            return 0
        count = len(self.faults)
        self._say("One fault:" if count == 1 else f"{count} faults:")
        for number, one in enumerate(self.faults, 1):
            self._hang(f"{INDENT}{number}. ", one.what)
            if one.cure:
                self._say(f"{INDENT}   {one.cure}")  # a command stays on one line, to be copied
        return 3

    def _hang(self, start: str, text: str) -> None:
        """Say a text in lines no longer than the terminal's, the later ones indented as the first.

        Words are never cut: paths and commands are to be copied.
        """
        lines = textwrap.wrap(
            text,
            max(self._width - len(start), 20),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in lines:
            self._say(start + line)
            start = " " * len(start)


def columns(rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """Return rows as lines in which each column is as wide as its widest cell."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
