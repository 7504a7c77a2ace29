"""The commands as a person runs them: real processes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment with the checkout importable."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


def run(
    module: str, *arguments: str, cwd: Path, seconds: float = 60.0, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m module arguments`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


class Running:
    """A command that runs while the test looks at it. Use as a context manager."""

    def __init__(
        self, module: str, *arguments: str, cwd: Path, prefix: Sequence[str] = (), **env: str
    ) -> None:
        self._errors = cwd / f"stderr-{time.monotonic_ns()}.txt"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", module, *arguments],
                cwd=cwd,
                env=environment(**env),
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                # Where the tests run under nohup, a child would ignore it too.
                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
            )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    @property
    def said(self) -> str:
        """What the command has printed to stderr so far."""
        return self._errors.read_text(errors="replace")

    def children(self) -> dict[str, int]:
        """Return the peers that this command started, by name, as process ids."""
        found = {}
        folder = Path(f"/proc/{self.process.pid}/task")
        for children in folder.glob("*/children"):
            for pid in children.read_text().split():
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"--name" in words:
                    found[words[words.index(b"--name") + 1].decode()] = int(pid)
        return found

    def wait_until(self, what: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until ``what()`` holds; fails where the command ends before, or time runs out."""
        end = time.monotonic() + seconds
        handle = os.pidfd_open(self.process.pid)
        try:
            while not what():
                ended, _, _ = select.select([handle], [], [], 0.05)
                assert not ended, f"ended before: {self.said}"
                assert time.monotonic() < end, f"not within {seconds} s: {self.said}"
        finally:
            os.close(handle)

    def finish(self, seconds: float = 120.0) -> tuple[int, dict[str, Any]]:
        """Wait for the end; return the exit code and the JSON result."""
        out, _ = self.process.communicate(timeout=seconds)
        assert out.count(b"\n") == 1, (out, self.said)
        return self.process.returncode, json.loads(out)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command alone."""
        self.process.send_signal(number)


def gone(pids: list[int], seconds: float) -> list[int]:
    """Wait until processes have ended, ``seconds`` at most; return those that have not."""
    end = time.monotonic() + seconds
    left = []
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([handle], [], [], max(end - time.monotonic(), 0))[0]:
                left.append(pid)
        finally:
            os.close(handle)
    return left
