"""Progress in a terminal: the command on a pseudo-terminal, its bytes shown on a small screen."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from itertools import chain, pairwise
from pathlib import Path

import pytest

from tests.support.process import Running, environment, gone

pytestmark = pytest.mark.usefixtures("no_orphans")

SIZE = ("COLUMNS", "LINES")  # where they are set, a program asks the terminal for nothing
TOKENS = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n])", re.DOTALL)


class Screen:
    """What a terminal shows that breaks long lines, and breaks them anew when it is resized.

    It knows what the display uses: carriage return, line feed, cursor up, erase line, colours.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.rows: list[list[str]] = [[]]
        self.broken: set[int] = set()  # rows that go on in the next
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        """Show what was written."""
        for arguments, command, control, letter in TOKENS.findall(text):
            if letter:
                self._put(letter)
            elif control == "\r":
                self.column = 0
            elif control == "\n":
                self._down()
            elif command == "A":
                assert self.row >= int(arguments), "the cursor leaves the screen"
                self.row -= int(arguments)
            elif command == "K":
                assert arguments == "2"
                self.rows[self.row] = []
                self.broken.discard(self.row)
            else:
                assert command == "m", f"an unknown sequence: {arguments}{command}"

    def _put(self, letter: str) -> None:
        if self.column == self.columns:
            self.broken.add(self.row)
            self._down()
            self.column = 0
        row = self.rows[self.row]
        row.extend(" " * (self.column + 1 - len(row)))
        row[self.column] = letter
        self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append([])

    def resize(self, columns: int) -> None:
        """Break every line anew."""
        starts = [0, *(row + 1 for row in range(len(self.rows)) if row not in self.broken)]
        lines = [list(chain(*self.rows[a:b])) for a, b in pairwise(starts)]
        last = len(self.rows) - 1
        assert self.row == last, "the cursor is at the end"
        self.columns, self.rows, self.broken = columns, [], set()
        for line in lines:
            for start in range(0, max(len(line), 1), columns):
                self.rows.append(line[start : start + columns])
                if start + columns < len(line):
                    self.broken.add(len(self.rows) - 1)
        self.row, self.column = len(self.rows) - 1, len(self.rows[-1])

    def lines(self) -> list[str]:
        """Return the rows as text."""
        return ["".join(row).rstrip() for row in self.rows]


class InTerminal(Running):
    """A command that has a terminal of its own."""

    def __init__(self, *arguments: str, cwd: Path, columns: int) -> None:
        self.terminal, theirs = os.openpty()
        self.screen = Screen(columns)
        self.raw = ""
        self._resize(columns)
        variables = environment(TERM="xterm-256color")
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=cwd,
            env={name: value for name, value in variables.items() if name not in SIZE},
            preexec_fn=lambda: os.login_tty(theirs),
        )
        os.close(theirs)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.hang_up()

    @property
    def said(self) -> str:
        """What the terminal shows now."""
        self._read()
        return "\n".join(self.screen.lines())

    def _read(self) -> None:
        while self.terminal >= 0 and select.select([self.terminal], [], [], 0)[0]:
            try:
                text = os.read(self.terminal, 1 << 16).decode(errors="ignore")
            except OSError:  # the other side is closed
                return
            self.raw += text
            self.screen.feed(text)

    def _resize(self, columns: int) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))

    def resize(self, columns: int) -> None:
        """Resize the terminal at a moment when nothing is being written."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)
        self._read()
        self._resize(columns)
        self.screen.resize(columns)
        self.signal(signal.SIGCONT)

    def type(self, text: str) -> None:
        """Type into the terminal."""
        os.write(self.terminal, text.encode())

    def hang_up(self) -> None:
        """Close the terminal."""
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1

    def end(self, seconds: float = 20.0) -> int:
        """Wait for the command's end, reading what it writes."""
        handle = os.pidfd_open(self.process.pid)
        try:
            while not select.select([handle], [], [], 0.05)[0]:
                self._read()
                seconds -= 0.05
                assert seconds > 0, self.said
        finally:
            os.close(handle)
        self._read()
        return self.process.wait()


ENDLESS = ("nodes", "train", "digits", "--epochs", "100000", "--output", "out")


def test_a_terminal_shows_the_run_to_its_end(tmp_path: Path) -> None:
    arguments = [*ENDLESS, "--shards", "1", "--workers", "2", "--set", "cluster.deadline=5"]
    with InTerminal(*arguments, cwd=tmp_path, columns=120) as running:
        running.wait_until(lambda: re.search(r"rate 0.0\d  2 workers", running.said) is not None)
        os.kill(running.children()["worker-1"], signal.SIGKILL)
        running.wait_until(lambda: "1 worker, lost worker-1" in running.said)
        running.resize(80)
        running.wait_until(
            lambda: re.search(r"\n  1 worker, lost worker-1", running.said) is not None
        )
        running.type("\x03")
        assert running.end() == -signal.SIGINT
        lines = [line for line in running.said.splitlines() if line]
        raw = running.raw
    assert max(map(len, lines)) <= 80
    start = lines.index("stopping in good order; once more to stop at once")
    assert any(line.startswith("lost worker-1: ") for line in lines[:start])
    assert not any("━" in line or "examples/s" in line for line in lines[:start]), "a frame is left"
    frame = [" ".join(line.split()[:2]) for line in lines[start + 1 : start + 4]]
    assert frame == ["stopped in", f"loss {lines[start + 2].split()[1]}", "1 worker,"]
    assert lines[start + 4].startswith("stopped after ")
    assert lines[-2:] == [
        "model: out/model.safetensors",
        "go on with: node train --resume out",
    ]
    assert "\x1b[?25l" not in raw, "the cursor is never hidden, so it cannot stay so"
    events = [json.loads(line) for line in (tmp_path / "out/events.jsonl").read_text().splitlines()]
    epochs = [one["epoch"] for one in events if one["kind"] == "epoch"]
    assert epochs == list(range(1, len(epochs) + 1))
    assert [one["name"] for one in events if one["kind"] == "lost"] == ["worker-1"]
    assert (events[-1]["kind"], events[-1]["status"]) == ("end", "stopped")


def test_a_second_ctrl_c_leaves_the_cursor_on_a_line_of_its_own(tmp_path: Path) -> None:
    with InTerminal(*ENDLESS, cwd=tmp_path, columns=80) as running:
        running.wait_until(lambda: "examples/s" in running.said)
        children = list(running.children().values())
        os.kill(children[0], signal.SIGSTOP)
        running.type("\x03")
        running.wait_until(lambda: "stopping in good order" in running.said)
        running.type("\x03")
        assert running.end(5) == -signal.SIGINT
        assert running.said.splitlines()[-1] == "ending at once"
        assert running.screen.column == 0
        os.kill(children[0], signal.SIGCONT)
        assert gone(children, 2.0) == []


def test_a_terminal_that_goes_away_stops_the_run_in_good_order(tmp_path: Path) -> None:
    with InTerminal(*ENDLESS, cwd=tmp_path, columns=80) as running:
        running.wait_until(lambda: "examples/s" in running.said)
        running.hang_up()
        assert running.end() == -signal.SIGHUP
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert (result["status"], result["error"]) == ("stopped", None)
    assert (tmp_path / "out/model.safetensors").exists()
